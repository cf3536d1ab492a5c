import math

import numpy as np
import pytest
from stats_cases import residual_log_e

from doorstep.stats import planner
from doorstep.stats.eprocess import one_sample_log_e, paired_log_e, share_log_e


def test_published_lower_bounds_times_the_overhead():
    cases = [
        (0.5, 0.005, 0.001, 4105),
        (0.5, 0.02, 0.01, 3475),
        (0.5, 0.002, 0.001, 35213),
        (0.05, 0.005, 0.001, 16285),
        (0.05, 0.02, 0.01, 16347),
        (0.05, 0.002, 0.001, 165429),
    ]
    for pi, rate_b, rate_a, bound in cases:
        need = planner.requests_needed(pi, rate_b, rate_a)
        assert need == pytest.approx(1.35 * bound, rel=2e-4)


def test_nothing_to_see_needs_for_ever():
    assert planner.requests_needed(0.5, 0.01, 0.01) == math.inf
    assert planner.requests_needed(0.0, 0.02, 0.01) == math.inf
    assert planner.pairs_needed(0.0, 0.0) == math.inf
    assert planner.share_requests_needed(0.5, 0.01, 1.0, 1.0) == math.inf
    assert planner.share_requests_needed(1.0, 0.01, 1.0, 2.0) == math.inf


def test_fewer_requests_for_a_larger_difference_or_a_larger_share():
    assert planner.requests_needed(0.5, 0.04, 0.01) < planner.requests_needed(0.5, 0.02, 0.01)
    assert planner.requests_needed(0.5, 0.02, 0.01) < planner.requests_needed(0.01, 0.02, 0.01)
    assert planner.share_requests_needed(0.5, 0.01, 1.0, 5.0) < planner.share_requests_needed(
        0.5, 0.01, 1.0, 1.5
    )
    assert planner.pairs_needed(0.05, 0.02) < planner.pairs_needed(0.04, 0.03)


def test_kl_of_certain_events():
    assert planner.bernoulli_kl(0.0, 0.1) == pytest.approx(-math.log(0.9))
    assert planner.bernoulli_kl(0.5, 0.0) == math.inf
    assert planner.bernoulli_kl(0.0, 0.0) == 0.0


@pytest.mark.parametrize("rate", [0.0, 0.0001, 0.001, 0.004])
def test_units_below_a_ceiling_are_enough_in_nearly_all_runs(rate):
    n = planner.below_within(rate, 0.01)
    events = np.random.default_rng(7).binomial(round(n), rate, 2000)
    need = math.log(2 / 0.05) if rate else math.log(2 / 0.05 - 1)
    crossed = [one_sample_log_e(int(k), round(n), 0.01, -1) >= need for k in events]
    assert sum(crossed) >= 0.97 * 2000
    assert planner.below_within(0.01, 0.01) == math.inf


@pytest.mark.parametrize(("pi", "r0"), [(0.5, 1.5), (0.05, 3.0), (0.01, 5.0)])
def test_events_of_two_equal_versions_are_enough_in_nearly_all_runs(pi, r0):
    n = planner.alike_within(pi, 0.01, r0)
    events = round(n * 0.01)
    mine = np.random.default_rng(8).binomial(events, pi, 2000)
    need = math.log(2 / 0.05)
    crossed = [share_log_e([(pi, int(k), events - int(k))], r0, -1) >= need for k in mine]
    assert sum(crossed) >= 0.97 * 2000


def test_pairs_of_two_equal_versions_are_enough_in_nearly_all_runs():
    n = round(planner.pairs_within(0.03, 0.005))
    alone = np.random.default_rng(9).multinomial(n, (0.03, 0.94, 0.03), 1000)
    crossed = [paired_log_e(*map(int, one), 0.005, -1) >= math.log(20) for one in alone]
    assert sum(crossed) >= 0.97 * 1000


def test_outcomes_of_two_equal_versions_are_enough_in_nearly_all_runs():
    n = round(planner.difference_within(0.5, 0.09, 0.02))
    rng, counts = np.random.default_rng(10), []
    for _ in range(500):
        b = int(rng.binomial(n, 0.5))
        bad_b, bad_a = int(rng.binomial(b, 0.1)), int(rng.binomial(n - b, 0.1))
        cell = (0.5, 0.1, bad_b, b - bad_b, bad_a, n - b - bad_a)
        counts.append(residual_log_e([cell], 0.02, -1) >= math.log(20))
    assert sum(counts) >= 0.95 * 500


def test_an_unpaired_difference_needs_the_published_outcomes():
    assert planner.difference_needed(0.5, 0.09, 0.01) == pytest.approx(1.35 * 22_514, rel=0.05)
    assert planner.difference_needed(0.5, 0.09, 0.02) == pytest.approx(1.35 * 5_858, rel=0.1)
    assert planner.difference_needed(0.5, 0.09, 0.0) == math.inf
    assert planner.difference_needed(1.0, 0.09, 0.01) == math.inf
