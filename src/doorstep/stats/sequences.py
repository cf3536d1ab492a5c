"""Confidence sequences of one mean: intervals that hold the truth at every moment together.

A rate: the mixture of bets M4 turned around: all rates that it has not excluded (Waudby-Smith &
Ramdas 2024). A mean of numbers without bounds: the asymptotic sequence (Waudby-Smith et al. 2021).
"""

from __future__ import annotations

import math

from doorstep.stats.eprocess import (
    GRID_KPI,
    GRID_RARE,
    one_sample_log_e,
    residual_half_width,
)

BETS = tuple(sign * bet for bet in sorted({*GRID_KPI, *GRID_RARE}) for sign in (+1, -1))
"""Small bets for many cases, large ones for few; that there is more, and that there is less."""
BISECTIONS = 34
"""Ends are right to 1e-10."""


def rate_sequence(k: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high) of a rate after k events in n. n = 0: (0, 1).

    >>> low, high = rate_sequence(50, 200)
    >>> 0.17 < low < 0.25 < high < 0.35
    True
    """
    if n == 0:
        return 0.0, 1.0
    limit, middle = math.log(1.0 / alpha), k / n

    def is_inside(p: float) -> bool:
        return one_sample_log_e(k, n, p, grid=BETS) < limit

    def last_inside(edge: float) -> float:
        inside, outside = middle, edge
        for _ in range(BISECTIONS):
            at = (inside + outside) / 2
            inside, outside = (at, outside) if is_inside(at) else (inside, at)
        return outside

    return (last_inside(0.0) if k else 0.0), (last_inside(1.0) if k < n else 1.0)


def mean_sequence(n: int, total: float, squares: float, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high) of a mean from count, sum and sum of squares of numbers. n = 0: infinite."""
    if n == 0:
        return -math.inf, math.inf
    mean = total / n
    half = residual_half_width(n, n, max(squares / n - mean**2, 0.0), alpha)
    return mean - half, mean + half
