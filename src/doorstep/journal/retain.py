"""What a journal keeps: whole files go when they are too old, or when there is too much of them.

By age, a file goes when its newest record is older than the service keeps its records
(`privacy.keep`). By size, the oldest files of settled days go until the rest fits. What will go
soon is said in `retention.json` first, and nothing goes before that has stood for a day. What is
due without having been said as due soon (a clock jumped, a node was off for weeks) starts that day
again: a wrong clock alone deletes nothing that people cannot save. What went
is in the index (the line that unlists it) and in the ledger (`journal.dropped`, each file once).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.manifest import decode_part
from doorstep.journal.index import Entry, ListedFile, append_entry
from doorstep.journal.summary import floor
from doorstep.kernel.files import write_atomic

FORMAT = 1
NOTICE = "retention.json"
GONE = "gone.json"
DROPPED_SUFFIX = ".dropped.json"
AHEAD_S = 7 * 86400
"""How long before a file is too old that is said; it is said as well when 90 % of the room is
used."""
AHEAD_SHARE = 0.9
STANDS_S = 86400
SETTLED_S = 3 * 86400
"""Of the last days nothing goes for want of room: the disk's reserve protects against that."""
DAY_S = 86400
Why = Literal["age", "size"]
Holds = Literal["predictions", "outcomes"]


class Bounds(msgspec.Struct, frozen=True):
    """keep_s: by service, how long its records are kept; one that is not named keeps them.
    bytes_max: of all files of the node."""

    keep_s: Mapping[str, float]
    bytes_max: float


class Drop(msgspec.Struct, frozen=True):
    file: ListedFile
    why: Why


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What goes soon of one service. since: when that was first said. first, last: of its
    records."""

    since: Instant
    why: Why
    files: int
    rows: int
    bytes: int
    first: Instant
    last: Instant


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What goes soon of a node's journal, by service."""

    format: int
    services: dict[str, Due]


class DroppedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says of a file that went, once: (node, file) names it."""

    format: int
    node: str
    file: str
    service: str
    holds: str
    rows: int
    bytes: int
    first: Instant
    last: Instant
    sha256: str
    why: Why


def plan_drops(files: Iterable[ListedFile], bounds: Bounds, now: Instant) -> list[Drop]:
    """Which files go at `now`, oldest first."""
    kept, found = [], []
    for one in sorted(files, key=lambda file: (file.last, file.path)):
        keep_s = bounds.keep_s.get(one.service)
        if keep_s is not None and one.last + round(keep_s * SECOND_US) < now:
            found.append(Drop(one, "age"))
        else:
            kept.append(one)
    too_much = sum(one.bytes for one in kept) - bounds.bytes_max
    for one in kept:
        if too_much <= 0 or floor(one.last, DAY_S) + SETTLED_S * SECOND_US > now:
            break
        found.append(Drop(one, "size"))
        too_much -= one.bytes
    return found


def plan_notice(
    files: Sequence[ListedFile], bounds: Bounds, now: Instant, before: Notice
) -> Notice:
    """What is to be said at `now`. before: what is said until now."""
    ahead = Bounds(bounds.keep_s, bounds.bytes_max * AHEAD_SHARE)
    soon: dict[str, list[Drop]] = {}
    for drop in plan_drops(files, ahead, now + AHEAD_S * SECOND_US):
        soon.setdefault(drop.file.service, []).append(drop)
    due_last: dict[str, Instant] = {}
    for drop in plan_drops(files, bounds, now):
        due_last[drop.file.service] = max(drop.file.last, due_last.get(drop.file.service, 0))

    def since(service: str) -> Instant:
        said = before.services.get(service)
        is_known = said is not None and due_last.get(service, 0) <= said.last
        return said.since if said is not None and is_known else now

    return Notice(
        format=FORMAT,
        services={service: _due(drops, since(service)) for service, drops in sorted(soon.items())},
    )


def _due(drops: list[Drop], since: Instant) -> Due:
    files = [one.file for one in drops]
    return Due(
        since=since,
        why=drops[0].why,
        files=len(files),
        rows=sum(one.rows for one in files),
        bytes=sum(one.bytes for one in files),
        first=min(one.first for one in files),
        last=max(one.last for one in files),
    )


def read_notice(folder: Path) -> Notice:
    """Of a node's folder; nothing is said if it cannot be read."""
    try:
        return decode_part((folder / NOTICE).read_bytes(), Notice, "notice")
    except (OSError, InputError):
        return Notice(format=FORMAT, services={})


def apply_bounds(
    folder: Path, files: Iterable[ListedFile], bounds: Bounds, now: Instant
) -> Entry | None:
    """Say what will go, and unlist what was said long enough ago: its files are deleted with those
    that merges replaced. A crash between two steps leaves the rest to the next run. Raises:
    OSError."""
    files = list(files)
    before = read_notice(folder)
    notice = plan_notice(files, bounds, now, before)
    if notice != before:
        write_atomic(folder / NOTICE, msgspec.json.encode(notice))
    stood = now - STANDS_S * SECOND_US
    due = [
        one
        for one in plan_drops(files, bounds, now)
        if one.file.service in notice.services and notice.services[one.file.service].since <= stood
    ]
    if not due:
        return None
    for one in due:
        told = folder / f"{Path(one.file.path).name}{DROPPED_SUFFIX}"
        write_atomic(told, msgspec.json.encode(_dropped(folder.name, one)))
    _note_gone(folder, due)
    entry = Entry(at=now, replaces=tuple(one.file.path for one in due))
    append_entry(folder, entry)
    return entry


def read_gone(folder: Path) -> dict[str, Instant]:
    """By "<holds>/<service>": until when its records went from a node's folder, so that they do not
    come back from a replica that still has them."""
    try:
        return msgspec.json.decode((folder / GONE).read_bytes(), type=dict[str, Instant])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}


def _note_gone(folder: Path, drops: Iterable[Drop]) -> None:
    gone = read_gone(folder)
    for one in (drop.file for drop in drops):
        name = f"{one.holds}/{one.service}"
        gone[name] = max(one.last, gone.get(name, one.last))
    write_atomic(folder / GONE, msgspec.json.encode(gone))


def _dropped(node: str, drop: Drop) -> DroppedFile:
    one = drop.file
    return DroppedFile(
        format=FORMAT, node=node, file=one.path, service=one.service, holds=one.holds,
        rows=one.rows, bytes=one.bytes, first=one.first, last=one.last, sha256=one.sha256,
        why=drop.why,
    )  # fmt: skip


def pending_dropped(home: Path) -> list[tuple[Path, DroppedFile]]:
    """Files that went and that the ledger may not have yet, of all nodes, with what says so."""
    found = []
    for path in sorted((home / "journal").glob(f"*/*{DROPPED_SUFFIX}")):
        try:
            found.append((path, decode_part(path.read_bytes(), DroppedFile, "dropped-file")))
        except (FileNotFoundError, InputError):
            continue
    return found
