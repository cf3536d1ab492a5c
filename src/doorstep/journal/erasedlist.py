"""Which predictions were erased, for nodes: `<home>/journal/erased`, 16 bytes each, appended to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

NAME = "erased"
DIGEST_BYTES = 16


def note_erased(journal: Path, predictions: Iterable[str]) -> None:
    """Add these ids, on the disk; to add one again does no harm. Raises: OSError."""
    journal.mkdir(exist_ok=True)
    fd = os.open(journal / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    try:
        # What a full disk or a crash cut off is filled up, or all that follows would be off.
        whole = bytes(-os.fstat(fd).st_size % DIGEST_BYTES)
        os.write(fd, whole + b"".join(map(_digest, predictions)))
        os.fsync(fd)
    finally:
        os.close(fd)


def remember(journal: Path, predictions: Iterable[str]) -> None:
    """Add those of these ids that are missing, as after the journal was lost."""
    try:
        data = (journal / NAME).read_bytes()
    except FileNotFoundError:
        data = b""
    known = {data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)}
    if missing := [one for one in predictions if _digest(one) not in known]:
        note_erased(journal, missing)


def size_of(journal: Path) -> int:
    """In bytes; 0 if there is none."""
    try:
        return (journal / NAME).stat().st_size
    except FileNotFoundError:
        return 0


class ErasedList:
    """The list as it is now: each look asks how long the file is, and reads what is new."""

    def __init__(self, journal: Path) -> None:
        self._path = journal / NAME
        self._known: set[bytes] = set()
        self._read_bytes = 0

    def __contains__(self, prediction: object) -> bool:
        self._read()
        return _digest(str(prediction)) in self._known

    def _read(self) -> None:
        size = size_of(self._path.parent)
        # One that was lost is made again, in another order.
        self._read_bytes = 0 if size < self._read_bytes else self._read_bytes
        if size - self._read_bytes < DIGEST_BYTES:
            return
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read_bytes)
            self._take(file.read())

    def _take(self, data: bytes) -> None:
        whole = len(data) // DIGEST_BYTES * DIGEST_BYTES
        self._known |= {data[at : at + DIGEST_BYTES] for at in range(0, whole, DIGEST_BYTES)}
        self._read_bytes += whole


def _digest(prediction: str) -> bytes:
    return blake2b(prediction.encode(), digest_size=DIGEST_BYTES).digest()
