"""Prove afterwards: history, ledger show|verify|export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from doorstep.cli.options import Home, Json, Url, connect
from doorstep.cli.output import done, emit, fail, table, when
from doorstep.core.errors import NotFoundError, RefusedError

Service = Annotated[str, typer.Argument(help="The service.")]


def add_to(app: typer.Typer) -> None:
    app.command("history")(history)
    ledger = typer.Typer(no_args_is_help=True, help="The tamper-evident record of every change.")
    ledger.command("show")(show)
    ledger.command("verify")(verify)
    ledger.command("export")(export)
    app.add_typer(ledger, name="ledger")


def history(
    service: Service,
    at: Annotated[str, typer.Option("--at", help="What was live then (ISO 8601).")] = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Show who served a service when, on whose word and why."""
    from doorstep.core.instant import parse_instant

    with connect(url, home) as client:
        found = client.history(service, parse_instant(at) if at else 0)
    rows = [
        (
            f"{service}@{one.version}",
            when(one.since),
            when(one.until) if one.until else "now",
            one.by,
            one.because,
        )
        for one in found.tenures
    ]
    live = f"{service}@{found.live}" if found.live else "nothing"
    events = [(when(one.at), one.actor, one.sentence) for one in reversed(found.events)]

    def text() -> str:
        return "\n\n".join(
            (
                f"live at {when(found.at)}: {live}",
                table(("champion", "from", "to", "by", "because"), rows),
                table(("at", "who", "what"), events),
            )
        )

    emit(found, text, as_json=json)


def show(
    service: Annotated[str, typer.Argument(help="Only events of this service.")] = "",
    kind: Annotated[str, typer.Option("--kind", help='Such as "release."')] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 50,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Show events of the ledger, newest first."""
    with connect(url, home) as client:
        found = client.events(service, kind, limit)
    rows = [
        (str(one.sequence), when(one.at), one.actor, one.kind, one.sentence) for one in found.events
    ]
    head = ("seq", "at", "who", "kind", "what")
    nothing = "no event matches\nnext: doorstep ledger show"
    emit(found, lambda: table(head, rows, right=(0,)) if rows else nothing, as_json=json)


def verify(json: Json = False, url: Url = None, home: Home = None) -> None:
    """Hash the whole ledger again and check it against its signed checkpoint."""
    with connect(url, home) as client:
        found = client.verify_ledger()
    if found.intact:
        done(f"{found.size:,} events, none changed, missing or out of order")
    else:
        fail(f"the ledger of {found.size:,} events is not what was signed")
    text = [f"root {found.root}", f"key  {found.key}", "", found.checkpoint, *found.problems]
    emit(found, "\n".join(text), as_json=json)
    raise typer.Exit(0 if found.intact else 1)


def export(
    out: Annotated[Path, typer.Argument(help="Where to write it: one event a line.")],
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Write the ledger to a file that the offline verifier reads."""
    with connect(url, home) as client:
        verdict = client.verify_ledger()
        found = client.export_ledger()
    if not verdict.intact:
        raise RefusedError(
            "ledger-broken",
            f"the ledger is not what was signed: {verdict.problems[0]}",
            "doorstep ledger verify",
        )
    # Events that came after the checkpoint was signed are for the next export.
    found = b"".join(found.splitlines(keepends=True)[: verdict.checkpoint_size])
    if not out.parent.is_dir():
        raise NotFoundError("no-folder", f"there is no folder {out.parent}", f"mkdir {out.parent}")
    checkpoint, key = out.with_suffix(".checkpoint"), out.with_suffix(".pub")
    out.write_bytes(found)
    checkpoint.write_text(verdict.checkpoint)
    key.write_text(verdict.key + "\n")
    done(f"{out}: {found.count(10):,} events; {checkpoint}: what was signed; {key}: by which key")
    command = f"python -m doorstep.govern.verifier {out} {checkpoint} {key}"
    written = {"export": str(out), "checkpoint": str(checkpoint), "key": str(key)}
    emit({**written, "verify": command}, command, as_json=json)
