"""How soon a worse challenger is found, and what it costs until then."""

from __future__ import annotations

import math

import numpy as np
from alarms import shown
from rules import (
    NEVER,
    OURS,
    PLAIN,
    RULES,
    SPRT,
    TOLERANCE,
    first,
    log_mean,
    log_wealth,
    restarted_path,
)
from streams import Stream, constant, draw, late
from table import Part, at_least, requests, share_of

from doorstep.stats import eprocess
from doorstep.stats.planner import OVERHEAD, pairs_needed, requests_needed

HORIZON = 1_000_000
CASES = (
    (0.5, 0.001, 0.005), (0.5, 0.01, 0.02), (0.5, 0.001, 0.002),
    (0.05, 0.001, 0.005), (0.05, 0.01, 0.02), (0.05, 0.001, 0.002),
)  # fmt: skip
"""(share, the champion's rate, the challenger's)"""
MEAN_OF_BOUND_MAX = 1.6
MEDIAN_OF_SPRT_MAX = 1.5
FOUND_MIN = 0.98
BAD_ANSWERS_MAX = 60
SURE, SURE_HORIZON = 8, 12
"""Times as many runs for what lies near its goal, and requests as multiples of the bound."""


def errors(rng: np.random.Generator, runs: int, case: int) -> Part:
    """Goals 2 and 3 for one regression of the error rate."""
    pi, rate_a, rate_b = CASES[case]
    name = f"{rate_a:.1%} -> {rate_b:.1%} errors, {pi:.0%} of traffic"
    part = Part(f"{name} ({runs} runs): requests / bad answers")
    bound = requests_needed(pi, rate_b, rate_a) / OVERHEAD
    plan = constant(pi, rate_a, rate_b, HORIZON if bound < 1e5 else 2 * HORIZON)
    streams = [draw(rng, plan) for _ in range(runs)]
    part.row("", "median", "mean", "bad answers", "acts in 1e6", width=13)
    found = {}
    for rule, by in RULES.items():
        mine = streams[: shown(rule, runs)]
        stops = np.array([by(one) for one in mine])
        found[rule] = _summary(mine, stops)
        median, mean, harm, acts = found[rule]
        part.row(rule, requests(median), requests(mean), f"{harm:,.0f}", f"{acts:.1%}", width=13)
    part.row("ln 20 / KL", "", requests(bound), width=13)
    acts = found[OURS][3]
    part.goal(acts >= at_least(FOUND_MIN, runs), f"found in {acts:.1%} of runs")
    _against_the_best(part, rng, CASES[case], bound, SURE * runs)
    return part


def _summary(streams: list[Stream], stops: np.ndarray) -> tuple[float, float, float, float]:
    harm = [one.bad_until(min(stop, HORIZON)) for one, stop in zip(streams, stops, strict=True)]
    mean = float(stops.mean()) if np.isfinite(stops).all() else NEVER
    acts = float((stops <= HORIZON).mean())
    return float(np.median(stops)), mean, float(np.median(harm)), acts


def _against_the_best(
    part: Part, rng: np.random.Generator, case: tuple[float, float, float], bound: float, runs: int
) -> None:
    """M1 beside the test that knows the truth, and what the whole rule lets through, on more
    streams: the medians are near their goals."""
    plan = constant(*case, round(SURE_HORIZON * bound))
    streams = [draw(rng, plan) for _ in range(runs)]
    ours, theirs = (np.array([RULES[by](one) for one in streams]) for by in (PLAIN, SPRT))
    of_bound = float(np.minimum(ours, SURE_HORIZON * bound).mean()) / bound
    of_sprt = float(np.median(ours) / np.median(theirs))
    part.lines.append(
        f"  M1's mean is {of_bound:.2f} x the bound (goal {MEAN_OF_BOUND_MAX}), its median "
        f"{of_sprt:.2f} x SPRT (goal {MEDIAN_OF_SPRT_MAX}); {runs:,} runs"
    )
    _, _, harm, _ = _summary(streams, np.array([RULES[OURS](one) for one in streams]))
    part.lines.append(f"  {OURS} lets {harm:.0f} bad answers through (goal {BAD_ANSWERS_MAX})")
    part.goal(harm <= BAD_ANSWERS_MAX, f"{harm:.0f} bad answers")
    part.goal(of_bound <= MEAN_OF_BOUND_MAX, f"mean {of_bound:.2f} x the bound")
    part.goal(of_sprt <= MEDIAN_OF_SPRT_MAX, f"median {of_sprt:.2f} x SPRT")


PAIRED = ((0.04, 0.03), (0.05, 0.03))
"""(only the challenger is wrong, only the champion is)"""
PAIRS = 60_000


def paired(rng: np.random.Generator, runs: int) -> Part:
    """Goal 2 for one and two points of accuracy in shadow."""
    runs *= SURE
    part = Part(f"Accuracy in shadow ({runs} runs): labels")
    part.row("", "M3 median", "M3 mean", "SPRT median", "ln 20 / KL", width=13)
    for plus, minus in PAIRED:
        bound = pairs_needed(plus, minus) / OVERHEAD
        ours, theirs = zip(*(_pairs(rng, plus, minus) for _ in range(runs)), strict=True)
        median, mean, sprt = np.median(ours), np.mean(ours), np.median(theirs)
        name = f"-{(plus - minus) * 100:.0f} point"
        part.row(name, *(requests(float(one)) for one in (median, mean, sprt, bound)), width=13)
        part.goal(mean <= MEAN_OF_BOUND_MAX * bound, f"{name}: mean {mean / bound:.2f} x bound")
        part.goal(median <= MEDIAN_OF_SPRT_MAX * sprt, f"{name}: {median / sprt:.2f} x SPRT")
    return part


def _pairs(rng: np.random.Generator, plus: float, minus: float) -> tuple[float, float]:
    """Labels until M3, and until the test that knows the truth."""
    at = np.cumsum(rng.geometric(plus + minus, round(PAIRS * (plus + minus))))
    is_plus = rng.random(len(at)) < plus / (plus + minus)
    up, down = (eprocess.paired_increment(one) for one in (1.0, -1.0))
    wealth = np.cumsum(np.where(is_plus[:, None], up, down), axis=0)
    known = np.log(2 * np.array([plus, minus]) / (plus + minus))
    ratio = np.cumsum(np.where(is_plus, known[0], known[1]))
    return first(at, log_mean(wealth)), first(at, ratio)


QUIET = 1_200_000
LATER = 4_500_000


def onset(rng: np.random.Generator, runs: int) -> Part:
    """A fault that begins late: what bets that begin anew are for."""
    part = Part(f"A fault that begins late, 1 % doubles ({runs} runs): further requests")
    part.row("begins after", "M1 alone", "with restarts", width=15)
    for quiet in (0, QUIET, LATER):
        plan = late(0.5, 0.01, 2.0, quiet, quiet + 300_000)
        streams = [draw(rng, plan) for _ in range(runs)]
        plain = [first(one.at, log_mean(log_wealth(one, 1.0))) - quiet for one in streams]
        anew = [first(one.at, restarted_path(one, 1.0)) - quiet for one in streams]
        part.row(
            f"{quiet:,} requests", *(requests(float(np.median(one))) for one in (plain, anew)),
            width=15,
        )  # fmt: skip
    return part


LATENCY_REQUESTS = 120_000
SIGMA = 0.6
P99_MS = 50.0
LATENCY_CASES = (("all x 1.5", 1.5, 0.0, 0.0), ("tail x 5 in 3.8 %", 1.0, 0.038, 5.0))
QUANTILES = (0.5, 0.9, 0.99, 0.999)
Z = (0.0, 1.281552, 2.326348, 3.090232)


def latency(rng: np.random.Generator, runs: int) -> Part:
    """Requests until four M1 together see that the challenger is slower; and how often for no
    reason, also when both arms are slower at noon."""
    part = Part(f"Latency, p99 50 ms ({runs} runs): requests, all arms")
    part.row("", "50 % of traffic", "5 %", "p99 > 60 ms, 3 of 5 min", width=26)
    for name, times, some, much in LATENCY_CASES:
        ours = [
            np.median([_slower(rng, pi, times, some, much)[0] for _ in range(runs)])
            for pi in (0.5, 0.05)
        ]
        windows = [_slower(rng, 0.5, times, some, much)[1] for _ in range(max(5, runs // 10))]
        cells = (*(float(one) for one in ours), float(np.median(windows)))
        part.row(name, *(requests(one) for one in cells), width=26)
    found = [[_slower(rng, pi, 1.0, 0.0, 0.0) for _ in range(runs)] for pi in (0.5, 0.05)]
    false = [share_of(math.isfinite(one[0]) for one in runs_of) for runs_of in found]
    windows_false = share_of(math.isfinite(one[1]) for one in found[1])
    part.row(
        "no change: acts", *(f"{one:.1%}" for one in false), f"{windows_false:.0%} (5 %)", width=26
    )
    part.goal(max(false) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs), f"{max(false):.1%} false")
    return part


def _slower(
    rng: np.random.Generator, pi: float, times: float, some: float, much: float
) -> tuple[float, float]:
    """Requests until ours, and until a rule of windows, acts."""
    n = LATENCY_REQUESTS
    is_b = rng.random(n) < pi
    noon = 1.0 + 0.3 * np.sin(2 * np.pi * np.arange(n) / 60_000)
    scale = P99_MS / math.exp(SIGMA * Z[2])
    took = noon * scale * rng.lognormal(0.0, SIGMA, n)
    took[is_b] *= np.where(rng.random(is_b.sum()) < some, much, times)
    limits = scale * np.exp(SIGMA * np.array(Z))
    total = np.zeros(n)
    for limit in limits:
        slow = np.where(is_b, took > limit * TOLERANCE, took > limit)
        gain_b, gain_a = eprocess.share_bets(pi, 1.0, +1)
        at = np.flatnonzero(slow)
        wealth = log_mean(np.cumsum(np.where(is_b[at, None], gain_b, gain_a), axis=0))
        total += _held(np.exp(np.minimum(wealth, 700.0)), at, n)
    crossed = np.flatnonzero(total / len(limits) >= 20.0)
    ours = float(crossed[0] + 1) if crossed.size else NEVER
    return ours, _windows(took, is_b, noon)


def _held(values: np.ndarray, at: np.ndarray, n: int) -> np.ndarray:
    """[n]: 1 before the first of `at`, then what was last."""
    return np.concatenate([[1.0], values])[np.searchsorted(at, np.arange(n), side="right")]


def _windows(took: np.ndarray, is_b: np.ndarray, noon: np.ndarray) -> float:
    """p99 of the challenger's minute over 60 ms in 3 of 5; it is spared the noon."""
    flat = (took / noon).reshape(-1, 6000)
    mine = is_b.reshape(-1, 6000)
    failed = [np.quantile(one[b], 0.99) > 60.0 for one, b in zip(flat, mine, strict=True)]
    hits = np.flatnonzero(np.convolve(failed, np.ones(5))[: len(failed)] > 2.5)
    return float((hits[0] + 1) * 6000) if hits.size else NEVER
