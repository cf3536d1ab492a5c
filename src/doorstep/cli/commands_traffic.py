"""Who answers callers now: rollback, kill, revive, status; and who says yes: approve."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from doorstep.cli.options import Home, Json, Url, Why, connect
from doorstep.cli.output import done, emit, fail, note, percent, progress, table, warn
from doorstep.cli.release_view import goal_lines, rolled_back_text, served_by
from doorstep.cli.release_wait import POLL_S, settle

if TYPE_CHECKING:
    from doorstep.client import Client
    from doorstep.register.surface import Service
    from doorstep.release.surface import Kill

Version = Annotated[str, typer.Argument(help="SERVICE@NUMBER, such as loans@3.")]
ASKED = "asked for at the command line"


def add_to(app: typer.Typer) -> None:
    for command in (rollback, approve, kill, revive, status):
        app.command(command.__name__)(command)


def rollback(
    service: Annotated[str, typer.Argument(help="The service to take back.")],
    why: Why = ASKED,
    to: Annotated[
        int | None,
        typer.Option("--to", min=0, help="A version that served before; 0: none serves."),
    ] = None,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Give a service back to its champion (or, with no release running, to the last one).

    A first version that is watched has none: then no version serves, and callers get the constant
    of serve.fallback, or 503. Sent twice, it goes back once; --to goes further.
    """
    started = time.monotonic()
    with connect(url, home) as client:
        found = settle(client, client.rollback(service, why, to))
        state = client.service(service)
    took_s = time.monotonic() - started
    now = rolled_back_text(state)
    if found.settled:
        done(f"{now}, {took_s:.2f} s after the word")
    elif found.silent:
        fail(f"rolled back, but there is no word from {', '.join(found.silent)}")
    else:
        warn("rolled back; the nodes have not all confirmed it yet")
    emit(found, service if state.champion is None else f"{service}@{state.champion}", as_json=json)
    raise typer.Exit(0 if found.settled else 4)


def approve(
    version: Annotated[str, typer.Argument(help="SERVICE@NUMBER; a service with --revision.")],
    why: Why,
    revision: Annotated[
        int, typer.Option("--revision", help="Of its file, that asks for less than before.")
    ] = 0,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take your yes to the version back.")
    ] = False,
    by: Annotated[
        str, typer.Option("--by", help="With --withdraw: whose yes. The owner's to say.")
    ] = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Say yes to a version that somebody else registered: it may be released as it is.

    The yes is for this bundle, what its gates rest on now, how its file would release it, and this
    environment; when one of them changes it counts no more. With --revision it is for a revision of
    the service file that asks fewer people, or lets more, than the one before.
    """
    _check_options(version, revision, withdraw=withdraw, by=by)
    with connect(url, home) as client:
        if revision:
            rule = client.approve_revision(version, revision, why)
            if rule.waiting:
                given = f"{len(rule.given)} of {rule.needs} said yes: {', '.join(rule.given)}"
                done(f"revision {revision} of {version}: {given}; until then holds {rule.said}")
            else:
                done(f"revision {revision} of {version} holds: {rule.people} must say yes")
            emit(rule, version, as_json=json)
            return
        if withdraw:
            found = client.withdraw_approval(version, why, by)
        else:
            found = client.approve(version, why)
    given = ", ".join(one.by for one in found.given) or "nobody"
    taken = f"the yes of {by} taken back; " if by else "your yes taken back; " if withdraw else ""
    asked = f"{len(found.given)} of {found.people}" if found.people else "none is asked to, and"
    done(f"{version}: {taken}{asked} said yes: {given}")
    emit(found, found.version, as_json=json)


def _check_options(version: str, revision: int, *, withdraw: bool, by: str) -> None:
    from doorstep.core.errors import UsageError

    if by and not withdraw:
        raise UsageError("bad-option", "--by goes with --withdraw")
    if revision and withdraw:
        raise UsageError(
            "bad-option",
            "a yes to a revision is not taken back; the next revision of the file replaces it",
        )
    if revision and "@" in version:
        raise UsageError(
            "bad-option",
            f"{version} is a version, and --revision is of the file of its service; expected "
            f"{version.partition('@')[0]}",
        )


def kill(
    version: Version, why: Why, json: Json = False, url: Url = None, home: Home = None
) -> None:
    """Let nobody ask a version any more, on every node: its fallback chain answers."""
    with connect(url, home) as client:
        found = client.kill(version, why)
        confirmed = _wait_plan(client, found.plan_number)
    undo = f'next: doorstep revive {version} --why "..."'
    _say_kill(f"{version} is asked no more", found, confirmed, undo, json)


def revive(
    version: Version, why: Why, json: Json = False, url: Url = None, home: Home = None
) -> None:
    """Let a killed version be asked again."""
    with connect(url, home) as client:
        found = client.revive(version, why)
        confirmed = _wait_plan(client, found.plan_number)
    resume = f"its release {found.paused} is paused\nnext: doorstep release resume {found.paused}"
    undo = f'{resume} --why "..."' if found.paused else ""
    _say_kill(f"{version} may be asked again", found, confirmed, undo, json)


def _wait_plan(client: Client, number: int, timeout_s: float = 10.0) -> bool:
    """Whether every live node serves this plan before the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        nodes = [one for one in client.installation().nodes if one.live]
        if nodes and all(one.plan_number >= number for one in nodes):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S / 3)


def _say_kill(what: str, found: Kill, confirmed: bool, after: str, as_json: bool) -> None:
    what = f"{what}: callers get {found.callers}"
    if confirmed:
        done(f"{what} (every node confirmed)")
    else:
        warn(f"{what}, but the nodes have not all confirmed it yet")
    if after:
        note(after)
    emit(found, found.version, as_json=as_json)
    raise typer.Exit(0 if confirmed else 4)


def _waiting(services: Iterable[Service]) -> str:
    """One line on what waits for people, "" if nothing does."""
    said = []
    for one in services:
        if (it := one.unapproved) is not None:
            said.append(f"{it.version} (registered by {it.by}, {it.missing} missing)")
        if (rule := one.rule).waiting:
            missing = rule.needs - len(rule.given)
            what = f"revision {rule.waiting} of {one.service}"
            said.append(f"{what} (applied by {rule.by}, {missing} missing)")
    return f"\n\nwaits for a yes: {'; '.join(said)}; next: doorstep approve --help" if said else ""


def status(
    service: Annotated[str, typer.Argument(help="One service; default: all.")] = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Show each service at a glance, worst first."""
    with connect(url, home) as client, progress(waiting="looking at services"):
        found = client.status(service)
        asked = [client.service(service)] if service else client.services()
    head = (
        *("service", "state", "champion", "challenger"),
        *("req/min", "errors", "rescued", "p99 ms", ""),
    )
    rows = [
        (
            one.service,
            one.state,
            served_by(one.champion, one.watched),
            f"@{one.challenger} {percent(one.share, 0)}" if one.challenger else "–",
            str(one.requests[-1] if one.requests else 0),
            percent(one.error_rate),
            f"{one.rescued:,}",
            "–" if one.latency_ms_p99 is None else f"{one.latency_ms_p99:.1f}",
            one.headline,
        )
        for one in found
    ]
    empty = (
        "no services yet\n"
        "next: doorstep init MODEL --train FILE --holdout FILE --label COL; doorstep register MODEL"
    )
    goals = "".join(f"\n{line}" for one in found for line in goal_lines(one.service, one.goal))

    def text() -> str:
        return (
            table(head, rows, right=(4, 5, 6, 7))
            + (f"\n{goals}" if goals else "")
            + _waiting(asked)
        )

    emit(found, lambda: text() if rows else empty, as_json=json)
