"""How a node keeps its journal, as it is told at its start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import msgspec

from doorstep.core.errors import UsageError
from doorstep.core.report import JournalMode

MB, GB = 10**6, 10**9
JOURNAL_GB_MAX = 100
DISK_RESERVE_MB = 256
RESERVE_SHARE_MAX = 0.05
"""Of a small disk the reserve is less than was asked for: else nothing would ever be written."""
DiskLow = Literal["refuse", "no-inputs"]
SURVIVES: dict[JournalMode, str] = {
    "default": "the death of any process; power loss can cost what was answered last",
    "durable": "the death of any process, and power loss where the disk survives",
}


class JournalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """mode: when a record counts as kept (`commit`). gb_max: more of compacted files than this, and
    the oldest days go. reserve_mb: with less free on its disk, `disk_low` says what happens:
    requests are refused, or go on without their inputs."""

    mode: JournalMode = "default"
    gb_max: float = JOURNAL_GB_MAX
    reserve_mb: float = DISK_RESERVE_MB
    disk_low: DiskLow = "refuse"

    @property
    def words(self) -> list[str]:
        """As options of a node: what is not the default."""
        usual = JournalOptions()
        pairs = (
            ("--journal", self.mode, usual.mode),
            ("--journal-max", self.gb_max, usual.gb_max),
            ("--disk-reserve", self.reserve_mb, usual.reserve_mb),
            ("--disk-low", self.disk_low, usual.disk_low),
        )
        return [word for name, one, other in pairs if one != other for word in (name, str(one))]


def journal_options(
    mode: str = "default",
    gb_max: float = JOURNAL_GB_MAX,
    reserve_mb: float = DISK_RESERVE_MB,
    disk_low: str = "refuse",
) -> JournalOptions:
    """What options say. Raises: UsageError (`bad-journal`)."""
    if gb_max <= 0 or reserve_mb < 0:
        raise UsageError(
            "bad-journal",
            f"--journal-max is {gb_max:g} GB and --disk-reserve {reserve_mb:g} MB; expected more "
            "than 0, and 0 or more",
        )
    _require("--journal", mode, tuple(SURVIVES))
    _require("--disk-low", disk_low, get_args(DiskLow))
    found = {"mode": mode, "gb_max": gb_max, "reserve_mb": reserve_mb, "disk_low": disk_low}
    return msgspec.convert(found, JournalOptions)


def _require(option: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        said = f"{option} is {found!r}; expected one of {', '.join(known)}"
        raise UsageError("bad-journal", said)


def shortage(folder: Path, reserve_mb: float) -> str:
    """What is wrong with the disk of a folder, "" if enough of it is free."""
    disk = os.statvfs(folder)
    free, whole = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    reserve = min(reserve_mb * MB, whole * RESERVE_SHARE_MAX)
    if free >= reserve:
        return ""
    return (
        f"{free / MB:.1f} MB are free where the journal is, less than the reserve of "
        f"{reserve / MB:.1f} MB"
    )
