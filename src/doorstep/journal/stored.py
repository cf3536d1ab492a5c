"""What a node's compactor knows of its place in the store, in small files beside its list."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from doorstep.core.errors import DoorstepError
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.manifest import decode_part
from doorstep.journal.index import ListedFile
from doorstep.kernel.files import write_atomic

FORMAT = 1
STORE_INDEX = "index.json"
"""Of a place in the store."""
STORED = "stored.json"
STATUS = "store-status.json"
TRIM_STATUS = "trim-status.json"
BEHIND_S_MAX = 900
"""A store that does not answer, or a replica that forgets nothing, for so long is a problem of the
node."""


class StoredIndex(msgspec.Struct, frozen=True, kw_only=True):
    """What a place in the store holds. gone: path -> since when nobody is told of it any more.
    owner: the process that writes here; whoever starts makes itself the owner."""

    format: int = FORMAT
    node: str
    at: Instant
    files: tuple[ListedFile, ...] = ()
    gone: dict[str, Instant] = {}
    owner: str = ""


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node's store is. files, bytes: in it. waiting_*: not in it yet. behind_since: 0 if
    the last try went through. problem: what the last try said."""

    format: int = FORMAT
    at: Instant
    url: str
    files: int = 0
    bytes: int = 0
    waiting_files: int = 0
    waiting_bytes: int = 0
    behind_since: Instant = 0
    is_refused: bool = False
    problem: str = ""

    def said(self, now: Instant) -> str:
        """What a person should know; "" while all is well or it is too early to tell."""
        behind_s = (now - self.behind_since) / SECOND_US if self.behind_since else 0
        if not self.is_refused and behind_s < BEHIND_S_MAX:
            return ""
        return (
            f"the journal's store is {behind_s / 60:.0f} minutes behind, {self.waiting_files} "
            f"files ({self.waiting_bytes / 1e6:.1f} MB) wait on this disk: {self.problem}"
        )


def read_status(folder: Path) -> StoreStatus | None:
    """Of a node's folder; None if it has no store."""
    with contextlib.suppress(FileNotFoundError, DoorstepError):
        return decode_part((folder / STATUS).read_bytes(), StoreStatus, "store-status")
    return None


class TrimStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Why the replica could not be told to forget what is old. since: of the first of such tries
    in a row."""

    since: Instant
    problem: str


def read_trim(folder: Path) -> TrimStatus | None:
    """Of a node's folder; None while its replica forgets what it should."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / TRIM_STATUS).read_bytes(), type=TrimStatus)
    return None


def note_trim(folder: Path, problem: str, now: Instant) -> None:
    """problem: "" after a try that went through."""
    if not problem:
        (folder / TRIM_STATUS).unlink(missing_ok=True)
    elif (before := read_trim(folder)) is None or before.problem != problem:
        status = TrimStatus(since=before.since if before else now, problem=problem)
        write_atomic(folder / TRIM_STATUS, msgspec.json.encode(status))


def store_status(home: Path, node: str) -> StoreStatus | None:
    return read_status(home / "journal" / node)


def store_problems(home: Path, node: str, now: Instant) -> list[str]:
    """Of a node and its replica, as sentences."""
    status, trim = store_status(home, node), read_trim(home / "journal" / node)
    found = [said] if status and (said := status.said(now)) else []
    if trim and (minutes := (now - trim.since) / SECOND_US / 60) * 60 >= BEHIND_S_MAX:
        found.append(f"for {minutes:.0f} minutes the replica has forgotten nothing: {trim.problem}")
    return found


def read_stored(folder: Path) -> frozenset[str]:
    """Paths that may be in the store's list: all that are, and perhaps a few more."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / STORED).read_bytes(), type=frozenset[str])
    return frozenset()
