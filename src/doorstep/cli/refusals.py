"""Rows that were refused, with reasons, in a file beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

KEPT_MAX = 10_000
REASONS_MAX = 10_000
REASONS_SHOWN_MAX = 5


class Refusals:
    """count: how many. reasons: how often each. first: of the first row, "" if there is none. kept:
    where they are, "" for nowhere. is_only_copy: all are kept, behind those that are there
    already; else the first KEPT_MAX, in their place."""

    def __init__(self, path: Path, *, is_only_copy: bool = False) -> None:
        self._is_only_copy = is_only_copy
        self.count = 0
        self.reasons: dict[str, int] = {}
        self.first = self.kept = ""
        self._path = path
        self._file: BinaryIO | None = None

    def add(self, number: int, row: dict[str, Any], reason: str) -> None:
        self.count += 1
        self.first = self.first or f"row {number}: {reason}"
        if reason in self.reasons or len(self.reasons) < REASONS_MAX:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if self.count > KEPT_MAX and not self._is_only_copy:
            return
        if self._file is None:
            self._file = self._path.open("ab" if self._is_only_copy else "wb")
            self.kept = str(self._path)
        said = {"row": number, "reason": reason, "values": row}
        self._file.write(msgspec.json.encode(said, enc_hook=str) + b"\n")

    def sync(self) -> None:
        """What was added is on the disk. Raises: OSError."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def worst(self) -> str:
        """The most common reasons in one line."""
        ordered = sorted(self.reasons.items(), key=lambda one: -one[1])
        said = [f"{count:,} x {reason}" for reason, count in ordered[:REASONS_SHOWN_MAX]]
        more = len(ordered) - len(said)
        return ", ".join([*said, *([f"{more} other reasons"] if more > 0 else [])])
