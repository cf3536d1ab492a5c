"""Reading blocks: one whole block, or following a node's open blocks as they grow.

Readers never lock and never wait for a writer. A frame that is being written right now looks like
a torn tail, and is there at the next look.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.record import Layout, OutcomeRecord, PredictionMeta
from doorstep.journal import block
from doorstep.journal.block import BlockEnd, BlockHeader, Frame, FrameKind, Stop

READ_BYTES_MAX = 8 * 1024 * 1024
"""Per block and poll, so that a reader that is behind does not take a block into memory at once."""
OPEN, CLOSED = ".open", ".block"


class Group(msgspec.Struct, frozen=True, gc=False):
    """One prediction frame. matrix: float64, rows x numbers of the layout, row by row. seal: of
    the session that sealed fields of it, b"" if none did."""

    layout: Layout
    rows: list[PredictionMeta]
    matrix: memoryview
    seal: bytes = b""


class Declared(msgspec.Struct):
    """What the frames so far say about those behind them."""

    layouts: dict[int, Layout] = {}
    sealed: set[int] = set()
    seal: bytes = b""


class Block(msgspec.Struct, frozen=True):
    """A block's whole frames. whole_bytes: up to where they go; stop: why there are no more."""

    header: BlockHeader
    frames: list[Frame]
    whole_bytes: int
    stop: Stop

    @property
    def end(self) -> BlockEnd | None:
        """What its end frame promises; None if it is not closed."""
        last = self.frames[-1]
        return block.decode_end(last) if last.kind == FrameKind.END else None

    @property
    def is_complete(self) -> bool:
        """Closed, and everything that the end frame promises is there."""
        end = self.end
        return end is not None and self.stop is Stop.END and end == end_of(self, end.repaired)

    def parts(self) -> Iterator[Group | OutcomeRecord]:
        """Groups of predictions and outcomes, in the order in which they were written."""
        declared = Declared()
        for frame in self.frames:
            if (part := part_of(frame, declared)) is not None:
                yield part


def part_of(frame: Frame, declared: Declared) -> Group | OutcomeRecord | None:
    """What one frame holds; None for frames about the block itself. Learns from them on the way.

    Raises: InputError (`bad-block`) for a layout that was not declared.
    """
    if frame.kind == FrameKind.PREDICTIONS:
        if (layout := declared.layouts.get(frame.layout)) is None:
            raise InputError("bad-block", f"layout {frame.layout} was not declared")
        seal = declared.seal if frame.layout in declared.sealed else b""
        return Group(layout, block.decode_predictions(frame, layout), frame.matrix, seal)
    if frame.kind == FrameKind.OUTCOME:
        return block.decode_outcome(frame)
    if frame.kind == FrameKind.LAYOUT:
        layout = declared.layouts[frame.layout] = block.decode_layout(frame)
        (declared.sealed.add if layout.seals else declared.sealed.discard)(frame.layout)
    elif frame.kind == FrameKind.SEAL:
        declared.seal = bytes(frame.head)
    return None


def end_of(found: Block, repaired: bool) -> BlockEnd:
    """The end frame that these frames deserve."""
    frames = [frame for frame in found.frames if frame.kind != FrameKind.END]
    return BlockEnd(
        frames=len(frames),
        rows=sum(one.rows for one in frames if one.kind == FrameKind.PREDICTIONS),
        outcomes=sum(one.kind == FrameKind.OUTCOME for one in frames),
        repaired=repaired,
    )


def read_block(data: bytes) -> Block:
    """The block in these bytes, open or closed.

    Raises: InputError (`bad-block`, `newer-block`) if not even its header can be read.
    """
    frames, end, stop = block.scan(memoryview(data))
    if not frames:
        raise InputError("bad-block", f"the block has {len(data)} bytes and no whole header")
    return Block(block.decode_header(frames[0]), frames, end, stop)


def open_either(path: Path) -> int | None:
    """A descriptor of the block, also if it was closed (renamed) since its name was listed; None
    if it is gone, which means that it was compacted."""
    for suffix in (path.suffix, CLOSED):
        with contextlib.suppress(FileNotFoundError):
            return os.open(path.with_suffix(suffix), os.O_RDONLY)
    return None


def list_blocks(folder: Path) -> dict[str, Path]:
    """stem -> path of each open and closed block of a node's folder, ordered by name."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (OPEN, CLOSED))
    except FileNotFoundError:
        return {}
    return {path.stem: path for path in paths}


class _Followed(msgspec.Struct):
    fd: int
    offset: int
    declared: Declared
    is_skipped: bool = False


class Tail:
    """Follow a node's blocks: each `poll` gives what was added since the last one.

    folder: `<home>/journal/<node>`. from_end: what the first poll finds is passed over.
    skip_slots: writers that are not of interest, such as the caller itself. A block is held open
    while it is followed, so that rolling and compaction take nothing away. Use it as a context
    manager, or `close()` it.
    """

    def __init__(
        self, folder: Path, *, from_end: bool = True, skip_slots: Collection[str] = ()
    ) -> None:
        self._folder = folder
        self._from_end = from_end
        self._skip_slots = frozenset(skip_slots)
        self._followed: dict[str, _Followed] = {}
        self._done: set[str] = set()
        self.damaged_blocks = 0
        """Blocks that were given up because of bytes that are not frames."""

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for one in self._followed.values():
            os.close(one.fd)
        self._followed.clear()

    @property
    def behind_bytes(self) -> int:
        """How much is written and not yet read, in the blocks that are followed."""
        return sum(
            max(0, os.fstat(one.fd).st_size - one.offset)
            for one in self._followed.values()
            if not one.is_skipped
        )

    def skip_to_end(self) -> None:
        """Pass over everything written so far (to catch up by dropping)."""
        while self.behind_bytes:
            before = self._offsets()
            for _ in self.poll():
                pass
            if self._offsets() == before:
                return  # what is left is a frame that is being written

    def _offsets(self) -> dict[str, int]:
        return {stem: one.offset for stem, one in self._followed.items()}

    def poll(self) -> Iterator[Group]:
        """Groups added since the last poll, at most READ_BYTES_MAX per block (or one frame)."""
        self._take_up()
        for stem in list(self._followed):
            yield from self._advance(stem)

    def _take_up(self) -> None:
        listed = list_blocks(self._folder)
        self._done &= set(listed)
        for stem, path in listed.items():
            if stem not in self._followed and stem not in self._done:
                self._follow(stem, path)
        self._from_end = False

    def _follow(self, stem: str, path: Path) -> None:
        if self._from_end and path.suffix == CLOSED:
            self._done.add(stem)
        elif (fd := open_either(path)) is not None:
            one = self._followed[stem] = _Followed(fd, 0, Declared())
            if self._from_end:
                self._pass_over(one, os.fstat(fd).st_size)

    def _pass_over(self, one: _Followed, until: int) -> None:
        """Continue at the last frame boundary at or before `until`, knowing the layouts."""
        data = memoryview(os.pread(one.fd, until, 0))
        frames, one.offset, _ = block.scan(data)
        self._read_header(one, frames)
        for frame in frames:
            if frame.kind in (FrameKind.LAYOUT, FrameKind.SEAL):
                part_of(frame, one.declared)

    def _read_header(self, one: _Followed, frames: list[Frame]) -> None:
        if frames and frames[0].kind == FrameKind.HEADER:
            one.is_skipped = block.decode_header(frames[0]).slot in self._skip_slots

    def _advance(self, stem: str) -> Iterator[Group]:
        one = self._followed[stem]
        frames, stop = self._read_frames(one)
        self._read_header(one, frames)
        for frame in frames:
            one.offset += frame.end - frame.start
            part = None if one.is_skipped else part_of(frame, one.declared)
            if isinstance(part, Group):
                yield part
        is_closed = bool(frames) and frames[-1].kind == FrameKind.END
        if is_closed or (not frames and self._is_over(stem, one, stop)):
            os.close(self._followed.pop(stem).fd)
            self._done.add(stem)

    def _read_frames(self, one: _Followed) -> tuple[list[Frame], Stop]:
        data = os.pread(one.fd, READ_BYTES_MAX, one.offset)
        frames, _, stop = block.scan(memoryview(data))
        if not frames and len(data) == READ_BYTES_MAX:
            data = os.pread(one.fd, block.FRAME_BYTES_MAX + READ_BYTES_MAX, one.offset)
            frames, _, stop = block.scan(memoryview(data))
        return frames, stop

    def _is_over(self, stem: str, one: _Followed, stop: Stop) -> bool:
        """Whether nothing more can come: the name is a closed block's, or gone."""
        if stop is Stop.DAMAGED or one.offset > os.fstat(one.fd).st_size:
            # A writer whose disk was full took back what we saw a part of: find our feet again.
            self._pass_over(one, one.offset)
        if (self._folder / (stem + OPEN)).exists():
            return False
        if os.fstat(one.fd).st_size > one.offset and not self._read_frames(one)[0]:
            self.damaged_blocks += 1
            return True
        return os.fstat(one.fd).st_size <= one.offset
