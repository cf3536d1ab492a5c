"""What an e-process must keep whatever the data: order, emptiness, error rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_cases import residual_log_e

from doorstep.stats import eprocess as e

cells = st.lists(
    st.tuples(st.floats(0.01, 0.99), st.integers(0, 500), st.integers(0, 500)), max_size=6
)


@given(cells, st.randoms())
def test_share_does_not_depend_on_the_order_or_the_split_of_cells(given_cells, rng):
    split = [part for pi, b, a in given_cells for part in ((pi, b // 3, a), (pi, b - b // 3, 0))]
    rng.shuffle(split)
    whole = e.share_log_e(given_cells, 1.1, +1)
    assert e.share_log_e(split, 1.1, +1) == pytest.approx(whole, abs=1e-9, rel=1e-9)


@given(cells)
def test_share_interval_holds_the_most_likely_ratio_and_its_ends_are_where_evidence_starts(found):
    low, high = e.share_interval(found)
    assert 0.0 <= low <= high
    for end, inside in ((low, low * 1.001), (high, high * 0.999)):
        if 0.0 < end < math.inf:
            both = [e.share_log_e(found, inside, d) for d in (+1, -1)]
            assert e.log_mean_exp(both) <= math.log(20) + 1e-6


def test_without_events_nothing_is_known():
    assert e.share_log_e([], 1.0, +1) == 0.0
    assert e.share_log_e([(0.5, 0, 0)], 1.0, -1) == 0.0
    assert e.share_interval([]) == (0.0, math.inf)
    assert e.paired_log_e(0, 0, 0) == 0.0
    assert e.one_sample_log_e(0, 0, 0.01) == 0.0
    assert e.split_log_e([]) == 0.0
    assert residual_log_e([]) == 0.0
    assert e.residual_half_width(0, 0, 1.0) == math.inf


def test_all_or_nothing_periods_say_nothing():
    assert e.share_log_e([(0.0, 0, 900), (1.0, 900, 0)], 1.0, +1) == 0.0
    assert residual_log_e([(1.0, 0.1, 900, 0, 0, 0)]) == 0.0


def test_one_sided_events_leave_one_end_open():
    low, high = e.share_interval([(0.5, 0, 30)])
    assert low == 0.0 and high < 1.0
    low, high = e.share_interval([(0.5, 30, 0)])
    assert low > 1.0 and high == math.inf


def test_a_restart_sees_a_late_fault_that_the_whole_run_hides():
    run = [(0.5, 3000, 3000), (0.5, 60, 20)]
    assert e.share_log_e(run, 1.0, +1) < 0 < e.share_log_e_restarted(run, [1], 1.0, +1)


def test_restarts_never_cost_more_than_their_part_of_the_capital():
    assert e.with_restarts(5.0, []) >= 5.0 + math.log(0.8)
    assert e.with_restarts(0.0, [0.0] * 8) == pytest.approx(0.0)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("begun", [0, 1, 7, 8, 9, 340])
def test_restarts_never_spend_more_than_there_is(begun, is_open):
    weights, idle = e.restart_weights(begun, is_open=is_open)
    assert e.RESTART_WHOLE + sum(weights) + idle == pytest.approx(1.0)
    assert idle >= 0.0 and len(weights) == (begun if is_open else min(begun, 8))


def test_a_fault_after_days_is_seen_by_a_restart_that_is_open():
    hours = [(0.5, 300, 300)] * 100 + [(0.5, 120, 60)] * 4
    starts = list(range(1, 104))
    assert e.share_log_e_restarted(hours, starts, 1.1, +1) < math.log(20)
    assert e.share_log_e_restarted(hours, starts, 1.1, +1, is_open=True) > math.log(20)


def test_mean_of_nothing_is_refused_and_zero_evidence_values_are_fine():
    with pytest.raises(ValueError, match="no e-values"):
        e.log_mean_exp([])
    assert e.log_mean_exp([-math.inf, -math.inf]) == -math.inf
    assert e.log_mean_exp([0.0, -math.inf]) == pytest.approx(math.log(0.5))


@pytest.mark.parametrize("pi", [0.05, 0.5])
def test_share_crosses_rarely_when_nothing_is_wrong(pi):
    rng = np.random.default_rng(20_261)
    gain_b, gain_a = e.share_bets(pi, 1.0, +1)
    in_b = rng.random((400, 1000, 1)) < pi
    wealth = np.cumsum(np.where(in_b, gain_b, gain_a), axis=1)
    log_e = np.log(np.exp(wealth).mean(axis=2))
    assert (log_e.max(axis=1) >= math.log(20)).mean() <= 0.08


def test_split_alarm_needs_a_wrong_split():
    assert e.split_log_e([((0.05, 0.95), (500, 9500))]) < 0
    assert e.split_log_e([((0.05, 0.95), (900, 9100))]) > math.log(1000)
    assert e.split_log_e([((0.0, 1.0), (5, 9000))]) == pytest.approx(0.0, abs=1e-6)
