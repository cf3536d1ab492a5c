"""The node report: what a node serves, how it is, and its live evidence. One small file a node.

`nodes/<node>.json` in the home, replaced atomically about twice a second while something changes,
else every few seconds. Liveness is that `sequence` rose on the observer's monotonic clock.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from doorstep.core.instant import Instant

FORMAT = 1
UNITS_MAX = 2048
"""Distinct units kept per cell: enough to decide (1,000 are needed at a ceiling of 0.5 %)."""
SLOW_MAX = 4
"""Thresholds above which a latency may be counted."""

Arm = Literal["champion", "challenger"]
JournalMode = Literal["default", "durable", "replicated"]


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Evidence of one (release, epoch, segment, assigned arm) on one node since its boot.

    requests: answered requests. ok: those the assigned version answered itself. bad: those it did
    not (a champion's answer after the challenger failed counts here, against the challenger).
    seen, bad_units: distinct 64-bit unit hashes as little-endian bytes, at most UNITS_MAX each, the
    first to come. plus, zero, minus: shadow pairs where only the challenger erred, both did
    the same, only the champion erred; of each unit its first pair, and its first in which one alone
    erred: then the unit is in bad_units of the challenger's cell, or, where it was the champion, in
    its seen. alike, differ: shadow pairs with the same and with another answer, of each unit the
    first. timed: requests whose latency was taken, of each unit one; slow: of these, those above
    each of the release's thresholds.
    """

    release: str
    epoch: int
    segment: str
    arm: Arm
    requests: int = 0
    ok: int = 0
    bad: int = 0
    in_flight: int = 0
    seen: bytes = b""
    bad_units: bytes = b""
    plus: int = 0
    zero: int = 0
    minus: int = 0
    alike: int = 0
    differ: int = 0
    timed: int = 0
    slow: tuple[int, ...] = (0,) * SLOW_MAX


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """kind: front, engine, shadow. starts: how often this slot was started; 1 is the first.
    serves: of an engine, the version it was started for, `loans@3`."""

    slot: str
    kind: Literal["front", "engine", "shadow", "compactor"]
    pid: int
    starts: int
    plan_number: int
    rss_mb: float = 0.0
    serves: str = ""


class ServiceReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """requests, errors: counted since boot, on this node. latency_ms_*, requests_per_s: of the
    last minute or so (0 if none)."""

    service: str
    requests: int
    errors: int
    latency_ms_p50: float = 0.0
    latency_ms_p99: float = 0.0
    requests_per_s: float = 0.0


class NodeReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """plan_number: the plan that *every* front worker serves, also those that are on their way out
    and those that a supervisor before this one left. loaded: `service@N` resident here.
    problems: what could not be loaded or done, each a sentence; the last good plan then serves.
    held_back: services that are not as plan `plan_number` has them (they are as before, or left
    out, or their fallback chain answers), because that cannot be loaded (yet). unloaded: why a
    `service@N` for which its fallback chain answers could not be loaded. journal: the mode of its
    journal."""

    format: int
    node: str
    boot: str
    sequence: int
    at: Instant
    plan_term: int
    plan_number: int
    lease_held: bool
    data_url: str
    workers: tuple[WorkerReport, ...]
    loaded: tuple[str, ...]
    problems: tuple[str, ...]
    services: tuple[ServiceReport, ...]
    cells: tuple[Cell, ...]
    held_back: tuple[str, ...] = ()
    unloaded: dict[str, str] = {}
    journal: JournalMode = "default"
