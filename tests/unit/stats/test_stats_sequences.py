"""Confidence sequences hold the truth at every moment together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from doorstep.stats.sequences import mean_sequence, rate_sequence


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_the_truth_is_left_in_few_of_many_runs_however_often_one_looks(rate: float) -> None:
    random = np.random.default_rng(11)
    looks = [*range(10, 200, 10), 400, 800, 1_600, 3_200]
    left = 0
    for _ in range(60):
        counts = np.cumsum(random.random(looks[-1]) < rate)
        ends = [rate_sequence(int(counts[n - 1]), n) for n in looks]
        left += any(not low <= rate <= high for low, high in ends)
    assert left <= 60 * 0.05 + 3


def test_more_cases_make_it_narrower_and_none_leave_everything_open() -> None:
    wide = [high - low for low, high in (rate_sequence(n // 5, n) for n in (0, 50, 500, 50_000))]
    assert wide == sorted(wide, reverse=True)
    assert rate_sequence(0, 0) == (0.0, 1.0)
    assert wide[-1] < 0.02


def test_the_ends_are_open_where_nothing_happened_or_all_did() -> None:
    low, high = rate_sequence(0, 300)
    assert low == 0.0 and 0.0 < high < 0.05
    low, high = rate_sequence(300, 300)
    assert 0.95 < low < 1.0 and high == 1.0


def test_a_mean_has_a_sequence_in_its_own_unit() -> None:
    values = np.random.default_rng(5).normal(120.0, 30.0, 4_000)
    low, high = mean_sequence(4_000, float(values.sum()), float(values @ values))
    assert 115 < low < 120 < high < 125
    assert mean_sequence(0, 0.0, 0.0) == (-math.inf, math.inf)
