"""Prove afterwards: history, ledger show|verify|export. Who may: token create|list|revoke."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doorstep.cli.options import Home, Json, Url, Why, connect
from doorstep.cli.output import done, emit, fail, note, percent, progress, table, warn, when
from doorstep.core.errors import NotFoundError, RefusedError, UnreachableError
from doorstep.core.plural import plural

if TYPE_CHECKING:
    from doorstep.govern.surface import History, LedgerVerdict

Service = Annotated[str, typer.Argument(help="The service.")]


def add_to(app: typer.Typer) -> None:
    app.command("history")(history)
    app.command("erase")(erase)
    app.command("hold")(hold)
    ledger = typer.Typer(no_args_is_help=True, help="The tamper-evident record of every change.")
    ledger.command("show")(show)
    ledger.command("verify")(verify)
    ledger.command("export")(export)
    app.add_typer(ledger, name="ledger")
    token = typer.Typer(no_args_is_help=True, help="Who may call: API keys; who is who: people.")
    token.command("create")(create_token)
    token.command("list")(list_tokens)
    token.command("revoke")(revoke_token)
    app.add_typer(token, name="token")


def history(
    service: Service,
    at: Annotated[str, typer.Option("--at", help="What was live then (ISO 8601).")] = "",
    csv: Annotated[
        bool, typer.Option("--csv", help="What served when, for a spreadsheet.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--all", help="Also when evidence began to be counted anew.")
    ] = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Show who served a service when, on whose word and on what evidence."""
    from doorstep.core.instant import parse_instant

    with connect(url, home) as client:
        found = client.history(service, parse_instant(at) if at else 0, whole=whole)
    if csv:
        from doorstep.govern.history_csv import to_csv

        sys.stdout.write(to_csv(found))
        return
    emit(found, lambda: history_text(found), as_json=json)


def history_text(found: History) -> str:
    """What `doorstep history` prints."""
    service = found.service
    head = ("version", "as", "from", "to", "asked by", "approved by", "decided by")
    rows = [
        (
            f"{service}@{one.version}",
            "champion" if one.role == "champion" else f"up to {percent(one.share, 0)}",
            when(one.since),
            _until(one.until),
            one.asked_by,
            ", ".join(one.approved_by) or "–",
            one.decided_by,
        )
        for one in found.served
    ]
    first, *lines = table(head, rows).splitlines()
    said = [
        text
        for line, one in zip(lines, found.served, strict=True)
        for text in (
            line,
            f"    because: {one.because}",
            f"    evidence: {one.evidence}",
            *([f"    goal: {one.goal}"] if one.goal else []),
        )
    ]
    answering = [
        f"{service}@{one}" + (f" {percent(share, 0)}" if share < 1.0 else "")
        for one, share in found.answering
    ]
    live = " and ".join(answering) or "nothing"
    live += f" in {found.answering_in}" if found.answering_in else ""
    live += f", but {found.killed}" if found.killed else ""
    stops = [
        (f"{service}@{one.version}", when(one.since), _until(one.until), one.by, one.why)
        for one in found.stops
    ]
    parts = [f"live at {when(found.at)}: {live}", "\n".join((first, *said))]
    if stops:
        parts.append(table(("killed", "from", "to", "by", "because"), stops))
    events = [(when(one.at), one.actor, one.sentence) for one in reversed(found.events)]
    return "\n\n".join((*parts, table(("at", "who", "what"), events)))


def _until(at: int | None) -> str:
    return when(at) if at else "now"


TYPED = "is it written as callers send it?"


def erase(
    subject: Annotated[str, typer.Argument(help="The person, as callers send it (ids.subject).")],
    why: Why,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Destroy the key of a person: their sealed fields cannot be read any more, by anybody."""
    with connect(url, home) as client, progress(waiting="erasing"):
        found = client.erase(subject, why)
    if found.predictions is None:
        warn(
            "the key is destroyed; the journal could not be searched for the predictions yet "
            f"({found.problem}); doorstep doctor says until it was"
        )
    elif found.predictions:
        done(f"{plural(found.predictions, 'prediction')} cannot be opened any more")
    else:
        warn(f"no prediction with sealed fields was found; {TYPED}")
    emit(found, found.subject, as_json=json)


def hold(
    subject: Annotated[str, typer.Argument(help="The person, as callers send it (ids.subject).")],
    why: Why,
    end: Annotated[bool, typer.Option("--end", help="End the hold.")] = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Keep a person from being erased, as a court may ask; or end that."""
    with connect(url, home) as client:
        found = client.hold(subject, why, ends=end)
    if not found.is_held:
        done("not held any more") if found.was_held else warn(f"there was no hold; {TYPED}")
    elif found.predictions == 0:
        warn(f"held from now on, but no prediction with sealed fields is theirs yet; {TYPED}")
    else:
        done("held: nobody erases them now, and no file with predictions of theirs goes")
    emit(found, found.subject, as_json=json)


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


def verify(
    prediction: Annotated[
        str, typer.Option("--prediction", help="Prove this prediction, not the whole ledger.")
    ] = "",
    proof: Annotated[
        Path | None,
        typer.Option("--proof", help="Write the proof there; alone: check it, with no home."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The ledger's public key (ledger.pub), to check a proof with."),
    ] = None,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Hash the whole ledger again and check it against its signed checkpoint; with no server
    running, as it lies in the database."""
    if prediction or proof:
        from doorstep.cli.proving import prove_or_check

        return prove_or_check(prediction, proof, key, json, url, home)
    try:
        with connect(url, home) as client, progress(waiting="hashing the ledger"):
            found = client.verify_ledger()
    except UnreachableError:
        unserved = _ledger_of(url, home)
        if unserved is None:
            raise
        found = unserved
    if found.intact:
        done(f"{plural(found.size, 'event')}, none changed, missing or out of order")
    else:
        fail(f"the ledger of {plural(found.size, 'event')} is not what was signed")
    text = [f"root {found.root}", f"key  {found.key}", "", found.checkpoint, *found.problems]
    emit(found, "\n".join(text), as_json=json)
    raise typer.Exit(0 if found.intact else 1)


def _ledger_of(url: str | None, home: str | None) -> LedgerVerdict | None:
    """The same of a home that nothing serves now; None if its database is not known here."""
    from doorstep.core.instant import SystemClock
    from doorstep.govern.operations import verdict_of
    from doorstep.kernel.db import Database
    from doorstep.kernel.home import is_home, open_home
    from doorstep.kernel.settings import Flags, read_settings

    settings = read_settings(Flags(home=home, url=url), os.environ, Path.cwd())
    if settings.url or not is_home(settings.home):
        return None
    found = open_home(settings.home)
    if not settings.database_url and not (found.path / "doorstep.db").exists():
        return None
    database = Database(settings.database_url or found.database_url, SystemClock())
    try:
        return verdict_of(database, found)
    finally:
        database.close()


def export(
    out: Annotated[Path, typer.Argument(help="Where to write it: one event a line.")],
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Write the ledger to a file that the offline verifier reads."""
    with connect(url, home) as client, progress(waiting="hashing the ledger"):
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
    events = plural(found.count(10), "event")
    done(f"{out}: {events}; {checkpoint}: what was signed; {key}: by which key")
    command = f"python -m doorstep.govern.verifier {out} {checkpoint} {key}"
    written = {"export": str(out), "checkpoint": str(checkpoint), "key": str(key)}
    emit({**written, "verify": command}, command, as_json=json)


def create_token(
    service: Annotated[str, typer.Option("--service", help="That it is for.")] = "",
    every_service: Annotated[
        bool, typer.Option("--all-services", help="It is for every service, also later ones.")
    ] = False,
    person: Annotated[
        str, typer.Option("--person", help="It is this person's, who approves: bea.")
    ] = "",
    scope: Annotated[
        str, typer.Option("--scope", help="Of a person: approve, or release (and approve).")
    ] = "approve",
    name: Annotated[str, typer.Option("--name", help="Whose key it is, for people.")] = "",
    expires: Annotated[str, typer.Option("--expires", help="After which it is refused.")] = "90d",
    rate: Annotated[
        str, typer.Option("--rate", help="Requests it may make, such as 100/s; default: any.")
    ] = "none",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Make an API key, or a person's token. It is printed once: only its digest is kept.

    An API key is for callers of the data plane. A person's token is for the control plane: the
    person sets DOORSTEP_TOKEN, or signs in to the console with it, and what they do is done in
    their name. Scope approve: look at everything that is not sealed, approve, roll back. Scope
    release: also register, apply, run gates, release and promote.
    """
    from doorstep.core.errors import UsageError
    from doorstep.core.filewords import parse_rate
    from doorstep.core.instant import parse_duration_s

    if [bool(service), every_service, bool(person)].count(True) != 1:
        raise UsageError(
            "no-scope",
            "what the token is for is said not at all or twice; expected one of --service NAME, "
            "--all-services and --person NAME",
        )
    if person:
        if rate != "none":
            raise UsageError(
                "bad-rate", f"--rate is {rate!r}; expected none for a person: only keys have one"
            )
        _create_person(person, scope, parse_duration_s(expires), json, url, home)
        return
    try:
        per_s = 0.0 if rate == "none" else parse_rate(rate)
    except ValueError as error:
        raise UsageError("bad-rate", f"--rate is {rate!r}; {error}") from None
    with connect(url, home) as client:
        found = client.create_token(service, name, expires_s=parse_duration_s(expires), rate=per_s)
    done(
        f"token {found.token.id} for {service or 'all services'}, until "
        f"{when(found.token.expires_at)}; nobody can show it again"
    )
    emit(found, found.secret, as_json=json)


def _create_person(
    person: str, scope: str, expires_s: float, as_json: bool, url: str | None, home: str | None
) -> None:
    from doorstep.core.errors import UsageError
    from doorstep.core.people import SCOPES

    known = next((one for one in SCOPES if one == scope), None)
    if known is None:
        raise UsageError("no-scope", f"--scope is {scope!r}; expected {' or '.join(SCOPES)}")
    with connect(url, home) as client:
        found = client.create_person(person, known, expires_s=expires_s)
    done(
        f"token {found.token.id}: {person} may {scope}, until {when(found.token.expires_at)}; "
        "nobody can show it again"
    )
    note(f"  {person} sets DOORSTEP_TOKEN to it, or types it into the console's sign-in page")
    emit(found, found.secret, as_json=as_json)


def list_tokens(
    service: Annotated[str, typer.Argument(help="Only of this service.")] = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """List API keys and people's tokens, newest first. Their secrets are nowhere."""
    from doorstep.core.filewords import show_rate

    with connect(url, home) as client:
        found = client.tokens(service)
    rows = [
        (
            one.id, one.name, one.scope or f"call {one.service or 'all services'}", one.state,
            "–" if one.scope else show_rate(one.rate), when(one.expires_at), one.by,
        )
        for one in found
    ]  # fmt: skip
    head = ("token", "name", "may", "state", "rate", "until", "made by")
    empty = "no tokens yet\nnext: doorstep token create --person NAME"
    emit(found, lambda: table(head, rows) if rows else empty, as_json=json)


def revoke_token(
    token: Annotated[str, typer.Argument(help="Its id.")],
    why: Why,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Take a token back. Nodes refuse an API key within seconds; a person is out at once."""
    with connect(url, home) as client:
        found = client.revoke_token(token, why)
    done(f"token {found.id} is revoked")
    emit(found, found.id, as_json=json)
