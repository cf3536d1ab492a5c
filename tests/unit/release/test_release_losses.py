"""What outcomes say of a release: which of them count, for whom, and what they decide."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from release_cases import arms, arrays_of, at, evidence, in_step, started

from doorstep.core.errors import RefusedError
from doorstep.core.record import Kind
from doorstep.release.baselines import baseline_from
from doorstep.release.decide import decide, recompute
from doorstep.release.judge import judge
from doorstep.release.losses import loss_cells, losses_of, rankings_of, told_of
from doorstep.release.quality import quality_numbers
from doorstep.release.types import Advance, Evidence, Guardrail, Hold, Release, Rollback
from doorstep.release.wording import say_rankings
from doorstep.stats import eprocess

QUALITY = Guardrail(name="quality", tolerance=0.0, margins=(0.05,), weight=0.5, reference=0.2)
RAILS = (Guardrail(weight=0.5), QUALITY)
ONE_STEP: dict[str, Any] = {"steps": (0.5,), "dwell_s": (0.0,), "margins": (2.0,)}


def row(is_wrong: bool, version: int = 1, **more: Any) -> dict[str, Any]:
    return {"assigned": version, "label": "no" if is_wrong else "yes", "answer": "yes", **more}


def in_canary(**more: Any) -> Release:
    return in_step(**({"guardrails": RAILS} | ONE_STEP | more))


def told(release: Release, rows: list[dict[str, Any]]) -> Evidence:
    cells = loss_cells(told_of(arrays_of(rows), release, QUALITY), release, QUALITY)
    return evidence(arms(1, (3000, 0), (3000, 0)), losses=cells)


def drawn(seed: int, count: int, champion: float, challenger: float) -> list[dict[str, Any]]:
    """Outcomes of a fair split: `count` units, with these shares of wrong answers."""
    rng = np.random.default_rng(seed)
    versions = rng.integers(1, 3, count)
    wrong = rng.random(count) < np.where(versions == 1, champion, challenger)
    return [row(bool(bad), int(one)) for bad, one in zip(wrong, versions, strict=True)]


def test_many_at_once_weigh_what_one_by_one_does():
    rng = np.random.default_rng(1)
    is_b, loss = rng.random(200) < 0.3, rng.random(200)
    one_by_one = sum(
        eprocess.residual_wealth(is_b[at : at + 1], loss[at : at + 1], 0.3, 0.4, 0.01, -1)
        for at in range(200)
    )
    many = eprocess.residual_wealth(is_b, loss, 0.3, 0.4, 0.01, -1)
    np.testing.assert_allclose(many, one_by_one, atol=1e-9)
    assert not eprocess.residual_wealth(is_b, loss, 1.0, 0.4, 0.0, +1).any()
    gaps = rng.random(50) - rng.random(50)
    one_by_one = sum(eprocess.paired_increment(float(gap), 0.02) for gap in gaps)
    np.testing.assert_allclose(eprocess.paired_wealth(gaps, 0.02, +1), one_by_one, atol=1e-9)


def test_a_worse_challenger_goes_back_and_an_equal_one_advances():
    release = in_canary()
    worse = decide(release, told(release, drawn(3, 3000, 0.20, 0.30)), at(60))
    assert isinstance(worse.outcome, Rollback)
    assert "quality loss 3" in worse.reason and "against 2" in worse.reason, worse.reason
    equal = decide(release, told(release, drawn(3, 6000, 0.20, 0.20)), at(60))
    assert isinstance(equal.outcome, Advance), equal.reason
    for decision in (worse, equal):
        stored = msgspec.json.decode(msgspec.json.encode(decision), type=type(decision))
        assert recompute(stored) == stored


def test_without_outcomes_nothing_advances_and_it_is_said_what_is_missing():
    release = in_canary()
    decision = decide(release, told(release, []), at(60))
    assert isinstance(decision.outcome, Hold)
    assert "quality: evidence 1 to 1 of 20, more evidence needed" in decision.reason
    some = decide(release, told(release, drawn(5, 800, 0.2, 0.2)), at(60))
    assert "more outcomes needed" in some.reason


def test_only_measured_outcomes_of_this_release_count_and_each_unit_once():
    release = in_canary()
    rows = [
        row(True, 2, unit="u1"), row(True, 2, unit="u1"), row(False, 1, unit="u2"),
        row(True, 2, unit="u3", release="another"), row(True, 2, unit="u4", epoch=9),
        row(True, 2, unit="u5", segment="elsewhere"), row(True, 2, kind=int(Kind.REHEARSAL)),
        {"assigned": 2, "label": "no"}, row(False, 2), row(False, 2),
        row(True, 2, id="c", release="another"),
        row(True, 2, id="c", epoch=9, kind=int(Kind.SHADOW)),
    ]  # fmt: skip
    (cell,) = told(release, rows).losses
    assert (cell.champion, cell.challenger) == ((1, 0.0), (3, 1.0))


def test_who_came_in_shadow_or_in_a_warm_up_counts_when_they_come_in_canary():
    shadow = started(guardrails=RAILS, **ONE_STEP).epochs[0]
    release = in_canary()
    epochs = (
        msgspec.structs.replace(shadow, number=8),
        msgspec.structs.replace(release.epoch, number=9, measured=False),
        *release.epochs,
    )
    release = msgspec.structs.replace(release, epochs=epochs)
    rows = [row(True, 1, unit="u1", epoch=8), row(True, 2, unit="u2", epoch=9)]
    rows += [row(False, 2, unit="u1"), row(False, 1, unit="u2"), row(True, 2, unit="u1")]
    (cell,) = told(release, rows).losses
    assert (cell.champion, cell.challenger) == ((1, 0.0), (1, 0.0))


def test_in_shadow_both_are_compared_on_the_same_requests():
    release = started(guardrails=RAILS, **ONE_STEP)
    rows = []
    for number in range(400):
        name, live_wrong = f"p{number}", number % 10 == 0
        rows.append(row(live_wrong, 1, id=name, release="" if number % 2 else "r1"))
        rows.append(row(number % 10 < 3, 2, id=name, kind=int(Kind.SHADOW)))
    rows.append(row(True, 2, id="alone", kind=int(Kind.SHADOW)))
    evidence_ = told(release, rows)
    (cell,) = evidence_.losses
    assert cell.paired and (cell.champion, cell.challenger) == ((400, 40.0), (400, 120.0))
    numbers = quality_numbers(release, evidence_.losses, QUALITY)
    expected = eprocess.log_mean_exp([eprocess.paired_log_e(80, 320, 0), 0.0], [0.2, 0.8])
    assert numbers.log_e_rollback == pytest.approx(expected)
    assert isinstance(decide(release, evidence_, at(60)).outcome, Rollback)
    assert numbers.low is not None and numbers.low < 0.2 < numbers.high


def test_in_shadow_a_unit_that_comes_again_counts_once():
    release = started(guardrails=RAILS, **ONE_STEP)
    rows = []
    for number in range(60):
        name, unit = f"r.{number}", {"unit": "u1"} if number < 50 else {}
        rows.append(row(False, 1, id=name, **unit))
        rows.append(row(number < 50, 2, id=name, kind=int(Kind.SHADOW), **unit))
    rows.insert(0, row(True, 2, id="unanswered", unit="u1", kind=int(Kind.SHADOW)))
    evidence_ = told(release, rows)
    (cell,) = evidence_.losses
    assert cell.challenger == (11, 1.0), "one of u1, and each row of nobody in particular"
    assert isinstance(decide(release, evidence_, at(60)).outcome, Hold)


def test_evidence_for_another_margin_does_not_let_a_step_pass():
    margins = (0.2, 0.05)
    rails = (RAILS[0], msgspec.structs.replace(QUALITY, margins=margins))
    release = in_step(guardrails=rails, steps=(0.5, 0.6), dwell_s=(0.0, 0.0), margins=(3.0, 2.0))
    rows = drawn(3, 6000, 0.20, 0.20)
    cells = loss_cells(told_of(arrays_of(rows), release, rails[1]), release, rails[1])
    good = evidence(arms(1, (3000, 0), (3000, 0)), losses=cells)
    assert isinstance(decide(release, good, at(60)).outcome, Advance)
    later = msgspec.structs.replace(release, step=1)
    assert isinstance(decide(later, good, at(60)).outcome, Hold)


def test_where_outcomes_take_their_time_what_came_later_counts_for_nobody():
    slow = msgspec.structs.replace(QUALITY, delay_s=60.0)
    release = in_canary(guardrails=(RAILS[0], slow))
    rows = [row(True, 2, received_at=30_000_000), row(True, 2, received_at=90_000_000)]
    (cell,) = loss_cells(told_of(arrays_of(rows), release, slow), release, slow)
    assert cell.challenger == (1, 1.0)


def test_a_regression_is_judged_by_its_absolute_error():
    rows = [
        {"score": 10.0, "value": 12.0}, {"score": 10.0, "value": 100.0}, {"score": 1.0},
        row(True), row(False),
    ]  # fmt: skip
    numeric = msgspec.structs.replace(QUALITY, loss_max=4.0)
    found = losses_of(arrays_of(rows), numeric)
    np.testing.assert_array_equal(found, [0.5, 1.0, np.nan, 1.0, 0.0])


def test_how_well_each_version_ranks_is_shown_beside() -> None:
    release = in_canary()
    rng = np.random.default_rng(2)
    rows = []
    for place in range(400):
        version, truth = 1 + place % 2, rng.random() < 0.5
        score = float(rng.normal(2.0 * truth if version == 2 else 0.5 * truth))
        told_ = {"label": "yes" if truth else "no", "yes": score, "no": -score}
        rows.append({"assigned": version, "answer": "yes", **told_})
    rows.append({"assigned": 1, "yes": 1.0, "no": 0.0})
    champion, challenger = rankings_of(arrays_of(rows), release, "yes")
    assert (champion.arm, champion.outcomes, challenger.outcomes) == ("champion", 200, 200)
    assert champion.low < champion.auc < champion.high < challenger.low < challenger.auc < 1.0
    said = say_rankings((champion, challenger))
    assert said.startswith("AUC 0.9") and " against 0.6" in said, said
    assert rankings_of(arrays_of(rows), release, "") == ()
    assert say_rankings((champion,)) == ""
    shadow = started(guardrails=RAILS, **ONE_STEP)
    live = [one | {"id": f"p{place}"} for place, one in enumerate(rows)]
    copies = [one | {"assigned": 2, "kind": int(Kind.SHADOW)} for one in live[:100]]
    pair = rankings_of(arrays_of([*live, *copies]), shadow, "yes")
    assert [one.outcomes for one in pair] == [100, 100]
    named = [one | {"unit": f"u{place % 60}"} for place, one in enumerate([*live[:100], *copies])]
    assert [one.outcomes for one in rankings_of(arrays_of(named), shadow, "yes")] == [60, 60]


def test_the_baseline_is_the_champions_own():
    rows = [row(number % 4 == 0, 1) for number in range(100)] + [row(True, 7)] * 50
    found = baseline_from(arrays_of(rows), "loans", 1)
    assert (found.reference, found.loss_max) == (0.25, 1.0)
    errors = [{"score": 0.0, "value": float(number)} for number in range(101)]
    assert baseline_from(arrays_of(errors), "prices", 1).loss_max == pytest.approx(99.0)
    with pytest.raises(RefusedError, match="no outcome of loans that") as refused:
        baseline_from(arrays_of([]), "loans", 1)
    assert refused.value.code == "no-outcomes"
    with pytest.raises(RefusedError, match="can be compared"):
        baseline_from(arrays_of([{"answer": "yes", "value": 1.0}]), "loans", 1)


def test_equal_versions_are_rarely_sent_back_however_often_it_is_looked():
    """120 fair splits of 3,000 outcomes, looked at after every 100; alpha of quality is 2.5 %."""
    release, gone = in_canary(), 0
    limit = next(one for one in judge(release, Evidence()) if not one.is_ratio).log_rollback_at
    for seed in range(120):
        rng = np.random.default_rng(seed)
        is_b, loss = rng.random(3000) < 0.5, (rng.random(3000) < 0.2).astype(float)
        total, crossed = np.zeros(len(eprocess.BETS)), False
        for start in range(0, 3000, 100):
            part = slice(start, start + 100)
            total += eprocess.residual_wealth(is_b[part], loss[part], 0.5, 0.2, 0.0, +1)
            crossed |= eprocess.log_mean_exp(total) >= limit
        gone += crossed
    assert gone <= 8, gone
