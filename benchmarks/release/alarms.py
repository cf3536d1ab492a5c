"""False alarms: nothing differs, and everybody looks all the time."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from rules import (
    LOG_LIMIT,
    OURS,
    PLAIN,
    RULES,
    SLOW_RULES,
    SPRT,
    TOLERANCE,
    by_share,
    log_mean,
    release_path,
    restarted_path,
)
from streams import PER_MINUTE, Floats, Ints, Plan, Stream, constant, draw, ramp
from table import ALPHA, Part, at_most, share_of

from doorstep.release.judge import SHADOW_WEIGHT
from doorstep.stats import eprocess

REQUESTS = 1_000_000
CONSTANT = ((0.5, 0.001), (0.5, 0.0095), (0.05, 0.001), (0.05, 0.0095))
RAMPS = (0.002, 0.01)
LOOK = 50
"""M2 has something to count in each request; it is looked at after every so many."""
SPLIT_EVERY = 1000
SPLIT_ALARMS_MAX = 0.001
GUARDRAILS = 6
UNITS, TIMES = 2000, (1, 2, 5, 20)
CHI_SQUARE_99 = 6.634897


def false_rollbacks(rng: np.random.Generator, runs: int) -> Part:
    """Goal 1 with the whole rule of a release and with M1 alone, beside the rules of others."""
    part = Part(f"False rollbacks: no difference, 1,000,000 requests ({runs} runs)")
    plans = [constant(pi, rate, rate, REQUESTS) for pi, rate in CONSTANT]
    plans += [ramp(rate, 1.0, REQUESTS) for rate in RAMPS]
    names = [f"{rate:.2%} at {pi:.0%}" for pi, rate in CONSTANT]
    part.row("", *names, *(f"{rate:.1%}, ramp" for rate in RAMPS), width=14)
    tables = [_alarms(rng, plan, runs) for plan in plans]
    for name in tables[0]:
        part.row(name, *(f"{table[name]:.1%}" for table in tables), width=14)
    part.lines.append("  ramp: 1, 5, 25, 50 % under a wave of 2 h and an incident of 8 times")
    for name in (OURS, PLAIN):
        worst = max(table[name] for table in tables)
        part.goal(worst <= at_most(ALPHA, runs), f"{name} {worst:.1%}")
    return part


def _alarms(rng: np.random.Generator, plan: Plan, runs: int) -> dict[str, float]:
    streams = [draw(rng, plan) for _ in range(runs)]
    for stream in streams[:5]:
        _require_same(stream)
    return {
        name: share_of(math.isfinite(rule(one)) for one in streams[: shown(name, runs)])
        for name, rule in RULES.items()
        if name != SPRT
    }


def shown(name: str, runs: int) -> int:
    return max(5, round(runs * SLOW_RULES.get(name, 1.0)))


def _require_same(stream: Stream) -> None:
    """The path that is looked at ends where the shipped function ends on the same counts."""
    edges = [0, *stream.plan.restarts, stream.plan.minutes]
    changes = {0, *(np.flatnonzero(np.diff(stream.plan.pi)) + 1).tolist()}
    edges = sorted({*edges, *changes})
    cells = [
        (
            float(stream.plan.pi[begin]),
            int(stream.bad_b[begin:end].sum()),
            int(stream.bad_a[begin:end].sum()),
        )
        for begin, end in pairwise(edges)
    ]
    starts = [edges.index(one) for one in stream.plan.restarts]
    shipped = eprocess.share_log_e_restarted(cells, starts, TOLERANCE, +1, is_open=True)
    ours = float(restarted_path(stream, TOLERANCE)[-1])
    if abs(ours - shipped) > 1e-6:
        raise AssertionError(f"the simulated rule says {ours}, the shipped one {shipped}")


def other_methods(rng: np.random.Generator, runs: int) -> Part:
    """Goal 1 for what counts more than errors: M2, M3, M4, each at the edge of its null."""
    part = Part(f"False alarms of M2, M3, M4: at the null, looked at all the time ({runs} runs)")
    wave = ramp(0.1, 1.0, REQUESTS, height=0.5)
    fair = constant(0.5, 0.1, 0.1, REQUESTS)
    small = constant(0.05, 0.1, 0.1, REQUESTS)
    rows = [
        ("M2 exact, 50 % of traffic", lambda: residual_peak(rng, fair, 0.0, +1)),
        ("M2 exact, 5 % of traffic", lambda: residual_peak(rng, small, 0.0, +1)),
        ("M2 exact, ramp, wave, incident", lambda: residual_peak(rng, wave, 0.0, +1)),
        ("M2 exact, P at its margin", lambda: residual_peak(rng, fair, 0.005, -1)),
        ("M3 pairs, 6 % discordant", lambda: paired_peak(rng, 0.06, 0.0, +1)),
        ("M3 pairs, P at its margin", lambda: paired_peak(rng, 0.06, 0.005, -1)),
        ("M4, rate = limit of 2 %", lambda: limit_peak(rng, np.full(167, 0.02), 0.02)),
        ("M4, limit 2 % under a wave", lambda: limit_peak(rng, _under(0.02), 0.02)),
    ]
    for name, peak in rows:
        share = share_of(peak() >= LOG_LIMIT for _ in range(runs))
        part.row(name, f"{share:.1%}")
        part.goal(share <= at_most(ALPHA, runs), f"{name} {share:.1%}")
    return part


def residual_peak(rng: np.random.Generator, plan: Plan, delta: float, direction: int) -> float:
    """Largest log E of M2 over 1,000,000 requests; the true difference is delta."""
    blocks = PER_MINUTE // LOOK
    pi, base = np.repeat(plan.pi, blocks), np.repeat(plan.rate_a, blocks)
    rate_b = np.clip(base + delta, 0.0, 1.0)
    n_b = rng.binomial(LOOK, pi)
    b, a = rng.binomial(n_b, rate_b), rng.binomial(LOOK - n_b, base)
    counts = np.stack([b, n_b - b, a, LOOK - n_b - a], axis=1)
    gains = {share: _residual_gains(share, delta, direction) for share in set(plan.pi.tolist())}
    steps = np.stack([gains[one] for one in plan.pi.tolist()])
    wealth = np.einsum("mbk,mkl->mbl", counts.reshape(plan.minutes, blocks, 4), steps)
    return float(log_mean(np.cumsum(wealth.reshape(len(pi), -1), axis=0)).max())


def _residual_gains(pi: float, delta: float, direction: int) -> Floats:
    """Of a bad and of a good answer of the challenger, then of the champion."""
    found = [
        eprocess.residual_wealth(np.array([is_b]), np.array([y]), pi, 0.1, delta, direction)
        for is_b in (True, False)
        for y in (1.0, 0.0)
    ]
    return np.stack(found)


def paired_peak(
    rng: np.random.Generator, discordant: float, delta: float, direction: int, pairs: int = 200_000
) -> float:
    """Largest log E of M3 over so many pairs whose mean difference is delta."""
    gains = [eprocess.paired_increment(d, delta, direction) for d in (1.0, 0.0, -1.0)]
    plus, minus = (discordant + delta) / 2, (discordant - delta) / 2
    n = rng.binomial(pairs, plus + minus)
    at = np.sort(rng.integers(1, pairs + 1, n))
    is_plus = rng.random(n) < plus / (plus + minus)
    wealth = np.cumsum(np.where(is_plus[:, None], gains[0] - gains[1], gains[2] - gains[1]), axis=0)
    # Between two that differ the path only falls or rises evenly: its ends are enough.
    after = log_mean(wealth + at[:, None] * gains[1])
    before = log_mean(
        np.vstack([np.zeros(5), wealth]) + np.append(at - 1, pairs)[:, None] * gains[1]
    )
    return float(max(after.max(), before.max()))


def _under(limit: float) -> Floats:
    now = np.arange(REQUESTS // PER_MINUTE)
    wave: Floats = limit * (0.5 + 0.5 * np.sin(2 * np.pi * now / 120))
    return wave


def limit_peak(rng: np.random.Generator, rates: Floats, limit: float) -> float:
    """Largest log E of M4 when the rate in each minute is at most the limit; it rises at events."""
    bad = rng.binomial(PER_MINUTE, rates)
    minute = np.repeat(np.arange(len(rates)), bad)
    at = np.sort(minute * PER_MINUTE + rng.integers(1, PER_MINUTE + 1, len(minute)))
    bets = limit / (1 - limit) * np.exp(np.asarray(eprocess.GRID_RARE))
    p = bets / (1 + bets)
    k = np.arange(1, len(at) + 1)
    good = np.log1p(-p) - math.log1p(-limit)
    path = k[:, None] * np.log(p / limit) + (at - k)[:, None] * good
    return float(log_mean(path).max())


def returning(rng: np.random.Generator, runs: int) -> Part:
    """Units that come again in the shadow, one in a hundred of which one version alone fails
    whenever it comes: of the equal versions each fails as many."""
    part = Part(f"Shadow: {UNITS:,} units that come again, no difference ({runs} runs)")
    part.row("times that each comes", *map(str, TIMES), width=12)
    found: dict[str, list[str]] = {name: [] for name in ("each unit once", "each request")}
    # The rest of the capital is bet in the steps and is as it was.
    limit = math.log((1.0 / ALPHA - (1.0 - SHADOW_WEIGHT)) / SHADOW_WEIGHT)
    for times in TIMES:
        crossed = dict.fromkeys(found, 0)
        for _ in range(runs):
            differs = rng.choice([1, 0, -1], UNITS, p=[0.01, 0.98, 0.01])
            came = rng.permutation(np.repeat(np.flatnonzero(differs), times))
            first = np.sort(np.unique(came, return_index=True)[1])
            for name, which in (("each unit once", came[first]), ("each request", came)):
                crossed[name] += pairs_peak(differs[which]) >= limit
        for name, count in crossed.items():
            found[name].append(f"{count / runs:.1%}")
        once = crossed["each unit once"] / runs
        part.goal(once <= at_most(ALPHA, runs), f"{once:.1%} false rollbacks at {times} times")
    for name, cells in found.items():
        part.row(name, *cells, width=12)
    return part


def pairs_peak(differences: Ints) -> float:
    """Largest log E of M3 against "no worse": what both did alike is no evidence."""
    bets = eprocess.paired_bets(0.0)
    return float(log_mean(np.cumsum(np.log1p(np.outer(differences, bets)), axis=0)).max())


def split_alarms(rng: np.random.Generator, runs: int) -> Part:
    """Goal 5: the check of the split, looked at after every 1,000 of 1,000,000 units."""
    part = Part(f"Split check: units are split as planned, 1,000,000 units ({runs} runs)")
    part.row("", "M5, 1,000 to 1", "chi-square, p < 0.01", width=24)
    limit = math.log(1000.0)
    for pi in (0.5, 0.05):
        ours = theirs = 0
        for _ in range(runs):
            n_b = np.cumsum(rng.binomial(SPLIT_EVERY, pi, REQUESTS // SPLIT_EVERY))
            n = np.arange(1, len(n_b) + 1) * SPLIT_EVERY
            square = (n_b - n * pi) ** 2 / (n * pi * (1 - pi))
            theirs += bool((square >= CHI_SQUARE_99).any())
            # Only where the split looks odd at all can M5 be large: the others are left out.
            odd = np.flatnonzero(square >= CHI_SQUARE_99)
            cells = [(int(n_b[at]), int(n[at] - n_b[at])) for at in odd]
            ours += any(eprocess.split_log_e([((pi, 1 - pi), one)]) >= limit for one in cells)
        part.row(f"{pi:.0%} of units", f"{ours / runs:.2%}", f"{theirs / runs:.1%}", width=24)
        part.goal(ours / runs <= at_most(SPLIT_ALARMS_MAX, runs), f"{ours} alarms at {pi:.0%}")
    return part


def several(rng: np.random.Generator, runs: int) -> Part:
    """Six guardrails at once: each may spend a sixth of alpha."""
    part = Part(f"Six guardrails: 1,000,000 requests ({runs} runs)")
    equal = constant(0.5, 0.005, 0.005, REQUESTS)
    twice = constant(0.5, 0.005, 0.010, 200_000)
    union = LOG_LIMIT + math.log(GUARDRAILS)
    any_union = any_alone = 0
    for _ in range(runs):
        peaks = [float(release_path(draw(rng, equal)).max()) for _ in range(GUARDRAILS)]
        any_union += max(peaks) >= union
        any_alone += max(peaks) >= LOG_LIMIT
    stops = [draw(rng, twice) for _ in range(runs)]
    needed = [
        np.median([by_share(one, 1.0, limit) for one in stops]) for limit in (union, LOG_LIMIT)
    ]
    part.row("", "false rollback", "a doubling is seen", width=20)
    part.row(
        "each at 1 / (alpha x weight)", f"{any_union / runs:.1%}", f"{needed[0]:,.0f}", width=20
    )
    part.row("each at 1 / alpha", f"{any_alone / runs:.1%}", f"{needed[1]:,.0f}", width=20)
    part.goal(any_union / runs <= at_most(ALPHA, runs), f"{any_union / runs:.1%} false rollbacks")
    return part
