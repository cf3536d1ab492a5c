"""Estimates against scikit-learn and scipy, intervals by coverage, edges by definition."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics

from doorstep.stats import intervals as i
from doorstep.stats import ranking as r

RNG = np.random.default_rng(11)
TRUTH = RNG.random(400) < 0.3
SCORE = np.clip(TRUTH * 0.2 + RNG.normal(0.4, 0.2, 400), 0.001, 0.999)
OTHER = np.clip(SCORE + RNG.normal(0, 0.1, 400), 0.001, 0.999)
ANSWER, ANSWER_OTHER = SCORE > 0.5, OTHER > 0.5
Y = RNG.normal(0, 1, 400)
Y_HAT = Y + RNG.normal(0, 0.5, 400)


def test_wilson_equals_scipy():
    for k, n in ((0, 10), (1, 10), (37, 100), (100, 100)):
        peer = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
        found = i.proportion(k, n)
        assert (found.low, found.high) == pytest.approx((peer.low, peer.high), abs=1e-9)


def test_estimates_equal_scikit_learn():
    pairs = [
        (i.accuracy(TRUTH, ANSWER), metrics.accuracy_score(TRUTH, ANSWER)),
        (i.precision(TRUTH, ANSWER), metrics.precision_score(TRUTH, ANSWER)),
        (i.recall(TRUTH, ANSWER), metrics.recall_score(TRUTH, ANSWER)),
        (i.f1(TRUTH, ANSWER), metrics.f1_score(TRUTH, ANSWER)),
        (i.log_loss(TRUTH, SCORE), metrics.log_loss(TRUTH, SCORE)),
        (i.brier(TRUTH, SCORE), metrics.brier_score_loss(TRUTH, SCORE)),
        (i.mae(Y, Y_HAT), metrics.mean_absolute_error(Y, Y_HAT)),
        (i.rmse(Y, Y_HAT), metrics.root_mean_squared_error(Y, Y_HAT)),
        (i.r2(Y, Y_HAT), metrics.r2_score(Y, Y_HAT)),
        (r.auc(TRUTH, SCORE), metrics.roc_auc_score(TRUTH, SCORE)),
        (r.auc(TRUTH, np.round(SCORE, 1)), metrics.roc_auc_score(TRUTH, np.round(SCORE, 1))),
    ]
    for found, peer in pairs:
        assert found.estimate == pytest.approx(peer, abs=1e-12)
        assert found.low < found.estimate < found.high


def test_multiclass_log_loss_equals_scikit_learn():
    raw = RNG.random((50, 3))
    p, y = raw / raw.sum(axis=1, keepdims=True), RNG.integers(0, 3, 50)
    assert i.log_loss(y, p).estimate == pytest.approx(metrics.log_loss(y, p, labels=[0, 1, 2]))


def test_delong_variance_equals_the_definition_over_all_pairs():
    truth, a, b = TRUTH[:60], np.round(SCORE[:60], 2), np.round(OTHER[:60], 2)

    def parts(score):
        pos, neg = score[truth], score[~truth]
        wins = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
        return wins.mean(axis=1), wins.mean(axis=0)

    (pa, na), (pb, nb) = parts(a), parts(b)
    spread = (pa - pb).var(ddof=1) / len(pa) + (na - nb).var(ddof=1) / len(na)
    found = r.difference_of_aucs(truth, a, b)
    assert found.estimate == pytest.approx(pa.mean() - pb.mean())
    assert found.high - found.estimate == pytest.approx(1.959964 * math.sqrt(spread), rel=1e-6)


def test_differences_are_differences_of_the_estimates():
    pairs = [
        (i.difference_of_accuracies, i.accuracy),
        (i.difference_of_precisions, i.precision),
        (i.difference_of_recalls, i.recall),
        (i.difference_of_f1, i.f1),
    ]
    for difference, single in pairs:
        found = difference(TRUTH, ANSWER, ANSWER_OTHER)
        plain = single(TRUTH, ANSWER).estimate - single(TRUTH, ANSWER_OTHER).estimate
        assert found.estimate == pytest.approx(plain)
        assert found.low <= found.estimate <= found.high
    found = i.difference_of_rmse(Y, Y_HAT, Y_HAT * 0.9)
    assert found.estimate == pytest.approx(
        i.rmse(Y, Y_HAT).estimate - i.rmse(Y, Y_HAT * 0.9).estimate
    )
    found = i.difference_of_means(i.brier_losses(TRUTH, SCORE), i.brier_losses(TRUTH, OTHER))
    assert found.low < found.estimate < found.high


def test_nothing_measured_is_unknown_over_the_whole_range():
    none: list[float] = []
    assert (i.accuracy(none, none).low, i.accuracy(none, none).high) == (0.0, 1.0)
    assert (r.auc(none, none).low, r.auc(none, none).high) == (0.0, 1.0)
    assert (i.mae(none, none).low, i.mae(none, none).high) == (0.0, math.inf)
    assert i.rmse(none, none).high == math.inf
    assert i.difference_of_rmse(none, none, none).low == -math.inf
    assert i.difference_of_accuracies(none, none, none).low == -1.0
    assert i.quantile(none, 0.99).high == math.inf
    assert not any(f.is_known for f in (i.r2(none, none), i.f1(none, none), i.mean(none)))
    assert not i.ratio_of_rates(0, 5, 0, 5).is_known


def test_one_class_or_no_positive_is_unknown():
    assert not r.auc([1, 1, 1], [0.1, 0.2, 0.3]).is_known
    assert not r.difference_of_aucs([0, 0], [0.1, 0.2], [0.3, 0.1]).is_known
    assert not i.precision([1, 0], [0, 0]).is_known
    assert not i.recall([0, 0], [1, 0]).is_known
    assert not i.f1([0, 0], [0, 0]).is_known
    assert not i.difference_of_precisions([1, 0], [0, 0], [1, 0]).is_known
    assert not i.r2([1.0, 1.0], [1.0, 2.0]).is_known


def test_nan_scores_are_unknown_not_passed():
    bad = SCORE.copy()
    bad[3] = math.nan
    for found in (r.auc(TRUTH, bad), i.log_loss(TRUTH, bad), i.brier(TRUTH, bad), i.rmse(Y, bad)):
        assert not found.is_known and found.low <= 0.0
    assert not r.difference_of_aucs(TRUTH, SCORE, bad).is_known
    assert not i.difference_of_means(SCORE, bad).is_known
    assert not i.quantile(bad, 0.5).is_known


def test_perfect_ranking_on_few_rows_keeps_an_honest_interval():
    few = r.auc([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    many = r.auc([0] * 500 + [1] * 500, list(range(1000)))
    assert few.estimate == many.estimate == 1.0
    assert few.low < 0.75 < 0.99 < many.low


def test_equal_models_differ_by_nothing_but_not_certainly():
    found = r.difference_of_aucs(TRUTH, SCORE, SCORE)
    assert found.estimate == 0.0 and found.low < 0.0 < found.high
    found = i.difference_of_accuracies(TRUTH, ANSWER, ANSWER)
    assert found.estimate == 0.0 and found.low < 0.0 < found.high


def test_one_row_leaves_a_mean_open():
    assert i.mean([3.0]) == i.Interval(3.0, -math.inf, math.inf, 1)


def test_quantile_needs_enough_rows_for_its_upper_end():
    assert i.quantile(np.arange(100.0), 0.99).high == math.inf
    found = i.quantile(np.arange(1000.0), 0.99)
    assert found.low < found.estimate == 989.0 < found.high < 1000


def test_coverage_is_near_what_is_said():
    rng, hits = np.random.default_rng(5), {"auc": 0, "f1": 0, "quantile": 0, "ratio": 0, "rmse": 0}
    for _ in range(300):
        truth = rng.random(300) < 0.4
        score = rng.normal(truth * 1.0, 1.0)
        answer = score > 0.5
        hits["auc"] += _holds(r.auc(truth, score), scipy_stats.norm.cdf(1 / math.sqrt(2)))
        tpr, fpr = scipy_stats.norm.sf(-0.5), scipy_stats.norm.sf(0.5)
        hits["f1"] += _holds(i.f1(truth, answer), 2 * 0.4 * tpr / (0.4 * tpr + 0.6 * fpr + 0.4))
        x = rng.exponential(1, 600)
        hits["quantile"] += _holds(i.quantile(x, 0.9), -math.log(0.1))
        hits["rmse"] += _holds(i.rmse(np.zeros(600), rng.normal(0, 2, 600)), 2.0)
        k_a, k_b = rng.binomial(200, 0.3), rng.binomial(500, 0.4)
        hits["ratio"] += _holds(i.ratio_of_rates(k_a, 200, k_b, 500), 0.75)
    assert all(275 <= hit <= 299 for hit in hits.values()), hits


def _holds(found, truth):
    return found.low <= truth <= found.high
