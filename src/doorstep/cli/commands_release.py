"""Prove and release: gate, release start|estimate|show|list|pause|resume|promote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from doorstep.cli import commands_traffic
from doorstep.cli.commands_traffic import Version
from doorstep.cli.options import Home, Json, Url, connect
from doorstep.cli.output import emit, percent, progress, table, warn, when
from doorstep.cli.release_view import (
    differences_text,
    ended_text,
    gate_text,
    recomputed_text,
    release_text,
    shown_text,
)
from doorstep.cli.release_wait import RUNNING, exit_code, follow, settle, wave_now
from doorstep.core.errors import UsageError

if TYPE_CHECKING:
    from doorstep.client import Client

ReleaseName = Annotated[str, typer.Argument(help="A release id, or a service's name.")]
Reason = Annotated[str, typer.Option("--why", help="The reason, kept in the ledger.")]


def add_to(app: typer.Typer) -> None:
    app.command("gate")(gate)
    releases = typer.Typer(no_args_is_help=True, help="Carry a version onto its service.")
    for command in (start, estimate, show, list_releases, pause, resume, promote):
        releases.command(command.__name__.replace("list_releases", "list"))(command)
    releases.command("rollback", hidden=True)(rollback)
    app.add_typer(releases, name="release")


def gate(version: Version, json: Json = False, url: Url = None, home: Home = None) -> None:
    """Run the gates of a version and print their verdicts with the evidence."""
    with connect(url, home) as client, progress() as shown:
        shown.stage(f"gates of {version}")
        run = client.run_gates(version)
    emit(run, lambda: gate_text(run), as_json=json)
    raise typer.Exit({"pass": 0, "fail": 1, "inconclusive": 4}[run.verdict.value])


def start(
    version: Version,
    rehearse: Annotated[
        str | None,
        typer.Option("--rehearse", help="Drive the release with the rows of this file."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 3600.0,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Start releasing a version: shadow, steps, bake; decided on evidence, followed to its end."""
    from doorstep.cli.forecasting import forewarn

    if rehearse is not None:
        from doorstep.cli.asking import require_file

        require_file(rehearse)
    with connect(url, home) as client:
        warnings = [] if rehearse is not None else forewarn(client, version)
        begun = client.start_release(version, rehearsal=rehearse is not None)
        for one in warnings:
            warn(one)
        if rehearse is not None:
            from doorstep.cli.rehearse import rehearse_release

            ended = rehearse_release(client, begun, rehearse, timeout_s)
        elif wait and begun.state in RUNNING and begun.champion is not None:
            ended = follow(client, begun, timeout_s)
        else:
            ended = settle(client, begun)
    emit(ended, lambda: ended_text(ended, with_reason=rehearse is None), as_json=json)
    raise typer.Exit(exit_code(ended) if wait or rehearse is not None else 0)


def estimate(version: Version, json: Json = False, url: Url = None, home: Home = None) -> None:
    """Say what a release would need at the present traffic: requests, outcomes and time."""
    from doorstep.cli.forecasting import forecast_text

    with connect(url, home) as client:
        found = client.estimate_release(version)
    emit(found, lambda: forecast_text(found), as_json=json)
    raise typer.Exit(0 if found.fits else 4)


def show(
    release: ReleaseName = "",
    differences: Annotated[
        bool,
        typer.Option("--differences", help="Requests of the shadow that both answered, apart."),
    ] = False,
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Decide again, and compare evidence and journal."),
    ] = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Show a release: where it stands, its evidence, its decisions and their reasons.

    With --recompute each decision is made again from the evidence that it stored, and what nodes
    counted is shown beside what the journal recorded; exit code 1 if a decision is another one, or
    a difference has no explanation.
    """
    with connect(url, home) as client:
        require_release(client, release, "show")
        if differences:
            apart = client.differences(release)
            emit(apart, lambda: differences_text(apart), as_json=json)
            return
        again = client.recompute(release) if recompute else None
        found = client.release(release)
    if again is None:
        emit(found, lambda: shown_text(found), as_json=json)
        return
    emit(again, lambda: release_text(found) + "\n\n" + recomputed_text(again), as_json=json)
    raise typer.Exit(0 if again.agrees else 1)


def list_releases(
    service: Annotated[str, typer.Argument(help="Only of this service.")] = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """List releases, newest first."""
    with connect(url, home) as client:
        found = client.releases(service)
    rows = [
        (one.id, f"{one.service}@{one.challenger}", one.state, when(one.started_at), one.reason)
        for one in found
    ]
    head = ("release", "version", "state", "started", "reason")
    empty = f"no releases yet\nnext: doorstep release start {service or 'SERVICE'}@1"
    emit(found, lambda: table(head, rows) if rows else empty, as_json=json)


def pause(
    release: ReleaseName = "",
    why: Reason = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Pause a release: its share stays, nothing advances, its guardrails still watch."""
    with connect(url, home) as client:
        require_release(client, release, "pause")
        found = settle(client, client.pause(release, why))
    emit(found, lambda: release_text(found), as_json=json)


def resume(
    release: ReleaseName = "",
    why: Reason = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Resume a paused release where it was."""
    with connect(url, home) as client:
        require_release(client, release, "resume")
        found = settle(client, client.resume(release, why))
    emit(found, lambda: release_text(found), as_json=json)


def promote(
    release: ReleaseName = "",
    why: Reason = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Make the challenger champion now, on a person's word; the reason is kept."""
    with connect(url, home) as client:
        require_release(client, release, "promote")
        found = settle(client, client.promote(release, why))
    emit(found, lambda: release_text(found), as_json=json)


def rollback(
    service: Annotated[str, typer.Argument(help="The service to take back.")] = "",
    why: Reason = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """As `doorstep rollback`, for those who look for it here."""
    with connect(url, home) as client:
        require_release(client, service, "rollback")
    commands_traffic.rollback(service, why or commands_traffic.ASKED, None, json, url, home)


def require_release(client: Client, release: str, what: str) -> None:
    """Raises: UsageError (`no-release-named`), with those that run, if none is named."""
    if release:
        return
    running = [one for one in client.releases() if one.ended_at is None]
    said = [
        f"{one.service}@{one.challenger} ({one.state}{wave_now(one)} {percent(one.share, 0)})"
        for one in running
    ]
    name = running[0].service if len(running) == 1 else "SERVICE"
    raise UsageError(
        "no-release-named",
        f"which release is meant is not said; running: {', '.join(said) or 'none'}",
        f"{_COMMANDS[what]} {name}" + ("" if what == "show" else ' --why "..."'),
    )


_COMMANDS = {
    "show": "doorstep release show",
    "pause": "doorstep release pause",
    "resume": "doorstep release resume",
    "promote": "doorstep release promote",
    "rollback": "doorstep rollback",
}
