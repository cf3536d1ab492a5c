"""Prove and release: gate, release start|show|list|pause|resume|promote, rollback, kill, revive,
status."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doorstep.cli.options import Home, Json, Url, Why, connect
from doorstep.cli.output import (
    MARKS,
    done,
    emit,
    fail,
    note,
    percent,
    progress,
    say_goal,
    table,
    warn,
    when,
)

if TYPE_CHECKING:
    from doorstep.client import Client
    from doorstep.gate.surface import GateRun
    from doorstep.monitor.surface import GoalNow
    from doorstep.register.surface import Service
from doorstep.release.surface import Differences, GuardrailView, Kill, Recomputed, Release, WaveView
from doorstep.release.wording import say_difference, say_odds

POLL_S = 0.3
INPUTS_SHOWN = 6
RUNNING = ("shadow", "step", "bake", "paused")
Version = Annotated[str, typer.Argument(help="SERVICE@NUMBER, such as loans@3.")]
ReleaseName = Annotated[str, typer.Argument(help="A release id, or a service's name.")]


def add_to(app: typer.Typer) -> None:
    app.command("gate")(gate)
    releases = typer.Typer(no_args_is_help=True, help="Carry a version onto its service.")
    for command in (start, estimate, show, list_releases, pause, resume, promote):
        releases.command(command.__name__.replace("list_releases", "list"))(command)
    app.add_typer(releases, name="release")
    app.command("rollback")(rollback)
    app.command("approve")(approve)
    app.command("kill")(kill)
    app.command("revive")(revive)
    app.command("status")(status)


def gate(version: Version, json: Json = False, url: Url = None, home: Home = None) -> None:
    """Run the gates of a version and print their verdicts with the evidence."""
    with connect(url, home) as client, progress() as shown:
        shown.stage(f"gates of {version}")
        run = client.run_gates(version)
    emit(run, lambda: gate_text(run), as_json=json)
    raise typer.Exit({"pass": 0, "fail": 1, "inconclusive": 4}[run.verdict.value])


def gate_text(run: GateRun) -> str:
    """The table that `doorstep gate` prints."""
    rows = [
        (MARKS[one.verdict.value], one.verdict.value, one.check, one.reason) for one in run.findings
    ]
    against = f" against {run.champion}" if run.champion else ""
    lines = [table(("", "verdict", "gate", "what was found"), rows), ""]
    lines += [f"next: {one.next}" for one in run.findings if one.next]
    lines.append(f"{run.version}{against}: {run.verdict.value} ({run.took_s:.1f} s)")
    return "\n".join(lines)


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
    if rehearse is not None:
        from doorstep.cli.asking import require_file

        require_file(rehearse)
    with connect(url, home) as client:
        if rehearse is None:
            from doorstep.cli.forecasting import say_forecast

            say_forecast(client, version)
        begun = client.start_release(version, rehearsal=rehearse is not None)
        if rehearse is not None:
            from doorstep.cli.rehearse import rehearse_release

            ended = rehearse_release(client, begun, rehearse, timeout_s)
        elif wait and begun.state in RUNNING and begun.champion is not None:
            ended = follow(client, begun, timeout_s)
        else:
            ended = settle(client, begun)
    emit(ended, lambda: _ended_text(ended, with_reason=rehearse is None), as_json=json)
    raise typer.Exit(exit_code(ended) if wait or rehearse is not None else 0)


def estimate(version: Version, json: Json = False, url: Url = None, home: Home = None) -> None:
    """Say what a release would need at the present traffic: requests, outcomes and time."""
    from doorstep.cli.forecasting import forecast_text

    with connect(url, home) as client:
        found = client.estimate_release(version)
    emit(found, lambda: forecast_text(found), as_json=json)
    raise typer.Exit(0 if found.fits else 4)


def follow(client: Client, release: Release, timeout_s: float) -> Release:
    """Print each decision as it is made, until the release has ended or the time is over."""
    deadline = time.monotonic() + timeout_s
    said = 0
    with progress() as shown:
        while True:
            release = client.release(release.id)
            for decision in sorted(release.decisions, key=lambda one: one.sequence):
                if decision.sequence > said and decision.action != "hold":
                    said = decision.sequence
                    shown.end()
                    note(f"  {when(decision.at)}  {decision.reason}")
            if release.state not in RUNNING or time.monotonic() > deadline:
                return settle(client, release)
            asked = f"{release.requests_champion:,} + {release.requests_challenger:,}"
            shown.stage(
                f"{release.service}@{release.challenger} {release.state}{_wave_now(release)} "
                f"{percent(release.share, 0)}",
                detail=f" · {asked} requests",
            )
            time.sleep(POLL_S)


def _wave_now(release: Release) -> str:
    now = next((one for one in release.waves if one.state == "now"), None)
    return f" {now.name or 'the rest'}" if now else ""


def settle(client: Client, release: Release, timeout_s: float = 10.0) -> Release:
    """Wait until every live node confirms the plan of the newest decision."""
    deadline = time.monotonic() + timeout_s
    while not release.settled and time.monotonic() < deadline:
        time.sleep(POLL_S / 3)
        release = client.release(release.id)
    return release


def exit_code(release: Release) -> int:
    """0 done, or serving as the first version; 1 rolled back; 4 not decided yet."""
    if _serves_first(release):
        return 0 if release.settled else 4
    if release.state in ("rolled-back",):
        return 1
    return 0 if release.state == "done" else 4


def _serves_first(release: Release) -> bool:
    return release.champion is None and release.state == "bake"


def release_text(release: Release, *, with_reason: bool = True) -> str:
    """with_reason: unless it was said a line before."""
    because = release.reason if with_reason else ""
    name = f"{release.service}@{release.challenger}"
    if _serves_first(release) and release.settled:
        return f"✓ first version: {name} serves 100 % (every node confirmed)" + (
            f"; {because}" if because else ""
        )
    mark = {"done": "✓", "rolled-back": "✗"}.get(release.state, "?")
    confirmed = "confirmed by every node" if release.settled else "not yet confirmed by all nodes"
    if release.silent:
        confirmed = f"no word from {', '.join(release.silent)}"
    said = f"{release.state}: {because}" if because else release.state
    lines = [f"{mark} {name} {said} ({confirmed})"]
    is_over = release.ended_at is not None
    if release.waves:
        lines += ["", wave_table(release.waves)]
    if release.guardrails:
        lines += ["", guardrail_table(release.guardrails, is_over=is_over)]
    return "\n".join(lines)


def _ended_text(release: Release, *, with_reason: bool) -> str:
    """What `doorstep release start` prints in the end."""
    why = f"\n\nnext: doorstep release show {release.id}" if release.state == "rolled-back" else ""
    return release_text(release, with_reason=with_reason) + why


def wave_table(waves: tuple[WaveView, ...]) -> str:
    rows = [
        (
            one.name or "the rest",
            one.state,
            percent(one.share, 0),
            f"{one.step} of {len(one.shares)}",
            ", ".join(f"{field} {' '.join(values)}" for field, values in one.match.items())[:60],
        )
        for one in waves
    ]
    return table(("wave", "state", "share", "step", "matches"), rows, right=(2,))


def guardrail_table(guardrails: tuple[GuardrailView, ...], *, is_over: bool) -> str:
    """is_over: of a release that has ended, which lacks nothing any more."""
    head = (
        "guardrail",
        "champion",
        "challenger",
        "95 % interval",
        "rolled back at",
        "advances at",
        "",
    )
    rows = [
        (
            one.name,
            _amount(one.champion, one.unit),
            _amount(one.challenger, one.unit),
            _interval(one),
            _evidence(one.log_e_rollback, one.log_e_rollback_threshold),
            _evidence(one.log_e_advance, one.log_e_advance_threshold),
            "" if is_over else one.missing,
        )
        for one in guardrails
    ]
    beside = [f"{one.name}: {one.beside}" for one in guardrails if one.beside]
    return "\n".join([table(head, rows, right=(1, 2, 3, 4, 5)), *beside])


def _amount(value: float | None, unit: str) -> str:
    if value is None or not unit:
        return percent(value)
    return f"{value / 1000:.3g} ms" if unit == "us" else f"{value:.4g}"


def _evidence(log_e: float, threshold: float) -> str:
    """In odds. A threshold of 0 is none: a first version has nothing to advance to. Evidence that
    was enough may have grown since; by how much is in `--json`."""
    if not threshold:
        return "–"
    need = f"{math.exp(threshold):,.0f}"
    if log_e >= threshold:
        return f"{need} reached"
    return f"{say_odds(log_e)} of {need}"


def _interval(one: GuardrailView) -> str:
    """`0.40 to 8.10` times, or `-0.4 to +2.1 points`."""
    if one.low is None or (one.high is None and (one.compared == "difference" or one.low <= 0.0)):
        return "–"
    if one.compared == "difference":
        return say_difference(one.low, one.high)
    high = f"to {one.high:.2f}" if one.high is not None and one.high < 1e6 else "or more"
    return f"{one.low:.2f} {high} ×"


def show(
    release: ReleaseName,
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


def shown_text(found: Release) -> str:
    """What `doorstep release show` prints."""
    said = [found.headline] if found.headline else []
    said += [found.next] if found.next else []
    return "\n".join(said) + "\n\n" + release_text(found) + "\n\n" + _decisions(found)


def differences_text(found: Differences) -> str:
    """What `doorstep release show --differences` prints."""
    mine, other = f"@{found.challenger}", f"@{found.champion}"
    if not found.compared:
        return "no request was answered by both versions: only a shadow asks both"
    share = percent(found.differ / found.compared)
    said = f"{found.differ:,} of {found.compared:,} requests were answered differently ({share})"
    lines = [said]
    lines += [f"{one.requests:>7,}  {one.champion} -> {one.challenger}" for one in found.patterns]
    rows = [
        (one.prediction, when(one.at), str(one.champion), str(one.challenger), _asked(one.inputs))
        for one in found.examples
    ]
    if rows:
        lines += ["", table(("prediction", "at", other, mine, "asked"), rows)]
        lines += ["", f"next: doorstep explain {found.examples[0].prediction}"]
    return "\n".join(lines)


def _asked(inputs: dict[str, Any]) -> str:
    shown = [f"{name}={value}" for name, value in list(inputs.items())[:INPUTS_SHOWN]]
    return " ".join(shown) + (" …" if len(inputs) > INPUTS_SHOWN else "")


def recomputed_text(again: Recomputed) -> str:
    """Decisions made again, then counted against recorded."""
    same = sum(one.same for one in again.decisions)
    lines = [f"{same} of {len(again.decisions)} decisions are the same when made again"]
    lines += [
        f"✗ decision {one.sequence} ({one.action}, {when(one.at)}) is another one"
        for one in again.decisions
        if not one.same
    ]
    rows = [
        (
            str(one.epoch),
            one.segment or "all",
            one.arm,
            *(f"{count:,}" for count in (*one.counted, *one.recorded)),
            f"{'' if one.explained else '✗ '}{one.said}",
        )
        for one in again.cells
    ]
    head = ("epoch", "segment", "arm", "counted", "failed", "recorded", "failed", "")
    evidence = f"counted by nodes until {when(again.at)}, and recorded in the journal:"
    shown = table(head, rows, right=(0, 3, 4, 5, 6)) if rows else "no request yet"
    return "\n".join([*lines, "", evidence, shown])


def _decisions(release: Release) -> str:
    rows = [
        (when(one.at), one.action, one.state, one.by, one.reason)
        for one in sorted(release.decisions, key=lambda one: one.sequence)
    ]
    return table(("at", "action", "state", "by", "reason"), rows) if rows else "no decision yet"


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
    release: ReleaseName, why: Why, json: Json = False, url: Url = None, home: Home = None
) -> None:
    """Pause a release: its share stays, nothing advances, its guardrails still watch."""
    with connect(url, home) as client:
        found = settle(client, client.pause(release, why))
    emit(found, lambda: release_text(found), as_json=json)


def resume(
    release: ReleaseName, why: Why, json: Json = False, url: Url = None, home: Home = None
) -> None:
    """Resume a paused release where it was."""
    with connect(url, home) as client:
        found = settle(client, client.resume(release, why))
    emit(found, lambda: release_text(found), as_json=json)


def promote(
    release: ReleaseName, why: Why, json: Json = False, url: Url = None, home: Home = None
) -> None:
    """Make the challenger champion now, on a person's word; the reason is kept."""
    with connect(url, home) as client:
        found = settle(client, client.promote(release, why))
    emit(found, lambda: release_text(found), as_json=json)


def rollback(
    service: Annotated[str, typer.Argument(help="The service to take back.")],
    why: Why = "asked for at the command line",
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


def rolled_back_text(state: Service) -> str:
    """Who answers callers after a rollback."""
    if state.champion is not None:
        return f"{state.service}@{state.champion} serves all of {state.service} again"
    from doorstep.core.servicefile import read_stored
    from doorstep.release.callers import instead

    file, _ = read_stored(state.file)
    callers = instead(state.service, file.serve.fallback if file else ())
    return f"no version of {state.service} serves now: callers get {callers}"


def approve(
    version: Version, why: Why, json: Json = False, url: Url = None, home: Home = None
) -> None:
    """Say yes to a version that somebody else registered: it may be released as it is.

    The yes is for this bundle, what its gates rest on now, and this environment; when one of them
    changes it counts no more.
    """
    with connect(url, home) as client:
        found = client.approve(version, why)
    given = ", ".join(one.by for one in found.given)
    done(f"{version}: {len(found.given)} of {found.people} said yes: {given}")
    emit(found, found.version, as_json=json)


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


def _served_by(champion: int | None, watched: int | None) -> str:
    if champion:
        return f"@{champion}"
    return f"@{watched} watched" if watched else "–"


def status(
    service: Annotated[str, typer.Argument(help="One service; default: all.")] = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Show each service at a glance, worst first."""
    with connect(url, home) as client, progress(waiting="looking at services"):
        found = client.status(service)
    head = (
        *("service", "state", "champion", "challenger"),
        *("req/min", "errors", "rescued", "p99 ms", ""),
    )
    rows = [
        (
            one.service,
            one.state,
            _served_by(one.champion, one.watched),
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
        return table(head, rows, right=(4, 5, 6, 7)) + (f"\n{goals}" if goals else "")

    emit(found, lambda: text() if rows else empty, as_json=json)


def goal_lines(service: str, goals: tuple[GoalNow, ...]) -> list[str]:
    """`goal default_rate <= 0.24: loans@2 kept, 21 % [18.4 %, 23.8 %] of 1,204 cases ...`."""
    marks = {"kept": "✓", "broken": "✗"}
    return [
        f"{marks.get(one.state, '?')} goal {one.text}: {service}@{one.version} {say_goal(one)}"
        for one in goals
    ]
