"""The shadow scorer: a challenger scores copies of live requests, off the caller's path.

    python -m doorstep.serve.shadow --home DIR --node NAME --state DIR

It follows this node's open journal blocks, scores a sample with the challenger in this process,
writes shadow records with the same request ids, and counts pairs: who erred on the same request.
When it falls behind it drops what it has not read (and says so); it never delays a caller.
Ends by itself when its supervisor is gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.ids import hash_unit, new_id
from doorstep.core.plan import ReleasePlan, ServicePlan
from doorstep.core.record import FORMAT as RECORD_FORMAT
from doorstep.core.record import Column, Kind, Layout, PredictionMeta, Status
from doorstep.formats.batch import Batch
from doorstep.journal.reader import Group, Tail
from doorstep.journal.writer import BlockWriter
from doorstep.serve.cells import CellKey, CellWriter, create_cells
from doorstep.serve.nodeplan import PLAN_FILE, NodePlan, in_shadow
from doorstep.serve.version import Columns, Version, columns_of, load_inline, read_manifest

SLOT = "shadow"
POLL_S = 0.1
ROWS_A_BATCH = 64
BEHIND_BYTES_MAX = 8 * 1024 * 1024
"""About ten seconds of a busy worker: more than that is dropped rather than scored late."""
_log = logging.getLogger("doorstep.shadow")

MET_MAX = 262_144
"""Units of a release that are compared: far more than decide, and some 20 MB."""
Scores = NDArray[np.float64]
Row = tuple[PredictionMeta, int]
"""(record, its place in the group)"""
Pair = tuple[PredictionMeta, PredictionMeta]
"""(record, its copy that the challenger scored)"""


class Met(msgspec.Struct):
    """Units of one release that were compared, and those of them of which one version alone erred.
    What a unit meets again says little new: see `Shadow._count`."""

    compared: set[int] = msgspec.field(default_factory=set)
    apart: set[int] = msgspec.field(default_factory=set)

    def takes(self, unit: int) -> bool:
        """Whether it is compared for the first time. Of too many the later ones are left out,
        whatever becomes of them."""
        if unit in self.compared or len(self.compared) >= MET_MAX:
            return False
        self.compared.add(unit)
        return True

    def parts(self, unit: int) -> bool:
        """Whether a unit that is compared is told apart for the first time."""
        if unit in self.apart or unit not in self.compared:
            return False
        self.apart.add(unit)
        return True


class ScoringTooSlow(Exception):
    """The challenger took longer than a caller would have waited."""


class Target:
    """One release in shadow: the challenger, loaded, and where its pairs are counted."""

    def __init__(self, plan: ServicePlan, bundles: Path) -> None:
        assert plan.release is not None
        self.plan = plan
        self.release = plan.release
        version = plan.version(self.release.challenger)
        assert version is not None
        manifest = read_manifest(bundles, version.bundle)
        self.scorer = load_inline(bundles, version, manifest)
        columns = columns_of(plan.contract, manifest.contract)
        self.version = Version(version, manifest, columns, None, None)
        self.columns: Columns = columns
        self.layout = Layout(
            format=RECORD_FORMAT,
            service=plan.service,
            numbers=tuple(Column(f"out.{name}", "float") for name in self.version.outputs),
            texts=(Column("out.answer", "text"),),
        )

    def wants(self, row: PredictionMeta) -> bool:
        """Whether this record is scored: a caller's, of the right kind, in the sample."""
        # A rehearsal takes what callers send meanwhile as evidence too; a release in earnest takes
        # only what callers sent.
        is_callers = row.kind == Kind.LIVE or (
            self.release.rehearsal and row.kind == Kind.REHEARSAL
        )
        if not is_callers or row.release != self.release.id:
            return False
        # A hash: bits of the id itself are not all random (it is a uuid7).
        return hash_unit("shadow", row.request.hex()) < self.release.sample * 2.0**64


class Shadow:
    """Plan, tail, journal and cells of one shadow process."""

    def __init__(self, home: Path, node: str, state: Path) -> None:
        self._state = state
        self._targets: dict[str, Target] = {}
        self._met: dict[str, Met] = {}
        self._plan_bytes = b""
        boot = new_id().hex[:12]
        self._cells = new_cells(state)
        journal = home / "journal"
        self._writer = BlockWriter(journal, node=node, boot=boot, slot=SLOT)
        self._tail = Tail(journal / node, skip_slots=(SLOT,))
        self._dropped = 0

    def tick(self) -> int:
        """Take up a changed plan, score what is new; how many rows were scored."""
        self._read_plan()
        behind = self._tail.behind_bytes
        if behind > BEHIND_BYTES_MAX:
            self._dropped += behind
            _log.warning("%s bytes of records were not scored: too far behind", f"{behind:,}")
            self._tail.skip_to_end()
        scored: list[tuple[Target, Pair]] = []
        for group in self._tail.poll():
            target = self._targets.get(group.layout.service)
            if target is not None and has_inputs(group.layout):
                scored += [(target, pair) for pair in self._take(target, group)]
        # What is counted is in the journal: the two are compared at any time.
        self._writer.flush()
        for target, pair in scored:
            self._count(target, *pair)
        return len(scored)

    def _read_plan(self) -> None:
        data = (self._state / PLAN_FILE).read_bytes()
        if data == self._plan_bytes:
            return
        self._plan_bytes = data
        plan = msgspec.json.decode(data, type=NodePlan)
        wanted = {
            one.service: one
            for one in in_shadow(plan)[0]
            if one.release is not None
            and f"{one.service}@{one.release.challenger}" not in plan.unloaded
        }
        self._targets = {
            name: target
            for name, one in wanted.items()
            if (target := self._target(one, Path(plan.bundles))) is not None
        }
        running = {one.release.id for one in self._targets.values()}
        self._met = {name: self._met.get(name, Met()) for name in running}

    def _target(self, plan: ServicePlan, bundles: Path) -> Target | None:
        known = self._targets.get(plan.service)
        if known is not None and known.plan == plan:
            return known
        try:
            return Target(plan, bundles)
        except Exception as error:  # noqa: BLE001  whatever loading raises, the others are scored
            _log.error("%s: the challenger cannot be loaded: %s", plan.service, error)
            return None

    def _take(self, target: Target, group: Group) -> Iterator[Pair]:
        rows = [(row, at) for at, row in enumerate(group.rows) if target.wants(row)]
        for start in range(0, len(rows), ROWS_A_BATCH):
            batch = rows[start : start + ROWS_A_BATCH]
            for (row, _), scored in zip(batch, self._score(target, group, batch), strict=True):
                yield row, scored

    def _score(self, target: Target, group: Group, rows: list[Row]) -> list[PredictionMeta]:
        batch = batch_of(target.plan, target.columns, group, [at for _, at in rows])
        started = time.perf_counter_ns()
        found = list(scores_of(target, batch))
        took_us = (time.perf_counter_ns() - started) // 1000 // max(1, len(rows))
        metas, matrix = [], []
        for (row, _), (scores, status, error) in zip(rows, found, strict=True):
            metas.append(shadow_record(target, row, scores, status, error, took_us))
            matrix.append(scores if scores is not None else [np.nan] * target.version.width)
        number = self._writer.declare(target.layout)
        self._writer.predictions(number, metas, np.asarray(matrix, dtype=np.float64).tobytes())
        return metas

    def _count(self, target: Target, row: PredictionMeta, scored: PredictionMeta) -> None:
        """Of a unit its first pair counts, and its first in which one version alone erred: as in
        the steps, where its first bad event counts."""
        slot = self._slot(target.release, row.segment)
        challenger, champion = scored.status != Status.OK, row.status != Status.OK
        self._cells.score(slot, ok=not challenger)
        unit, met = unit_of(row), self._met[target.release.id]
        is_first = met.takes(unit)
        if challenger != champion:
            if met.parts(unit):
                self._cells.pair(slot, unit, challenger - champion)
        elif is_first:
            self._cells.pair(slot, unit, 0)
        if is_first and target.version.labels and not challenger and not champion:
            # The answer is the last text of a record.
            self._cells.compare(slot, differs=row.texts[-1] != scored.texts[-1])

    def _slot(self, release: ReleasePlan, segment: str) -> int:
        """Of its cell. A full file is left to be added up as those of the dead are."""
        key = CellKey(release.id, release.epoch, segment, "challenger")
        slot = self._cells.slot(key)
        if slot is None:
            self._cells.close()
            self._cells = new_cells(self._state)
            slot = self._cells.slot(key)
        assert slot is not None, "an empty file has room"
        return slot

    def close(self) -> None:
        self._tail.close()
        self._writer.close()
        self._cells.close()


def new_cells(state: Path) -> CellWriter:
    """An empty cell file of a shadow."""
    path = state / "cells" / f"{SLOT}-{new_id().hex[:12]}.cells"
    path.parent.mkdir(parents=True, exist_ok=True)
    create_cells(path)
    return CellWriter(path)


def unit_of(row: PredictionMeta) -> int:
    """The hash of whose record it is. Of nobody's, both versions had each row: it is its own."""
    unit = row.unit
    if unit == str(UUID(bytes=row.request)):
        unit = f"{unit}.{row.row}"
    return hash_unit("unit", unit)


def batch_of(plan: ServicePlan, columns: Columns, group: Group, places: list[int]) -> Batch:
    """The challenger's batch from a group of records, whatever the order of their columns."""
    names = [one.name for one in group.layout.numbers]
    matrix = np.frombuffer(group.matrix, dtype=np.float64).reshape(len(group.rows), len(names))
    numbers = _numbers(plan, names, matrix[places])
    kept = [one.name for one in group.layout.texts]
    texts = [_texts(plan, kept, group.rows[at].texts) for at in places]
    return columns.batch(numbers, texts)


def has_inputs(layout: Layout) -> bool:
    """Whether inputs were kept: a record without them has only outputs."""
    columns = layout.numbers + layout.texts
    return any(not one.name.startswith("out.") for one in columns)


def _numbers(plan: ServicePlan, names: list[str], matrix: Scores) -> Scores:
    wanted = [f"in.{one.name}" for one in plan.contract.numbers]
    wanted += [f"ctx.{one.name}" for one in plan.contract.context if one.is_number]
    if names[: len(wanted)] == wanted:
        return np.ascontiguousarray(matrix[:, : len(wanted)])
    padded = np.hstack([matrix, np.full((len(matrix), 1), np.nan)])
    found: Scores = padded[:, [names.index(one) if one in names else -1 for one in wanted]]
    return found


def _texts(
    plan: ServicePlan, kept: list[str], texts: tuple[str | None, ...]
) -> tuple[str | None, ...]:
    wanted = [f"in.{one.name}" for one in plan.contract.inputs if not one.is_number]
    wanted += [f"ctx.{one.name}" for one in plan.contract.context if not one.is_number]
    return tuple(texts[kept.index(one)] if one in kept else None for one in wanted)


def scores_of(target: Target, batch: Batch) -> Iterator[tuple[list[float] | None, Status, str]]:
    """(scores, status, error) of each row. If the batch raises, its rows are asked one by one, so
    that one bad row is one error."""
    found = _ask(target, batch)
    if not isinstance(found, str) and target.version.is_valid(found, batch.rows):
        yield from ((row, Status.OK, "") for row in found)
        return
    for at in range(batch.rows):
        yield _alone(target, _row(batch, at))


def _alone(target: Target, one: Batch) -> tuple[list[float] | None, Status, str]:
    found = _ask(target, one)
    if isinstance(found, str):
        status = Status.TIMED_OUT if found == ScoringTooSlow.__name__ else Status.FAILED
        return None, status, found
    if not target.version.is_valid(found, 1):
        return None, Status.INVALID, "invalid-output"
    return found[0], Status.OK, ""


def _row(batch: Batch, at: int) -> Batch:
    return Batch(batch.numbers[at : at + 1], [[column[at]] for column in batch.texts])


def _ask(target: Target, batch: Batch) -> list[list[float]] | str:
    """The scores, or the name of what was raised. A model that hangs is interrupted at the
    caller's timeout for each row."""
    timeout_s = target.plan.timeout_ms / 1000 * batch.rows
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        found: list[list[float]] = target.scorer.score(batch).tolist()
        return found
    except Exception as error:  # noqa: BLE001  whatever the model raises is one error of its arm
        return type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def shadow_record(
    target: Target,
    row: PredictionMeta,
    scores: list[float] | None,
    status: Status,
    error: str,
    took_us: int,
) -> PredictionMeta:
    """What the journal keeps of a shadow score: the same request and row, and no inputs again."""
    version = target.version
    answer = None
    if scores is not None and version.labels:
        answer = str(version.answers([scores])[0])
    return msgspec.structs.replace(
        row,
        version=version.number if status is Status.OK else -1,
        assigned=version.number,
        status=int(status),
        kind=int(Kind.SHADOW),
        epoch=target.release.epoch,
        share=0.0,
        latency_us=took_us,
        warnings=(),
        texts=(answer,),
        error=error,
    )


def _too_slow(_: int, __: FrameType | None) -> None:
    raise ScoringTooSlow


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m doorstep.serve.shadow")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGALRM, _too_slow)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    os.nice(5)
    shadow = Shadow(options.home, options.node, options.state)
    try:
        while not stopping:
            busy = shadow.tick()
            if _is_orphan(0.0 if busy else POLL_S):
                return
    finally:
        shadow.close()


def _is_orphan(wait_s: float) -> bool:
    """Whether standard input, which our supervisor holds open, is at its end."""
    readable, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


if __name__ == "__main__":
    main()
