"""A release in words and numbers, for commands and pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from doorstep.core.instant import SECOND_US
from doorstep.core.report import NodeReport
from doorstep.core.servicefile import stored_service_file
from doorstep.journal.operations import count_release
from doorstep.kernel.app import App
from doorstep.register.store import get_service
from doorstep.release import store
from doorstep.release.collect import collect
from doorstep.release.crosscheck import compare
from doorstep.release.decide import decide, is_made_again
from doorstep.release.metrics import METRICS
from doorstep.release.moments import moment_of, moments_in
from doorstep.release.outcomes import Losses
from doorstep.release.outlook import Outlook, outlook
from doorstep.release.surface import (
    DecisionView,
    ExperimentView,
    GuardrailView,
    MomentView,
    Recomputed,
    RecomputedDecision,
    Release,
    SplitView,
    WaveView,
)
from doorstep.release.types import Cell, Decision, Evidence, Guardrail, Numbers, State
from doorstep.release.types import Release as Inner
from doorstep.release.wording import (
    name_of,
    say_leads,
    say_missing,
    say_name,
    say_rankings,
    say_ratio,
    say_slower,
    say_time,
    say_undecided,
    say_wave,
)

Decided = list[tuple[int, str, Decision]]
"""(sequence, by, decision), oldest first."""


def release_view(app: App, row: store.ReleaseRow, *, with_decisions: bool = True) -> Release:
    """What `release show` and the release page give."""
    inner = row.release
    evidence = collect(app, inner)
    newest = decide(inner, evidence, app.clock.now())
    seen = outlook(inner, evidence, newest.numbers, app.clock.now())
    decided = _decided(app, inner.id) if with_decisions or inner.is_over else []
    decisions = tuple(_decision(*one) for one in decided)
    cells = _cells(inner, evidence, decisions)
    alive = app.nodes.alive()
    return Release(
        id=inner.id,
        service=inner.service,
        challenger=inner.challenger,
        champion=inner.champion,
        state=inner.state.value,
        step=_step_number(inner),
        share=inner.share,
        shares=_shares(inner, inner.spec.wave_of(inner.step)[0]),
        rehearsal=inner.rehearsal,
        started_at=inner.started_at,
        changed_at=inner.changed_at,
        ended_at=row.ended_at,
        reason=_reason(inner, newest),
        by=row.by,
        requests_champion=_requests(cells, "champion"),
        requests_challenger=_requests(cells, "challenger"),
        failed_champion=_failed(cells, "champion"),
        failed_challenger=_failed(cells, "challenger"),
        guardrails=_guardrails(inner, newest, decisions, seen),
        decisions=decisions if with_decisions else (),
        settled=bool(alive)
        and all(
            one.plan_number >= row.plan_number and inner.service not in one.held_back
            for one in alive
        ),
        silent=tuple(sorted(app.nodes.silent())),
        plan_number=row.plan_number,
        waves=_waves(inner),
        headline=seen.headline,
        next="; ".join((seen.next, *_troubles(app, inner, alive))) if seen.next else "",
        next_s=seen.next_s,
        split=tuple(_split(inner)) if with_decisions else (),
        moments=_moments(app, inner.id, decided) if with_decisions else (),
        experiment=_experiment(inner, _last_numbers(inner, newest, decided)),
        deadline_at=inner.deadline_at if inner.state in (State.SHADOW, State.STEP) else None,
        deadline_then=inner.spec.deadline_then,
    )


def _troubles(app: App, release: Inner, alive: Iterable[NodeReport]) -> list[str]:
    """What nodes say of the challenger: that it cannot be loaded, that its shadow has no room; and
    that its outcomes could not be read."""
    mine = f"{release.service}@{release.challenger} "
    found = {said for one in alive for said in one.problems if said.startswith(mine)}
    read = app.kept.get(Losses, Losses).trouble(release.id)
    return [*sorted(found), *([read] if read else [])]


def _last_numbers(release: Inner, newest: Decision, decided: Decided) -> tuple[Numbers, ...]:
    """An ended release is told by what ended it, an experiment by where somebody won."""
    found = [one.numbers for _, _, one in decided if one.numbers]
    if not release.is_over or not found:
        return newest.numbers
    won = (one for one in found if any(it.is_experiment and it.is_good for it in one))
    return next(won, found[-1])


def _experiment(release: Inner, numbers: tuple[Numbers, ...]) -> ExperimentView | None:
    found = next((one for one in numbers if one.is_experiment), None)
    if found is None:
        return None
    winner: Literal["challenger", "champion", "none"] = "none"
    if found.is_bad or found.is_good:
        winner = "champion" if found.is_bad else "challenger"
    said = say_leads(found) if not release.is_over else say_undecided(found)
    return ExperimentView(
        metric=found.guardrail,
        ends_at=release.deadline_at,
        winner=winner,
        sentence=said if winner == "none" else f"the {winner} won: {say_ratio(found)}",
    )


def _split(release: Inner) -> Iterator[SplitView]:
    spec, last = release.spec, None
    for epoch in release.epochs:
        has_wave = spec.wave_steps and epoch.state is State.STEP and epoch.share > 0.0
        wave = say_wave(spec.segments[spec.wave_of(epoch.step)[0]]) if has_wave else ""
        if (epoch.state, epoch.share, wave) != last:
            last = epoch.state, epoch.share, wave
            yield SplitView(
                at=epoch.started_at, state=epoch.state.value, share=epoch.share, wave=wave
            )


def _moments(app: App, release_id: str, decided: Decided) -> tuple[MomentView, ...]:
    """Those that were kept, and those of the decisions, which say more."""
    with app.database.reading() as connection:
        kept = moments_in(store.read_moments(connection, release_id))
    found = [*kept, *(moment_of(one.at, one.numbers) for _, _, one in decided)]
    return tuple(
        MomentView(
            at=one.at,
            worse={read.name: read.worse for read in one.readings},
            better={read.name: read.better for read in one.readings if read.better is not None},
        )
        for one in sorted(found, key=lambda one: one.at)
    )


def _shares(release: Inner, wave: int) -> tuple[float, ...]:
    return tuple(release.spec.share_of(step) for step in release.spec.steps_of(wave))


def _waves(release: Inner) -> tuple[WaveView, ...]:
    spec = release.spec
    if not spec.wave_steps or release.is_first:
        return ()
    match = {wave.name: wave.match for wave in spec.waves}
    now, step = spec.wave_of(release.step)
    is_carried = State.BAKE in (release.state, release.resumes) or release.state is State.DONE
    found = []
    for place, name in enumerate(spec.segments):
        steps = spec.wave_steps[place]
        state: Literal["waiting", "now", "carried", "ended"] = "waiting"
        at = 0
        if is_carried or place < now:
            state, at = "carried", steps
        elif place == now and _step_number(release):
            state, at = "ended" if release.is_over else "now", step + 1
        found.append(
            WaveView(
                name=name,
                match=match.get(name, {}),
                state=state,
                share=release.share_in(release.epoch, name),
                shares=_shares(release, place),
                step=at,
            )
        )
    return tuple(found)


def recomputed_view(app: App, row: store.ReleaseRow) -> Recomputed:
    """What `release show --recompute` gives."""
    inner, now = row.release, app.clock.now()
    with app.database.reading() as connection:
        stored = store.list_decisions(connection, inner.id)
        file = get_service(connection, inner.service).file
    with_cells = [one for *_, one in stored if one.evidence.cells]
    # As in `_cells`: nodes forget those of an ended release.
    last = with_cells[-1] if inner.is_over and with_cells else None
    evidence, at = (last.evidence, last.at) if last else (collect(app, inner), now)
    since = now - round(stored_service_file(file, app.home.environment).privacy.keep_s * SECOND_US)
    counts = count_release(app, inner.service, inner.id, inner.started_at)
    cells = compare(inner, evidence.cells, counts, at, since)
    decisions = tuple(
        RecomputedDecision(
            sequence=sequence, at=one.at, action=_action(one), same=is_made_again(one)
        )
        for sequence, _, one in stored
    )
    return Recomputed(
        id=inner.id,
        service=inner.service,
        challenger=inner.challenger,
        at=at,
        decisions=decisions,
        cells=cells,
        agrees=all(one.same for one in decisions) and all(one.explained for one in cells),
    )


def _step_number(release: Inner) -> int:
    """1 is the first step of its wave, as people count; 0 in the shadow and for a first version."""
    # One that was ended in the shadow ended there, not at the first step.
    ended = release.history[-1].before if release.is_over and release.history else None
    in_shadow = State.SHADOW in (release.state, release.resumes, ended)
    return 0 if in_shadow or release.is_first else release.spec.wave_of(release.step)[1] + 1


def _reason(release: Inner, newest: Decision) -> str:
    if release.is_over or release.state in (State.PAUSED, State.INCONCLUSIVE):
        return release.reason or newest.reason
    return newest.reason


def _cells(
    release: Inner, evidence: Evidence, decisions: tuple[DecisionView, ...]
) -> tuple[Cell, ...]:
    # An ended release shows the counts that ended it: nodes forget theirs.
    found = (one.evidence["cells"] for one in reversed(decisions) if one.evidence.get("cells"))
    last = next(found, None) if release.is_over else None
    return evidence.cells if last is None else msgspec.convert(last, tuple[Cell, ...])


def _requests(cells: tuple[Cell, ...], arm: str) -> int:
    return sum(cell.requests for cell in cells if cell.arm == arm)


def _failed(cells: tuple[Cell, ...], arm: str) -> int:
    return sum(cell.requests - cell.successes for cell in cells if cell.arm == arm)


def _guardrails(
    release: Inner, newest: Decision, decisions: tuple[DecisionView, ...], seen: Outlook
) -> tuple[GuardrailView, ...]:
    # An ended release shows the numbers that ended it, not what came in since.
    if release.is_over:
        last = next((one for one in reversed(decisions) if one.guardrails), None)
        if last is not None:
            return last.guardrails
    return tuple(
        _guardrail(release, one, newest.evidence, seen.waits_s.get(name_of(one)))
        for one in newest.numbers
    )


def _guardrail(
    release: Inner, numbers: Numbers, evidence: Evidence, wait_s: float | None = None
) -> GuardrailView:
    rule = _rule(release, numbers)
    tolerance, margin = _limits(release, numbers, rule)
    return GuardrailView(
        name=name_of(numbers),
        champion=numbers.champion_rate,
        challenger=numbers.challenger_rate,
        compared="ratio" if numbers.is_ratio else "difference",
        low=numbers.low,
        high=numbers.high,
        log_e_rollback=_finite(numbers.log_e_rollback),
        log_e_rollback_threshold=numbers.log_rollback_at,
        log_e_advance=_finite(numbers.log_e_advance or 0.0),
        log_e_advance_threshold=numbers.log_advance_at or 0.0,
        tolerance=tolerance,
        margin=margin,
        missing="" if numbers.is_good or release.is_over else _missing(numbers, wait_s),
        role="experiment" if numbers.is_experiment else "guardrail",
        unit=_UNITS.get(numbers.guardrail, ""),
        is_better_high=METRICS[numbers.guardrail].is_better_high,
        wait_s=wait_s,
        beside=say_rankings(evidence.rankings) if numbers.guardrail == "quality" else "",
        limit=_held_to(release, rule),
        said=say_slower(numbers) if numbers.guardrail == "latency" else say_name(numbers),
    )


def _held_to(release: Inner, rule: Guardrail | None) -> float | None:
    """A first version is compared with nobody, nor is how often two disagree."""
    if rule is None or not (release.is_first or rule.name == "disagreement"):
        return None
    if rule.name == "disagreement":
        return rule.tolerance
    return next(iter(rule.limits), None) if rule.name == "latency" else rule.ceiling


def _missing(numbers: Numbers, wait_s: float | None) -> str:
    if numbers.is_experiment:
        return say_leads(numbers)
    when = "" if wait_s is None else f": about {say_time(wait_s)} at the present traffic"
    return say_missing(numbers) + when


_UNITS = {"mean-latency": "us", "revenue": "value"}


def _rule(release: Inner, numbers: Numbers) -> Guardrail | None:
    if numbers.is_experiment and release.spec.experiment is not None:
        return release.spec.experiment.measure
    return next((one for one in release.spec.guardrails if one.name == numbers.guardrail), None)


def _limits(release: Inner, numbers: Numbers, rule: Guardrail | None) -> tuple[float, float]:
    """Tolerance and margin as what is compared: 0.05 less conversion is a ratio of 0.95."""
    if rule is None:
        return 1.0, 1.0
    margins = rule.margins or release.spec.margins
    margin = margins[min(release.step, len(margins) - 1)]
    # Disagreement is under its limit or over it: there is nothing between.
    if numbers.guardrail == "disagreement":
        margin = rule.tolerance
    if rule.metric.compared != "part":
        return rule.tolerance, margin
    sign = -1.0 if rule.metric.is_better_high else 1.0
    return 1.0 + sign * rule.tolerance, 1.0 + sign * margin


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.copysign(1e6, value)


def _decided(app: App, release_id: str) -> Decided:
    with app.database.reading() as connection:
        return store.list_decisions(connection, release_id)


def _decision(sequence: int, by: str, decision: Decision) -> DecisionView:
    state = getattr(decision.outcome, "state", None)
    return DecisionView(
        sequence=sequence,
        at=decision.at,
        action=_action(decision),
        state=(state or decision.release.state).value,
        reason=decision.reason,
        by=by,
        guardrails=tuple(
            _guardrail(decision.release, one, decision.evidence) for one in decision.numbers
        ),
        evidence={"cells": msgspec.to_builtins(decision.evidence.cells)},
    )


def _action(decision: Decision) -> str:
    person = decision.person
    return person.action if person else type(decision.outcome).__name__.lower()
