"""All that this node's processes counted: live cell files, plus what the dead left behind.

A dead process's file is added to `<state>/cells/base` and removed; the base names what it holds, so
that a crash between the two counts nothing twice. It belongs to one boot of the machine.
"""

from __future__ import annotations

import contextlib
import copy
import struct
import time
from collections import deque
from pathlib import Path

import msgspec

from doorstep.core.ids import new_id
from doorstep.core.report import Cell, ServiceReport
from doorstep.kernel.files import write_atomic
from doorstep.kernel.nodes import PAST, read_report
from doorstep.serve.cells import (
    CellCounts,
    CellKey,
    Counts,
    has_writer,
    read_cells,
    read_dead,
)
from doorstep.serve.counters import (
    BUCKETS,
    ERRORS,
    LATENCY,
    LATENCY_EDGES_US,
    REQUESTS,
    Key,
    Values,
)

BASE_FILE = "base"
KEEP_S = 30.0
"""Cells of a release that left the plan are still reported this long."""
WINDOW_S = 60.0
SNAPSHOT_S = 5.0
PAST_KEPT = 20
"""Reports of earlier boots that wait for the control plane, for one node."""
YOUNG_S = 3.0
KERNEL_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Base(msgspec.Struct, kw_only=True):
    """boot: id under which the counters only grow. kernel: the machine's boot it belongs to."""

    boot: str
    kernel: str
    folded: list[str] = []
    cells: list[tuple[CellKey, CellCounts]] = []
    counters: list[tuple[Key, Values]] = []


class Evidence:
    """Sums over cell files. Not thread-safe; reads files, so the caller chooses when."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "cells"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._base = self._load_base()
        self._counts = Counts()
        self._recent: dict[str, float] = {}
        self._history: deque[tuple[float, dict[str, tuple[int, Values]]]] = deque()
        self.remove_folded()

    @property
    def boot(self) -> str:
        return self._base.boot

    def collect(self, live: set[Path], releases: set[str]) -> None:
        """Read every file; fold those of the dead. live: files of processes that we know to run.
        releases: ids in the plan now."""
        now = time.monotonic()
        self._recent |= dict.fromkeys(releases, now)
        self._recent = {k: v for k, v in self._recent.items() if now - v < KEEP_S}
        total, dead = Counts(cells={}, counters={}), []
        for path in sorted(self._folder.glob("*.cells")):
            try:
                if path in live or has_writer(path):
                    total.add(read_cells(path))
                elif _is_young(path):
                    total.add(read_dead(path))
                else:
                    dead.append(path)
            except (OSError, ValueError):
                continue
        if dead:
            try:
                self._fold(dead)
            except OSError:
                for path in dead:
                    with contextlib.suppress(OSError, ValueError):
                        total.add(read_dead(path))
        total.add(Counts(dict(self._base.cells), dict(self._base.counters)))
        self._counts = total
        self._remember(now)

    def cells(self) -> tuple[Cell, ...]:
        """Cells of the releases that are, or just were, in the plan. One that has nothing yet was
        only given its room."""
        found = [
            (key, counts)
            for key, counts in self._counts.cells.items()
            if key.release in self._recent and counts != CellCounts()
        ]
        return tuple(_cell(key, counts) for key, counts in sorted(found, key=lambda one: one[0]))

    def services(self) -> tuple[ServiceReport, ...]:
        found = []
        since, old = self._history[0] if self._history else (time.monotonic(), {})
        passed_s = max(time.monotonic() - since, 1.0)
        latencies = self._latencies()
        for name, total in sorted(self.requests().items()):
            buckets = latencies.get(name, [0] * BUCKETS)
            before_total, before = old.get(name, (0, [0] * BUCKETS))
            recent = [a - b for a, b in zip(buckets, before, strict=True)]
            found.append(
                ServiceReport(
                    service=name,
                    requests=total,
                    errors=self.counters.get((ERRORS.name, name), [0])[0],
                    latency_ms_p50=quantile_ms(recent, 0.50),
                    latency_ms_p99=quantile_ms(recent, 0.99),
                    requests_per_s=round((total - before_total) / passed_s, 1),
                )
            )
        return tuple(found)

    @property
    def counters(self) -> dict[Key, Values]:
        """What all processes of this node have counted; gauges: what the live ones have now."""
        return self._counts.counters

    def requests(self) -> dict[str, int]:
        """Requests by service, but for those that were refused before they came to a version."""
        found: dict[str, int] = {}
        for (name, *labels), values in self._counts.counters.items():
            if name == REQUESTS.name and labels[0] and labels[1]:
                found[labels[0]] = found.get(labels[0], 0) + values[0]
        return found

    def _latencies(self) -> dict[str, Values]:
        """Requests by latency, by service; without those for which nothing was computed."""
        found = self._counts.counters.items()
        return {key[1]: values[:BUCKETS] for key, values in found if key[0] == LATENCY.name}

    def _remember(self, now: float) -> None:
        if not self._history or now - self._history[-1][0] >= SNAPSHOT_S:
            latencies = self._latencies()
            found = self.requests().items()
            self._history.append(
                (now, {name: (total, latencies.get(name, [0] * BUCKETS)) for name, total in found})
            )
        while len(self._history) > 1 and now - self._history[0][0] > WINDOW_S:
            self._history.popleft()

    def _fold(self, dead: list[Path]) -> None:
        # A copy: what cannot be saved must not be counted, or it would be counted again.
        old = copy.deepcopy(self._base)
        base = Counts(dict(old.cells), dict(old.counters))
        for path in dead:
            try:
                base.add(read_dead(path))
            except (OSError, ValueError):
                continue
        if self._recent:
            base.cells = {k: v for k, v in base.cells.items() if k.release in self._recent}
        new = Base(
            boot=old.boot,
            kernel=old.kernel,
            folded=[path.name for path in dead],
            cells=list(base.cells.items()),
            counters=list(base.counters.items()),
        )
        self._save(new)
        self._base = new
        self.remove_folded()

    def remove_folded(self) -> None:
        for name in self._base.folded:
            (self._folder / name).unlink(missing_ok=True)

    def _load_base(self) -> Base:
        kernel = _kernel_boot()
        try:
            found = msgspec.msgpack.decode((self._folder / BASE_FILE).read_bytes(), type=Base)
            if found.kernel == kernel:
                return found
        except (OSError, msgspec.MsgspecError):
            pass
        for path in self._folder.glob("*.cells"):
            if not has_writer(path):
                path.unlink(missing_ok=True)
        base = Base(boot=new_id().hex, kernel=kernel)
        write_atomic(self._folder / BASE_FILE, msgspec.msgpack.encode(base))
        return base

    def _save(self, base: Base) -> None:
        write_atomic(self._folder / BASE_FILE, msgspec.msgpack.encode(base))


def set_aside(nodes: Path, node: str, boot: str) -> None:
    """Keep the last report of an earlier boot of this node where the control plane finds it: the
    first report of this boot takes its place, and nobody may have read it yet."""
    path = nodes / f"{node}.json"
    report = read_report(path)
    if report is None or report.boot == boot or not report.cells:
        return
    past = nodes / PAST
    past.mkdir(exist_ok=True)
    path.replace(past / f"{node}.{report.boot}.json")
    waiting = sorted(past.glob(f"{node}.*.json"), key=lambda one: one.stat().st_mtime)
    for old in waiting[:-PAST_KEPT]:
        old.unlink(missing_ok=True)


def _is_young(path: Path) -> bool:
    """Whether its writer may not have come to locking it yet: then it must not be removed."""
    return abs(time.time() - path.stat().st_mtime) < YOUNG_S


def quantile_ms(buckets: list[int], share: float) -> float:
    """Upper edge of the bucket that holds the quantile, in ms; 0 without requests. The edges rise
    by a quarter, so the answer is at most a quarter too high."""
    total, seen = sum(buckets), 0
    for at, count in enumerate(buckets):
        seen += count
        if total and seen >= share * total:
            return LATENCY_EDGES_US[min(at, len(LATENCY_EDGES_US) - 1)] / 1000
    return 0.0


def _cell(key: CellKey, counts: CellCounts) -> Cell:
    units = {"seen": counts.seen, "bad_units": counts.bad_units}
    packed = {name: struct.pack(f"<{len(one)}Q", *one) for name, one in units.items()}
    return Cell(**key._asdict(), **(msgspec.structs.asdict(counts) | packed))


def _kernel_boot() -> str:
    """Id of the machine's boot; one of our own where the system names none, so that counters which
    a power cut may have set back are never taken for later ones."""
    try:
        return KERNEL_BOOT.read_text().strip()
    except OSError:
        return new_id().hex
