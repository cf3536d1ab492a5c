"""When a record counts as kept, so that its caller may be answered: the modes of a journal.

    default      handed to the operating system         survives the death of any process
    durable      on the disk (one fdatasync for many)   survives power loss too, where the disk does
    replicated   acknowledged by a second place         survives the loss of this machine too

`commit` takes what was buffered and calls `then` once it is kept, or with the error that kept it
from being so: then nothing of it is in the journal.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from doorstep.core.errors import OverloadedError
from doorstep.core.report import JournalMode
from doorstep.journal.writer import BUFFER_BYTES_MAX, BlockWriter, Taken

Then = Callable[[Exception | None], None]


class Loop(Protocol):
    """Of an event loop, what is needed here."""

    def call_soon_threadsafe(self, call: Callable[..., object], /, *arguments: Any) -> object: ...


class Commits(Protocol):
    @property
    def unkept(self) -> int:
        """Rows that are committed and not kept yet."""
        ...

    def when_kept(self, call: Callable[[], object]) -> None:
        """Have this called in the loop whenever fewer are unkept."""
        ...

    def commit(self, taken: Taken, then: Then) -> None: ...

    def close(self) -> None:
        """Write what waits and close the writer. Raises: OSError."""
        ...


class Direct:
    """Each by itself and at once: `then` is called before `commit` returns."""

    unkept = 0

    def __init__(self, writer: BlockWriter) -> None:
        self._writer = writer

    def when_kept(self, call: Callable[[], object]) -> None:
        pass

    def commit(self, taken: Taken, then: Then) -> None:
        try:
            self._writer.write(taken)
        except OSError as error:
            return then(error)
        return then(None)

    def close(self) -> None:
        self._writer.close()


class Grouped:
    """What is committed while a write is under way shares the next one. Writes happen in a thread,
    so that a disk that takes its time does not stop the event loop; `then` is called in the loop.
    """

    def __init__(self, writer: BlockWriter, loop: Loop) -> None:
        self._writer, self._loop = writer, loop
        self._waiting: list[tuple[Taken, Then]] = []
        self._waiting_bytes = 0
        self._is_writing = False
        self.unkept = 0
        self._tell_kept: Callable[[], object] = _nothing
        self._groups: SimpleQueue[list[tuple[Taken, Then]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
        self._thread.start()

    def when_kept(self, call: Callable[[], object]) -> None:
        self._tell_kept = call

    def commit(self, taken: Taken, then: Then) -> None:
        if taken.data and (outage := self._writer.outage):
            # Nobody waits for a place that is gone: whoever commits nothing (the clock) asks it.
            return then(outage)
        size = self._waiting_bytes + len(taken.data)
        if size > BUFFER_BYTES_MAX:
            said = f"{self._waiting_bytes} bytes wait to be written to the journal"
            return then(OverloadedError("journal-buffer-full", said))
        self._waiting_bytes = size
        self._waiting.append((taken, then))
        self.unkept += taken.rows
        if not self._is_writing:
            self._start()
        return None

    def close(self) -> None:
        self._groups.put(None)
        self._thread.join()
        try:
            if self._waiting:
                self._writer.write(_joined([taken for taken, _ in self._waiting]))
        finally:
            self._writer.close()

    def _start(self) -> None:
        group, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._is_writing = True
        self._groups.put(group)

    def _write_all(self) -> None:
        while (group := self._groups.get()) is not None:
            error: Exception | None = None
            try:
                self._writer.write(_joined([taken for taken, _ in group]))
            except Exception as found:  # noqa: BLE001  whoever waits must hear of it
                error = found
            self._loop.call_soon_threadsafe(self._written, group, error)

    def _written(self, group: list[tuple[Taken, Then]], error: Exception | None) -> None:
        self._is_writing = False
        self.unkept -= sum(taken.rows for taken, _ in group)
        # First, so that what waited for this disk is in the next write and not in the one after it.
        _guarded(self._tell_kept)
        if self._waiting and not self._is_writing:
            self._start()
        for _, then in group:
            _guarded(partial(then, error))


def commits_of(mode: JournalMode, writer: BlockWriter, loop: Loop) -> Commits:
    """writer: durable if the mode is, with a replica if it is replicated."""
    return Direct(writer) if mode == "default" else Grouped(writer, loop)


def _nothing() -> None:
    pass


def _guarded(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # noqa: BLE001  the others of the group wait too
        traceback.print_exc()


def _joined(many: Sequence[Taken]) -> Taken:
    if len(many) == 1:
        return many[0]
    return Taken(
        bytearray().join(one.data for one in many),
        set().union(*(one.layouts for one in many)),
        sum(one.frames for one in many),
        sum(one.rows for one in many),
        sum(one.outcomes for one in many),
    )
