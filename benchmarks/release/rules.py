"""When each rule would take the challenger back: ours, and those of other tools as their sources
have them. Each takes a stream of errors and answers the number of requests, or NEVER.

Ours may look after every single error. Rules of windows can only look when a minute is over;
Kayenta judges every five minutes from the fifteenth on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from streams import PER_MINUTE, Floats, Ints, Stream

from doorstep.release.judge import SHADOW_WEIGHT
from doorstep.release.types import Guardrail
from doorstep.stats import eprocess

NEVER = math.inf
LOG_LIMIT = math.log(20.0)
TOLERANCE = Guardrail().tolerance
Z_95 = 1.959964
Z_98 = 2.326348
SUCCESS_MIN = 0.99
FLAGGER_FAILURES = 5
ARGO_FAILURES = 3
KAYENTA_TOLERANCE = 0.25
LOG_MAX = 700.0


def log_mean(wealth: Floats) -> Floats:
    """Log of the mean over bets (last axis)."""
    top = wealth.max(axis=-1)
    mean: Floats = top + np.log(np.exp(wealth - top[..., None]).mean(axis=-1))
    return mean


def log_wealth(stream: Stream, r0: float) -> Floats:
    """[errors, bets] of M1 against ratio r0, after each error."""
    constant = bool(len(stream.pi)) and bool((stream.pi == stream.pi[0]).all())
    gain_b, gain_a = eprocess.share_bets(stream.pi[0] if constant else stream.pi, r0, +1)
    wealth: Floats = np.cumsum(np.where(stream.in_b[:, None], gain_b, gain_a), axis=0)
    return wealth


def first(at: Ints, path: Floats, limit: float = LOG_LIMIT) -> float:
    crossed = np.flatnonzero(path >= limit)
    return float(at[crossed[0]]) if crossed.size else NEVER


def by_share(stream: Stream, r0: float, limit: float = LOG_LIMIT) -> float:
    if not len(stream.at):
        return NEVER
    return first(stream.at, log_mean(log_wealth(stream, r0)), limit)


def release_path(stream: Stream) -> Floats:
    """Log E of a release after each error: M1 with its restarts, beside the part of the capital
    that was bet in shadow and came back as it was."""
    return np.logaddexp(
        math.log(SHADOW_WEIGHT), math.log1p(-SHADOW_WEIGHT) + restarted_path(stream, TOLERANCE)
    )


def restarted_path(stream: Stream, r0: float) -> Floats:
    wealth = log_wealth(stream, r0)
    weights, idle = eprocess.restart_weights(len(stream.plan.restarts), is_open=True)
    total = eprocess.RESTART_WHOLE * np.exp(np.minimum(log_mean(wealth), LOG_MAX))
    begins = [
        int(np.searchsorted(stream.at, minute * PER_MINUTE, side="right"))
        for minute in stream.plan.restarts
    ]
    for begun, weight in zip(begins, weights, strict=True):
        before = wealth[begun - 1] if begun else np.zeros(wealth.shape[1])
        since = np.exp(np.minimum(log_mean(wealth[begun:] - before), LOG_MAX))
        total = total + weight * np.concatenate([np.ones(begun), since])
    path: Floats = np.log(total + idle)
    return path


def by_doorstep(stream: Stream) -> float:
    return first(stream.at, release_path(stream)) if len(stream.at) else NEVER


def by_sprt(stream: Stream) -> float:
    """The sequential test that is told the true ratio. Only where the rates are constant."""
    ratio = float(stream.plan.rate_b[0] / stream.plan.rate_a[0])
    gain_b, gain_a = eprocess.share_bets(stream.plan.pi[0], 1.0, +1, (math.log(ratio),))
    return first(stream.at, np.cumsum(np.where(stream.in_b, gain_b[0], gain_a[0])))


def by_z_test(stream: Stream) -> float:
    """The pooled two-proportion z-test, repeated each minute at p < 0.05."""
    bad_b, bad_a = np.cumsum(stream.bad_b), np.cumsum(stream.bad_a)
    n_b = np.maximum(np.cumsum(stream.n_b), 1).astype(float)
    n_a = np.maximum(np.cumsum(stream.n_a), 1).astype(float)
    pooled = (bad_a + bad_b) / (n_a + n_b)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    z = np.divide(bad_b / n_b - bad_a / n_a, error, out=np.zeros_like(n_b), where=error > 0)
    return minute_end(z > Z_95)


def is_failed(stream: Stream) -> Ints:
    """Minutes in which the challenger's success was below 99 %."""
    failed: Ints = (stream.bad_b / np.maximum(stream.n_b, 1) > 1 - SUCCESS_MIN).astype(int)
    return failed


def three_of_five(failed: Ints) -> float:
    return minute_end(np.convolve(failed, np.ones(5))[: len(failed)] > 2.5)


def by_windows(stream: Stream) -> float:
    return three_of_five(is_failed(stream))


def by_flagger(stream: Stream) -> float:
    """Failed checks are added up and never forgotten within a rollout."""
    return minute_end(np.cumsum(is_failed(stream)) >= FLAGGER_FAILURES)


def by_argo(stream: Stream) -> float:
    return minute_end(np.cumsum(is_failed(stream)) > ARGO_FAILURES)


def by_twice(stream: Stream) -> float:
    """The challenger's rate over twice the champion's in 3 of 5 minutes."""
    rate_b = stream.bad_b / np.maximum(stream.n_b, 1)
    rate_a = stream.bad_a / np.maximum(stream.n_a, 1)
    return three_of_five((rate_b > 2 * rate_a).astype(int))


def by_kayenta(stream: Stream) -> float:
    """Mann-Whitney on the rates of single minutes: the 98 % interval of the shift has to clear a
    quarter of it. Nothing corrects for judging again and again."""
    rate_b = stream.bad_b / np.maximum(stream.n_b, 1)
    rate_a = stream.bad_a / np.maximum(stream.n_a, 1)
    for minutes in range(15, len(rate_b) + 1, 5):
        shifts = np.sort((rate_b[:minutes, None] - rate_a[None, :minutes]).ravel())
        spread = math.sqrt(minutes * minutes * (2 * minutes + 1) / 12)
        low = shifts[max(0, math.floor(minutes * minutes / 2 - Z_98 * spread))]
        if low > KAYENTA_TOLERANCE * abs(float(np.median(shifts))):
            return float(minutes * PER_MINUTE)
    return NEVER


def minute_end(is_true: Floats) -> float:
    minutes = np.flatnonzero(is_true)
    return float((minutes[0] + 1) * PER_MINUTE) if minutes.size else NEVER


Rule = Callable[[Stream], float]
OURS = "Doorstep's rollback rule"
PLAIN = "M1 alone, tolerance 1.0"
SPRT = "SPRT told the truth"
KAYENTA = "Kayenta's rule"
RULES: dict[str, Rule] = {
    OURS: by_doorstep,
    "M1 alone, tolerance 1.1": lambda stream: by_share(stream, TOLERANCE),
    PLAIN: lambda stream: by_share(stream, 1.0),
    SPRT: by_sprt,
    "z-test each minute, p < 0.05": by_z_test,
    "over 2 x champion, 3 of 5 min": by_twice,
    "success < 99 %, 3 of 5 min": by_windows,
    "Flagger: < 99 %, 5 times": by_flagger,
    "Argo: < 99 %, over 3 times": by_argo,
    KAYENTA: by_kayenta,
}
SLOW_RULES = {KAYENTA: 0.1}
"""Part of the runs that they are shown."""
