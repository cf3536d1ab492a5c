"""Releases that are decided by what cases came to: conversion, revenue, gaps, experiments."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from release_cases import arms, arrays_of, at, evidence, in_step, shadow, started

from doorstep.core.errors import RefusedError
from doorstep.core.instant import SECOND_US
from doorstep.core.record import Kind
from doorstep.release.baselines import groups_before, latency_before, worth_before
from doorstep.release.decide import decide, recompute
from doorstep.release.groups import blocks_of, gap_cells
from doorstep.release.judge import judge
from doorstep.release.losses import loss_cells, losses_of, trials_of
from doorstep.release.quality import quality_numbers
from doorstep.release.types import (
    EXPERIMENT,
    Advance,
    Evidence,
    Experiment,
    Guardrail,
    Hold,
    Inconclusive,
    LossCell,
    Release,
    Rollback,
)
from doorstep.stats import eprocess

HOUR = 3600 * SECOND_US
NOW = 100 * HOUR
CONVERSION = Guardrail(
    name="conversion", tolerance=0.0, margins=(0.05,), weight=0.5, reference=0.9, label="yes",
    delay_s=3600.0,
)  # fmt: skip
REVENUE = Guardrail(
    name="revenue", tolerance=0.0, margins=(0.05,), weight=0.5, reference=0.9, loss_max=50.0,
    delay_s=3600.0,
)  # fmt: skip
FAIR = Guardrail(
    name="fairness", tolerance=0.05, margins=(0.05,), weight=0.5, label="yes", field="sex",
    groups=(("m", 4), ("f", 4)),
)  # fmt: skip
ONE_STEP: dict[str, Any] = {"steps": (0.5,), "dwell_s": (0.0,), "margins": (2.0,)}


def guarded_by(rail: Guardrail, **more: Any) -> Release:
    return in_step(**({"guardrails": (Guardrail(weight=0.5), rail)} | ONE_STEP | more))


def in_experiment(measure: Guardrail, **more: Any) -> Release:
    """A/B test: neither side is tolerated anything."""
    none = msgspec.structs.replace(measure, tolerance=0.0, margins=(0.0,), weight=1.0)
    asked = Experiment(measure=none)
    return in_step(**(ONE_STEP | {"experiment": asked, "deadline_s": 86_400.0} | more))


def cells_of(rows: list[dict[str, Any]], release: Release, rail: Guardrail) -> tuple[LossCell, ...]:
    return loss_cells(trials_of(arrays_of(rows), release, rail, NOW), release, rail)


def converted(champion: tuple[int, int], challenger: tuple[int, int]) -> LossCell:
    """(units, of these converted) of each arm."""
    a, b = ((n, float(n - k)) for n, k in (champion, challenger))
    return LossCell(
        epoch=1, segment="", paired=False, champion=a, challenger=b, sums=(a[0] + b[0], 0.0, 1.0),
        margin=0.05, metric="conversion",
    )  # fmt: skip


def seen(cell: LossCell, metric: str = "", margin: float = 0.05) -> Evidence:
    cell = msgspec.structs.replace(cell, metric=metric or cell.metric, margin=margin)
    return evidence(arms(1, (30_000, 0), (30_000, 0)), losses=(cell,))


def test_the_published_numbers_of_conversion() -> None:
    path = Path(__file__).parents[1] / "stats" / "rollout-test-vectors.json"
    published = {one["name"]: one["value"] for one in json.loads(path.read_text())}
    rail = msgspec.structs.replace(CONVERSION, margins=(0.0,))
    cell = msgspec.structs.replace(converted((100_000, 5000), (100_000, 4600)), margin=0.0)
    found = quality_numbers(guarded_by(rail), (cell,), rail)
    assert found.log_e_rollback == pytest.approx(published["m1_log_e KPI grid d=-1"], abs=1e-6)
    assert (found.champion_rate, found.challenger_rate) == pytest.approx((0.05, 0.046))
    assert found.low is not None and found.high is not None
    assert found.low < 0.92 < found.high < 1.0


def test_less_conversion_goes_back_and_equal_conversion_advances() -> None:
    release = guarded_by(CONVERSION)
    worse = decide(release, seen(converted((30_000, 1500), (30_000, 1200))), at(60))
    assert isinstance(worse.outcome, Rollback)
    assert "conversion 4 % against 5 %" in worse.reason, worse.reason
    equal = decide(release, seen(converted((900_000, 90_000), (900_000, 90_000))), at(60))
    assert isinstance(equal.outcome, Advance), equal.reason
    for one in (worse, equal):
        stored = msgspec.json.decode(msgspec.json.encode(one), type=type(one))
        assert recompute(stored) == stored


def test_a_unit_counts_once_where_it_was_met_with_what_came_within_its_time() -> None:
    release = guarded_by(CONVERSION)

    def visit(unit: str, when: float, version: int = 1, told: float | None = None) -> Any:
        time = NOW - round(when * HOUR)
        more = {} if told is None else {"label": "yes", "received_at": NOW - round(told * HOUR)}
        return {"unit": unit, "at": time, "assigned": version, **more}

    rows = [
        visit("a", 9.0, 2), visit("a", 8.5, 2, told=8.2), visit("a", 8.4, 2, told=8.1),
        visit("b", 9.0, 1, told=7.9),  # too late
        visit("c", 9.0, 1),  # nothing came of it
        visit("d", 0.5, 2, told=0.2),  # its time is not over
        visit("e", 9.0, 2, told=8.9),
    ]  # fmt: skip
    (cell,) = cells_of(sorted(rows, key=lambda row: row["at"]), release, CONVERSION)
    assert (cell.champion, cell.challenger) == ((2, 2.0), (2, 0.0))


def test_revenue_is_capped_and_what_never_came_is_nothing() -> None:
    release = guarded_by(REVENUE)
    rows = [
        {"at": 1, "assigned": 2, "value": 25.0, "received_at": 2},
        {"at": 2, "assigned": 1, "value": 900.0, "received_at": 3},
        {"at": 3, "assigned": 1},
    ]
    (cell,) = cells_of(rows, release, REVENUE)
    assert (cell.champion, cell.challenger) == ((2, 1.0), (1, 0.5))
    found = quality_numbers(release, (cell,), REVENUE)
    assert (found.champion_rate, found.challenger_rate) == (25.0, 25.0)
    delta = REVENUE.delta(0.05)
    assert delta == pytest.approx(0.005), "5 % of the champion's mean, as a part of the cap"
    is_b, loss = np.array([True, False, False]), np.array([0.5, 0.0, 1.0])
    expected = eprocess.residual_wealth(is_b, loss, 0.5, 0.9, delta, -1)
    np.testing.assert_allclose(cell.better, expected)


def test_mean_latency_is_of_the_first_request_that_was_computed() -> None:
    rail = Guardrail(name="mean-latency", tolerance=0.05, margins=(0.05,), loss_max=1000.0)
    release = guarded_by(msgspec.structs.replace(rail, weight=0.5))
    rows = [
        {"unit": "a", "assigned": 2, "latency_us": -1},
        {"unit": "a", "assigned": 2, "latency_us": 500},
        {"unit": "a", "assigned": 2, "latency_us": 900},
        {"unit": "b", "assigned": 1, "latency_us": 5000},
    ]
    (cell,) = cells_of(rows, release, rail)
    assert (cell.champion, cell.challenger) == ((1, 1.0), (1, 0.5))


def test_probabilities_can_be_judged_by_brier_and_by_log_loss() -> None:
    rows = [
        {"label": "yes", "yes": 0.7, "no": 0.3},
        {"label": "no", "yes": 1.0, "no": 0.0},
        {"label": "no", "yes": 3.0, "no": -1.0},
        {"yes": 0.5, "no": 0.5},
    ]
    rail = Guardrail(name="quality", tolerance=0.0, loss="brier")
    found = losses_of(arrays_of(rows), rail)
    np.testing.assert_allclose(found, [0.09, 1.0, np.nan, np.nan])
    found = losses_of(arrays_of(rows), msgspec.structs.replace(rail, loss="log-loss"))
    np.testing.assert_allclose(found, [-np.log(0.7) / np.log(1000), 1.0, np.nan, np.nan])


def answers(
    seed: int, gap: float, count: int = 6000, kind: Kind = Kind.LIVE, version: int = 2
) -> list[dict[str, Any]]:
    """A fifth are of the small group, whose share of "yes" is lower by `gap`."""
    rng = np.random.default_rng(seed)
    small = rng.random(count) < 0.2
    yes = rng.random(count) < np.where(small, 0.5 - gap, 0.5)
    return [
        {
            "id": f"p{place}", "assigned": version, "kind": int(kind),
            "answer": "yes" if yes[place] else "no", "group": "f" if small[place] else "m",
        }
        for place in range(count)
    ]  # fmt: skip


def test_a_gap_between_groups_goes_back_and_none_advances() -> None:
    release = guarded_by(FAIR)
    for gap, expected in ((0.2, Rollback), (0.0, Advance), (-0.2, Rollback)):
        cells = gap_cells(arrays_of(answers(3, gap, 30_000)), release, FAIR)
        told = evidence(arms(1, (3000, 0), (3000, 0)), losses=cells)
        found = decide(release, told, at(60))
        assert isinstance(found.outcome, expected), found.reason
        (numbers,) = (one for one in found.numbers if one.guardrail == "fairness")
        assert numbers.low is not None and numbers.high is not None
        assert numbers.challenger_rate == pytest.approx(gap, abs=0.03)
        assert numbers.low < gap < numbers.high
    assert "gap between groups -" in found.reason


def test_in_shadow_nobody_waits_for_what_only_callers_bring() -> None:
    release = started(guardrails=(Guardrail(weight=0.5), REVENUE), **ONE_STEP)
    found = decide(release, shadow(0, 1200, 0), at(60))
    assert isinstance(found.outcome, Advance), found.reason


def test_in_shadow_a_gap_is_held_against_the_champions_own() -> None:
    release = started(guardrails=(Guardrail(weight=0.5), FAIR), **ONE_STEP)
    live = answers(3, 0.3, version=1)
    alike = [row | {"kind": int(Kind.SHADOW), "assigned": 2} for row in live]
    for copies, is_worse in ((alike, False), (answers(4, 0.6, kind=Kind.SHADOW), True)):
        if is_worse:
            copies = [one | {"group": it["group"]} for one, it in zip(copies, live, strict=True)]
            for one in copies:
                one["answer"] = "no" if one["group"] == "f" else "yes"
        # A shadow record has no inputs, so it names no group.
        copies = [one | {"group": ""} for one in copies]
        cells = gap_cells(arrays_of([*live, *copies]), release, FAIR)
        numbers = quality_numbers(release, cells, FAIR)
        assert (numbers.log_e_rollback > 5.0) is is_worse
        assert numbers.champion_rate == pytest.approx(0.3, abs=0.05)


def test_a_group_of_which_nothing_came_yet_has_its_part_of_alpha_and_is_waited_for() -> None:
    three = msgspec.structs.replace(FAIR, groups=(*FAIR.groups, ("x", 10)))
    cells = gap_cells(arrays_of(answers(3, 0.0, 30_000)), guarded_by(three), three)
    told = evidence(arms(1, (3000, 0), (3000, 0)), losses=cells)
    found = decide(guarded_by(three), told, at(60))
    assert isinstance(found.outcome, Hold) and "fairness" in found.reason, found.reason
    wide = gap_cells(arrays_of(answers(3, 0.2, 3000)), guarded_by(three), three)
    of_two, of_three = (
        quality_numbers(guarded_by(one), wide, one).log_e_rollback for one in (FAIR, three)
    )
    assert of_three == pytest.approx(of_two - math.log(2.0))


def test_blocks_are_of_about_one_time() -> None:
    groups = "LLLLSSLLLLSLL"
    large = np.array([one == "L" for one in groups])
    many, few, last = blocks_of(large, ~large, 4)
    assert many.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert (few.tolist(), last.tolist()) == ([4, 5], [4, 9])
    assert blocks_of(large & False, ~large, 4)[1].size == 0
    crowd = np.arange(3000) < 2990
    many, few, _ = blocks_of(crowd, ~crowd, 4)
    assert few.size == 10 and many.min() >= 2990 - 80, "those of long ago are given up"


def test_an_experiment_has_a_winner_or_says_how_large_a_difference_there_may_be() -> None:
    release = in_experiment(CONVERSION)
    cases = (
        ((20_000, 1000), (20_000, 1300), Advance, "the challenger won: "),
        ((20_000, 1300), (20_000, 1000), Rollback, "the champion won: conversion 5 % against 6.5"),
        ((20_000, 1000), (20_000, 1010), Hold, "of 40 that it is better"),
    )
    for champion, challenger, outcome, said in cases:
        told = seen(converted(champion, challenger), EXPERIMENT, 0.0)
        found = decide(release, told, at(60))
        assert isinstance(found.outcome, outcome), found.reason
        assert said in found.reason, found.reason
        assert found.numbers[-1].log_rollback_at == pytest.approx(np.log(40))
    assert isinstance(decide(release, told, at(86_401)).outcome, Inconclusive)
    assert "neither won: conversion 5 % against 5 %" in decide(release, told, at(86_401)).reason
    assert recompute(found) == found


def test_an_experiment_still_goes_back_for_its_guardrails() -> None:
    release = in_experiment(CONVERSION)
    told = seen(converted((20_000, 1000), (20_000, 1300)), EXPERIMENT, 0.0)
    broken = msgspec.structs.replace(told, cells=tuple(arms(1, (20_000, 0), (20_000, 400))))
    found = decide(release, broken, at(60))
    assert found.outcome == Rollback("guardrail") and found.reason.startswith("errors 2 %")


def test_an_experiment_of_errors_needs_no_journal() -> None:
    none = Guardrail(name="errors", tolerance=1.0)
    release = in_step(**ONE_STEP, experiment=Experiment(measure=none))
    better = decide(release, evidence(arms(1, (9000, 300), (9000, 100))), at(60))
    assert isinstance(better.outcome, Advance), better.reason
    numbers = judge(release, evidence(arms(1, (9000, 100), (9000, 300))))
    assert numbers[-1].is_experiment and numbers[-1].is_bad


def test_what_is_frozen_is_the_champions_own() -> None:
    rows = [
        {"at": at_, "assigned": 1, "value": 10.0 if at_ % 10 == 0 else np.nan, "received_at": at_}
        for at_ in range(1, 1001)
    ]
    found = worth_before(arrays_of(rows), "shop", 1, REVENUE, NOW)
    assert (found.loss_max, found.reference) == (10.0, pytest.approx(0.9))
    with pytest.raises(RefusedError, match="no outcome of shop with a value above 0") as none:
        worth_before(arrays_of([{"at": 1}]), "shop", 1, REVENUE, NOW)
    assert none.value.code == "no-outcomes"
    slow = [{"assigned": 1, "latency_us": 1000 * (1 + number % 2)} for number in range(200)]
    latency = latency_before(arrays_of(slow), "shop", 1)
    assert (latency.loss_max, latency.reference) == (2000.0, pytest.approx(0.75))
    with pytest.raises(RefusedError, match="answered 5 requests"):
        latency_before(arrays_of(slow[:5]), "shop", 1)
    groups = groups_before(arrays_of(answers(1, 0.0, 1000)), "shop", "sex", "yes")
    assert [name for name, _ in groups.groups] == ["m", "f"] and groups.groups[1][1] in (3, 4, 5)
    with pytest.raises(RefusedError, match="fewer than two groups") as refused:
        groups_before(arrays_of([{"group": "m"}] * 50), "shop", "sex", "yes")
    assert refused.value.code == "no-groups"
