"""What the operations of gates take and give."""

from __future__ import annotations

import msgspec

from doorstep.core.instant import Instant
from doorstep.core.verdict import Finding, Verdict


class RunGates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """version: `loans@3`."""

    version: str


class GateBasis(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict rests on; another basis, another verdict. All are digests, "" for none.

    conditions: of what the service file asks (`gate.basis`). champion: of the bundle that it was
    compared with. holdout: of the held-out rows."""

    conditions: str = ""
    champion: str = ""
    holdout: str = ""


class GateRun(msgspec.Struct, frozen=True, kw_only=True):
    """verdict: the worst of the findings. champion: the version it was compared with, if any.
    basis: a release asks whether it still holds."""

    id: str
    version: str
    champion: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    started_at: Instant
    took_s: float
    by: str
    basis: GateBasis = GateBasis()


class ShowGates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str


class GateRuns(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    runs: tuple[GateRun, ...]
