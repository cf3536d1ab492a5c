"""A closed block, sorted out: batches of predictions per layout, outcomes per service."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.instant import Instant
from doorstep.core.merkle import EMPTY_ROOT, hash_pairs
from doorstep.core.record import OutcomeRecord
from doorstep.journal.block import Frame, outcome_leaf
from doorstep.journal.columns import Batch, BatchMaker
from doorstep.journal.index import ClosedBlock
from doorstep.journal.reader import Block, Declared, Group, part_of

CHUNK_ROWS = 20_000
"""Rows that are turned into columns at once: some 20 MB."""
FORMAT = 1


class OutcomeBatch(msgspec.Struct, frozen=True):
    """Outcomes of one service. ordinals: position among the block's records."""

    service: str
    outcomes: list[OutcomeRecord]
    ordinals: list[int]


class Contents:
    """Iterate `batches()` once; what is said about the whole block is known after that."""

    def __init__(self, found: Block, data: bytes) -> None:
        self._block, self._data = found, data
        self._leaves: list[bytes] = []
        self._rows = self._outcomes = 0
        self._span: tuple[Instant, Instant] | None = None
        self._damaged_bytes = len(data) - found.whole_bytes

    def batches(self) -> Iterator[Batch | OutcomeBatch]:
        """Every record once, in batches of at most CHUNK_ROWS (or one frame)."""
        waiting: dict[int, BatchMaker] = {}
        outcomes: dict[str, OutcomeBatch] = {}
        for part in self._parts():
            if isinstance(part, OutcomeRecord):
                self._add_outcome(outcomes, part)
                continue
            if (one := waiting.get(id(part.layout))) is None:
                one = waiting[id(part.layout)] = BatchMaker(part.layout)
            one.add(part, self._place(len(part.rows)))
            if one.rows >= CHUNK_ROWS:
                yield self._finish(waiting.pop(id(part.layout)))
        for one in waiting.values():
            yield self._finish(one)
        yield from outcomes.values()

    def _parts(self) -> Iterator[Group | OutcomeRecord]:
        declared = Declared()
        for frame in self._block.frames:
            part = self._read(frame, declared)
            if part is not None and not (isinstance(part, Group) and not part.rows):
                yield part

    def _read(self, frame: Frame, declared: Declared) -> Group | OutcomeRecord | None:
        try:
            return part_of(frame, declared)
        except InputError:
            self._damaged_bytes += frame.end - frame.start
            return None

    def _place(self, count: int) -> int:
        first = len(self._leaves)
        self._leaves += [b""] * count
        return first

    def _add_outcome(self, batches: dict[str, OutcomeBatch], one: OutcomeRecord) -> None:
        batch = batches.setdefault(one.service, OutcomeBatch(one.service, [], []))
        batch.outcomes.append(one)
        batch.ordinals.append(self._place(1))
        self._leaves[batch.ordinals[-1]] = outcome_leaf(one)
        self._outcomes += 1
        self._widen(one.received_at, one.received_at)

    def _finish(self, made: BatchMaker) -> Batch:
        batch = made.finish()
        for ordinal, leaf in zip(batch.ordinals, batch.leaves, strict=True):
            self._leaves[ordinal] = leaf
        self._rows += made.rows
        ats = batch.fields["at"]
        self._widen(min(ats), max(ats))
        return batch

    def _widen(self, first: Instant, last: Instant) -> None:
        was = self._span or (first, last)
        self._span = (min(was[0], first), max(was[1], last))

    def closed(self, name: str) -> ClosedBlock:
        """What the ledger is told. name: the block's stem."""
        header, end = self._block.header, self._block.end
        first, last = self._span or (header.opened_at, header.opened_at)
        return ClosedBlock(
            format=FORMAT,
            node=header.node,
            boot=header.boot,
            block=name,
            first=first,
            last=last,
            rows=self._rows,
            outcomes=self._outcomes,
            sha256=sha256(self._data).hexdigest(),
            record_root=root_of_leaves(self._leaves).hex(),
            repaired=end is not None and end.repaired,
            damaged_bytes=self._damaged_bytes,
        )


def root_of_leaves(leaves: list[bytes]) -> bytes:
    """The RFC 6962 root over leaf hashes (a last one without a neighbour goes up as it is)."""
    level = leaves
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = hash_pairs(level) + odd
    return level[0] if level else EMPTY_ROOT
