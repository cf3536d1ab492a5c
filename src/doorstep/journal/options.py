"""How a node keeps its journal, as it is told at its start."""

from __future__ import annotations

import msgspec

from doorstep.core.errors import UsageError
from doorstep.core.report import JournalMode

SURVIVES: dict[JournalMode, str] = {
    "default": "the death of any process; power loss can cost what was answered last",
    "durable": "the death of any process, and power loss where the disk survives",
}


class JournalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """mode: when a record counts as kept (`commit`)."""

    mode: JournalMode = "default"

    @property
    def words(self) -> list[str]:
        """As options of a node: what is not the default."""
        return ["--journal", self.mode] if self.mode != "default" else []


def journal_options(mode: str) -> JournalOptions:
    """What options say. Raises: UsageError (`bad-journal`)."""
    for known in SURVIVES:
        if mode == known:
            return JournalOptions(mode=known)
    raise UsageError("bad-journal", f"--journal is {mode!r}; expected one of {', '.join(SURVIVES)}")
