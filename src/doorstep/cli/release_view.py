"""What commands print of gates, releases and services."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from doorstep.cli.output import MARKS, percent, say_goal, table, when
from doorstep.release.wording import say_difference, say_odds

if TYPE_CHECKING:
    from doorstep.gate.surface import GateRun
    from doorstep.monitor.surface import GoalNow
    from doorstep.register.surface import Service
    from doorstep.release.surface import Differences, GuardrailView, Recomputed, Release, WaveView

INPUTS_SHOWN = 6


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


def release_text(release: Release, *, with_reason: bool = True) -> str:
    """with_reason: unless it was said a line before."""
    because = release.reason if with_reason else ""
    name = f"{release.service}@{release.challenger}"
    if serves_first(release) and release.settled:
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


def serves_first(release: Release) -> bool:
    return release.champion is None and release.state == "bake"


def ended_text(release: Release, *, with_reason: bool) -> str:
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
            say_evidence(one.log_e_rollback, one.log_e_rollback_threshold),
            say_evidence(one.log_e_advance, one.log_e_advance_threshold),
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


def say_evidence(log_e: float, threshold: float) -> str:
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


def rolled_back_text(state: Service) -> str:
    """Who answers callers after a rollback."""
    if state.champion is not None:
        return f"{state.service}@{state.champion} serves all of {state.service} again"
    from doorstep.core.servicefile import read_stored
    from doorstep.release.callers import instead

    file, _ = read_stored(state.file)
    callers = instead(state.service, file.serve.fallback if file else ())
    return f"no version of {state.service} serves now: callers get {callers}"


def served_by(champion: int | None, watched: int | None) -> str:
    if champion:
        return f"@{champion}"
    return f"@{watched} watched" if watched else "–"


def goal_lines(service: str, goals: tuple[GoalNow, ...]) -> list[str]:
    """`goal default_rate <= 0.24: loans@2 kept, 21 % [18.4 %, 23.8 %] of 1,204 cases ...`."""
    marks = {"kept": "✓", "broken": "✗"}
    return [
        f"{marks.get(one.state, '?')} goal {one.text}: {service}@{one.version} {say_goal(one)}"
        for one in goals
    ]
