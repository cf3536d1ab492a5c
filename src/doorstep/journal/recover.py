"""Blocks of dead writers are cut to their last whole frame, ended, and closed.

A writer holds a flock on its open block. The kernel lets go of it when the process dies, however
it dies; so a block whose lock we get is one that nobody writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from doorstep.core.errors import InputError
from doorstep.journal import block
from doorstep.journal.block import Stop
from doorstep.journal.reader import CLOSED, OPEN, end_of, read_block

UNNAMED_KEPT_S = 60.0
LOCK_KEPT_S = 30 * 86400.0
"""A slot's lock file holds its last sequence, which must not come again while its boot lives."""


class Recovered(msgspec.Struct, frozen=True):
    """path: the closed block. cut_bytes: what was torn off its end; kept in `<stem>.cut` unless
    it was an unfinished frame or zeros."""

    path: Path
    cut_bytes: int


def recover(folder: Path) -> list[Recovered]:
    """Close the blocks of dead writers in a node's folder. Live writers are left alone.

    Safe to run at any time, also by several processes, and again after a crash. A block that a
    newer Doorstep wrote, or that no room is left to end, is left for later.
    """
    found = []
    for path in sorted(folder.glob(f"*{OPEN}")):
        with contextlib.suppress(OSError), _locked(path) as fd:
            if fd is not None and (one := _close_block(path, fd)) is not None:
                found.append(one)
    _remove_unnamed(folder)
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """A locked descriptor of `path`; None if its writer lives or it has another name by now."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd if os.fstat(fd).st_ino == path.stat().st_ino else None
    except BlockingIOError:
        yield None
    finally:
        os.close(fd)


def _close_block(path: Path, fd: int) -> Recovered | None:
    data = path.read_bytes()
    try:
        found = read_block(data)
    except InputError as error:
        if error.code == "bad-block":
            if any(data):
                path.rename(path.with_suffix(".damaged"))
            else:
                path.unlink()  # power went between its name and its first record
        return None
    cut = data[found.whole_bytes :]
    if cut and found.stop is Stop.DAMAGED and any(cut):
        path.with_suffix(".cut").write_bytes(cut)
    os.ftruncate(fd, found.whole_bytes)
    if found.end is None:
        end = end_of(found, repaired=True)
        os.pwrite(fd, block.encode_end(end), found.whole_bytes)
    os.fsync(fd)
    path.rename(path.with_suffix(CLOSED))
    return Recovered(path.with_suffix(CLOSED), len(cut))


def _remove_unnamed(folder: Path) -> None:
    """Blocks whose writer died before they had a name, and so before they had a record."""
    for path in folder.glob("*.new"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > UNNAMED_KEPT_S:
                path.unlink()


def remove_old_locks(folder: Path, now_s: float) -> list[Path]:
    """Remove lock files of boots that are long gone. A boot with one live writer keeps them all,
    as a slot of it may start again and must continue its sequence."""
    locks: dict[bytes, list[Path]] = {}
    for path in folder.glob("*.lock"):
        locks.setdefault(path.read_bytes()[21:], []).append(path)
    old = [paths for paths in locks.values() if all(_is_old(path, now_s) for path in paths)]
    return [path for paths in old for path in paths if _remove_lock(path)]


def _is_old(path: Path, now_s: float) -> bool:
    return now_s - path.stat().st_mtime > LOCK_KEPT_S and not _is_held(path)


def _is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove_lock(path: Path) -> bool:
    with contextlib.suppress(OSError), _locked(path) as fd:
        if fd is not None:
            path.unlink()
            return True
    return False
