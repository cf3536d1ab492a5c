"""Counts of a window of time, from summaries and open blocks: no rows are read, nor DuckDB.

A window is whole buckets: ten seconds, minutes in what was merged by the hour, hours in daily
files. `since` is taken down to the start of its bucket.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.instant import Instant
from doorstep.core.record import OutcomeRecord
from doorstep.journal import block
from doorstep.journal.block import Frame, Stop
from doorstep.journal.columns import batch_of
from doorstep.journal.index import ListedFile
from doorstep.journal.reader import Declared, Group, part_of
from doorstep.journal.snapshot import NodeSnapshot, TailBlock, list_nodes, take_snapshot
from doorstep.journal.summary import (
    BUCKET_S,
    Cell,
    CellKey,
    Counted,
    PairSums,
    ReleaseCount,
    Summary,
    add_counts,
    add_releases,
    decode_summary,
    floor,
    merge,
    merge_all,
    window,
)
from doorstep.journal.tally import Profiles, no_profiles, tally, tally_outcomes

SUMMARIES_BYTES_MAX = 64 * 1024 * 1024
"""Of files: what is read of them takes as much memory, or four times as much where there are few
columns. What does not fit is read again."""
TAIL_FRAMES = 5_000
"""Frames of an open block that are counted at once."""


class _TailTally(msgspec.Struct):
    """An open block as far as it was counted."""

    offset: int = 0
    declared: Declared = msgspec.field(default_factory=Declared)
    summaries: dict[str, Summary] = {}


class SummaryCache:
    """Summaries that were read, and open blocks as far as they were counted, for a process that
    asks again and again. Not thread-safe; one per home and `profiles`."""

    def __init__(self, profiles: Profiles = no_profiles) -> None:
        self._profiles = profiles
        self._files: dict[Path, tuple[Summary, int]] = {}
        self._bytes = 0
        self._tails: dict[tuple[str, str], _TailTally] = {}

    def summaries(
        self, home: Path, service: str, since: Instant, until: Instant
    ) -> Iterator[Summary]:
        """Everything known of a service in the buckets of [since, until), in parts."""
        since = floor(since, BUCKET_S)
        for folder in list_nodes(home):
            node = folder.name
            offsets = {stem: one.offset for (of, stem), one in self._tails.items() if of == node}
            found = take_snapshot(folder, offsets)
            for file in found.files:
                if file.service == service and _may_have(file, since, until):
                    yield window(self._read(folder / file.summary), since, until)
            for summary in self._count_tails(found, service):
                yield window(summary, since, until)

    def _read(self, path: Path) -> Summary:
        if path not in self._files:
            data = path.read_bytes()
            self._files[path] = decode_summary(data), len(data)
            self._bytes += len(data)
            while self._bytes > SUMMARIES_BYTES_MAX and len(self._files) > 1:
                self._bytes -= self._files.pop(next(iter(self._files)))[1]
        return self._files[path][0]

    def _count_tails(self, found: NodeSnapshot, service: str) -> list[Summary]:
        node = found.folder.name
        live = {(node, one.block) for one in found.tails}
        for key in [key for key in self._tails if key[0] == node and key not in live]:
            del self._tails[key]
        for one in found.tails:
            self._count(one)
        tallies = (self._tails[key].summaries.get(service) for key in sorted(live))
        return [summary for summary in tallies if summary is not None]

    def _count(self, tail: TailBlock) -> None:
        key = (tail.node, tail.block)
        if tail.offset == 0:
            self._tails[key] = _TailTally()
        one = self._tails[key]
        frames, end, stop = block.scan(memoryview(tail.data))
        # A writer whose disk was full took back what we had counted: count it again next time.
        one.offset = 0 if stop is Stop.DAMAGED and not frames else tail.offset + end
        for summary in _tally_parts(_parts_of(frames, one.declared), self._profiles):
            was = one.summaries.get(summary.service)
            one.summaries[summary.service] = summary if was is None else merge(was, summary)


def _parts_of(frames: list[Frame], declared: Declared) -> Iterator[Group | OutcomeRecord]:
    for frame in frames:
        # A frame that makes no sense is set aside by the compactor, which says so.
        with contextlib.suppress(InputError):
            if (part := part_of(frame, declared)) is not None:
                yield part


def _tally_parts(parts: Iterable[Group | OutcomeRecord], profiles: Profiles) -> Iterator[Summary]:
    waiting: dict[int, list[Group]] = {}
    outcomes: dict[str, list[OutcomeRecord]] = {}
    for part in parts:
        if isinstance(part, OutcomeRecord):
            outcomes.setdefault(part.service, []).append(part)
        elif part.rows:
            groups = waiting.setdefault(id(part.layout), [])
            groups.append(part)
            if len(groups) >= TAIL_FRAMES:
                yield _tally_groups(waiting.pop(id(part.layout)), profiles)
    for groups in waiting.values():
        yield _tally_groups(groups, profiles)
    for service, told in outcomes.items():
        yield tally_outcomes(service, told)


def _tally_groups(groups: list[Group], profiles: Profiles) -> Summary:
    return tally(batch_of(groups, [0] * len(groups), hashed=False), profiles)


def _may_have(file: ListedFile, since: Instant, until: Instant) -> bool:
    """Files of outcomes are listed by when they were received, which is later than `at`."""
    return file.last >= since and (file.holds == "outcomes" or file.first < until)


def column_codes(
    home: Path,
    service: str,
    since: Instant,
    until: Instant,
    *,
    cache: SummaryCache | None = None,
) -> Summary:
    """Everything of the window, merged: counts, codes per column, nulls, score sums, latency."""
    cache = cache or SummaryCache()
    return merge_all(service, cache.summaries(home, service, since, until))


def counts(
    home: Path,
    service: str,
    since: Instant,
    until: Instant,
    bucket_s: int = BUCKET_S,
    *,
    cache: SummaryCache | None = None,
) -> list[Cell]:
    """Cells (without columns, scores and pairs) by bucket, version, assigned version, kind and
    segment, ordered so; buckets without rows are absent. bucket_s: whole minutes.
    Raises: ValueError otherwise."""
    if bucket_s <= 0 or bucket_s % BUCKET_S:
        raise ValueError(f"{bucket_s} s is not a whole number of buckets of {BUCKET_S} s")
    cache = cache or SummaryCache()
    cells: dict[CellKey, Cell] = {}
    for summary in cache.summaries(home, service, since, until):
        for cell in summary.cells:
            key = (floor(cell.at, bucket_s), *cell.key[1:])
            cells[key] = add_counts(cells[key], cell) if key in cells else cell
    return [
        msgspec.structs.replace(cell, at=key[0], counted=Counted(), scores={}, pairs=PairSums())
        for key, cell in sorted(cells.items())
    ]


def release_counts(
    home: Path, service: str, release: str, since: Instant, *, cache: SummaryCache | None = None
) -> tuple[ReleaseCount, ...]:
    """What a release asked of its versions, as far as the journal goes. since: when it began."""
    cache = cache or SummaryCache()
    found = cache.summaries(home, service, since, sys.maxsize)
    return add_releases(
        one for summary in found for one in summary.releases if one.release == release
    )
