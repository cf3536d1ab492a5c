"""How a node keeps its journal, as it is told at its start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import msgspec

from doorstep.core.errors import UsageError
from doorstep.core.report import JournalMode
from doorstep.journal.replica import VARIABLE, require_replica

MB, GB = 10**6, 10**9
JOURNAL_GB_MAX = 100
DISK_RESERVE_MB = 256
RESERVE_SHARE_MAX = 0.05
"""Of a small disk the reserve is less than was asked for: else nothing would ever be written."""
REPLICA_DAYS = 30
DiskLow = Literal["refuse", "no-inputs"]
SURVIVES: dict[JournalMode, str] = {
    "default": "the death of any process; power loss can cost what was answered last",
    "durable": "the death of any process, and power loss where the disk survives",
    "replicated": "the loss of its machine too, as long as its replica is there: `doorstep journal "
    "restore` brings it back",
}


class JournalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """mode: when a record counts as kept (`commit`). gb_max: more of compacted files than this, and
    the oldest days go. reserve_mb: with less free on its disk, `disk_low` says what happens:
    requests are refused, or go on without their inputs. replica: the URL of a second place, "" for
    none; what is older than replica_days is forgotten there."""

    mode: JournalMode = "default"
    gb_max: float = JOURNAL_GB_MAX
    reserve_mb: float = DISK_RESERVE_MB
    disk_low: DiskLow = "refuse"
    replica: str = ""
    replica_days: float = REPLICA_DAYS

    @property
    def words(self) -> list[str]:
        """As options of a node: what is not the default. Not the replica's URL, which may hold a
        password: it goes by the variable."""
        usual = JournalOptions()
        pairs = (
            ("--journal", self.mode, usual.mode),
            ("--journal-max", self.gb_max, usual.gb_max),
            ("--disk-reserve", self.reserve_mb, usual.reserve_mb),
            ("--disk-low", self.disk_low, usual.disk_low),
            ("--replica-days", self.replica_days, usual.replica_days),
        )
        return [word for name, one, other in pairs if one != other for word in (name, str(one))]

    @property
    def words_of_compactor(self) -> list[str]:
        return ["--journal-max", str(self.gb_max), "--replica-days", str(self.replica_days)]

    @property
    def variables(self) -> dict[str, str]:
        """For the environment of those who write the journal: what `words` leaves out. Engines do
        not get it: they run the code of others."""
        return {VARIABLE: self.replica} if self.replica else {}


def journal_options(
    mode: str = "default",
    gb_max: float = JOURNAL_GB_MAX,
    reserve_mb: float = DISK_RESERVE_MB,
    disk_low: str = "refuse",
    replica: str = "",
    replica_days: float = REPLICA_DAYS,
) -> JournalOptions:
    """What options say. replica: not looked at in other modes. Raises: UsageError (`bad-journal`,
    `bad-replica`), MissingExtraError."""
    if gb_max <= 0 or reserve_mb < 0 or replica_days <= 0:
        raise UsageError(
            "bad-journal",
            f"--journal-max is {gb_max:g} GB, --disk-reserve {reserve_mb:g} MB and --replica-days "
            f"{replica_days:g}; expected more than 0, 0 or more, and more than 0",
        )
    _require("--journal", mode, tuple(SURVIVES))
    _require("--disk-low", disk_low, get_args(DiskLow))
    if mode == "replicated":
        require_replica(replica)
    found = {"mode": mode, "gb_max": gb_max, "reserve_mb": reserve_mb, "disk_low": disk_low}
    found |= {"replica": replica if mode == "replicated" else "", "replica_days": replica_days}
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
