"""Area under the ROC curve with DeLong's interval, for one model or two on the same rows.

Sources: DeLong, DeLong & Clarke-Pearson 1988; the mid-rank computation of Sun & Xu 2014,
O(n log n); Newcombe 2006 (method 5) where DeLong's variance is 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doorstep.stats.intervals import BISECTIONS, Floats, Interval, normal_quantile, unknown


def auc(truth: ArrayLike, score: ArrayLike, confidence: float = 0.95) -> Interval:
    """Chance that a positive row is scored above a negative one, ties 1/2.

    truth 0/1 [n], score [n] of any scale (infinities are fine). DeLong's standard error on the
    logit scale, so that the interval stays inside [0, 1]; Newcombe's where that error is 0 (all
    ranked right or all wrong). One class only, or NaN scores: unknown in [0, 1].
    """
    parts = _placements(truth, score)
    n = int(np.asarray(truth).size)
    if parts is None:
        return unknown(0.0, 1.0, n)
    area = float(parts[0].mean())
    variance = _variance(*parts)
    if variance <= 0.0 or area in (0.0, 1.0):
        return Interval(area, *_newcombe(area, len(parts[0]), len(parts[1]), confidence), n)
    half = normal_quantile(confidence) * math.sqrt(variance) / (area * (1.0 - area))
    logit = math.log(area / (1.0 - area))
    return Interval(area, _expit(logit - half), _expit(logit + half), n)


def difference_of_aucs(
    truth: ArrayLike, a: ArrayLike, b: ArrayLike, confidence: float = 0.95
) -> Interval:
    """AUC of scores `a` minus that of `b` on the same rows (DeLong's paired test).

    Where its variance is 0 (the two rank every pair alike), n+ positives and n- negatives without
    one difference leave at most ln(2/(1-c)) * (1/n+ + 1/n-) (rule of three): never an empty
    interval. One class only, or NaN scores: unknown in [-1, 1].
    """
    parts_a, parts_b = _placements(truth, a), _placements(truth, b)
    n = int(np.asarray(truth).size)
    if parts_a is None or parts_b is None:
        return unknown(-1.0, 1.0, n)
    positives, negatives = parts_a[0] - parts_b[0], parts_a[1] - parts_b[1]
    estimate = float(positives.mean())
    variance = _variance(positives, negatives)
    half = (
        normal_quantile(confidence) * math.sqrt(variance)
        if variance > 0.0
        else math.log(2.0 / (1.0 - confidence)) * (1.0 / len(positives) + 1.0 / len(negatives))
    )
    return Interval(estimate, max(-1.0, estimate - half), min(1.0, estimate + half), n)


def _placements(truth: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats] | None:
    """For each positive the share of negatives below it, for each negative of positives above."""
    true = np.asarray(truth).astype(np.bool_)
    values = np.asarray(score, dtype=np.float64)
    positive, negative = values[true], values[~true]
    if positive.size == 0 or negative.size == 0 or np.isnan(values).any():
        return None
    return _share_below(positive, negative), 1.0 - _share_below(negative, positive)


def _share_below(values: Floats, others: NDArray[np.float64]) -> Floats:
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, side="left")
    upto = np.searchsorted(ordered, values, side="right")
    share: Floats = (below + upto) / (2.0 * ordered.size)
    return share


def _variance(positives: Floats, negatives: Floats) -> float:
    """DeLong's variance; 0 with fewer than two rows in a class (then it is not known)."""
    if len(positives) < 2 or len(negatives) < 2:
        return 0.0
    spread = positives.var(ddof=1) / len(positives) + negatives.var(ddof=1) / len(negatives)
    return float(spread)


def _newcombe(
    area: float, n_positive: int, n_negative: int, confidence: float
) -> tuple[float, float]:
    """Both ends theta with |area - theta| = z * se(theta), Hanley & McNeil's se at theta."""
    z = normal_quantile(confidence)
    size = (n_positive + n_negative) / 2 - 1

    def is_inside(theta: float) -> bool:
        spread = 1 + size * (1 - theta) / (2 - theta) + size * theta / (1 + theta)
        error = math.sqrt(theta * (1 - theta) * spread / (n_positive * n_negative))
        return abs(area - theta) <= z * error

    ends = []
    for edge in (0.0, 1.0):
        inside, outside = area, edge
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def _expit(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))
