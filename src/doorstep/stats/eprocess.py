"""E-processes: evidence that may be looked at after every event without losing its error rate.

An e-process starts at 1 and, while its null holds, is driven up on average by nothing, so
`P(ever E >= 1/alpha) <= alpha` (Ville 1939). Everything here works in natural logs and on counts
that add: cells of several servers and periods are concatenated, in any order.

Direction `+1` bets that arm B has more of the event (or loss) than the null allows, `-1` that it
has less. `pi` is the probability that a request is assigned to B. Every method is a mean over a
fixed grid of bets; the grids are constants of the method and are never tuned on data.

Sources: Wald 1945 (sequential ratio); Lindon & Malek 2020 (multinomial and inhomogeneous Bernoulli
counts); Lindon, Sanden & Shirikian 2022 (canaries); Waudby-Smith & Ramdas 2024 (betting);
Waudby-Smith et al. 2021 (asymptotic sequences).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID_RARE = (0.2, 0.4, 0.8, 1.6, 3.2)
GRID_KPI = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
BETS = tuple(0.05 * 2**k for k in range(7))
BETS_PAIRED = (0.05, 0.1, 0.2, 0.4, 0.8)
BET_SHARE_MAX = 0.8
"""A bet stakes at most this part of the capital, so that one event cannot ruin it."""
RESTART_SLOTS = 8
RESTART_WHOLE = 0.8
PRIOR_UNITS = 1000.0
LOG_RATIO_MAX = 40.0
"""Ratios are searched in exp(-40) .. exp(40): beyond that an end of the interval is open."""
SECTIONS = 64
SECTION_ROUNDS = 4
"""80 / 64^4 is 5e-6: a straight line over that is right to 1e-10 with thousands of events, and to
1e-5 with 1e12."""

ShareCell = tuple[float, int, int]
"""(pi, events in B, events in A) of one period with a constant pi."""
SplitCell = tuple[Sequence[float], Sequence[int]]
"""(probabilities of the arms, distinct units per arm) of one period."""


def log_mean_exp(values: Sequence[float] | Floats, weights: Sequence[float] | None = None) -> float:
    """Log of the (weighted) mean of e-values given as logs. `-inf` is an e-value of 0.

    Weights need not sum to 1; they must be positive. Raises: ValueError when empty.
    """
    logs = np.asarray(values, dtype=np.float64)
    if logs.size == 0:
        raise ValueError("the mean of no e-values is not defined")
    top = float(logs.max())
    if not math.isfinite(top):
        return top
    parts = np.exp(logs - top)
    if weights is None:
        return top + math.log(float(parts.sum()) / parts.size)
    return top + math.log(float(np.dot(parts, weights)) / math.fsum(weights))


def share_bets(
    pi: float | Floats, r0: float | Floats, direction: int, grid: Sequence[float] = GRID_RARE
) -> tuple[Floats, Floats]:
    """Log gain of each bet (last axis) for one event in B and for one event in A, under ratio `r0`.

    Given that an event happens, it is B's with probability pi*r / (pi*r + 1 - pi), whatever the
    base rate does meanwhile. `pi` must be strictly between 0 and 1 and `r0` positive; arrays of
    them broadcast.
    """
    shift = direction * np.asarray(grid, dtype=np.float64)
    base = np.asarray(np.log(pi) + np.log(r0))[..., None]
    control = np.asarray(np.log1p(-np.asarray(pi)))[..., None]
    ratio = np.logaddexp(base + shift, control) - np.logaddexp(base, control)
    return shift - ratio, -ratio


def share_log_e(
    cells: Sequence[ShareCell], r0: float, direction: int, grid: Sequence[float] = GRID_RARE
) -> float:
    """M1: log E against "rate in B over rate in A is at most (`+1`) or at least (`-1`) `r0`".

    Exact for rare events under any drifting base rate. Cells with pi 0 or 1 have no concurrent
    control and say nothing. No events: 0 (E = 1).
    """
    pi, in_b, in_a = _added_up(cells)
    gain_b, gain_a = share_bets(pi, r0, direction, grid)
    return log_mean_exp(in_b @ gain_b + in_a @ gain_a)


def _used(cells: Iterable[ShareCell]) -> tuple[Floats, Floats, Floats]:
    """Columns pi, B, A of the cells that have a control beside them."""
    used = [cell for cell in cells if 0.0 < cell[0] < 1.0]
    columns = np.array(used, dtype=np.float64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def _added_up(cells: Sequence[ShareCell]) -> tuple[Floats, Floats, Floats]:
    """`_used`, where those of one pi are one: of a week there are hundreds, at few shares."""
    sums: dict[float, tuple[int, int]] = {}
    for pi, in_b, in_a in cells:
        b, a = sums.get(pi, (0, 0))
        sums[pi] = b + in_b, a + in_a
    return _used((pi, *both) for pi, both in sums.items())


def share_interval(
    cells: Sequence[ShareCell], alpha: float = 0.05, grid: Sequence[float] = GRID_RARE
) -> tuple[float, float]:
    """Confidence sequence for the ratio of rates B/A: valid at all times together.

    All r0 where the mean of both directions of M1 is under 1/alpha, found on ln r0 outwards from
    the most likely ratio (where both are at most 1). An end that the events cannot exclude is 0 or
    infinity; without events (0, inf).
    """
    columns = _added_up(cells)
    if not float(columns[1].sum() + columns[2].sum()):
        return 0.0, math.inf
    limit = math.log(1.0 / alpha)
    middle = _most_likely_log_ratio(columns)
    edges = np.array([-LOG_RATIO_MAX, LOG_RATIO_MAX])
    ends = _crossings(lambda at: _two_sided(columns, at, grid) - limit, np.full(2, middle), edges)
    low, high = ends.tolist()
    return (
        0.0 if low <= -LOG_RATIO_MAX else math.exp(low),
        math.inf if high >= LOG_RATIO_MAX else math.exp(high),
    )


def _two_sided(
    columns: tuple[Floats, Floats, Floats], log_ratios: Floats, grid: Sequence[float]
) -> Floats:
    """Log of the mean of both directions of M1 at each of `log_ratios`: `share_log_e` of many."""
    pi, in_b, in_a = columns
    shifts = np.concatenate([np.asarray(grid), -np.asarray(grid)])
    odds = (np.log(pi) - np.log1p(-pi)) + log_ratios[:, None]
    ratios = _softplus(odds[:, :, None] + shifts) - _softplus(odds)[:, :, None]
    logs = in_b.sum() * shifts - np.einsum("c,pcg->pg", in_b + in_a, ratios)
    top = logs.max(axis=1)
    mean: Floats = top + np.log(np.exp(logs - top[:, None]).mean(axis=1))
    return mean


def _softplus(x: Floats) -> Floats:
    """ln(1 + e^x), for x of at most 700."""
    found: Floats = np.log1p(np.exp(x))
    return found


def _most_likely_log_ratio(columns: tuple[Floats, Floats, Floats]) -> float:
    pi, in_b, in_a = columns
    odds, both = np.log1p(-pi) - np.log(pi), in_b + in_a

    def excess(log_ratios: Floats) -> Floats:
        """Of the events that are expected in B."""
        expected = both / (1.0 + np.exp(odds - log_ratios[:, None]))
        found: Floats = expected.sum(axis=1) - in_b.sum()
        return found

    found = _crossings(excess, np.array([-LOG_RATIO_MAX]), np.array([LOG_RATIO_MAX]))
    return float(found[0])


def _crossings(of: Callable[[Floats], Floats], inside: Floats, outside: Floats) -> Floats:
    """Where `of`, below 0 at `inside`, first is 0 or more on the way to `outside`; `outside` where
    it is nowhere. Many points at a time, because one array costs little more than one number; then
    a straight line through the last two."""
    edges, steps = outside, np.linspace(0.0, 1.0, SECTIONS + 1)
    ways = np.arange(len(inside))
    is_open: NDArray[np.bool_] = np.zeros(len(inside), dtype=np.bool_)
    for at in range(SECTION_ROUNDS):
        points = inside[:, None] + (outside - inside)[:, None] * steps
        values = of(points.ravel()).reshape(points.shape)
        is_over = values[:, 1:] >= 0.0
        is_below: NDArray[np.bool_] = np.logical_not(is_over.any(axis=1))
        is_open = is_below if at == 0 else is_open
        first = np.where(is_below, SECTIONS - 1, is_over.argmax(axis=1))
        inside, outside = points[ways, first], points[ways, first + 1]
    below, above = values[ways, first], values[ways, first + 1]
    rise = above - below
    part = np.divide(-below, rise, out=np.ones(len(ways)), where=rise > 0.0)
    crossed = inside + (outside - inside) * np.clip(part, 0.0, 1.0)
    return np.where(is_open, edges, crossed)


def _residual_bets(pi: float, m: float, delta: float, direction: int) -> Floats:
    """The bets of M2 in a period with `pi` and reference mean `m`: xi >= -bound."""
    v = pi * (1.0 - pi)
    if direction > 0:
        bound = max((1.0 - pi) * m, pi * (1.0 - m)) + v * delta
    else:
        bound = max((1.0 - pi) * (1.0 - m), pi * m) - v * delta
    bets = np.asarray(BETS)
    return np.minimum(bets, BET_SHARE_MAX / bound) if bound > 0 else bets


def residual_wealth(
    is_b: NDArray[np.bool_], y: Floats, pi: float, m: float, delta: float, direction: int
) -> Floats:
    """M2: the K log-wealth sums of many requests of one period. is_b, y: [requests], losses of at
    most 1. A period with pi 0 or 1 says nothing: zeros.

    Tests "mean loss of B minus that of A is at most (`+1`) or at least (`-1`) `delta`"; log E is
    `log_mean_exp` of the sums. Any `m` is valid, a good guess of A's mean is fast.
    """
    if not 0.0 < pi < 1.0:
        return np.zeros(len(BETS))
    bets = _residual_bets(pi, m, delta, direction)
    xi = direction * ((is_b - pi) * (y - m) - pi * (1.0 - pi) * delta)
    gain: Floats = np.log1p(np.outer(bets, xi)).sum(axis=1)
    return gain


def paired_wealth(difference: Floats, delta: float, direction: int) -> Floats:
    """M3: the log-wealth sums of many pairs. difference: [pairs], loss_B - loss_A in [-1, 1]."""
    xi = direction * (difference - delta)
    gain: Floats = np.log1p(np.outer(paired_bets(delta), xi)).sum(axis=1)
    return gain


def residual_half_width(
    n: float, v_sum: float, variance: float, alpha: float = 0.05, n_best: float = 10_000.0
) -> float:
    """Half width of the asymptotic confidence sequence of mean_B - mean_A: display only.

    n requests, `v_sum` = sum of n*pi*(1-pi), `variance` of Z; tightest near `n_best` requests.
    No requests or no variance weight: infinity.
    """
    if n <= 0 or v_sum <= 0:
        return math.inf
    q = (-2.0 * math.log(alpha) + math.log(1.0 - 2.0 * math.log(alpha))) / n_best
    spread = 2.0 * (n * q + 1.0) / (n**2 * q) * math.log(math.sqrt(n * q + 1.0) / alpha)
    return n / v_sum * math.sqrt(variance) * math.sqrt(spread)


def paired_bets(delta: float) -> Floats:
    """The bets of M3: at most `BET_SHARE_MAX` of the capital for a difference bounded by 1."""
    bets: Floats = np.minimum(np.asarray(BETS_PAIRED), BET_SHARE_MAX / (1.0 + abs(delta)))
    return bets


def paired_increment(difference: float, delta: float = 0.0, direction: int = +1) -> Floats:
    """M3: what one request with loss_B - loss_A in [-1, 1] adds to each log-wealth sum."""
    gain: Floats = np.log1p(paired_bets(delta) * direction * (difference - delta))
    return gain


def paired_log_e(
    plus: int, zero: int, minus: int, delta: float = 0.0, direction: int = +1
) -> float:
    """M3: log E against "mean of D = loss_B - loss_A is at most / at least `delta`", from counts.

    plus: only B wrong, zero: alike, minus: only A wrong. No pairs: 0 (E = 1).
    """
    return log_mean_exp(
        plus * paired_increment(1.0, delta, direction)
        + zero * paired_increment(0.0, delta, direction)
        + minus * paired_increment(-1.0, delta, direction)
    )


def one_sample_log_e(
    k: int, n: int, p0: float, direction: int = +1, grid: Sequence[float] = GRID_RARE
) -> float:
    """M4: log E against "the rate is at most (`+1`) / at least (`-1`) p0" from k events in n.

    0 < p0 < 1. n = 0: 0 (E = 1). The bets are odds ratios e^(direction * h).
    """
    odds = p0 / (1.0 - p0) * np.exp(direction * np.asarray(grid, dtype=np.float64))
    p = odds / (1.0 + odds)
    return log_mean_exp(k * np.log(p / p0) + (n - k) * (np.log1p(-p) - math.log1p(-p0)))


def split_log_e(cells: Sequence[SplitCell], prior_units: float = PRIOR_UNITS) -> float:
    """M5: log E against "units are split as planned", any number of arms.

    Counts must be distinct units at their first assignment. Dirichlet prior of `prior_units` at
    the planned split (Lindon & Malek 2020). Arms with probability 0 are left out.
    """
    total = 0.0
    for probabilities, counts in cells:
        used = [(p, n) for p, n in zip(probabilities, counts, strict=True) if p > 0.0]
        n_all = sum(n for _, n in used)
        total += math.lgamma(prior_units) - math.lgamma(prior_units + n_all)
        for p, n in used:
            prior = prior_units * p
            total += math.lgamma(prior + n) - math.lgamma(prior) - n * math.log(p)
    return total


def restart_weights(begun: int, *, is_open: bool) -> tuple[list[float], float]:
    """Parts of the capital of the first `begun` restarts, and what lies idle for later ones.

    `RESTART_SLOTS` equal slots; restarts beyond them are left out. is_open: restarts without end:
    the k-th from the last slot on gets 1/(k(k+1)) of it, which sums to the whole of it.
    """
    slot = (1.0 - RESTART_WHOLE) / RESTART_SLOTS
    if is_open:
        later = range(1, begun - RESTART_SLOTS + 2)
        weights = [slot] * min(begun, RESTART_SLOTS - 1) + [slot / (k * (k + 1)) for k in later]
    else:
        weights = [slot] * min(begun, RESTART_SLOTS)
    return weights, max(0.0, 1.0 - RESTART_WHOLE - sum(weights))


def with_restarts(whole: float, restarted: Sequence[float], *, is_open: bool = False) -> float:
    """Log E of 0.8 * E(all) and the rest on data from restarts on, for a fault that comes late.

    `restarted`: log E of the data from each restart on, in order of start. What is not begun yet
    holds E = 1.
    """
    weights, idle = restart_weights(len(restarted), is_open=is_open)
    logs = [whole, *restarted[: len(weights)], *([0.0] if idle else [])]
    return log_mean_exp(logs, [RESTART_WHOLE, *weights, *([idle] if idle else [])])


def share_log_e_restarted(
    cells: Sequence[ShareCell],
    starts: Sequence[int],
    r0: float,
    direction: int,
    grid: Sequence[float] = GRID_RARE,
    *,
    is_open: bool = False,
) -> float:
    """M1 with restarts: `starts` are indexes into `cells` (in order of time) where one begins."""
    wealth = np.zeros((len(cells) + 1, len(grid)))
    if inside := [at for at, cell in enumerate(cells) if 0.0 < cell[0] < 1.0]:
        pi, in_b, in_a = _used(cells)
        gain_b, gain_a = share_bets(pi, r0, direction, grid)
        wealth[inside] = in_b[:, None] * gain_b + in_a[:, None] * gain_a
    since = np.cumsum(wealth[::-1], axis=0)[::-1]
    restarted = [log_mean_exp(since[start]) for start in starts]
    return with_restarts(log_mean_exp(since[0]), restarted, is_open=is_open)
