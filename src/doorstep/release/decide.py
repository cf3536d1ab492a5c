"""What a release does next. Pure: the same release, evidence and instant give the same decision.

The rules are tried in this order at every tick; the first that applies decides:
1. units are not split as planned: pause, and no number of this release decides any more
2. a guardrail crossed: roll back
3. hard kill (no answer in 20 requests, or a crash loop; not a statistical claim): roll back
4. shadow has its requests and its evidence: first step
5. the step's time is over, it has requests of its own and every margin is excluded: next step
6. bake time is over and it has requests of its own: the challenger becomes the champion
7. the deadline passed: inconclusive, and what was declared for that
Else it holds. Inconclusive evidence holds; no evidence holds; nothing but evidence or a person
with a reason ever moves a release forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec

from doorstep.core.errors import RefusedError
from doorstep.core.instant import SECOND_US, Instant
from doorstep.release import judge
from doorstep.release.types import (
    Advance,
    Decision,
    Evidence,
    Finish,
    Hold,
    Inconclusive,
    Numbers,
    Outcome,
    Pause,
    Person,
    Release,
    ReleaseSpec,
    Resume,
    Rollback,
    State,
)
from doorstep.release.wording import (
    percent,
    say_evidence,
    say_leads,
    say_missing,
    say_ratio,
    say_step,
    say_time,
    say_undecided,
    say_verdict,
)

REQUESTS_MIN = 20
"""Requests of its own that a step needs before it may end, and that a hard kill needs."""
PATIENCE, PATIENCE_BAKE = 12, 2
"""Before a release bakes, a challenger under the ceiling that is not proven to be no worse than the
champion stays in its last step this many times as long as the step or the bake takes, whichever is
less: at half of the traffic 1.5 times a small rate is seen, and in the bake hardly."""
CEILING_PART = 0.1
"""Part of the ceiling under which nobody has to wait that long."""
METHOD_PATIENT = 3
FULL_AT = 0.75
"""A set of bad units is replaced by a new epoch before it is full."""
SAME = 1e-6
"""Logs of evidence that differ by less are the same number, added in another order."""
MOVING = (State.SHADOW, State.STEP, State.BAKE)
STANDING = (State.PAUSED, State.INCONCLUSIVE)

Said = tuple[Outcome, str]


class _View(msgspec.Struct, frozen=True):
    release: Release
    evidence: Evidence
    now: Instant
    numbers: tuple[Numbers, ...]
    split: float

    def elapsed_s(self, since: Instant) -> float:
        return (self.now - since) / SECOND_US


def decide(release: Release, evidence: Evidence, now: Instant) -> Decision:
    """The next thing that the method does by itself."""
    view = _look(release, evidence, now)
    said = next((said for rule in _RULES if (said := rule(view)) is not None), None)
    return _decision(view, said if said is not None else _hold(view), None)


def decide_person(release: Release, evidence: Evidence, now: Instant, person: Person) -> Decision:
    """What a person asked for, if the release can do it.

    Raises: RefusedError (`release-over`, `no-reason`, `not-paused`, `cannot-pause`,
    `cannot-promote`).
    """
    view = _look(release, evidence, now)
    if release.is_over:
        raise RefusedError(
            "release-over", f"the release is over: {release.reason}", _look_at(release)
        )
    if not person.why.strip():
        raise RefusedError("no-reason", f"{person.action} needs a reason", 'add --why "..."')
    outcome = _asked(view, person)
    return _decision(view, (outcome, f"{person.name}: {person.why.strip()}"), person)


def recompute(decision: Decision) -> Decision:
    """The decision made again from what it stored; equal to it, or it cannot be trusted."""
    if decision.person is None:
        return decide(decision.release, decision.evidence, decision.at)
    return decide_person(decision.release, decision.evidence, decision.at, decision.person)


def is_made_again(decision: Decision) -> bool:
    """Whether what it stored gives the same outcome on the same numbers. Its words may be chosen
    otherwise by a later Doorstep, and another machine may add in another order."""
    again = recompute(decision)
    known, found = _figures(decision), _figures(again)
    return (
        again.outcome == decision.outcome
        and known.keys() == found.keys()
        and all(math.isclose(known[key], found[key], rel_tol=SAME, abs_tol=SAME) for key in known)
    )


def _figures(decision: Decision) -> dict[tuple[object, ...], float]:
    """What the decision rests on, by name."""
    found: dict[tuple[object, ...], float] = {("split",): decision.split_log_e}
    for one in decision.numbers:
        name = one.guardrail, one.segment, one.is_experiment
        found[*name, "worse"] = one.log_e_rollback - one.log_rollback_at
        if one.log_e_advance is not None and one.log_advance_at is not None:
            found[*name, "better"] = one.log_e_advance - one.log_advance_at
    return found


def without_history(release: Release) -> Release:
    """The part of a release that decides."""
    return msgspec.structs.replace(release, history=())


def _look(release: Release, evidence: Evidence, now: Instant) -> _View:
    return _View(
        release=without_history(release),
        evidence=evidence,
        now=now,
        numbers=judge.judge(_patient(release, now), evidence),
        split=judge.split_log_e(release, evidence),
    )


def _patient(release: Release, now: Instant) -> Release:
    """With the ceiling of errors that holds now: a part of it while the last step is patient."""
    if now >= patient_until(release):
        return release
    spec = release.spec
    rails = tuple(
        msgspec.structs.replace(one, ceiling=one.ceiling * CEILING_PART) for one in spec.guardrails
    )
    return msgspec.structs.replace(release, spec=msgspec.structs.replace(spec, guardrails=rails))


def patient_until(release: Release) -> Instant:
    """In the last step, until it was long or half of what the deadline leaves is over."""
    spec, entered_at = release.spec, release.entered_at
    is_last = release.state is State.STEP and release.step + 1 == len(spec.steps)
    if spec.method < METHOD_PATIENT or not is_last:
        return entered_at
    long = round(patience_s(spec) * SECOND_US)
    return entered_at + min(long, (release.deadline_at - entered_at) // 2)


def patience_s(spec: ReleaseSpec) -> float:
    return min(PATIENCE * spec.dwell_s[-1], PATIENCE_BAKE * spec.bake_s)


def _decision(view: _View, said: Said, person: Person | None) -> Decision:
    return Decision(
        release=view.release,
        evidence=view.evidence,
        at=view.now,
        outcome=said[0],
        reason=said[1],
        numbers=view.numbers,
        split_log_e=view.split,
        person=person,
    )


def _over(view: _View) -> Said | None:
    if view.release.is_over:
        return Hold(), f"the release is over: {view.release.reason}"
    return None


def _split(view: _View) -> Said | None:
    if not view.release.is_split_valid:
        return Hold(), "paused: units were not split as planned; start a new release"
    if view.split < judge.SPLIT_LIMIT:
        return None
    reason = f"units are not split as planned ({say_evidence(view.split)})"
    return Pause("split"), f"{reason}: the champion answers everything"


def _guardrails(view: _View) -> Said | None:
    crossed = [one for one in view.numbers if one.is_bad]
    if not crossed:
        return None
    is_lost = all(one.is_experiment for one in crossed)
    said = "; ".join(say_verdict(one) for one in crossed)
    if view.release.wave is not None:
        said += f"; at {say_step(view.release, view.release.step)}"
    return (Rollback("experiment"), f"the champion won: {said}") if is_lost else (
        Rollback("guardrail"), said
    )  # fmt: skip


def _hard_kill(view: _View) -> Said | None:
    if view.evidence.crash_loops:
        nodes = ", ".join(view.evidence.crash_loops)
        return Rollback("hard"), f"the challenger cannot stay up on {nodes}"
    mine = [
        cell
        for cell in view.evidence.cells
        if cell.arm == "challenger" and cell.epoch == view.release.epoch.number
    ]
    requests = sum(cell.requests for cell in mine)
    is_dead = requests >= REQUESTS_MIN and not any(cell.successes for cell in mine)
    if view.release.share == 0.0 or not is_dead:
        return None
    return Rollback("hard"), f"the challenger answered none of its {requests} requests"


def _shadow(view: _View) -> Said | None:
    release = view.release
    if release.state is not State.SHADOW or not judge.is_advancing(view.numbers):
        return None
    scored = judge.scored_of(view.evidence.cells, release)
    if scored < release.spec.shadow_requests:
        return None
    share = release.spec.share_of(0)
    reason = f"shadow: {scored:,} requests, {_all_said(view)}; {_next(release, 0)}"
    return Advance(State.STEP, 0, share), reason


def _step(view: _View) -> Said | None:
    release, spec = view.release, view.release.spec
    if release.state is not State.STEP or not _has_own_requests(view):
        return None
    has_dwelt = view.elapsed_s(release.entered_at) >= spec.dwell_s[release.step]
    if not has_dwelt or not judge.is_advancing(view.numbers):
        return None
    won = "the challenger won: " if spec.experiment is not None else ""
    said, after = f"{won}{_all_said(view)}", release.step + 1
    if after == len(spec.steps):
        everywhere = " everywhere" if spec.wave_steps else ""
        reason = f"{said}; {percent(spec.bake_share)}{everywhere} next"
        return Advance(State.BAKE, release.step, spec.bake_share), reason
    return Advance(State.STEP, after, spec.share_of(after)), f"{said}; {_next(release, after)}"


def _next(release: Release, step: int) -> str:
    where = f"{say_step(release, step)} at " if release.spec.wave_steps else ""
    return f"{where}{percent(release.spec.share_of(step))} next"


def _bake(view: _View) -> Said | None:
    release = view.release
    is_baked = view.elapsed_s(release.entered_at) >= release.spec.bake_s
    if release.state is not State.BAKE or not is_baked or not _has_own_requests(view):
        return None
    held = f"baked for {say_time(release.spec.bake_s)}"
    return Finish("evidence"), f"{held}: {_all_said(view)}"


def _deadline(view: _View) -> Said | None:
    release = view.release
    if release.state not in (State.SHADOW, State.STEP) or view.now < release.deadline_at:
        return None
    asked = say_time(release.spec.deadline_s)
    tested = next((one for one in view.numbers if one.is_experiment), None)
    if tested is not None and not tested.is_good:
        return Inconclusive(release.spec.deadline_then), f"{say_undecided(tested)} in {asked}"
    found = "; ".join(f"{say_ratio(one)}, {say_missing(one)}" for one in _asked_now(view))
    where = f" ({say_step(release, release.step)})" if release.wave is not None else ""
    return Inconclusive(release.spec.deadline_then), f"no answer within {asked}{where}: {found}"


_RULES: tuple[Callable[[_View], Said | None], ...] = (
    _over,
    _split,
    _guardrails,
    _hard_kill,
    _shadow,
    _step,
    _bake,
    _deadline,
)


def _hold(view: _View) -> Said:
    release, epoch = view.release, view.release.epoch
    age_s = view.elapsed_s(epoch.started_at)
    reason = _waits_for(view)
    if not epoch.measured:
        warm = age_s >= release.spec.warmup_s
        return Hold("warm" if warm else None), reason if warm else f"warming up: {reason}"
    if view.evidence.fullest >= FULL_AT:
        return Hold("full"), reason
    return Hold("hour" if age_s >= release.spec.epoch_s else None), reason


def _waits_for(view: _View) -> str:
    release, spec = view.release, view.release.spec
    if release.state not in MOVING:
        return f"{release.state.value}: {release.reason}"
    if release.state is State.SHADOW:
        scored = judge.scored_of(view.evidence.cells, release)
        return f"shadow: {scored:,} of {spec.shadow_requests:,} requests, {_missing(view)}"
    stay_s = spec.bake_s if release.state is State.BAKE else spec.dwell_s[release.step]
    left_s = stay_s - view.elapsed_s(release.entered_at)
    name = "bake" if release.state is State.BAKE else say_step(release, release.step)
    if left_s > 0:
        return f"{name} at {percent(release.share)}: {say_time(left_s)} left"
    if not _has_own_requests(view):
        return f"{name} at {percent(release.share)}: fewer than {REQUESTS_MIN} requests yet"
    left_s = -view.elapsed_s(patient_until(release))
    until = f", or a rate under the ceiling in {say_time(left_s)}" if left_s > 0 else ""
    return f"{name} at {percent(release.share)}: {_missing(view)}{until}"


def _has_own_requests(view: _View) -> bool:
    mine = judge.step_cells(view.release, view.evidence)
    return sum(cell.requests for cell in mine) >= REQUESTS_MIN and any(c.successes for c in mine)


def _asked_now(view: _View) -> list[Numbers]:
    """Of the wave that is carried; where there is none, of all segments together."""
    return [one for one in view.numbers if one.segment == view.release.wave]


def _missing(view: _View) -> str:
    waiting = [one for one in _asked_now(view) if not one.is_good]
    said = (
        say_leads(one) if one.is_experiment else f"{one.guardrail}: {say_missing(one)}"
        for one in waiting
    )
    return "; ".join(said) or "waits"


def _all_said(view: _View) -> str:
    return "; ".join(say_verdict(one) for one in _asked_now(view))


def _one_of(states: Iterable[State]) -> str:
    return " or ".join(one.value for one in states)


def _asked(view: _View, person: Person) -> Outcome:
    release = view.release
    match person.action:
        case "rollback":
            return Rollback("person")
        case "pause":
            if release.state not in MOVING:
                raise RefusedError(
                    "cannot-pause",
                    f"the release's state is {release.state.value}; expected {_one_of(MOVING)}",
                    _look_at(release),
                )
            return Pause("person")
        case "resume":
            if release.state not in STANDING:
                raise RefusedError(
                    "not-paused",
                    f"the release's state is {release.state.value}; expected {_one_of(STANDING)}",
                    _look_at(release),
                )
            _refuse_invalid(release, "not-paused")
            return Resume()
        case "promote":
            _refuse_invalid(release, "cannot-promote")
            if crossed := [one for one in view.numbers if one.is_bad]:
                raise RefusedError("cannot-promote", say_verdict(crossed[0]), _look_at(release))
            return Finish("person")
        case _:
            assert_never(person.action)


def _look_at(release: Release) -> str:
    return f"doorstep release show {release.service}"


def _refuse_invalid(release: Release, code: str) -> None:
    if not release.is_split_valid:
        raise RefusedError(
            code,
            "units were not split as planned, so the numbers of this release say nothing",
            f"doorstep rollback {release.service}, then start a new release",
        )
