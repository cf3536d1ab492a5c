"""What a reader reads: the listed files of every node, and the blocks that are not listed yet.

Exactly once, while writers write and the compactor compacts: blocks are opened first, the index is
read after that, and an open block that the index names by then is left out. A block that was gone
before it could be opened is in the index.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.instant import Instant
from doorstep.core.record import OutcomeRecord
from doorstep.journal import away, block
from doorstep.journal.index import INDEX, ListedFile, fold, read_entries
from doorstep.journal.reader import Declared, Group, list_blocks, open_either, part_of

NO_END: Instant = 2**62
Listed = tuple[Path, ListedFile]


class TailPart(msgspec.Struct, frozen=True):
    """A part of a block that is not compacted. ordinal: of its first record in the block."""

    node: str
    block: str
    ordinal: int
    part: Group | OutcomeRecord


class TailBlock(msgspec.Struct, frozen=True):
    """The bytes of a block that is not compacted, from `offset` on."""

    node: str
    block: str
    offset: int
    data: bytes

    def parts(self) -> Iterator[TailPart]:
        """Its whole records; needs the block from its start. Frames that make no sense are
        passed over."""
        declared = Declared()
        ordinal = 0
        for frame in block.scan(memoryview(self.data))[0]:
            with contextlib.suppress(InputError):
                part = part_of(frame, declared)
                if part is not None:
                    yield TailPart(self.node, self.block, ordinal, part)
                    ordinal += len(part.rows) if isinstance(part, Group) else 1


class NodeSnapshot(msgspec.Struct, frozen=True):
    """folder: of the node. files: listed; tails: not listed."""

    folder: Path
    files: tuple[ListedFile, ...]
    tails: tuple[TailBlock, ...]

    def listed(
        self, service: str, holds: str, since: Instant = 0, until: Instant = NO_END
    ) -> list[Listed]:
        """Files of a service with anything in [since, until), each with the node's folder."""
        return [
            (self.folder, one)
            for one in self.files
            if one.service == service
            and one.holds == holds
            and since <= one.last
            and one.first < until
        ]


def list_nodes(home: Path) -> list[Path]:
    """The nodes' folders, by name; dead nodes' too, and those that a store has of other homes."""
    others = [path.parent for path in (home / away.FOLDER).glob(f"*/{INDEX}")]
    try:
        own = [path for path in (home / "journal").iterdir() if path.is_dir()]
    except FileNotFoundError:
        own = []
    return sorted(own) + sorted(others)


def take_snapshots(home: Path) -> list[NodeSnapshot]:
    """Every node as it is now, with the whole unlisted blocks in memory (at most one minute or 64
    MB a writer, unless compaction is behind)."""
    return [take_snapshot(folder, {}) for folder in list_nodes(home)]


def take_snapshot(folder: Path, offsets: dict[str, int]) -> NodeSnapshot:
    """One node as it is now. offsets: stem -> where to begin reading a block."""
    with contextlib.ExitStack() as stack:
        opened: dict[str, int] = {}
        for stem, path in list_blocks(folder).items():
            if (fd := open_either(path)) is not None:
                stack.callback(os.close, fd)
                opened[stem] = fd
        listing = fold(read_entries(folder))
        tails = tuple(
            _read_tail(folder.name, stem, fd, offsets.get(stem, 0))
            for stem, fd in opened.items()
            if stem not in listing.blocks
        )
    return NodeSnapshot(folder, tuple(listing.files.values()), tails)


def _read_tail(node: str, stem: str, fd: int, offset: int) -> TailBlock:
    size = os.fstat(fd).st_size
    return TailBlock(node, stem, offset, os.pread(fd, max(0, size - offset), offset))
