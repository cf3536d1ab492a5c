"""How many requests a sequential test is expected to need. Said before it starts, never decided on.

The mean of an e-process to reach 1/alpha is about ln(1/alpha) over the Kullback-Leibler distance
per request (Wald 1945); the grids of `eprocess` need `OVERHEAD` times that, as measured.
"""

from __future__ import annotations

import math

from doorstep.stats.eprocess import one_sample_log_e

OVERHEAD = 1.35
"""Measured mean requests of M1 over the bound: 1.26 to 1.50 in six cases."""
SEARCH_MAX = 10**9


def bernoulli_kl(a: float, b: float) -> float:
    """Kullback-Leibler distance of Bernoulli(a) from Bernoulli(b), nats; inf if b excludes a."""
    return _part(a, b) + _part(1.0 - a, 1.0 - b)


def _part(a: float, b: float) -> float:
    if a <= 0.0:
        return 0.0
    return math.inf if b <= 0.0 else a * math.log(a / b)


def requests_needed(pi: float, rate_b: float, rate_a: float, alpha: float = 0.05) -> float:
    """Mean requests of both arms until M1 sees that B's rate is not A's.

    Infinite when the rates are equal or pi is 0 or 1: nothing to see.
    """
    pooled = pi * rate_b + (1.0 - pi) * rate_a
    distance = pi * bernoulli_kl(rate_b, pooled) + (1.0 - pi) * bernoulli_kl(rate_a, pooled)
    return _needed(distance, alpha)


def share_requests_needed(
    pi: float, rate_a: float, ratio: float, r0: float, alpha: float = 0.05
) -> float:
    """Mean requests of both arms until M1 excludes ratio `r0` when the true ratio is `ratio`."""
    if not 0.0 < pi < 1.0:
        return math.inf
    events = rate_a * (pi * ratio + 1.0 - pi)
    return _needed(events * bernoulli_kl(_share(pi, ratio), _share(pi, r0)), alpha)


def _share(pi: float, ratio: float) -> float:
    return pi * ratio / (pi * ratio + 1.0 - pi)


def pairs_needed(only_b_wrong: float, only_a_wrong: float, alpha: float = 0.05) -> float:
    """Mean labelled requests until M3 sees a difference, from the two discordant rates."""
    discordant = only_b_wrong + only_a_wrong
    if discordant <= 0.0:
        return math.inf
    return _needed(discordant * bernoulli_kl(only_b_wrong / discordant, 0.5), alpha)


def one_sample_needed(rate: float, p0: float, alpha: float = 0.05) -> float:
    """Mean units until M4 excludes `p0` when the true rate is `rate`."""
    return _needed(bernoulli_kl(rate, p0), alpha)


def _needed(distance: float, alpha: float) -> float:
    return OVERHEAD * math.log(1.0 / alpha) / distance if distance > 0.0 else math.inf


def clean_units_needed(p0: float, alpha: float = 0.05, shared_with: int = 1) -> int:
    """Exact units without any event until M4 excludes `p0`, as one of `1 + shared_with` e-values.

    `shared_with`: further e-values in the same mean that stay at 1 (M1 has no events to bet on).
    """
    need = math.log((1 + shared_with) / alpha - shared_with)
    low, high = 0, 1
    while one_sample_log_e(0, high, p0, -1) < need and high < SEARCH_MAX:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if one_sample_log_e(0, middle, p0, -1) >= need else (middle, high)
    return high
