import math

import pytest

from doorstep.stats import planner


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
    assert planner.one_sample_needed(0.01, 0.01) == math.inf


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
