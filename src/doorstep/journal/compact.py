"""One closed block becomes Parquet files, summaries, and one line of the index: exactly once.

The steps, in order; a crash after any of them is repaired by the next run:

    write    Parquet and summaries under names that start with a dot
    sync     they are on the disk
    rename   they have their names; nobody reads them yet
    closed   `<block>.closed.json` is there for the ledger
    list     the index names them, and the block as compacted: this line is the commit
    delete   the block is gone
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from doorstep.core.ids import parse_name
from doorstep.core.instant import Instant
from doorstep.journal import duck
from doorstep.journal.columns import (
    OUTCOME_TYPES,
    Batch,
    Origin,
    outcome_columns,
    prediction_columns,
    prediction_types,
)
from doorstep.journal.contents import Contents, OutcomeBatch
from doorstep.journal.index import (
    COMPACTED,
    ClosedBlock,
    Entry,
    ListedFile,
    append_entry,
    sync_file,
)
from doorstep.journal.layouts import keep_layout
from doorstep.journal.reader import read_block
from doorstep.journal.subjects import Subjects, subjects_of
from doorstep.journal.summary import Summary, encode_summary, merge
from doorstep.journal.tally import Profiles, tally, tally_outcomes
from doorstep.kernel.files import sha256_of, sync_folder, write_atomic

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Reached = Callable[[str], None]
"""Told the name of each step when it is done: tests die there."""
Span = tuple[int, Instant, Instant]
CLOSED_SUFFIX = ".closed.json"
LAYOUT_DIGITS = 12


def keep_going(_step: str) -> None:
    """The `Reached` of every day."""


class FilePlan(msgspec.Struct, frozen=True):
    """What a Parquet file is to be. stem: path relative to the node's folder, without suffix."""

    stem: str
    service: str
    holds: Literal["predictions", "outcomes"]
    layout: str
    level: Literal["block", "hour", "day"] = "block"

    @property
    def path(self) -> str:
        return f"{self.stem}.parquet"

    @property
    def summary(self) -> str:
        return f"{self.stem}.json"


class _Target(msgspec.Struct):
    """One Parquet file in the making. batches: queries of what is in it, in order. span: (rows,
    first, last)."""

    plan: FilePlan
    summary: Summary
    batches: list[duck.Computed] = []
    span: Span = (0, 0, 0)


class BlockCompaction:
    """Compacts one block. folder: `<home>/journal/<node>`. now: when, for the index."""

    def __init__(
        self,
        con: DuckDBPyConnection,
        folder: Path,
        profiles: Profiles,
        now: Instant,
        reached: Reached = keep_going,
    ) -> None:
        self._con, self._folder, self._profiles = con, folder, profiles
        self._now, self._reached = now, reached
        self._targets: dict[tuple[str, str], _Target] = {}
        self._subjects: Subjects | None = None
        self._registered = 0

    def run(self, path: Path) -> Entry:
        """Do all the steps for one closed block.

        Raises: InputError (`bad-block`, `newer-block`), OSError, duckdb.Error. The block is then
        still there, and nothing of it is listed.
        """
        data = path.read_bytes()
        contents = Contents(read_block(data), data)
        try:
            for batch in contents.batches():
                self._add(batch, path.stem)
            (self._folder / COMPACTED).mkdir(exist_ok=True)
            files = [self._write(one) for one in self._targets.values()]
        finally:
            self._forget()
        self._reached("write")
        publish(self._folder, files, self._reached)
        closed = contents.closed(path.stem)
        write_closed(self._folder, closed)
        self._reached("closed")
        entry = Entry(at=self._now, block=path.stem, closed=closed, files=tuple(files))
        append_entry(self._folder, entry)
        self._reached("list")
        remove_block(path, closed)
        self._reached("delete")
        return entry

    def _add(self, batch: Batch | OutcomeBatch, stem: str) -> None:
        origin = Origin(self._folder.name, stem)
        if isinstance(batch, Batch):
            service, layout = batch.layout.service, batch.layout.digest
            keep_layout(self._folder, batch.layout)
            if batch.layout.seals:
                self._subjects = self._subjects or subjects_of(self._folder.parent.parent)
                batch = replace(batch, keys=self._subjects.wrap(batch))
            types, columns = prediction_types(batch.layout), prediction_columns(batch, origin)
            times = batch.fields["at"]
            summary = tally(batch, self._profiles)
        else:
            service, layout = batch.service, ""
            types = OUTCOME_TYPES
            columns = outcome_columns(batch.outcomes, batch.ordinals, origin)
            times = [one.received_at for one in batch.outcomes]
            summary = tally_outcomes(service, batch.outcomes)
        if (service, layout) not in self._targets:
            self._targets[service, layout] = self._new_target(stem, service, layout)
        target = self._targets[service, layout]
        self._registered += 1
        name = f"batch{self._registered}"
        target.batches.append(duck.select_from(self._con, name, types, columns))
        target.summary = merge(target.summary, summary)
        target.span = _wider(target.span, times)

    def _new_target(self, stem: str, service: str, layout: str) -> _Target:
        what = layout[:LAYOUT_DIGITS] or "outcomes"
        path = f"{COMPACTED}/{stem}.{parse_name(service)}.{what}"
        plan = FilePlan(path, service, "predictions" if layout else "outcomes", layout)
        return _Target(plan, Summary(service=service))

    def _write(self, target: _Target) -> ListedFile:
        # From the arrays to the file: a table between them would cost as much again.
        source = f"({' UNION ALL '.join(one.sql for one in target.batches)})"
        values = [value for one in target.batches for value in one.values]
        duck.copy_to(self._con, source, "", unnamed(self._folder / target.plan.path), values)
        return finish_file(self._folder, target.plan, target.summary, target.span)

    def _forget(self) -> None:
        for number in range(self._registered):
            self._con.unregister(f"batch{number + 1}")


def _wider(span: Span, times: Sequence[Instant]) -> Span:
    rows, first, last = span
    seen = (min(times), max(times))
    return rows + len(times), min(first, seen[0]) if rows else seen[0], max(last, seen[1])


def finish_file(folder: Path, plan: FilePlan, summary: Summary, span: Span) -> ListedFile:
    """Beside a Parquet file under a name that starts with a dot comes its summary; `publish` is
    next."""
    path = unnamed(folder / plan.path)
    unnamed(folder / plan.summary).write_bytes(encode_summary(summary))
    with path.open("rb") as file:
        digest = sha256_of(file)
    rows, first, last = span
    return ListedFile(
        path=plan.path,
        summary=plan.summary,
        service=plan.service,
        holds=plan.holds,
        layout=plan.layout,
        level=plan.level,
        rows=rows,
        bytes=path.stat().st_size,
        sha256=digest,
        first=first,
        last=last,
    )


def unnamed(path: Path) -> Path:
    return path.with_name("." + path.name)


def publish(folder: Path, files: Iterable[ListedFile], reached: Reached) -> None:
    """Sync the files, then give them their names."""
    paths = [folder / name for one in files for name in (one.path, one.summary)]
    for path in paths:
        sync_file(unnamed(path))
    reached("sync")
    for path in paths:
        unnamed(path).rename(path)
    for parent in {path.parent for path in paths}:
        sync_folder(parent)
    reached("rename")


def write_closed(folder: Path, closed: ClosedBlock) -> None:
    data = msgspec.json.encode(closed)
    write_atomic(folder / f"{closed.block}{CLOSED_SUFFIX}", data)


def remove_block(path: Path, closed: ClosedBlock) -> None:
    """Delete a compacted block; if a part of it could not be read, keep it as `.damaged`."""
    if closed.damaged_bytes:
        path.rename(path.with_suffix(".damaged"))
    else:
        path.unlink()


def finish_listed(folder: Path, closed: Mapping[str, ClosedBlock | None]) -> None:
    """Delete blocks that are listed and still there: a crash came between. closed: by stem."""
    for path in folder.glob("*.block"):
        if (one := closed.get(path.stem)) is not None:
            remove_block(path, one)
