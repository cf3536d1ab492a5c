"""Sixty days of a busy service in some minutes: how many files, and how much memory.

    python benchmarks/journal/days.py --days 60 --blocks 2

The clock is moved, nothing waits. Each hour two writers close --blocks blocks each, the compactor
runs as a node's does (a real one closes one a minute, which is merged all the same an hour later),
and what announces closed blocks and dropped files is taken as the control plane takes it. Records
are kept for KEPT_DAYS. Exits with 1 unless files, index and memory of the process stay bounded.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from questions import LAYOUT, PROFILE, rows_of_day

from doorstep.core.instant import SECOND_US, Instant
from doorstep.journal.compactor import Compactor, forget_closed, pending_closed
from doorstep.journal.index import INDEX, fold, read_entries
from doorstep.journal.merge import ENTRIES_SPARE_MAX
from doorstep.journal.retain import Bounds, pending_dropped
from doorstep.journal.writer import BlockWriter

DAYS, BLOCKS, WRITERS, KEPT_DAYS = 60, 2, 2, 20
HOUR_US, DAY_S = 3600 * SECOND_US, 86400
ROWS_PER_BLOCK = 50
ROLLED_AFTER_US = 61 * SECOND_US
UNMERGED_DAYS = 4
"""The last days are files of an hour each: a day is merged two days after its end."""
RSS_GROWTH_MAX = 1.25
PRINTED_EVERY_DAYS = 5


class Clock:
    def __init__(self, at: Instant) -> None:
        self.at = at

    def now(self) -> Instant:
        return self.at

    def monotonic_s(self) -> float:
        return self.at / SECOND_US


class Sizes(msgspec.Struct):
    """At the end of a day. paths: all files of the node's folder; files: those that are listed."""

    paths: int
    files: int
    index_kb: float
    mb: float
    rss_mb: float


class Node:
    """rows: how many were written."""

    def __init__(self, home: Path, blocks: int) -> None:
        self.home, self.folder, self.blocks, self.rows = home, home / "journal" / "n1", blocks, 0
        start = time.time_ns() // 1000 // (DAY_S * SECOND_US) * DAY_S * SECOND_US
        self.clock = Clock(start)
        self.compactor = Compactor(
            home, "n1", lambda _service, _version: PROFILE, clock=self.clock,
            bounds=lambda: Bounds({"loans": KEPT_DAYS * DAY_S}, 1e12),
        )  # fmt: skip
        self.writers = [
            BlockWriter(home / "journal", node="n1", boot="b", slot=f"s{at}", clock=self.clock)
            for at in range(WRITERS)
        ]

    def hour(self, number: int) -> None:
        chance = random.Random(number)
        for _ in range(self.blocks):
            self.clock.at += HOUR_US // self.blocks - ROLLED_AFTER_US
            for writer in self.writers:
                layout = writer.declare(LAYOUT)
                for rows, matrix in rows_of_day(0, ROWS_PER_BLOCK, chance.randrange(2**30)):
                    for row in rows:
                        row.at = self.clock.at - chance.randrange(HOUR_US // self.blocks)
                    writer.predictions(layout, rows, matrix)
                    self.rows += len(rows)
                writer.flush()
            self.clock.at += ROLLED_AFTER_US
            for writer in self.writers:
                writer.flush()
            self.compactor.run_once()
        for closed in pending_closed(self.home):
            forget_closed(self.home, closed)
        for path, _dropped in pending_dropped(self.home):
            path.unlink()

    def sizes(self) -> Sizes:
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        return Sizes(
            paths=len(paths),
            files=len(fold(read_entries(self.folder)).files),
            index_kb=(self.folder / INDEX).stat().st_size / 1e3,
            mb=sum(path.stat().st_size for path in paths) / 1e6,
            rss_mb=int(status["VmRSS"].split()[0]) / 1e3,
        )


def main(days: int, blocks: int) -> int:
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    found: list[Sizes] = []
    print(f"{'day':>3} {'files':>6} {'listed':>6} {'index KB':>9} {'MB':>7} {'RSS MB':>7}")
    with tempfile.TemporaryDirectory() as temp:
        node = Node(Path(temp), blocks)
        for day in range(days):
            for hour in range(24):
                node.hour(24 * day + hour)
            found.append(node.sizes())
            if (day + 1) % PRINTED_EVERY_DAYS == 0:
                one = found[-1]
                print(
                    f"{day + 1:3} {one.paths:6} {one.files:6} {one.index_kb:9.0f} {one.mb:7.1f} "
                    f"{one.rss_mb:7.0f}",
                    flush=True,
                )
        lines = len(read_entries(node.folder))
    took_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - cpu_s
    faults, closed = faults_of(found, lines), days * 24 * blocks * WRITERS
    print(
        f"\n{'; '.join(faults) or 'PASS'}: {days} days, {closed:,} blocks and {node.rows:,} "
        f"predictions, kept for {KEPT_DAYS} days; {took_s:.0f} s, {cpu_s:.0f} of CPU"
    )
    return 1 if faults else 0


def faults_of(found: list[Sizes], lines: int) -> list[str]:
    """What is not bounded: a file for each day that is kept, and one for each hour of the last."""
    files_max = KEPT_DAYS + 2 + UNMERGED_DAYS * 24
    settled = found[KEPT_DAYS : KEPT_DAYS + 10] or found
    rss_max = RSS_GROWTH_MAX * max(one.rss_mb for one in settled)
    faults = []
    if (files := max(one.files for one in found)) > files_max:
        faults.append(f"FAIL: {files} files are listed; expected {files_max} at most")
    if lines > files_max + ENTRIES_SPARE_MAX + 100:
        faults.append(f"FAIL: the index has {lines} lines")
    if found[-1].rss_mb > rss_max:
        faults.append(f"FAIL: {found[-1].rss_mb:.0f} MB of memory; expected {rss_max:.0f}")
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    asked = parser.parse_args()
    sys.exit(main(asked.days, asked.blocks))
