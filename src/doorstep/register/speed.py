"""How long one row takes, measured the way a front worker asks: one row, one thread, many times."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doorstep.formats.batch import Batch, Scorer

CALLS = 500
WARMUP_CALLS = 50
BUDGET_S = 20.0
# Elsewhere than on Linux other threads' interruptions are counted too; then more calls count by
# the time that they computed.
_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


@dataclass(frozen=True, slots=True)
class Speed:
    """calls: how many were timed. latency_ms_*: of one row."""

    calls: int
    latency_ms_p50: float
    latency_ms_p99: float


def measure_speed(scorer: Scorer, batch: Batch) -> Speed:
    """Percentiles of `time_rows`: the higher neighbours, so that p99 of 500 calls is the fifth
    slowest."""
    taken = time_rows(scorer, batch)
    p50, p99 = np.percentile(taken, [50, 99], method="higher")
    return Speed(taken.size, float(p50), float(p99))


def time_rows(scorer: Scorer, batch: Batch) -> NDArray[np.float64]:
    """Milliseconds of CALLS single-row calls, cycling through the rows of `batch` (at least one);
    of fewer if they take longer than BUDGET_S.

    A call in the middle of which the operating system gave the core to another process counts with
    the CPU time of this one: how busy the machine is says nothing of the model.
    """
    rows = list(batch.part(0, CALLS).parts(1))
    for at in range(WARMUP_CALLS):
        scorer.score(rows[at % len(rows)])
    taken: list[int] = []
    until_s = time.perf_counter() + BUDGET_S
    for at in range(CALLS):
        row, before = rows[at % len(rows)], resource.getrusage(_THREAD).ru_nivcsw
        began, computed = time.perf_counter_ns(), time.process_time_ns()
        scorer.score(row)
        computed, passed = time.process_time_ns() - computed, time.perf_counter_ns() - began
        was_interrupted = resource.getrusage(_THREAD).ru_nivcsw > before
        taken.append(min(computed, passed) if was_interrupted else passed)
        if time.perf_counter() > until_s:
            break
    return np.array(taken) / 1e6
