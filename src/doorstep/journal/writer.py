"""One process's way into the journal: buffer, then one write. Only stdlib, msgspec, core and files.

    <folder>/<node>/<boot>-<slot>-<sequence>.open    being written, flock held by its writer
    <folder>/<node>/<boot>-<slot>-<sequence>.block   closed: it ends with an end frame
    <folder>/<node>/<boot>-<slot>.lock               one writer per slot; holds the last sequence

A record is safe from the death of this process once `flush` returned, and from power loss too if
`durable`, and from the loss of this machine with a `replica`, which has it before the file does. A
flush that fails keeps nothing of what was buffered: its callers get an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from doorstep.core.errors import OverloadedError, RefusedError, UnreachableError
from doorstep.core.ids import parse_name
from doorstep.core.instant import Clock, SystemClock
from doorstep.core.record import Layout, OutcomeRecord, PredictionMeta
from doorstep.journal import block
from doorstep.journal.block import (
    NUMBER_BYTES,
    BlockEnd,
    BlockHeader,
    FrameKind,
    append_frame,
)
from doorstep.journal.replica import Mirror, Replica
from doorstep.kernel.files import sync_folder

BLOCK_BYTES_MAX = 64 * 1024 * 1024
BLOCK_AGE_S_MAX = 60.0
BUFFER_BYTES_MAX = 256 * 1024 * 1024
"""Twice the largest frame. A flusher that is stuck must not eat the memory of the process."""
LOCK_TRIES_MAX = 10
_PREDICTIONS = int(FrameKind.PREDICTIONS)
_SEAL = int(FrameKind.SEAL)
_sync = getattr(os, "fdatasync", os.fsync)


class Taken(msgspec.Struct, gc=False):
    """Frames that wait to be written, with what they hold. It fills until it is taken."""

    data: bytearray = msgspec.field(default_factory=bytearray)
    layouts: set[int] = msgspec.field(default_factory=set)
    frames: int = 0
    rows: int = 0
    outcomes: int = 0


class _OpenBlock(msgspec.Struct):
    """The file being written. due_s: when it is old. size: up to the last good frame. declared:
    layouts it has."""

    fd: int
    path: Path
    due_s: float
    size: int
    declared: set[int]
    frames: int = 1
    rows: int = 0
    outcomes: int = 0


class BlockWriter:
    """Not thread-safe, but `take` may run in one thread (an event loop) while `write` runs in
    another, so that an fsync need not stop the loop; `flush` does both.

    folder: `<home>/journal`. boot, slot: names, unique together among live writers of the node.
    replica: closed with the writer. With it `write` raises UnreachableError (`replica-unreachable`)
    too, also if there is nothing to write.
    Raises: RefusedError (`journal-slot-taken`) if a live writer has this slot; OSError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node: str,
        boot: str,
        slot: str,
        durable: bool = False,
        replica: Replica | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._folder = folder / parse_name(node, "node")
        self._node, self._boot = node, parse_name(boot, "boot")
        self._slot, self._durable = parse_name(slot, "slot"), durable
        self._clock = clock or SystemClock()
        self._monotonic_s = self._clock.monotonic_s
        self._mirror = Mirror(replica, node, self._clock) if replica else None
        self._folder.mkdir(parents=True, exist_ok=True)
        if durable:
            for made in (self._folder, folder, folder.parent):
                sync_folder(made)
        self._lock_fd = lock_slot(self._folder / f"{boot}-{slot}.lock", f"{node}/{boot}-{slot}")
        self._sequence = int(os.pread(self._lock_fd, 20, 0) or b"0")
        self._layouts: list[Layout] = []
        self._widths: list[int] = []
        self._encode = msgspec.msgpack.Encoder().encode
        self._block: _OpenBlock | None = None
        self._buffer, self._seal = Taken(), b""

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer.data)

    @property
    def outage(self) -> UnreachableError | None:
        """Why the second place did not acknowledge the last time; None if it did."""
        return self._mirror.outage if self._mirror else None

    def declare(self, layout: Layout) -> int:
        """The number of this layout, 1 or more; equal layouts get the same number."""
        if layout in self._layouts:
            return self._layouts.index(layout) + 1
        if len(self._layouts) >= block.LAYOUTS_MAX:
            raise OverloadedError(
                "journal-layouts", f"{len(self._layouts)} layouts in one process are too many"
            )
        self._layouts.append(layout)
        self._widths.append(len(layout.numbers) * NUMBER_BYTES)
        return len(self._layouts)

    def predictions(
        self,
        layout_no: int,
        rows: Sequence[PredictionMeta],
        matrix: bytes | memoryview,
        seal: bytes = b"",
    ) -> None:
        """Buffer one frame. matrix: float64 little-endian, rows x numbers of the layout, row by
        row. seal: of the session that sealed fields of these rows.

        Raises: ValueError if it does not fit; OverloadedError `journal-buffer-full` if nothing
        flushes, `journal-frame-too-big`. After an error nothing of these rows is in the buffer."""
        taken, count = self._buffer, len(rows)
        buffer = taken.data
        size = matrix.nbytes if type(matrix) is memoryview else len(matrix)
        if size != count * self._widths[layout_no - 1] or layout_no < 1:
            raise ValueError(f"{size} bytes are not {count} rows of layout {layout_no}")
        if len(buffer) + size > BUFFER_BYTES_MAX:
            raise OverloadedError(
                "journal-buffer-full", f"{len(buffer)} bytes wait to be written to the journal"
            )
        if seal and seal != self._seal:
            append_frame(buffer, _SEAL, 0, 0, seal)
            self._seal = seal
            taken.frames += 1
        append_frame(buffer, _PREDICTIONS, layout_no, count, self._encode(rows), matrix)
        taken.layouts.add(layout_no)
        taken.frames += 1
        taken.rows += count

    def outcome(self, record: OutcomeRecord) -> None:
        """Buffer one outcome."""
        taken = self._buffer
        if len(taken.data) > BUFFER_BYTES_MAX:
            raise OverloadedError(
                "journal-buffer-full", f"{len(taken.data)} bytes wait to be written"
            )
        taken.data += block.encode_outcome(record)
        taken.frames += 1
        taken.outcomes += 1

    def take(self) -> Taken:
        """Everything buffered; the buffer is then empty."""
        taken = self._buffer
        self._buffer, self._seal = Taken(), b""
        return taken

    def flush(self) -> None:
        """Write everything buffered with one system call (and sync if durable), then roll a block
        that is full or old. Call it also when nothing is buffered, once a second or so: that
        closes old blocks.

        Raises: OSError; nothing of what was buffered is then in the journal.
        """
        self.write(self.take())

    def write(self, taken: Taken) -> None:
        """The second half of `flush`; calls must not overlap."""
        if taken.data:
            self._append(self._block or self._open(), taken)
        current = self._block
        if current and (current.size >= BLOCK_BYTES_MAX or self._monotonic_s() >= current.due_s):
            self._end_block(current)
        if self._mirror and not taken.data:
            self._mirror.keep()

    def close(self) -> None:
        """Flush, close the block and give the slot back. Raises: OSError as `flush` does."""
        try:
            if self._buffer.data:
                self.flush()
        finally:
            if self._block:
                self._end_block(self._block)
            if self._mirror:
                self._mirror.close()
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    def _open(self) -> _OpenBlock:
        """A new block with its header. It gets its name only when it is locked, so that nobody
        takes it for a dead writer's."""
        self._sequence += 1
        os.pwrite(self._lock_fd, b"%020d %s" % (self._sequence, self._boot.encode()), 0)
        path = self._folder / f"{self._boot}-{self._slot}-{self._sequence:08d}.open"
        header = BlockHeader(
            format=block.FORMAT,
            node=self._node,
            boot=self._boot,
            slot=self._slot,
            sequence=self._sequence,
            opened_at=self._clock.now(),
        )
        data = block.encode_header(header)
        fd = _create_locked(path, data)
        if self._durable:
            sync_folder(self._folder)
        if self._mirror:
            self._mirror.begin(path.stem, data)
        size = os.fstat(fd).st_size
        self._block = _OpenBlock(fd, path, self._monotonic_s() + BLOCK_AGE_S_MAX, size, set())
        return self._block

    def _append(self, current: _OpenBlock, taken: Taken) -> None:
        data = taken.data
        missing = () if taken.layouts <= current.declared else taken.layouts - current.declared
        if missing:
            said = (
                block.encode_layout(number, self._layouts[number - 1]) for number in sorted(missing)
            )
            data = bytearray().join((*said, data))
        if self._mirror:
            # Before the file has it: readers of the file see nothing that is given up again.
            self._mirror.keep(current.size, data)
        self._write_whole(current, data)
        if missing:
            current.declared |= taken.layouts
            current.frames += len(missing)
        current.frames += taken.frames
        current.rows += taken.rows
        current.outcomes += taken.outcomes

    def _write_whole(self, current: _OpenBlock, data: bytes | bytearray) -> None:
        try:
            written = os.write(current.fd, data)
            if written < len(data):
                _write_rest(current.fd, data, written)
            if self._durable:
                _sync(current.fd)
        except OSError:
            self._cut_back(current)
            raise
        current.size += len(data)

    def _cut_back(self, current: _OpenBlock) -> None:
        try:
            os.ftruncate(current.fd, current.size)
            is_whole = not self._durable
        except OSError:
            is_whole = False
        if not is_whole:
            # The next flush starts a new block, and recovery ends this one. After a sync that
            # failed nobody knows what of a file is on the disk, and the next may say nothing of it.
            os.close(current.fd)
            current.fd, self._block = -1, None

    def _end_block(self, current: _OpenBlock) -> None:
        """End frame and final name. Without room for the end frame the block keeps its open name,
        loses its lock, and recovery ends it later."""
        end = BlockEnd(frames=current.frames, rows=current.rows, outcomes=current.outcomes)
        data, size = block.encode_end(end), current.size
        self._block = None
        with contextlib.suppress(OSError):
            self._write_whole(current, data)
            if self._mirror:
                self._mirror.add(size, data)
            current.path.rename(current.path.with_suffix(".block"))
            if self._durable:
                sync_folder(self._folder)
        if current.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(current.fd)


def lock_slot(path: Path, what: str) -> int:
    """A descriptor that holds the exclusive lock of `path`, until it is closed or we die.

    Raises: RefusedError (`journal-slot-taken`) if somebody else holds it.
    """
    for _ in range(LOCK_TRIES_MAX):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            break
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # removed by a cleaner between our open and our lock: once more
    raise RefusedError(
        "journal-slot-taken",
        f"{what} is in use by another live process; expected one at a time",
        "stop the other process, or give this one another slot",
    )


def _create_locked(path: Path, header: bytes) -> int:
    unnamed = path.with_suffix(".new")
    fd = os.open(unnamed, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_rest(fd, header, 0)
        unnamed.rename(path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            unnamed.unlink()
        os.close(fd)
        raise
    return fd


def _write_rest(fd: int, data: bytes | bytearray, written: int) -> None:
    with memoryview(data) as view:
        while written < len(data):
            written += os.write(fd, view[written:])
