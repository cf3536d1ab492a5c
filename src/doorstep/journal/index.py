"""The list of a node's compacted files: `journal/<node>/index.jsonl`, only ever appended to.

A line is a transaction: it names a block that is compacted (its file may then be deleted), the
files that hold its records now, and files that these replace. A line counts once its newline is
there; a reader ignores the rest, and the compactor cuts it off before it writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.instant import Instant
from doorstep.kernel.files import write_atomic

FORMAT = 1
INDEX = "index.jsonl"
COMPACTED = "compacted"


class ListedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file. path, summary: relative to the node's folder. first, last: the smallest
    and largest `at` (of outcomes: `received_at`). layout: digest; "" for outcomes. level: how far
    it is merged."""

    path: str
    summary: str
    service: str
    holds: Literal["predictions", "outcomes"]
    layout: str
    level: Literal["block", "hour", "day"]
    rows: int
    bytes: int
    sha256: str
    first: Instant
    last: Instant


class ClosedBlock(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says of a block, once: (node, block) names it. rows and outcomes: records.
    sha256: of its file as it was compacted; record_root: RFC 6962 root over the records' leaves, in
    order. damaged_bytes: what could not be read (kept beside it)."""

    format: int
    node: str
    boot: str
    block: str
    first: Instant
    last: Instant
    rows: int
    outcomes: int
    sha256: str
    record_root: str
    repaired: bool
    damaged_bytes: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """block: the stem of the compacted block; "" for merges. replaces: paths of files."""

    format: int = FORMAT
    at: Instant
    block: str = ""
    closed: ClosedBlock | None = None
    files: tuple[ListedFile, ...] = ()
    replaces: tuple[str, ...] = ()


class Listing(msgspec.Struct, frozen=True):
    """What readers use now. blocks: compacted. replaced: path -> since when it is replaced."""

    files: dict[str, ListedFile]
    blocks: frozenset[str]
    replaced: dict[str, Instant]


def read_entries(folder: Path) -> list[Entry]:
    """All whole lines, oldest first. Raises: InputError (`bad-index`)."""
    try:
        data = (folder / INDEX).read_bytes()
    except FileNotFoundError:
        return []
    decoder = msgspec.json.Decoder(Entry)
    whole = data[: data.rfind(b"\n") + 1]
    try:
        return [decoder.decode(line) for line in whole.splitlines()]
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InputError(
            "bad-index", f"{folder / INDEX} cannot be read: {error}", "restore it from a backup"
        ) from None


def fold(entries: Iterable[Entry]) -> Listing:
    """The state that the entries lead to."""
    files: dict[str, ListedFile] = {}
    blocks: set[str] = set()
    replaced: dict[str, Instant] = {}
    for entry in entries:
        for path in entry.replaces:
            files.pop(path, None)
            replaced[path] = entry.at
        files |= {one.path: one for one in entry.files}
        if entry.block:
            blocks.add(entry.block)
    return Listing(files, frozenset(blocks), replaced)


def append_entry(folder: Path, entry: Entry) -> None:
    """List it, durably. Only the node's compactor calls this. Raises: OSError."""
    fd = os.open(folder / INDEX, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        size = _cut_torn_line(fd)
        line = msgspec.json.encode(entry) + b"\n"
        try:
            if os.pwrite(fd, line, size) < len(line):
                raise OSError("no room for the whole line")
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)
            raise
    finally:
        os.close(fd)


def _cut_torn_line(fd: int) -> int:
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        data = os.pread(fd, size, 0)
        size = data.rfind(b"\n") + 1
        os.ftruncate(fd, size)
    return size


def rewrite(folder: Path, entries: Iterable[Entry]) -> None:
    """Replace the whole list, durably and at once."""
    data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
    write_atomic(folder / INDEX, data)


def sync_file(path: Path) -> None:
    with contextlib.closing(path.open("rb")) as file:
        os.fsync(file.fileno())
