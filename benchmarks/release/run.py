"""How often a release is rolled back for nothing, and how soon when there is a reason.

1. Error rate: 2000 paths of 2000 events with no difference, looked at after every event; the share
   that ever crosses must stay under 6.5 % (5 % and three standard errors of this many paths).
2. Detection: requests and bad answers until rollback, for two regressions, beside the sequential
   test that is told the truth (SPRT) and two rules that rollout tools use: a z-test each minute at
   p < 0.05, and success below 99 % in 3 of the last 5 one-minute windows (6,000 requests a minute).

3. False rollbacks of the same rules when nothing differs.
4. Whole releases by the shipped state machine with its defaults: equal challengers must arrive,
   also under a daily wave with an incident, and worse ones must not.

Prints its tables, then one line; exits 1 when a goal is missed. `--seed N` draws other numbers.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rollouts import Truth, rollout, summary

from doorstep.release.judge import SHADOW_WEIGHT
from doorstep.release.types import Guardrail, State
from doorstep.stats import eprocess

Floats = NDArray[np.float64]

PATHS = 2000
EVENTS = 2000
CROSSINGS_MAX = 0.065
LOG_LIMIT = math.log(20.0)
CHUNK = 250
PER_MINUTE = 6000
REQUESTS_MAX = 1_000_000
RUNS = 400
NEVER = math.inf
MEDIAN_OF_SPRT_MAX = 1.5
DETECTED_MIN = 0.98
BAD_ANSWERS_MAX = 60
TOLERANCE = Guardrail().tolerance
FALSE_REQUESTS = 1_000_000
FALSE_RUNS = 300
ROLLOUTS = 60


@dataclass(frozen=True)
class Case:
    """A true state of things: error rates of both arms and the challenger's share."""

    name: str
    pi: float
    rate_a: float
    rate_b: float


REGRESSIONS = (
    Case("0.1 -> 0.5 %, 50 % of traffic", 0.5, 0.001, 0.005),
    Case("1 -> 2 %, 5 % of traffic", 0.05, 0.01, 0.02),
)


def log_mean(wealth: Floats) -> Floats:
    """Log of the mean over bets (last axis)."""
    top = wealth.max(axis=-1)
    return top + np.log(np.exp(wealth - top[..., None]).mean(axis=-1))


def crossings_share(rng: np.random.Generator, pi: float, r0: float) -> float:
    """Share of null paths of M1 (the true ratio is r0) that ever cross."""
    gain_b, gain_a = eprocess.share_bets(pi, r0, +1)
    chance_b = pi * r0 / (pi * r0 + 1 - pi)
    crossed = 0
    for _ in range(PATHS // CHUNK):
        in_b = rng.random((CHUNK, EVENTS, 1)) < chance_b
        path = log_mean(np.cumsum(np.where(in_b, gain_b, gain_a), axis=1))
        crossed += int((path.max(axis=1) >= LOG_LIMIT).sum())
    return crossed / PATHS


def crossings_paired(rng: np.random.Generator, discordant: float, delta: float) -> float:
    """Share of null paths of M3 (the mean difference is delta) that ever cross."""
    gains = np.stack([eprocess.paired_increment(d, delta, +1) for d in (-1.0, 0.0, 1.0)])
    plus, minus = (discordant + delta) / 2, (discordant - delta) / 2
    crossed = 0
    for _ in range(PATHS // CHUNK):
        kinds = rng.choice(3, (CHUNK, EVENTS), p=[minus, 1 - discordant, plus])
        path = log_mean(np.cumsum(gains[kinds], axis=1))
        crossed += int((path.max(axis=1) >= LOG_LIMIT).sum())
    return crossed / PATHS


@dataclass(frozen=True)
class Run:
    """One simulated rollout: its error events in order, and both arms' requests per minute."""

    at: NDArray[np.int64]
    in_b: NDArray[np.bool_]
    minute_b: NDArray[np.int64]


def draw(rng: np.random.Generator, case: Case, requests: int) -> Run:
    """Events come after geometric gaps; each is B's with the probability that the rates give."""
    rate = case.pi * case.rate_b + (1 - case.pi) * case.rate_a
    n = int(requests * rate * 1.3) + 50
    at = np.cumsum(rng.geometric(rate, n))
    at = at[at <= requests]
    in_b = rng.random(len(at)) < case.pi * case.rate_b / rate
    minute_b = rng.binomial(PER_MINUTE, case.pi, -(-requests // PER_MINUTE))
    return Run(at, in_b, minute_b)


def bad_in_b(run: Run, requests: float) -> int:
    return int((run.in_b & (run.at <= requests)).sum())


def first(run: Run, path: Floats) -> float:
    crossed = np.flatnonzero(path >= LOG_LIMIT)
    return float(run.at[crossed[0]]) if crossed.size else NEVER


def by_share(run: Run, case: Case, r0: float) -> float:
    """Requests until M1 against ratio r0 crosses."""
    gain_b, gain_a = eprocess.share_bets(case.pi, r0, +1)
    return first(run, log_mean(np.cumsum(np.where(run.in_b[:, None], gain_b, gain_a), axis=0)))


def by_doorstep(run: Run, case: Case) -> float:
    """Requests until the whole rule of a release crosses: M1 with a restart each hour, and the part
    of the capital that was bet in shadow and came back as it was."""
    gain_b, gain_a = eprocess.share_bets(case.pi, TOLERANCE, +1)
    wealth = np.cumsum(np.where(run.in_b[:, None], gain_b, gain_a), axis=0)
    parts = [(eprocess.RESTART_WHOLE, log_mean(wealth))]
    slot = (1.0 - eprocess.RESTART_WHOLE) / eprocess.RESTART_SLOTS
    for hour in range(1, eprocess.RESTART_SLOTS + 1):
        begun = int(np.searchsorted(run.at, hour * 60 * PER_MINUTE, side="right"))
        since = np.zeros(len(run.at))
        if 0 < begun < len(run.at):
            since[begun:] = log_mean(wealth[begun:] - wealth[begun - 1])
        parts.append((slot, since))
    canary = sum(weight * np.exp(np.minimum(path, 700.0)) for weight, path in parts)
    return first(run, np.log(SHADOW_WEIGHT + (1.0 - SHADOW_WEIGHT) * canary))


def by_sprt(run: Run, case: Case) -> float:
    """Requests until the sequential test that knows the true ratio crosses."""
    grid = (math.log(case.rate_b / case.rate_a),)
    gain_b, gain_a = eprocess.share_bets(case.pi, 1.0, +1, grid)
    return first(run, np.cumsum(np.where(run.in_b, gain_b[0], gain_a[0])))


def per_minute(run: Run) -> tuple[Floats, Floats]:
    """Errors of B and of A in each minute."""
    minute = (run.at - 1) // PER_MINUTE
    n = len(run.minute_b)
    return (
        np.bincount(minute[run.in_b], minlength=n).astype(float),
        np.bincount(minute[~run.in_b], minlength=n).astype(float),
    )


def by_z_test(run: Run, case: Case) -> float:
    """Requests until the pooled two-proportion z-test, repeated each minute, says p < 0.05."""
    del case
    bad_b, bad_a = (np.cumsum(x) for x in per_minute(run))
    n_b = np.cumsum(run.minute_b).astype(float)
    n_a = np.arange(1, len(n_b) + 1) * PER_MINUTE - n_b
    pooled = (bad_a + bad_b) / (n_a + n_b)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    z = np.divide(bad_b / n_b - bad_a / n_a, error, out=np.zeros_like(n_b), where=error > 0)
    return _minute_end(np.flatnonzero(z > 1.959964))


def by_windows(run: Run, case: Case) -> float:
    """Requests until B's success is below 99 % in 3 of 5 one-minute windows."""
    del case
    failed = per_minute(run)[0] / np.maximum(run.minute_b, 1) > 0.01
    recent = np.convolve(failed, np.ones(5))[: len(failed)]
    return _minute_end(np.flatnonzero(recent > 2.5))


def _minute_end(minutes: NDArray[np.int64]) -> float:
    return float((minutes[0] + 1) * PER_MINUTE) if minutes.size else NEVER


RULES = (
    ("Doorstep's rollback rule", by_doorstep),
    ("M1 alone, tolerance 1.1", lambda run, case: by_share(run, case, TOLERANCE)),
    ("M1 alone, tolerance 1.0", lambda run, case: by_share(run, case, 1.0)),
    ("SPRT told the truth", by_sprt),
    ("z-test each minute, p < 0.05", by_z_test),
    ("3 of 5 windows under 99 %", by_windows),
)


def detection(rng: np.random.Generator, case: Case) -> dict[str, tuple[float, float, float]]:
    """Per rule: median requests, median bad answers of B before it acts, share of runs it acts."""
    runs = [draw(rng, case, REQUESTS_MAX) for _ in range(RUNS)]
    table = {}
    for name, rule in RULES:
        stops = np.array([rule(run, case) for run in runs])
        harm = [
            bad_in_b(run, min(stop, REQUESTS_MAX)) for run, stop in zip(runs, stops, strict=True)
        ]
        table[name] = (
            float(np.median(stops)),
            float(np.median(harm)),
            float(np.isfinite(stops).mean()),
        )
    return table


def false_alarms(rng: np.random.Generator, rate: float) -> dict[str, float]:
    """Share of runs in which each rule acts although nothing differs (1e6 requests, half each)."""
    case = Case("equal", 0.5, rate, rate)
    runs = [draw(rng, case, FALSE_REQUESTS) for _ in range(FALSE_RUNS)]
    return {
        name: float(np.mean([np.isfinite(rule(run, case)) for run in runs]))
        for name, rule in RULES
        if not name.startswith("SPRT")
    }


def error_rates(rng: np.random.Generator) -> list[str]:
    """Print part 1; the goals that were missed."""
    missed = []
    print(f"False crossings, {PATHS} null paths of {EVENTS} events, looked at after each")
    rows = [
        ("M1 share, 50 % of traffic", lambda: crossings_share(rng, 0.5, 1.0)),
        ("M1 share, 5 % of traffic", lambda: crossings_share(rng, 0.05, 1.0)),
        ("M1 share, true ratio = tolerance 1.1", lambda: crossings_share(rng, 0.25, 1.1)),
        ("M3 paired, 50 % discordant", lambda: crossings_paired(rng, 0.5, 0.0)),
        ("M3 paired, 6 % discordant", lambda: crossings_paired(rng, 0.06, 0.0)),
        ("M3 paired, true difference = margin 0.5 pt", lambda: crossings_paired(rng, 0.06, 0.005)),
    ]
    for name, measure in rows:
        share = measure()
        print(f"  {name:<46}{share:7.2%}   goal <= {CROSSINGS_MAX:.1%}")
        if share > CROSSINGS_MAX:
            missed.append(f"{name}: {share:.2%} false crossings")
    return missed


def detections(rng: np.random.Generator) -> list[str]:
    """Print part 2; the goals that were missed."""
    missed = []
    ours, plain, sprt = RULES[0][0], RULES[2][0], RULES[3][0]
    for case in REGRESSIONS:
        table = detection(rng, case)
        print(f"\nDetection, {case.name} ({RUNS} runs): median requests / bad answers / acts")
        for name, (requests, harm, acts) in table.items():
            said = f"{requests:,.0f}" if math.isfinite(requests) else "never"
            print(f"  {name:<32}{said:>10}  {harm:8,.0f}  {acts:7.1%}")
        goals = (
            (
                table[plain][0] <= MEDIAN_OF_SPRT_MAX * table[sprt][0],
                "median over 1.5 x SPRT",
            ),
            (table[ours][1] <= BAD_ANSWERS_MAX, "more than 60 bad answers"),
            (table[ours][2] >= DETECTED_MIN, "found in fewer than 98 % of runs"),
        )
        missed += [f"{case.name}: {what}" for is_met, what in goals if not is_met]
    return missed


def alarms(rng: np.random.Generator) -> list[str]:
    missed = []
    print(f"\nFalse rollback, both versions alike, 1,000,000 requests ({FALSE_RUNS} runs)")
    tables = [false_alarms(rng, rate) for rate in (0.001, 0.0095)]
    print(f"  {'':<32}{'0.1 % errors':>14}{'0.95 % errors':>14}")
    for name in tables[0]:
        print(f"  {name:<32}" + "".join(f"{table[name]:>14.1%}" for table in tables))
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / FALSE_RUNS)
    if any(table[RULES[0][0]] > limit for table in tables):
        missed.append(f"false rollback above {limit:.1%}")
    return missed


TRUTHS = (
    (Truth("equal, 0.1 % errors", 0.001, 1.0), State.DONE),
    (Truth("equal, 1 % errors", 0.01, 1.0), State.DONE),
    (Truth("equal, 0.5 %, wave and incident", 0.005, 1.0, drifts=True), State.DONE),
    (Truth("1.5 times 2 %", 0.02, 1.5), State.ROLLED_BACK),
    (Truth("2 times 0.1 %", 0.001, 2.0), State.ROLLED_BACK),
    (Truth("5 times 0.5 %", 0.005, 5.0), State.ROLLED_BACK),
)


def whole_releases(rng: np.random.Generator) -> list[str]:
    """Print part 4; the goals that were missed."""
    missed = []
    floor = 0.95 - 3 * math.sqrt(0.05 * 0.95 / ROLLOUTS)
    print(f"\nWhole releases, 6,000 requests a minute, defaults ({ROLLOUTS} runs each)")
    for truth, expected in TRUTHS:
        share, minutes, bad = summary([rollout(rng, truth) for _ in range(ROLLOUTS)], expected)
        print(
            f"  {truth.name:<34}{share:7.1%} {expected.value}, median {minutes:4.0f} min,"
            f" {bad:6,.0f} bad answers"
        )
        if share < floor:
            missed.append(f"{truth.name}: {share:.0%} {expected.value}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=20_261_122)
    seed = parser.parse_args().seed
    rng, began = np.random.default_rng(seed), time.monotonic()
    missed = error_rates(rng) + detections(rng) + alarms(rng) + whole_releases(rng)
    verdict = "all goals met" if not missed else "MISSED: " + "; ".join(missed)
    print(f"\nrelease: {verdict} (seed {seed}, {time.monotonic() - began:.0f} s)")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
