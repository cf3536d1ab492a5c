"""Which sets of outcomes were recorded already, so that the same file sent twice counts once.

The newest are remembered. One that was forgotten is recorded again, which doubles records and
changes no answer: of several outcomes of a prediction the last counts."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from doorstep.core.errors import InputError
from doorstep.kernel.files import write_atomic

BATCHES_MAX = 100_000
_BATCH = re.compile(r"[0-9a-f]{64}\Z")


class Received:
    """path: a file with the name of one batch a line, only ever appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._batches: dict[str, None] | None = None
        """In the order in which they came; None until they are read."""

    def once(self, batch: str, write: Callable[[], int]) -> int:
        """What `write` says, or 0 without calling it if `batch` was received before.

        It is noted after it was written: dying in between records it again the next time, which
        doubles records and changes no answer. Raises: InputError (`bad-outcome`), OSError.
        """
        if not _BATCH.match(batch):
            raise InputError("bad-outcome", "the batch is not named by a SHA-256 of 64 hex digits")
        with self._lock:
            if batch in (known := self._known()):
                return 0
            written = write()
            if len(known) >= 2 * BATCHES_MAX:
                self._batches = known = dict.fromkeys(list(known)[-BATCHES_MAX:])
                write_atomic(self._path, "\n".join(known).encode())
            self._note(batch)
            known[batch] = None
            return written

    def _known(self) -> dict[str, None]:
        if self._batches is None:
            self._batches = {}
            with contextlib.suppress(FileNotFoundError):
                lines = self._path.read_text(errors="replace").split("\n")
                self._batches = dict.fromkeys(line for line in lines if _BATCH.match(line))
        return self._batches

    def _note(self, batch: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            os.write(fd, f"\n{batch}".encode())  # behind a line that was cut off, too
            os.fsync(fd)
        finally:
            os.close(fd)
