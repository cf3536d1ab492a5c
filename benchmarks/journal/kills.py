"""A busy node whose processes are killed at random: every answered prediction is there once.

    python benchmarks/journal/kills.py --kills 500

Eight connections ask two services, one in the front workers with a shadow beside it and one in an
engine. About every BETWEEN_S a process that lives is killed -9: a front worker, the engine, the
supervisor, the shadow scorer, the compactor or the control process. Every id that a client got is
looked for in the journal when it has ended, again when all of it is compacted, and again when a
day later it is merged. Exits with 1 if one is missing or there twice.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

import installation
from table import Traffic, body_with_key

from doorstep.core.instant import SECOND_US, Instant, SystemClock
from doorstep.journal.compactor import Compactor
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.tally import no_profiles
from doorstep.testing.installation import NODE, Process, RunningInstallation

KILLS = 500
BETWEEN_S = 0.7
SEED = 7
DAY_S = 86400
SERVICES = (installation.INLINE, installation.ENGINE) * 2
"""Each has two connections."""
STEADY: tuple[Process, ...] = ("node", "engine")
"""A service cannot do without them, and what keeps dying at once is started again after growing
pauses: they live `installation.STEADY_S` before it is their turn."""


class Later(SystemClock):
    """Days later, when all that was written can be merged."""

    def now(self) -> Instant:
        return super().now() + 4 * DAY_S * SECOND_US


def kill_at_random(here: RunningInstallation, times: int) -> Counter[str]:
    """How often each kind was killed. The control process is started again while others die."""
    chance = random.Random(SEED)
    killed: Counter[str] = Counter()
    steady = dict.fromkeys(STEADY, time.monotonic())
    with ThreadPoolExecutor(1) as starter:
        control: Future[object] = starter.submit(int)
        while killed.total() < times:
            time.sleep(BETWEEN_S)
            now_s = time.monotonic()
            some = [
                kind
                for kind in installation.KINDS
                if now_s - steady.get(kind, 0.0) >= installation.STEADY_S
                and (control.done() if kind == "control" else here.pids(kind))
            ]
            if not some:
                continue
            kind = chance.choice(some)
            here.kill(kind)
            killed[kind] += 1
            if kind in steady:
                steady[kind] = now_s
            if kind == "control":
                control.result()
                control = starter.submit(here.restart)
            if killed.total() % 50 == 0:
                print(f"  {killed.total()} killed", file=sys.stderr, flush=True)
        control.result()
    return killed


def compact(home: Path, clock: SystemClock) -> None:
    with Compactor(home, NODE, no_profiles, clock=clock) as compactor:
        compactor.run_once()


def said(here: RunningInstallation, answered: set[str], when: str) -> bool:
    """Whether all is there once; prints it."""
    times = Counter(name for name, _ in here.journaled())
    lost = sum(name not in times for name in answered)
    doubled = sum(count > 1 for count in times.values())
    files = [file for one in take_snapshots(here.home) for file in one.files]
    open_blocks = sum(len(one.tails) for one in take_snapshots(here.home))
    print(
        f"{when:18} {len(times):9,} records in {len(files):4} files and {open_blocks:2} blocks: "
        f"{lost} answered and lost, {doubled} doubled",
        flush=True,
    )
    return not lost and not doubled


def run(kills: int) -> bool:
    begun_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as temp,
        RunningInstallation(Path(temp) / "home", workers=installation.WORKERS) as here,
    ):
        installation.prepare(here)
        with Traffic(here.data_url, SERVICES, body_with_key) as traffic:
            traffic.wait_answers(50)
            killed = kill_at_random(here, kills)
            traffic.wait_answers(50)
        tallies = traffic.cut()
        here.stop()
        answered = {name for one in tallies for name in one.answered}
        statuses = sum((one.statuses for one in tallies), Counter[int]())
        print(f"{killed.total()} kills: {dict(killed)}; answers by status: {dict(statuses)}")
        fine = [said(here, answered, "at the end")]
        compact(here.home, SystemClock())
        fine.append(said(here, answered, "compacted"))
        compact(here.home, Later())
        fine.append(said(here, answered, "merged"))
    print(
        f"\n{'PASS' if all(fine) else 'FAIL'}: {len(answered):,} predictions were answered while "
        f"{killed.total()} processes were killed, {time.monotonic() - begun_s:.0f} s"
    )
    return all(fine)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--kills", type=int, default=KILLS)
    sys.exit(0 if run(asked.parse_args().kills) else 1)
