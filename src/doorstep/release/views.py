"""A release in words and numbers, for commands and pages."""

from __future__ import annotations

import math

import msgspec

from doorstep.core.instant import SECOND_US
from doorstep.journal.operations import count_release
from doorstep.kernel.app import App
from doorstep.register.store import get_service
from doorstep.release import store
from doorstep.release.collect import collect
from doorstep.release.crosscheck import compare
from doorstep.release.decide import decide, recompute
from doorstep.release.planning import parsed_file
from doorstep.release.surface import (
    DecisionView,
    GuardrailView,
    Recomputed,
    RecomputedDecision,
    Release,
)
from doorstep.release.types import Cell, Decision, Evidence, Numbers, State
from doorstep.release.types import Release as Inner
from doorstep.release.wording import say_missing


def release_view(app: App, row: store.ReleaseRow, *, with_decisions: bool = True) -> Release:
    """What `release show` and the release page give."""
    inner = row.release
    evidence = collect(app, inner)
    newest = decide(inner, evidence, app.clock.now())
    decisions = _decisions(app, inner.id) if with_decisions or inner.is_over else ()
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
        shares=tuple(inner.spec.share_of(step) for step in range(len(inner.spec.steps))),
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
        guardrails=_guardrails(inner, newest, decisions),
        decisions=decisions if with_decisions else (),
        settled=bool(alive)
        and all(
            one.plan_number >= row.plan_number and inner.service not in one.held_back
            for one in alive
        ),
        silent=tuple(sorted(app.nodes.silent())),
        plan_number=row.plan_number,
    )


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
    since = now - round(parsed_file(file, app.home.environment).privacy.keep_s * SECOND_US)
    counts = count_release(app, inner.service, inner.id, inner.started_at)
    cells = compare(inner, evidence.cells, counts, at, since)
    decisions = tuple(
        RecomputedDecision(
            sequence=sequence, at=one.at, action=_action(one), same=recompute(one) == one
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
    """1 is the first step, as people count; 0 in the shadow and for a first version."""
    # One that was ended in the shadow ended there, not at the first step.
    ended = release.history[-1].before if release.is_over and release.history else None
    in_shadow = State.SHADOW in (release.state, release.resumes, ended)
    return 0 if in_shadow or release.is_first else release.step + 1


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
    release: Inner, newest: Decision, decisions: tuple[DecisionView, ...]
) -> tuple[GuardrailView, ...]:
    # An ended release shows the numbers that ended it, not what came in since.
    if release.is_over:
        last = next((one for one in reversed(decisions) if one.guardrails), None)
        if last is not None:
            return last.guardrails
    return tuple(_guardrail(release, one) for one in newest.numbers)


def _guardrail(release: Inner, numbers: Numbers) -> GuardrailView:
    step = min(release.step, len(release.spec.margins) - 1)
    rule = next((one for one in release.spec.guardrails if one.name == numbers.guardrail), None)
    margins = rule.margins if rule and rule.margins else release.spec.margins
    # Disagreement is under its limit or over it: there is nothing between.
    is_limit = numbers.guardrail == "disagreement"
    name = numbers.guardrail if not numbers.segment else f"{numbers.guardrail} in {numbers.segment}"
    return GuardrailView(
        name=name,
        champion=numbers.champion_rate,
        challenger=numbers.challenger_rate,
        compared="ratio" if numbers.is_ratio else "difference",
        low=numbers.low,
        high=numbers.high,
        log_e_rollback=_finite(numbers.log_e_rollback),
        log_e_rollback_threshold=numbers.log_rollback_at,
        log_e_advance=_finite(numbers.log_e_advance or 0.0),
        log_e_advance_threshold=numbers.log_advance_at or 0.0,
        tolerance=rule.tolerance if rule else 1.0,
        margin=rule.tolerance if rule and is_limit else margins[step],
        missing="" if numbers.is_good or release.is_over else say_missing(numbers),
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.copysign(1e6, value)


def _decisions(app: App, release_id: str) -> tuple[DecisionView, ...]:
    with app.database.reading() as connection:
        found = store.list_decisions(connection, release_id)
    return tuple(_decision(sequence, by, decision) for sequence, by, decision in found)


def _decision(sequence: int, by: str, decision: Decision) -> DecisionView:
    state = getattr(decision.outcome, "state", None)
    return DecisionView(
        sequence=sequence,
        at=decision.at,
        action=_action(decision),
        state=(state or decision.release.state).value,
        reason=decision.reason,
        by=by,
        guardrails=tuple(_guardrail(decision.release, one) for one in decision.numbers),
        evidence={"cells": msgspec.to_builtins(decision.evidence.cells)},
    )


def _action(decision: Decision) -> str:
    person = decision.person
    return person.action if person else type(decision.outcome).__name__.lower()
