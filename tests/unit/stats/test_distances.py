"""Distances and tests against scipy; the batch rule by its error rate and its power."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy import stats as scipy_stats
from scipy.spatial import distance as scipy_distance

from doorstep.stats import distances as d
from doorstep.stats.codes import CODES, code_numbers, count_codes, quantile_edges

RNG = np.random.default_rng(3)
P = RNG.integers(20, 400, CODES)
Q = RNG.integers(20, 400, CODES)
REFERENCE = RNG.normal(0, 1, 20_000)
EDGES = quantile_edges(REFERENCE)


def window(values, missing=0):
    codes = count_codes(code_numbers(np.asarray(values, float), EDGES))
    return d.ColumnCounts(codes=tuple(int(k) for k in codes), missing=missing)


@given(st.floats(0.1, 300), st.floats(0, 900))
def test_gamma_upper_equals_scipy(a, x):
    assert d.gamma_upper(a, x) == pytest.approx(special.gammaincc(a, x), rel=1e-9, abs=1e-14)


def test_distances_equal_scipy():
    assert d.jensen_shannon(P, Q) == pytest.approx(scipy_distance.jensenshannon(P, Q, 2) ** 2)
    at = np.linspace(-3, 5, CODES)
    p = P / P.sum()
    sd = math.sqrt(p @ at**2 - (p @ at) ** 2)
    peer = scipy_stats.wasserstein_distance(at, at, P, Q) / sd
    assert d.wasserstein_sd(P, Q, at) == pytest.approx(peer)
    assert d.ks(P, Q) == pytest.approx(np.abs(np.cumsum(P / P.sum() - Q / Q.sum())).max())
    shares = (P / P.sum(), Q / Q.sum())
    both = scipy_stats.entropy(*shares) + scipy_stats.entropy(*shares[::-1])
    assert d.psi(P, Q) == pytest.approx(both)


def test_chi2_equals_scipy_when_no_code_is_rare():
    peer = scipy_stats.chi2_contingency(np.array([P, Q]), correction=False)
    statistic, degrees, p = d.chi2_test(P, Q)
    assert (statistic, degrees) == (pytest.approx(peer.statistic), peer.dof)
    assert p == pytest.approx(peer.pvalue, rel=1e-9)


@given(st.integers(0, 40), st.integers(40, 400), st.integers(0, 40), st.integers(40, 400))
def test_missing_rate_test_equals_fishers(k_a, n_a, k_b, n_b):
    peer = scipy_stats.fisher_exact([[k_a, n_a - k_a], [k_b, n_b - k_b]]).pvalue
    assert d.proportions_p(k_a, n_a, k_b, n_b) == pytest.approx(peer, rel=1e-6, abs=1e-12)


def test_missing_rate_test_is_continuous_where_it_becomes_normal():
    exact = d.proportions_p(5000, 60_000, 4_900, 57_000)
    normal = d.proportions_p(50_010, 600_000, 49_010, 570_000)
    assert 0 < exact < 1 and 0 <= normal < exact


def test_location_agrees_with_the_rank_sum_test():
    for shift in (0.0, 0.1, 0.3):
        new = np.random.default_rng(8).normal(shift, 1, 800)
        ours = d.location_and_spread_p(window(REFERENCE).codes, window(new).codes)[0]
        peer = scipy_stats.mannwhitneyu(REFERENCE, new).pvalue
        assert math.log10(max(ours, 1e-30)) == pytest.approx(
            math.log10(max(peer, 1e-30)), abs=0.6 + 0.2 * abs(math.log10(max(peer, 1e-30)))
        )


def test_holm_equals_the_definition():
    assert d.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert d.holm([]) == []


def test_same_window_is_at_distance_zero_and_opposite_at_one():
    one, other = [5] + [0] * 31, [0] * 31 + [5]
    for measure in (d.psi, d.jensen_shannon, d.ks, d.wasserstein_sd):
        assert measure(P, P) == pytest.approx(0.0, abs=1e-12)
    assert d.jensen_shannon(one, other) == d.ks(one, other) == 1.0


def test_empty_windows_and_one_valued_columns_find_nothing():
    empty, one = d.ColumnCounts((0,) * CODES), d.ColumnCounts((9,) + (0,) * 31)
    for reference, current in ((window(REFERENCE), empty), (empty, empty), (one, one)):
        assert set(d.column_tests(reference, current, "number").values()) == {1.0}
    (found,) = d.drift_report({"a": window(REFERENCE)}, {"a": empty}, {"a": "number"})
    assert not found.drifted and math.isnan(found.psi)


def test_wrong_counts_are_refused():
    for codes in ((1,) * 31, (-1,) + (1,) * 31):
        with pytest.raises(ValueError, match="32 counts"):
            d.ColumnCounts(codes)


@pytest.mark.parametrize(
    ("change", "test"),
    [("mean", "location"), ("spread", "spread"), ("missing", "missing"), ("shape", "shape")],
)
def test_each_change_is_found_by_its_test(change, test):
    rng = np.random.default_rng(4)
    values = rng.normal(0.3 if change == "mean" else 0, 1.3 if change == "spread" else 1, 3000)
    if change == "shape":
        values = np.where(rng.random(3000) < 0.5, -1, 1) + rng.normal(0, 0.1, 3000)
    new = window(values, missing=120 if change == "missing" else 30)
    (found,) = d.drift_report({"x": window(REFERENCE, 200)}, {"x": new}, {"x": "number"})
    assert found.drifted and found.p_holm[test] < 0.005


def test_nothing_changed_is_rarely_called_drift():
    rng, kinds = np.random.default_rng(9), {f"c{k}": "number" for k in range(10)}
    reference = {name: window(REFERENCE, 100) for name in kinds}
    alarms = 0
    for _ in range(150):
        current = {
            name: window(rng.normal(0, 1, 1000), int(rng.binomial(1000, 0.005))) for name in kinds
        }
        alarms += any(found.drifted for found in d.drift_report(reference, current, kinds))
    assert alarms <= 5


def test_one_missing_value_among_many_clean_rows_is_no_drift():
    assert d.proportions_p(0, 50_000, 1, 500) > 0.005
