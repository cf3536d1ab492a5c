"""How often a release is rolled back for nothing, and how soon when there is a reason.

    make bench-release    .venv/bin/python benchmarks/release/run.py [--large] [--only NAME]

Simulations with the shipped e-processes and state machine, beside the rules that other tools decide
by: false alarms at a million requests whoever looks how often, under a constant split and under a
ramp with a wave and an incident; requests and bad answers until a regression is found; whole
releases with their defaults, also with little traffic; the published vectors; merging in any order.
Then forty releases by real HTTP traffic against real processes (`real.py`).

Prints its tables, then one line; exits 1 when a goal is missed. `--seed N` draws other numbers,
`--runs N` says how many each table takes, `--only NAME` (again and again) picks parts.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain

import alarms
import checks
import detection
import numpy as np
import real
import rollouts
import worth
from table import Part

RUNS, RUNS_LARGE = 300, 2000
Measure = Callable[[np.random.Generator, int], Part]

PARTS: dict[str, tuple[tuple[Measure, float], ...]] = {
    "vectors": ((checks.vectors, 1.0),),
    "shards": ((checks.shards, 0.1),),
    "false": ((alarms.false_rollbacks, 2.0),),
    "methods": ((alarms.other_methods, 1.0),),
    "journal": ((worth.of_journal, 1.0),),
    "again": ((alarms.returning, 1.0),),
    "split": ((alarms.split_alarms, 4.0),),
    "several": ((alarms.several, 1.0),),
    "errors": tuple(
        (partial(detection.errors, case=at), 2.0) for at in range(len(detection.CASES))
    ),
    "paired": ((detection.paired, 2.0),),
    "late": ((detection.onset, 0.5),),
    "latency": ((detection.latency, 0.4),),
    "releases": tuple(
        (partial(rollouts.releases, truths=some), 0.4)
        for some in (rollouts.EQUAL, rollouts.AT_MARGIN, rollouts.WORSE)
    ),
    "waves": ((rollouts.waves, 0.5),),
    "sparse": tuple((partial(rollouts.sparse, latency=one), 0.1) for one in (False, True)),
}
"""What is measured, and how many times as many runs as usual it takes."""
REAL = "real"


def measured(measure: Measure, runs: int, seed: tuple[int, ...]) -> tuple[Part, float]:
    """In a process of its own, and the seconds that it took. The same seed gives the same numbers,
    whatever else is asked for."""
    began = time.monotonic()
    return measure(np.random.default_rng(seed), runs), time.monotonic() - began


def simulated(names: list[str], seed: int, runs: int) -> Iterator[Part]:
    """In the order in which they are listed. Two processes measure, the longest parts, which are
    the last of them, first."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(max_workers=2) as pool:
        jobs: list[Future[tuple[Part, float]]] = []
        for place, (name, measures) in reversed(list(enumerate(PARTS.items()))):
            for at, (measure, times) in reversed(list(enumerate(measures))):
                if name in names:
                    n, own = max(10, round(runs * times)), (seed, place, at)
                    job = pool.submit(measured, measure, n, own)
                    job.add_done_callback(partial(_progress, name, jobs))
                    jobs.append(job)
        for job in reversed(jobs):
            yield job.result()[0]


def _progress(
    name: str, jobs: list[Future[tuple[Part, float]]], one: Future[tuple[Part, float]]
) -> None:
    done = sum(job.done() for job in jobs)
    took = "failed" if one.exception() else f"{one.result()[1]:.0f} s"
    print(f"  {done} of {len(jobs)}: {name}, {took}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench-release", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=20_261_122)
    parser.add_argument("--large", action="store_true", help=f"{RUNS_LARGE} runs instead of {RUNS}")
    parser.add_argument("--runs", type=int, help="how many runs a table takes, about")
    parser.add_argument("--only", action="append", choices=(*PARTS, REAL), help="this part")
    asked = parser.parse_args()
    runs = asked.runs or (RUNS_LARGE if asked.large else RUNS)
    names, began = asked.only or [*PARTS, REAL], time.monotonic()
    missed = []
    last = (measure() for measure in (real.measure,) if REAL in names)
    for part in chain(simulated(names, asked.seed, runs), last):
        print("\n".join((part.title, *part.lines, "")), flush=True)
        missed += part.missed
    verdict = "all goals met" if not missed else "MISSED: " + "; ".join(missed)
    print(f"release: {verdict} (seed {asked.seed}, {time.monotonic() - began:.0f} s)")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
