"""What the journal knows of services that are only watched: `<home>/watched/<service>.json`.

Small and operational: made anew from the database and the journal's rows if it is lost. It is how
those who have only the home, like the compactor, find the reference of a watched version.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.ids import parse_name
from doorstep.core.instant import Instant
from doorstep.core.manifest import decode_part
from doorstep.kernel.files import write_atomic

FOLDER = "watched"
FORMAT = 1


class WatchedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version: what the other service calls it, its number here, its bundle. first, last:
    `at` of its oldest and newest record; rows: how many were recorded."""

    name: str
    number: int
    bundle: str
    first: Instant
    last: Instant
    rows: int


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """One service. lost: requests that a recorder had to leave out. refused: rows that could not
    be taken, since the beginning."""

    format: int = FORMAT
    service: str
    versions: tuple[WatchedVersion, ...] = ()
    lost: int = 0
    refused: int = 0

    @property
    def newest(self) -> WatchedVersion | None:
        """The version that answered last."""
        return max(self.versions, key=lambda one: (one.last, one.number), default=None)

    def find(self, number: int) -> WatchedVersion | None:
        return next((one for one in self.versions if one.number == number), None)

    def counted(self, number: int, ats: list[Instant]) -> Watched:
        """With these records of a version that is known."""
        versions = tuple(
            msgspec.structs.replace(
                one,
                first=min(one.first, *ats) if one.rows else min(ats),
                last=max(one.last, *ats),
                rows=one.rows + len(ats),
            )
            if one.number == number and ats
            else one
            for one in self.versions
        )
        return msgspec.structs.replace(self, versions=versions)


def watched_folder(home: Path) -> Path:
    return home / FOLDER


def read_watched(home: Path, service: str) -> Watched | None:
    """None for a service that nobody watches. Raises: OSError."""
    try:
        data = (watched_folder(home) / f"{parse_name(service)}.json").read_bytes()
        return decode_part(data, Watched, "watched")
    except (FileNotFoundError, InputError):
        return None


def write_watched(home: Path, watched: Watched) -> None:
    """Raises: OSError."""
    folder = watched_folder(home)
    folder.mkdir(exist_ok=True)
    path = folder / f"{parse_name(watched.service)}.json"
    write_atomic(path, msgspec.json.encode(watched))
