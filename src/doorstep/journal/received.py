"""Which sets of outcomes were recorded already, so that the same file sent twice counts once."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from doorstep.core.errors import InputError

_BATCH = re.compile(r"[0-9a-f]{64}\Z")


class Received:
    """path: a file with the name of one batch a line, only ever appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def once(self, batch: str, write: Callable[[], int]) -> int:
        """What `write` says, or 0 without calling it if `batch` was received before.

        It is noted after it was written: dying in between records it again the next time, which
        doubles records and changes no answer. Raises: InputError (`bad-outcome`), OSError.
        """
        if not _BATCH.match(batch):
            raise InputError("bad-outcome", "the batch is not named by a SHA-256 of 64 hex digits")
        with self._lock:
            if batch in self._known():
                return 0
            written = write()
            self._note(batch)
            return written

    def _known(self) -> set[str]:
        try:
            return set(self._path.read_text(errors="replace").split("\n"))
        except FileNotFoundError:
            return set()

    def _note(self, batch: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            os.write(fd, f"\n{batch}".encode())  # behind a line that was cut off, too
            os.fsync(fd)
        finally:
            os.close(fd)
