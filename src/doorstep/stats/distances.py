"""How far two windows of one column are apart, and whether chance explains it, from counts alone.

A column's window is its 32 codes (`stats.codes`) and the number of missing values. Counts add, so
any window is a sum of hours, nodes and blocks, and no raw row is read. `reference` comes first.

Distances say how much (severity); tests say whether (detection). The rule for a batch of columns,
`drift_report`, is Holm over all tests of all columns at `DRIFT_ALPHA`. Tests on pairs of columns
need cross-products, which counts do not hold: they are in `pairs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from doorstep.stats.codes import CODES

Floats = NDArray[np.float64]
Kind = Literal["number", "category"]

DRIFT_ALPHA = 0.005
"""Chance of any false finding in one batch of columns, however many columns it has."""
EXPECTED_MIN = 5.0
"""Cochran's rule: codes expected fewer times than this in a window are counted together."""
SHARE_MIN = 1e-4
"""An empty code counts as this share in PSI, whose logarithm has no value at 0."""
EXACT_EVENTS_MAX = 10_000
"""Up to so many missing values in both windows the exact test is used, else the normal one."""
GAMMA_STEPS_MAX = 10_000
GAMMA_PRECISION = 1e-15
TINY = 1e-300


class ColumnCounts(msgspec.Struct, frozen=True):
    """One column in one window: counts of the 32 codes, and of missing values."""

    codes: tuple[int, ...]
    missing: int = 0

    def __post_init__(self) -> None:
        if len(self.codes) != CODES or min(self.codes) < 0 or self.missing < 0:
            raise ValueError(
                f"expected {CODES} counts and a number of missing values, none negative"
            )

    @property
    def rows(self) -> int:
        return sum(self.codes) + self.missing


class ColumnDrift(msgspec.Struct, frozen=True):
    """p: raw p-value by test ("shape", "missing", and for numbers "location", "spread").
    p_holm: adjusted over all tests of the report; drifted: any of them <= alpha. Distances are
    NaN when a window has no values. missing_change: current rate minus reference rate."""

    column: str
    p: dict[str, float]
    p_holm: dict[str, float]
    drifted: bool
    psi: float
    jensen_shannon: float
    ks: float
    wasserstein_sd: float
    missing_change: float


def drift_report(
    reference: Mapping[str, ColumnCounts],
    current: Mapping[str, ColumnCounts],
    kinds: Mapping[str, Kind],
    alpha: float = DRIFT_ALPHA,
) -> list[ColumnDrift]:
    """Every column of `kinds` (in its order) with tests, Holm's decision and severity.

    Raises: KeyError when a window lacks a column. A window without rows has p = 1 everywhere.
    """
    tests = {
        (column, test): p
        for column, kind in kinds.items()
        for test, p in column_tests(reference[column], current[column], kind).items()
    }
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [
        _column_drift(column, reference[column], current[column], tests, adjusted, alpha)
        for column in kinds
    ]


def _column_drift(
    column: str,
    reference: ColumnCounts,
    current: ColumnCounts,
    tests: Mapping[tuple[str, str], float],
    adjusted: Mapping[tuple[str, str], float],
    alpha: float,
) -> ColumnDrift:
    mine = {test: p for (name, test), p in adjusted.items() if name == column}
    return ColumnDrift(
        column=column,
        p={test: tests[column, test] for test in mine},
        p_holm=mine,
        drifted=any(p <= alpha for p in mine.values()),
        psi=psi(reference.codes, current.codes),
        jensen_shannon=jensen_shannon(reference.codes, current.codes),
        ks=ks(reference.codes, current.codes),
        wasserstein_sd=wasserstein_sd(reference.codes, current.codes),
        missing_change=_rate(current.missing, current.rows)
        - _rate(reference.missing, reference.rows),
    )


def column_tests(reference: ColumnCounts, current: ColumnCounts, kind: Kind) -> dict[str, float]:
    """Raw p-values of one column: shape (chi2) and missing; of numbers also location and spread."""
    p = {
        "shape": chi2_test(reference.codes, current.codes)[2],
        "missing": proportions_p(reference.missing, reference.rows, current.missing, current.rows),
    }
    if kind == "number":
        p["location"], p["spread"] = location_and_spread_p(reference.codes, current.codes)
    return p


def _rate(k: int, n: int) -> float:
    return k / n if n else 0.0


def _shares(counts: ArrayLike) -> Floats:
    values = np.asarray(counts, dtype=np.float64)
    total = values.sum()
    return values / total if total > 0 else np.full(values.shape, math.nan)


def psi(reference: ArrayLike, current: ArrayLike) -> float:
    """Population stability index: sum (q - p) ln(q/p), nats, >= 0. An empty code counts as 1e-4."""
    p, q = (np.maximum(_shares(counts), SHARE_MIN) for counts in (reference, current))
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(reference: ArrayLike, current: ArrayLike) -> float:
    """Jensen-Shannon divergence in bits, 0 (same) .. 1 (nothing in common); symmetric."""
    p, q = _shares(reference), _shares(current)
    middle = (p + q) / 2
    both = _entropy(middle) - (_entropy(p) + _entropy(q)) / 2
    return float(both) if math.isnan(both) else min(1.0, max(0.0, float(both)))


def _entropy(p: Floats) -> float:
    used = p[p != 0.0]
    return float(-(used * np.log2(used)).sum())


def ks(reference: ArrayLike, current: ArrayLike) -> float:
    """Kolmogorov-Smirnov distance at the code edges, 0..1. Codes of categories have no order: for
    them read Jensen-Shannon."""
    return float(np.abs(np.cumsum(_shares(current)) - np.cumsum(_shares(reference))).max())


def wasserstein_sd(
    reference: ArrayLike, current: ArrayLike, positions: ArrayLike | None = None
) -> float:
    """Earth mover's distance W1 between two windows, in standard deviations of the reference.

    positions: a value per code (such as bin means), ascending. Without them the codes stand at
    their normal scores in the reference, so the unit is a standard deviation of the column after
    its values were mapped to a normal curve. A reference of one value: 0 or NaN over no spread.
    """
    p, q = _shares(reference), _shares(current)
    at = normal_scores(reference)[0] if positions is None else np.asarray(positions, np.float64)
    spread = math.sqrt(max(0.0, float(p @ at**2 - (p @ at) ** 2)))
    apart = float(np.abs(np.cumsum(q - p)[:-1]) @ np.diff(at))
    if spread == 0.0:
        return 0.0 if apart == 0.0 else math.nan
    return apart / spread


def normal_scores(counts: ArrayLike) -> tuple[Floats, Floats]:
    """Mean of Z and of Z^2 in each code, when all values together are mapped to Z ~ N(0, 1).

    A code with ranks between u and w (shares below) holds Z in (z_u, z_w). An empty code gets the
    score of its edge.
    """
    share = _shares(counts)
    edges = np.concatenate(([0.0], np.cumsum(share)))
    z, density = _normal_edges(edges)
    flow = np.where(np.isfinite(z), z, 0.0) * density
    inner = np.clip(np.where(np.isfinite(z), z, np.sign(z) * 8.0), -8.0, 8.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(share > 0, (density[:-1] - density[1:]) / share, inner[:-1])
        second = np.where(share > 0, 1.0 + (flow[:-1] - flow[1:]) / share, inner[:-1] ** 2)
    return first, second


def _normal_edges(edges: Floats) -> tuple[Floats, Floats]:
    normal = NormalDist()
    z = np.array(
        [
            -math.inf if u <= 1e-15 else math.inf if u >= 1 - 1e-15 else normal.inv_cdf(u)
            for u in edges.tolist()
        ]
    )
    return z, np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def location_and_spread_p(reference: ArrayLike, current: ArrayLike) -> tuple[float, float]:
    """Two-sided p-values: did the middle move, did the spread change. Numbers only.

    Rank tests on binned normal scores of the pooled window: van der Waerden (location) and Klotz
    1962 (spread), with the exact permutation variance under ties. Fewer than two values, or all
    in one code: 1.
    """
    old, new = (np.asarray(counts, dtype=np.float64) for counts in (reference, current))
    if old.sum() < 1 or new.sum() < 1:
        return 1.0, 1.0
    first, second = normal_scores(old + new)
    return _permutation_p(first, old, new), _permutation_p(second, old, new)


def _permutation_p(scores: Floats, old: Floats, new: Floats) -> float:
    pooled = old + new
    n, n_old, n_new = pooled.sum(), old.sum(), new.sum()
    centred = scores - (pooled @ scores) / n
    variance = n_old * n_new / (n * (n - 1)) * (pooled @ centred**2)
    return normal_p(float(new @ centred) / math.sqrt(variance)) if variance > 1e-12 else 1.0


def normal_p(z: float) -> float:
    """Two-sided p-value of a standard normal statistic."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi2_test(reference: ArrayLike, current: ArrayLike) -> tuple[float, int, float]:
    """Pearson's test that both windows have the same shares: (statistic, degrees, p-value).

    Codes expected fewer than 5 times in either window are counted together, with the next rarest
    ones if they are too few even so. Fewer than two codes left: (0, 0, 1).
    """
    table = np.asarray([reference, current], dtype=np.float64)
    n_rows = table.sum(axis=1)
    if n_rows.min() == 0:
        return 0.0, 0, 1.0
    table = _merge_rare(table, EXPECTED_MIN / (n_rows.min() / n_rows.sum()))
    if table.shape[1] < 2:
        return 0.0, 0, 1.0
    expected = np.outer(n_rows, table.sum(axis=0)) / n_rows.sum()
    statistic = float((np.square(table - expected) / expected).sum())
    degrees = table.shape[1] - 1
    return statistic, degrees, chi2_p(statistic, degrees)


def _merge_rare(table: Floats, pooled_min: float) -> Floats:
    """Columns in rising order of their pooled count; the first ones merged up to `pooled_min`."""
    pooled = table.sum(axis=0)
    order = np.argsort(pooled, kind="stable")
    ordered, running = table[:, order], np.cumsum(pooled[order])
    rare = int((pooled < pooled_min).sum())
    if rare == 0:
        return ordered
    enough = int(np.searchsorted(running, pooled_min, side="left")) + 1
    merged = min(max(rare, enough), table.shape[1])
    return np.column_stack((ordered[:, :merged].sum(axis=1), ordered[:, merged:]))


def chi2_p(statistic: float, degrees: int) -> float:
    """Upper tail of the chi-square distribution. degrees 0: 1."""
    return 1.0 if degrees == 0 else gamma_upper(degrees / 2, statistic / 2)


def gamma_upper(a: float, x: float) -> float:
    """Regularised upper incomplete gamma Q(a, x), a > 0, x >= 0; relative error about 1e-12.

    Series below x = a + 1, Lentz's continued fraction above (DLMF 8.7.1 and 8.9.2).
    """
    if x <= 0.0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    return 1.0 - scale * _gamma_series(a, x) if x < a + 1.0 else scale * _gamma_fraction(a, x)


def _gamma_series(a: float, x: float) -> float:
    term = total = 1.0 / a
    for step in range(1, GAMMA_STEPS_MAX):
        term *= x / (a + step)
        total += term
        if term < total * GAMMA_PRECISION:
            break
    return total


def _gamma_fraction(a: float, x: float) -> float:
    b = x + 1.0 - a
    c, d = 1.0 / TINY, 1.0 / b
    fraction = d
    for step in range(1, GAMMA_STEPS_MAX):
        numerator = -step * (step - a)
        b += 2.0
        d = 1.0 / _not_zero(numerator * d + b)
        c = _not_zero(b + numerator / c)
        fraction *= d * c
        if abs(d * c - 1.0) < GAMMA_PRECISION:
            break
    return fraction


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY


def proportions_p(k_a: int, n_a: int, k_b: int, n_b: int) -> float:
    """Two-sided p-value that two windows have the same rate.

    Fisher's exact test up to `EXACT_EVENTS_MAX` events (a few missing values are far from normal),
    beyond that the pooled normal test. An empty window, no event or only events: 1.
    """
    n, k = n_a + n_b, k_a + k_b
    if n_a == 0 or n_b == 0 or k in (0, n):
        return 1.0
    if k <= EXACT_EVENTS_MAX or n - k <= EXACT_EVENTS_MAX:
        return _fisher_p(k_b, n_b, k, n) if k <= n - k else _fisher_p(n_b - k_b, n_b, n - k, n)
    pooled = k / n
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    return normal_p((k_b / n_b - k_a / n_a) / error)


def _fisher_p(k_b: int, n_b: int, k: int, n: int) -> float:
    """Sum of the hypergeometric probabilities that are not above that of `k_b`."""
    low, high = max(0, k - (n - n_b)), min(k, n_b)
    steps = np.arange(low, high, dtype=np.float64)
    ratio = np.log((k - steps) * (n_b - steps)) - np.log((steps + 1) * (n - k - n_b + steps + 1))
    logs = np.concatenate(([0.0], np.cumsum(ratio)))
    weights = np.exp(logs - logs.max())
    mine = weights[k_b - low]
    return float(min(1.0, weights[weights <= mine * (1 + 1e-7)].sum() / weights.sum()))


def holm(p: list[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given: reject where <= alpha."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, running = [0.0] * len(p), 0.0
    for rank, at in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[at]))
        adjusted[at] = running
    return adjusted
