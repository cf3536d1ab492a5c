"""Which predictions were erased, for nodes: `<home>/journal/erased`, 16 bytes each, appended to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

NAME = "erased"
DIGEST_BYTES = 16


def note_erased(journal: Path, predictions: Iterable[str]) -> None:
    """Add these ids, on the disk; to add one again does no harm. Raises: OSError."""
    fd = os.open(journal / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    try:
        os.write(fd, b"".join(map(_digest, predictions)))
        os.fsync(fd)
    finally:
        os.close(fd)


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
        try:
            if self._path.stat().st_size - self._read_bytes < DIGEST_BYTES:
                return
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except FileNotFoundError:
            return
        whole = len(data) // DIGEST_BYTES * DIGEST_BYTES
        self._known |= {data[at : at + DIGEST_BYTES] for at in range(0, whole, DIGEST_BYTES)}
        self._read_bytes += whole


def _digest(prediction: str) -> bytes:
    return blake2b(prediction.encode(), digest_size=DIGEST_BYTES).digest()
