"""How many requests a sequential test is expected to need. Said before it starts, never decided on.

`*_needed`: the mean of an e-process to reach 1/alpha is about ln(1/alpha) over the Kullback-Leibler
distance per request (Wald 1945); the grids of `eprocess` need `OVERHEAD` times that, as measured.
`*_within`: a number with which it is reached with a chance of at least CHANCE. What is counted then
lies below its quantile with that chance, and with so much of it the e-process has crossed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from doorstep.stats.eprocess import (
    BETS,
    BETS_PAIRED,
    log_mean_exp,
    one_sample_log_e,
    share_log_e,
)

OVERHEAD = 1.35
"""Measured mean requests of M1 over the bound: 1.26 to 1.50 in six cases."""
SEARCH_MAX = 10**9
CHANCE = 0.975
"""A release has several stages, of which mostly one decides how long it takes."""
_Z = NormalDist().inv_cdf(CHANCE)
EXACT_BELOW = 100.0
"""Means above this have quantiles of a normal distribution, to a percent."""


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


def _needed(distance: float, alpha: float) -> float:
    return OVERHEAD * math.log(1.0 / alpha) / distance if distance > 0.0 else math.inf


@lru_cache(maxsize=256)
def clean_units_needed(p0: float, alpha: float = 0.05, shared_with: int = 1) -> int:
    """Exact units without any event until M4 excludes `p0`, as one of `1 + shared_with` e-values.

    `shared_with`: further e-values in the same mean that stay at 1 (M1 has no events to bet on).
    """
    need = math.log((1 + shared_with) / alpha - shared_with)
    return int(_least(lambda n: one_sample_log_e(0, n, p0, -1) >= need))


def below_within(rate: float, p0: float, alpha: float = 0.05) -> float:
    """Units until M4, in the mean with an M1 that is at 1 or more, excludes `p0`; the true rate is
    `rate`. Without events exact. Infinite from p0 on."""
    if rate >= p0:
        return math.inf
    need = math.log(2.0 / alpha - 1.0) if rate == 0.0 else math.log(2.0 / alpha)
    return _least(lambda n: one_sample_log_e(_at_most(n, rate), n, p0, -1) >= need)


def alike_within(pi: float, rate: float, r0: float, alpha: float = 0.05) -> float:
    """Units of both arms until M1, in a mean of two, excludes ratio `r0`; both rates are `rate`.
    Infinite without events, or without a control."""
    if rate <= 0.0 or not 0.0 < pi < 1.0:
        return math.inf
    need = math.log(2.0 / alpha)

    def crosses(events: int) -> bool:
        mine = min(_at_most(events, pi), events)
        return share_log_e([(pi, mine, events - mine)], r0, -1) >= need

    return _least(crosses) / rate


def pairs_within(rate: float, margin: float, alpha: float = 0.05) -> float:
    """Pairs until M3 excludes "worse by `margin`", where each version alone is wrong in `rate` of
    them."""
    need = math.log(1.0 / alpha)
    bets = np.minimum(np.asarray(BETS_PAIRED), 0.8 / (1.0 + margin))

    def crosses(n: int) -> bool:
        # Of the excess half of the variance is the other version's.
        excess = _at_most(n, rate) - n * rate
        minus = max(n * rate - excess / math.sqrt(2.0), 0.0)
        plus = minus + excess * math.sqrt(2.0)
        zero = n - plus - minus
        gains = (
            plus * np.log1p(-bets * (1.0 - margin))
            + zero * np.log1p(bets * margin)
            + minus * np.log1p(bets * (1.0 + margin))
        )
        return log_mean_exp(gains) >= need

    return _least(crosses)


def difference_needed(pi: float, variance: float, delta: float, alpha: float = 0.05) -> float:
    """Mean outcomes of both arms until M2 sees a difference of mean losses of `delta`. variance: of
    one loss. The best bet gains delta^2 pi (1 - pi) / (2 variance) an outcome."""
    v = pi * (1.0 - pi)
    if v <= 0.0 or variance <= 0.0 or delta <= 0.0:
        return math.inf
    bet = min(delta / variance, BETS[-1])
    return _needed(v * bet * (delta - bet * variance / 2.0), alpha)


def difference_within(pi: float, variance: float, delta: float, alpha: float = 0.05) -> float:
    """Outcomes of both arms until M2 excludes a difference of `delta` where there is none: log
    evidence that gains g an outcome spreads with a variance of 2 g an outcome."""
    mean = difference_needed(pi, variance, delta, alpha)
    need = math.log(1.0 / alpha)
    late = ((_Z * math.sqrt(2.0) + math.sqrt(2.0 * _Z**2 + 4.0 * need)) / 2.0) ** 2
    return mean / (OVERHEAD * need) * max(late, OVERHEAD * need)


def _at_most(n: int, rate: float) -> int:
    """How many of n there are at most, with a chance of CHANCE."""
    mean = n * rate
    if mean > EXACT_BELOW:
        return math.ceil(NormalDist(mean, math.sqrt(mean * (1.0 - rate))).inv_cdf(CHANCE))
    if rate <= 0.0:
        return 0
    chance = math.exp(n * math.log1p(-min(rate, 1.0 - 1e-12)))
    total, count = chance, 0
    while total < CHANCE and count < n:
        chance *= (n - count) / (count + 1) * rate / (1.0 - rate)
        total, count = total + chance, count + 1
    return count


def _least(crosses: Callable[[int], bool]) -> float:
    """A number that crosses, the one before it does not; infinite if none up to SEARCH_MAX does."""
    low, high = 0, 1
    while not crosses(high):
        if high >= SEARCH_MAX:
            return math.inf
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if crosses(middle) else (middle, high)
    return high
