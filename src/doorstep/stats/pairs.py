"""Whether two columns of numbers still go together as they did, from sums that add up.

A value is its code's normal score in the reference (`distances.normal_scores`) in whole
SCORE_UNITs, and 0, the middle, if it is missing. So a row is integers, and the sum of the products
of a pair over rows is exact in any order. With the counts by code of both columns that is their
correlation, of any window.

The test is Fisher's z of the two correlations. Its usual variance 1 / (n - 3) is that of two normal
variables. Few distinct values that go together closely have a far larger one (two equal halves at
r = 0.9: five times as large), and would cry wolf. So the reference says how much wider (`spread`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from doorstep.stats.codes import CODES
from doorstep.stats.distances import DRIFT_ALPHA, Floats, holm, normal_p, normal_scores

SCORE_UNIT = 1 / 64
"""Fine enough: a code is 32 times as wide or more."""
COLUMNS_MAX = 32
"""496 pairs: 3 KB of a summary's cell, and 0.1 us of a row."""
TABLES_KEPT = 1024
ROWS_LEAST = 3
ROWS_A_KURTOSIS = 20
"""A window has this many rows for the product of the two kurtoses (3 of a normal column, 1 / share
of a value that is rare). In fewer, one row in which two rare values meet is a large correlation."""
R_MAX = 0.999
"""Of columns that are copies of each other, z would be infinite."""


class ColumnPair(msgspec.Struct, frozen=True):
    """Two columns in one window against their reference. before, now: correlations of their normal
    scores. drifted: p_holm, adjusted over all pairs, is at most alpha."""

    one: str
    other: str
    before: float
    now: float
    p: float
    p_holm: float
    drifted: bool


@lru_cache(maxsize=TABLES_KEPT)
def score_table(counts: tuple[int, ...]) -> Floats:
    """float64 [256], whole numbers: the score of each code in SCORE_UNIT, 0 of any that is none.
    counts: of the reference's 32 codes."""
    table = np.zeros(256)
    if sum(counts):
        table[:CODES] = np.rint(normal_scores(counts)[0] / SCORE_UNIT)
    table.flags.writeable = False
    return table


def kurtosis_of(codes: tuple[int, ...], missing: int) -> float:
    """Of the scores of a reference: 3 for normal ones; NaN of one value."""
    counts, scores = np.asarray(codes, dtype=np.float64), score_table(codes)[:CODES]
    rows = counts.sum() + missing
    mean = counts @ scores / rows if rows else math.nan
    square, fourth = (
        (counts @ (scores - mean) ** power + missing * mean**power) / rows for power in (2, 4)
    )
    return float(fourth / square**2) if square > 0 else math.nan


def cross_products(scores: Floats) -> NDArray[np.int64]:
    """int64 [k (k - 1) / 2]: sums of the products of columns 0 and 1, 0 and 2, ... 1 and 2, ... of
    `scores` [n, k], whole numbers. Exact up to 10^9 rows."""
    products = scores.T @ scores
    return np.rint(products[np.triu_indices(scores.shape[1], 1)]).astype(np.int64)


def correlations(
    rows: int, codes: Sequence[ArrayLike], tables: Sequence[Floats], products: ArrayLike
) -> Floats:
    """float64 [k (k - 1) / 2]: of each pair; NaN where a column has one score only. codes: 32
    counts of each column; what they lack of `rows` is missing. tables: `score_table` of each."""
    counts = np.array([np.asarray(one, dtype=np.float64) for one in codes])
    scores = np.array([one[:CODES] for one in tables])
    mean = (counts * scores).sum(axis=1) / rows
    variance = (counts * scores**2).sum(axis=1) / rows - mean**2
    one, other = np.triu_indices(len(codes), 1)
    together = np.asarray(products, dtype=np.float64) / rows - mean[one] * mean[other]
    scale = np.sqrt(np.maximum(variance[one] * variance[other], 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 1e-9, np.clip(together / scale, -1.0, 1.0), math.nan)


def spreads(scores: Floats) -> tuple[Floats, Floats]:
    """(correlations of the pairs of columns of `scores` [n, k]; how many times as wide as that of
    normal variables the standard error of each one's Fisher z is, at least 1).

    From the influence function of r, x y - r (x^2 + y^2) / 2 of standardised x and y (Devlin,
    Gnanadesikan and Kettenring 1975), whose variance is (1 - r^2)^2 if they are normal.
    """
    spread = scores.std(axis=0)
    x = (scores - scores.mean(axis=0)) / np.where(spread > 0, spread, math.nan)
    n, at = len(x), np.triu_indices(scores.shape[1], 1)
    r, squares, cubes = (x.T @ x) / n, (x**2).T @ (x**2) / n, (x**3).T @ x / n
    fourth = np.diag(squares)
    variance = (
        squares + r**2 / 4 * (np.add.outer(fourth, fourth) + 2 * squares) - r * (cubes + cubes.T)
    )
    found = np.clip(r[at], -R_MAX, R_MAX)
    wide = np.sqrt(np.maximum(variance[at], 0.0)) / (1 - found**2)
    return r[at], np.maximum(wide, 1.0)


def pair_report(
    names: Sequence[str],
    before: Floats,
    spread: Floats,
    now: Floats,
    kurtosis: Floats,
    rows: tuple[int, int],
    alpha: float = DRIFT_ALPHA,
) -> list[ColumnPair]:
    """Every pair of `names` for which both correlations are known and rows are enough, with Holm's
    decision. kurtosis: of each column. rows: of the reference and of the window."""
    if min(rows) <= ROWS_LEAST:
        return []
    error = math.sqrt(sum(1 / (count - 3) for count in rows))
    moved = np.arctanh(np.clip(now, -R_MAX, R_MAX)) - np.arctanh(np.clip(before, -R_MAX, R_MAX))
    one, other = np.triu_indices(len(names), 1)
    is_enough = ROWS_A_KURTOSIS * kurtosis[one] * kurtosis[other] <= min(rows)
    known = np.flatnonzero(np.isfinite(moved) & np.isfinite(spread) & is_enough).tolist()
    p = {at: normal_p(float(moved[at] / (spread[at] * error))) for at in known}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    return [
        ColumnPair(
            names[one[at]],
            names[other[at]],
            float(before[at]),
            float(now[at]),
            p[at],
            adjusted[at],
            adjusted[at] <= alpha,
        )
        for at in known
    ]
