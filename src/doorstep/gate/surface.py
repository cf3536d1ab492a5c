"""What the operations of gates take and give."""

from __future__ import annotations

import msgspec

from doorstep.core.instant import Instant
from doorstep.core.verdict import Finding, Verdict


class RunGates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """version: `loans@3`."""

    version: str


class GateRun(msgspec.Struct, frozen=True, kw_only=True):
    """verdict: the worst of the findings. champion: the version it was compared with, if any."""

    id: str
    version: str
    champion: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    started_at: Instant
    took_s: float
    by: str


class ShowGates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: str


class GateRuns(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    runs: tuple[GateRun, ...]
