"""How long one row takes, measured the way a front worker asks: one row, one thread, many times."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from doorstep.formats.batch import Batch, Scorer

CALLS_MIN = 500
WARMUP_CALLS = 50
INLINE_LATENCY_MS_P99_MAX = 1.0
DURATION_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Speed:
    """calls: how many were timed. latency_ms_*: of one row, wall time."""

    calls: int
    latency_ms_p50: float
    latency_ms_p99: float


def measure_speed(scorer: Scorer, batch: Batch, *, calls: int = CALLS_MIN) -> Speed:
    """Percentiles of single-row calls, cycling through the rows of `batch` (at least one).

    Percentiles are the higher neighbour, so that p99 of 500 calls is the fifth slowest. A model so
    slow that the calls would take over a minute is timed on fewer.
    """
    rows = [_row(batch, at % batch.rows) for at in range(min(batch.rows, 1000))]
    for at in range(min(WARMUP_CALLS, calls)):
        scorer.score(rows[at % len(rows)])
    taken: list[int] = []
    begun = time.perf_counter()
    for at in range(max(calls, 1)):
        start = time.perf_counter_ns()
        scorer.score(rows[at % len(rows)])
        taken.append(time.perf_counter_ns() - start)
        if time.perf_counter() - begun > DURATION_S_MAX:
            break
    p50, p99 = np.percentile(np.array(taken) / 1e6, [50, 99], method="higher")
    return Speed(len(taken), float(p50), float(p99))


def placement_for(form: Literal["onnx", "native"], latency_ms_p99: float) -> str:
    """`inline` in the front worker, where a call cannot be timed out, only for ONNX of at most
    1 ms; else `engine`."""
    fast = form == "onnx" and latency_ms_p99 <= INLINE_LATENCY_MS_P99_MAX
    return "inline" if fast else "engine"


def _row(batch: Batch, at: int) -> Batch:
    return Batch(batch.numbers[at : at + 1], [texts[at : at + 1] for texts in batch.texts])
