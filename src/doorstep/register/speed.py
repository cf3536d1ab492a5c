"""How long one row takes, measured the way a front worker asks: one row, one thread, many times."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from doorstep.formats.batch import Batch, Scorer

CALLS_MIN = 500
WARMUP_CALLS = 50
ROUNDS = 3
DURATION_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Speed:
    """calls: how many were timed. latency_ms_*: of one row, wall time."""

    calls: int
    latency_ms_p50: float
    latency_ms_p99: float


def measure_speed(scorer: Scorer, batch: Batch, *, calls: int = CALLS_MIN) -> Speed:
    """Percentiles of single-row calls, cycling through the rows of `batch` (at least one).

    Percentiles are the higher neighbour, so that p99 of 500 calls is the fifth slowest. The best of
    `ROUNDS` rounds counts: a busy machine makes a model look slow, never fast. A model so slow that
    the calls would take over a minute is timed on fewer.
    """
    rows = list(batch.part(0, 1000).parts(1))
    for at in range(min(WARMUP_CALLS, calls)):
        scorer.score(rows[at % len(rows)])
    deadline_s = time.perf_counter() + DURATION_S_MAX
    rounds = [_round(scorer, rows, calls, deadline_s)]
    while len(rounds) < ROUNDS and time.perf_counter() < deadline_s:
        rounds.append(_round(scorer, rows, calls, deadline_s))
    return min(rounds, key=lambda one: one.latency_ms_p99)


def _round(scorer: Scorer, rows: list[Batch], calls: int, deadline_s: float) -> Speed:
    taken: list[int] = []
    for at in range(max(calls, 1)):
        start = time.perf_counter_ns()
        scorer.score(rows[at % len(rows)])
        taken.append(time.perf_counter_ns() - start)
        if time.perf_counter() > deadline_s:
            break
    p50, p99 = np.percentile(np.array(taken) / 1e6, [50, 99], method="higher")
    return Speed(len(taken), float(p50), float(p99))
