"""An estimate with its confidence interval, for every number that a check compares with a limit.

One rule for what cannot be measured: with nothing to measure, one class only, or any NaN among the
scores or losses, the estimate is NaN and the interval is everything that the number could be. A
reader that compares the interval with a limit then finds it inconclusive, never passed.

All intervals here look once, at a fixed sample (gates). For looks that repeat use `eprocess`.
Two-sided; `confidence` is their coverage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CLIP_PROBABILITY = 1e-15
"""Probabilities are kept this far from 0 and 1 in the log-loss, as scikit-learn does in float64."""
BISECTIONS = 100


class Interval(msgspec.Struct, frozen=True):
    """estimate with low <= estimate <= high; n: the rows (or groups of rows) that it rests on."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def is_known(self) -> bool:
        return not math.isnan(self.estimate)


def unknown(low: float = -math.inf, high: float = math.inf, n: int = 0) -> Interval:
    """Nothing can be said but the limits of the number itself."""
    return Interval(math.nan, low, high, n)


def normal_quantile(confidence: float) -> float:
    """The z of a two-sided interval: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def proportion(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927). n = 0: unknown in [0, 1]."""
    if n == 0:
        return unknown(0.0, 1.0)
    z2 = normal_quantile(confidence) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, n)


def accuracy(truth: ArrayLike, answer: ArrayLike, confidence: float = 0.95) -> Interval:
    """Share of rows whose answer equals the truth, any labels; Wilson."""
    same = np.asarray(truth) == np.asarray(answer)
    return proportion(int(same.sum()), int(same.size), confidence)


def precision(truth: ArrayLike, answer: ArrayLike, confidence: float = 0.95) -> Interval:
    """Right among those answered positive; Wilson given that number. 0/1 or boolean arrays."""
    true, answered = _flags(truth), _flags(answer)
    return proportion(int((true & answered).sum()), int(answered.sum()), confidence)


def recall(truth: ArrayLike, answer: ArrayLike, confidence: float = 0.95) -> Interval:
    """Found among the truly positive; Wilson given that number. 0/1 or boolean arrays."""
    true, answered = _flags(truth), _flags(answer)
    return proportion(int((true & answered).sum()), int(true.sum()), confidence)


def f1(truth: ArrayLike, answer: ArrayLike, confidence: float = 0.95) -> Interval:
    """F1 of the positive class.

    With tp, fp, fn: given tp + fp + fn the number tp is binomial with share J (Jaccard), and
    F1 = 2J / (1 + J) rises with J: Wilson's interval of J, transformed. No positive anywhere:
    unknown in [0, 1].
    """
    true, answered = _flags(truth), _flags(answer)
    overlap = proportion(int((true & answered).sum()), int((true | answered).sum()), confidence)
    if not overlap.is_known:
        return overlap
    estimate, low, high = (2 * j / (1 + j) for j in (overlap.estimate, overlap.low, overlap.high))
    return Interval(estimate, low, high, overlap.n)


def _flags(values: ArrayLike) -> NDArray[np.bool_]:
    return np.asarray(values).astype(np.bool_)


def mean(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of the rows' losses with the central limit theorem's interval.

    Meant for 30 rows or more; one row: open on both sides. NaN or nothing: unknown.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0 or np.isnan(x).any():
        return unknown(n=int(x.size))
    return _around(float(x.mean()), x, confidence)


def _around(estimate: float, influence: Floats, confidence: float) -> Interval:
    """estimate +- z * sd(influence) / sqrt(n), for an estimate that is a mean of `influence`."""
    n = int(influence.size)
    if n < 2:
        return Interval(estimate, -math.inf, math.inf, n)
    half = normal_quantile(confidence) * float(influence.std(ddof=1)) / math.sqrt(n)
    return Interval(estimate, estimate - half, estimate + half, n)


def log_losses(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Row losses -ln p(truth), nats. truth 0/1 with probability [n], or class index with [n, k]."""
    p = _probability_of_truth(truth, probability)
    return -np.log(np.clip(p, CLIP_PROBABILITY, 1.0 - CLIP_PROBABILITY))


def _probability_of_truth(truth: ArrayLike, probability: ArrayLike) -> Floats:
    p = np.asarray(probability, dtype=np.float64)
    if p.ndim == 2:
        picked: Floats = p[np.arange(len(p)), np.asarray(truth, dtype=np.int64)]
        return picked
    return np.where(_flags(truth), p, 1.0 - p)


def brier_losses(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Row losses (p - truth)^2; truth 0/1 with probability of 1 [n], in [0, 1]."""
    return np.square(np.asarray(probability, dtype=np.float64) - _flags(truth))


def log_loss(truth: ArrayLike, probability: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of `log_losses`, CLT interval, never below 0."""
    return _not_negative(mean(log_losses(truth, probability), confidence))


def brier(truth: ArrayLike, probability: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of `brier_losses`, CLT interval, within [0, 1]."""
    inside = _not_negative(mean(brier_losses(truth, probability), confidence))
    return Interval(inside.estimate, inside.low, min(1.0, inside.high), inside.n)


def mae(truth: ArrayLike, answer: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean absolute error, CLT interval, never below 0."""
    return _not_negative(mean(np.abs(_errors(truth, answer)), confidence))


def rmse(truth: ArrayLike, answer: ArrayLike, confidence: float = 0.95) -> Interval:
    """Root of the mean squared error: the CLT interval of the square, cut at 0, then its root."""
    square = _not_negative(mean(np.square(_errors(truth, answer)), confidence))
    return Interval(
        math.sqrt(square.estimate) if square.is_known else math.nan,
        math.sqrt(square.low),
        math.sqrt(square.high),
        square.n,
    )


def r2(truth: ArrayLike, answer: ArrayLike, confidence: float = 0.95) -> Interval:
    """1 - SSE/SST; interval by linearisation of the ratio. Constant truth: unknown up to 1."""
    y = np.asarray(truth, dtype=np.float64)
    square = np.square(_errors(truth, answer))
    spread = np.square(y - y.mean()) if y.size else y
    if y.size == 0 or np.isnan(square).any() or spread.sum() == 0.0:
        return unknown(-math.inf, 1.0, int(y.size))
    lost = float(square.mean() / spread.mean())
    found = _around(1.0 - lost, -(square - lost * spread) / float(spread.mean()), confidence)
    return Interval(found.estimate, found.low, min(1.0, found.high), found.n)


def _errors(truth: ArrayLike, answer: ArrayLike) -> Floats:
    return np.asarray(answer, dtype=np.float64) - np.asarray(truth, dtype=np.float64)


def _not_negative(found: Interval) -> Interval:
    return Interval(found.estimate, max(0.0, found.low), found.high, found.n)


def quantile(values: ArrayLike, q: float, confidence: float = 0.95) -> Interval:
    """The q-quantile between two order statistics (Conover 1999, 3.2): no assumption on the shape.

    The upper end is infinite while the sample is too small to hold it (p99 needs about 390 values).
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    n = int(x.size)
    if n == 0 or np.isnan(x).any():
        return unknown(n=n)
    half = normal_quantile(confidence) * math.sqrt(n * q * (1 - q))
    low, high = math.floor(n * q - half), math.ceil(n * q + half)
    return Interval(
        float(np.quantile(x, q, method="inverted_cdf")),
        float(x[low - 1]) if low >= 1 else -math.inf,
        float(x[high - 1]) if high <= n else math.inf,
        n,
    )


def difference_of_means(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of a - b, the two losses of the same rows; CLT on the row differences."""
    return mean(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), confidence)


def difference_of_rmse(
    truth: ArrayLike, a: ArrayLike, b: ArrayLike, confidence: float = 0.95
) -> Interval:
    """RMSE of `a` minus RMSE of `b` on the same rows, by linearisation (delta method)."""
    square_a, square_b = np.square(_errors(truth, a)), np.square(_errors(truth, b))
    if square_a.size == 0 or np.isnan(square_a).any() or np.isnan(square_b).any():
        return unknown(n=int(square_a.size))
    root_a, root_b = math.sqrt(square_a.mean()), math.sqrt(square_b.mean())
    return _around(
        root_a - root_b, _root_part(square_a, root_a) - _root_part(square_b, root_b), confidence
    )


def _root_part(square: Floats, root: float) -> Floats:
    return square / (2 * root) if root > 0 else np.zeros_like(square)


def difference_of_accuracies(
    truth: ArrayLike, a: ArrayLike, b: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Accuracy of `a` minus that of `b` on the same rows.

    Adjusted Wald for paired shares: one row is added to each discordant cell (Bonett & Price 2012),
    so that it is not empty when the two never differ. The estimate is the plain difference.
    """
    y = np.asarray(truth)
    right_a, right_b = np.asarray(a) == y, np.asarray(b) == y
    n = int(y.size)
    if n == 0:
        return unknown(-1.0, 1.0)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = normal_quantile(confidence) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    estimate = (only_a - only_b) / n
    return Interval(
        estimate, min(estimate, max(-1.0, p - q - half)), max(estimate, min(1.0, p - q + half)), n
    )


def difference_of_precisions(
    truth: ArrayLike, a: ArrayLike, b: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Precision of `a` minus that of `b` on the same rows, by linearisation of both ratios."""
    return _difference_of_ratios(truth, a, b, _precision_parts, confidence)


def difference_of_recalls(
    truth: ArrayLike, a: ArrayLike, b: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Recall of `a` minus that of `b` on the same rows, by linearisation of both ratios."""
    return _difference_of_ratios(truth, a, b, _recall_parts, confidence)


def difference_of_f1(
    truth: ArrayLike, a: ArrayLike, b: ArrayLike, confidence: float = 0.95
) -> Interval:
    """F1 of `a` minus that of `b` on the same rows, by linearisation of both ratios."""
    return _difference_of_ratios(truth, a, b, _f1_parts, confidence)


Flags = NDArray[np.bool_]
Parts = Callable[[Flags, Flags], tuple[Floats, Floats]]


def _precision_parts(true: Flags, answered: Flags) -> tuple[Floats, Floats]:
    return (true & answered).astype(np.float64), answered.astype(np.float64)


def _recall_parts(true: Flags, answered: Flags) -> tuple[Floats, Floats]:
    return (true & answered).astype(np.float64), true.astype(np.float64)


def _f1_parts(true: Flags, answered: Flags) -> tuple[Floats, Floats]:
    return 2.0 * (true & answered).astype(np.float64), true.astype(np.float64) + answered


def _difference_of_ratios(
    truth: ArrayLike, a: ArrayLike, b: ArrayLike, parts: Parts, confidence: float
) -> Interval:
    true = _flags(truth)
    pairs = [parts(true, _flags(answer)) for answer in (a, b)]
    if any(below.sum() == 0.0 for _, below in pairs):
        return unknown(-1.0, 1.0, int(true.size))
    ratios = [float(above.sum() / below.sum()) for above, below in pairs]
    influences = [
        (above - ratio * below) / below.mean()
        for (above, below), ratio in zip(pairs, ratios, strict=True)
    ]
    found = _around(ratios[0] - ratios[1], influences[0] - influences[1], confidence)
    return Interval(found.estimate, max(-1.0, found.low), min(1.0, found.high), found.n)


def ratio_of_rates(k_a: int, n_a: int, k_b: int, n_b: int, confidence: float = 0.95) -> Interval:
    """(k_a/n_a) / (k_b/n_b) of two separate groups: log interval (Katz 1978), 0.5 added to counts.

    The estimate is the plain ratio. An empty group, or no event in both: unknown, 0 to infinity.
    """
    if n_a == 0 or n_b == 0 or (k_a == 0 and k_b == 0):
        return unknown(0.0, math.inf, n_a + n_b)
    rate_a, rate_b = (k_a + 0.5) / (n_a + 0.5), (k_b + 0.5) / (n_b + 0.5)
    variance = 1 / (k_a + 0.5) - 1 / (n_a + 0.5) + 1 / (k_b + 0.5) - 1 / (n_b + 0.5)
    half = normal_quantile(confidence) * math.sqrt(variance)
    plain = (k_a * n_b) / (n_a * k_b) if k_b else math.inf
    low = math.exp(math.log(rate_a / rate_b) - half) if k_a else 0.0
    high = math.exp(math.log(rate_a / rate_b) + half) if k_b else math.inf
    return Interval(plain, min(plain, low), max(plain, high), n_a + n_b)
