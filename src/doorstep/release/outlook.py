"""Where a release stands, in a sentence, and when it may go on. Pure; a forecast, never a decision.

Evidence grows about in proportion to what is counted, and what is counted with the traffic: so what
is missing divided by what came in since the step began is a time, as long as traffic stays as it
is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.release.decide import patient_until
from doorstep.release.judge import judge, pairs_of, scored_of
from doorstep.release.types import Evidence, Numbers, Release, State
from doorstep.release.wording import name_of, percent, say_evidence, say_time, say_wave

DOUBT = 0.5
"""This part of the evidence that rolls back is worth a word before it does."""
SECONDS_MIN = 5.0
"""In less time than this nothing can be said about the traffic."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """headline: where it stands. next: what comes next and when. next_s: seconds until it may go
    on, None if it cannot be said or nothing comes. waits_s: by pooled guardrail that waits."""

    headline: str
    next: str
    next_s: float | None
    waits_s: dict[str, float | None]


def outlook(
    release: Release, evidence: Evidence, numbers: Sequence[Numbers], now: Instant
) -> Outlook:
    if release.is_over or release.state in (State.PAUSED, State.INCONCLUSIVE):
        return Outlook(headline=_ended(release), next="", next_s=None, waits_s={})
    numbers = [one for one in numbers if not one.is_experiment]
    asked = [one for one in numbers if one.segment == release.wave]
    waiting = [one for one in asked if one.log_e_advance is not None and not one.is_good]
    waits = {name_of(one): _wait_s(release, evidence, one, now) for one in waiting}
    least = _less_patient(release, evidence, waits, now)
    next_s = _next_s(release, evidence, list(least.values()), now)
    if release.spec.experiment is not None and release.state is State.STEP:
        next_s = max(0.0, (release.deadline_at - now) / SECOND_US)
    return Outlook(
        headline=f"{_stands(release)}; {_speaks(numbers)}",
        next=_next(release, next_s, least),
        next_s=next_s,
        waits_s=waits,
    )


def _less_patient(
    release: Release, evidence: Evidence, waits: dict[str, float | None], now: Instant
) -> dict[str, float | None]:
    """No longer than until the last step is patient no more, and then what it asks for suffices."""
    left_s = (patient_until(release) - now) / SECOND_US
    least = dict(waits)
    for one in judge(release, evidence) if left_s > 0 else ():
        name = name_of(one)
        if name not in waits or one.segment != release.wave or one.is_experiment:
            continue
        wait_s = 0.0 if one.is_good else _wait_s(release, evidence, one, now)
        if wait_s is not None:
            patient_s = waits[name]
            later_s = max(wait_s, left_s)
            least[name] = later_s if patient_s is None else min(patient_s, later_s)
    return least


def _stands(release: Release) -> str:
    mine = f"{release.service}@{release.challenger}"
    other = f"{release.service}@{release.champion}"
    match release.state:
        case State.SHADOW:
            return f"{mine} is asked in the shadow; callers get the answers of {other}"
        case State.BAKE if release.is_first:
            return f"{mine}, the first version, answers everything and is watched"
        case State.BAKE:
            kept = percent(1.0 - release.share)
            return f"{mine} answers all but {kept}, which stay with {other} to compare with"
        case _:
            wave, step = release.spec.wave_of(release.step)
            place = f"step {step + 1} of {len(release.spec.steps_of(wave))}"
            if release.wave is None:
                return f"{mine} answers {percent(release.share)}, {other} the others ({place})"
            asked = f"{percent(release.share)} of {say_wave(release.wave)} ({place})"
            return f"{mine} answers {', '.join((asked, *_besides(release)))}; {other} the others"


def _besides(release: Release) -> Iterator[str]:
    """What the waves have that are carried, and that others wait."""
    names, now = release.spec.segments, release.spec.wave_of(release.step)[0]
    for wave in range(now):
        yield f"{percent(release.spec.kept_in(wave))} of {say_wave(names[wave])}"
    if names[now + 1 :]:
        yield f"nothing of {' and '.join(map(say_wave, names[now + 1 :]))} yet"


def _speaks(numbers: Sequence[Numbers]) -> str:
    """What the evidence against it says so far."""
    doubts = [one for one in numbers if one.log_e_rollback >= DOUBT * one.log_rollback_at]
    if not doubts:
        return "nothing speaks against it so far"
    worst = max(doubts, key=lambda one: one.log_e_rollback / one.log_rollback_at)
    enough = math.exp(worst.log_rollback_at)
    return (
        f"some evidence is against it: {name_of(worst)}, {say_evidence(worst.log_e_rollback)}, "
        f"and {enough:,.0f} to 1 takes it back"
    )


def _ended(release: Release) -> str:
    mine, lasted = f"{release.service}@{release.challenger}", _lasted(release)
    reached = _reached(release)
    match release.state:
        case State.DONE:
            return f"{mine} became the champion; its release took {lasted}"
        case State.ROLLED_BACK if not reached:
            return f"{mine} was taken back after {lasted}, before it had answered any caller"
        case State.ROLLED_BACK:
            return f"{mine} was taken back after {lasted}; it had got {reached} at most"
        case State.PAUSED:
            return f"the release of {mine} is paused at {percent(release.share)}"
        case _:
            return f"the release of {mine} found no answer in {lasted}"


def _reached(release: Release) -> str:
    """`50 %`; where waves differ `95 % of wave pilot, 10 % of the rest`; "" for nothing."""
    begun = [epoch for epoch in release.epochs if epoch.opened != "stop"]
    most = {
        name: max(release.share_in(epoch, name) for epoch in begun)
        for name in release.spec.segments
    }
    if len(set(most.values())) == 1:
        return percent(max(most.values())) if any(most.values()) else ""
    return ", ".join(f"{percent(one)} of {say_wave(name)}" for name, one in most.items() if one)


def _lasted(release: Release) -> str:
    return say_time((release.changed_at - release.started_at) / SECOND_US)


def _next(release: Release, next_s: float | None, waits: dict[str, float | None]) -> str:
    if release.spec.experiment is not None and release.state is State.STEP:
        left = say_time(next_s or 0.0)
        return f"the experiment ends when one of them has won, at the latest in {left}"
    goal = _goal(release)
    unknown = [name for name, wait in waits.items() if wait is None]
    if next_s is None:
        return f"{goal} when there is evidence; it cannot be said when: {_why(unknown)}"
    if next_s <= 0.0:
        return f"{goal} at the next look"
    longest = max(waits, key=lambda name: waits[name] or 0.0, default="")
    for_what = f", mostly for {longest}" if longest and (waits[longest] or 0.0) >= next_s else ""
    return f"{goal} in about {say_time(next_s)} at the present traffic{for_what}"


def _goal(release: Release) -> str:
    steps = release.spec.steps
    if release.state is State.BAKE:
        return "it becomes the champion"
    at = 0 if release.state is State.SHADOW else release.step + 1
    if at == len(steps):
        return f"next are {percent(release.spec.bake_share)}, the bake,"
    where = ""
    if release.spec.wave_steps:
        where = f" in {say_wave(release.spec.segments[release.spec.wave_of(at)[0]])}"
    return f"next are {percent(release.spec.share_of(at))}{where}"


def _why(unknown: Sequence[str]) -> str:
    if not unknown:
        return "no requests come in"
    return f"{' and '.join(unknown)} {'have' if len(unknown) > 1 else 'has'} nothing to go by yet"


def _next_s(
    release: Release, evidence: Evidence, waits: Sequence[float | None], now: Instant
) -> float | None:
    stay_s = release.spec.bake_s if release.state is State.BAKE else 0.0
    if release.state is State.STEP:
        stay_s = release.spec.dwell_s[release.step]
    left_s: list[float | None] = [max(0.0, stay_s - (now - release.entered_at) / SECOND_US)]
    if release.state is State.SHADOW:
        missing = release.spec.shadow_requests - scored_of(evidence.cells, release)
        left_s.append(_time(missing, *_counted(release, evidence, "errors", None, now)))
    if release.state is not State.BAKE:
        left_s += waits
    known = [one for one in left_s if one is not None]
    return max(known) if len(known) == len(left_s) else None


def _wait_s(release: Release, evidence: Evidence, numbers: Numbers, now: Instant) -> float | None:
    if numbers.units_missing is None:
        return None
    counted = _counted(release, evidence, numbers.guardrail, numbers.segment, now)
    return _time(numbers.units_missing, *counted)


def _time(missing: float, counted: float, elapsed_s: float) -> float | None:
    if missing <= 0:
        return 0.0
    if counted <= 0 or elapsed_s < SECONDS_MIN:
        return None
    return missing * elapsed_s / counted


def _counted(
    release: Release, evidence: Evidence, guardrail: str, segment: str | None, now: Instant
) -> tuple[float, float]:
    """(what came in since the step began, in what `units_missing` counts; in how many seconds)."""
    here = [
        one
        for one in release.epochs
        if (one.state, one.step) == (release.epoch.state, release.epoch.step)
    ]
    numbers = {one.number for one in here}
    elapsed_s = (now - here[0].started_at) / SECOND_US
    cells = [
        one for one in evidence.cells if one.epoch in numbers and segment in (None, one.segment)
    ]
    told = [one for one in evidence.losses if one.metric == guardrail]
    if told:
        # Outcomes come late: of the whole release, not of the step.
        parts = len({one.part for one in told})
        counted = sum(one.sums[0] for one in told if segment in (None, one.segment))
        return counted / parts, (now - release.started_at) / SECOND_US
    if release.epoch.state is State.SHADOW:
        return sum(pairs_of(cells)), elapsed_s
    if guardrail == "errors":
        return sum(one.units for one in cells), elapsed_s
    return sum(one.requests for one in cells), elapsed_s
