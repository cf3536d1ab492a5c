"""What a monitor is given, and what it answers. All times are instants, all counts add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from doorstep.core.condition import Condition
from doorstep.core.ids import digest_of
from doorstep.core.instant import Instant
from doorstep.core.manifest import Profile
from doorstep.gate.types import Estimate
from doorstep.journal.retain import Due
from doorstep.journal.summary import PairSums
from doorstep.journal.troubles import Trouble
from doorstep.stats.distances import ColumnCounts

Kind = Literal["drift", "quality", "errors", "latency", "data"]
Severity = Literal["info", "warning", "critical"]
State = Literal["open", "resolved"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


class MonitorFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One incident of one subject, from when it was first seen until it was over.

    since: start of the first window that showed it. judged_until: end of the last window that was
    judged. looks_clear: judged windows in a row, none overlapping another, that showed nothing.
    severity: the worst so far. alert: somebody is told. ended: why it is over, "" while it is open.
    """

    id: str
    service: str
    kind: Kind
    subject: str
    severity: Severity
    state: State
    sentence: str
    cause: str
    next: str
    since: Instant
    updated_at: Instant
    judged_until: Instant
    resolved_at: Instant | None = None
    looks_clear: int = 0
    alert: bool = False
    ended: str = ""
    numbers: dict[str, Any] = {}

    @property
    def key(self) -> tuple[Kind, str]:
        return (self.kind, self.subject)


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at one subject saw. is_bad False: judged, and nothing is wrong. is_certain:
    a fact, or an estimate whose whole interval is good, so that one clear look ends it."""

    kind: Kind
    subject: str
    is_bad: bool
    since: Instant
    until: Instant
    severity: Severity = "info"
    sentence: str = ""
    cause: str = ""
    next: str = ""
    is_certain: bool = False
    numbers: dict[str, Any] = {}

    @property
    def key(self) -> tuple[Kind, str]:
        return (self.kind, self.subject)


class DriftWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Live predictions of one version in [since, until). columns: by the journal's column name
    (`in.age`, `ctx.store`, `out.bad`). warned: rows with a contract warning. pairs: of the columns
    of `Profile.pairs`."""

    since: Instant
    until: Instant
    rows: int
    columns: dict[str, ColumnCounts]
    warned: int = 0
    pairs: PairSums = PairSums()


class TrafficWindow(msgspec.Struct, frozen=True, kw_only=True):
    """All live rows of the service in [since, until). errors: the caller got an error. statuses:
    by `core.record.Status`. latency: the histogram of `journal.summary`."""

    since: Instant
    until: Instant
    rows: int
    errors: int
    statuses: tuple[int, ...]
    latency: tuple[int, ...]


class ValueOf(msgspec.Struct, frozen=True, kw_only=True):
    """What the cases of one version were worth. day: UTC, of its predictions; "" for all days.
    total: of the cases whose value is known, which `mean.counted` counts."""

    version: int
    day: str
    mean: Estimate
    total: float


class QualityWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions whose outcome is due. rows: of the version in [since, until), each `delay_s`
    earlier; labelled: of those, with an outcome that counts here. metrics: name -> estimate on
    these. newest: (rows, labelled) of the last day of them, where a delay is declared. silent_s,
    pause_s: since the last outcome came, and the longest pause before; 0 where nobody can tell.
    values: what cases were worth, where the service file has a unit."""

    since: Instant
    until: Instant
    rows: int
    labelled: int
    metrics: dict[str, Estimate]
    delay_s: float = 0.0
    newest: tuple[int, int] = (0, 0)
    silent_s: float = 0.0
    pause_s: float = 0.0
    values: tuple[ValueOf, ...] = ()


class ServiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `decide.evaluate` may know about one service.

    version: the champion, None before the first release. positive: its positive label, "" if none.
    drift, traffic, quality: None where there is nothing to look at. slo, promised: the conditions
    of the service file. fresh: by promise that had an incident: quality by the outcomes that were
    received since the last window of it that was judged. served_since: when this version became
    champion. had_traffic: the service was asked in the day before `traffic` ended. unloaded: why
    versions cannot be loaded, by number. leaving: by node, records that go soon. troubles: by node,
    what is the matter with its journal. known: findings that are open, and those resolved not long
    ago. unit: of the values of cases. file_faults: what is wrong with the newest service file by
    now; is_file_read: whether it is in effect even so.
    """

    service: str
    version: int | None
    positive: str = ""
    reference: Profile | None = None
    drift: DriftWindow | None = None
    traffic: TrafficWindow | None = None
    quality: QualityWindow | None = None
    fresh: Mapping[str, QualityWindow] = {}
    slo: tuple[Condition, ...] = ()
    promised: tuple[Condition, ...] = ()
    served_since: Instant | None = None
    had_traffic: bool = False
    unloaded: Mapping[int, str] = {}
    leaving: Mapping[str, Due] = {}
    troubles: Mapping[str, Sequence[Trouble]] = {}
    alert_kinds: frozenset[str] = frozenset({"drift", "quality", "slo"})
    known: tuple[MonitorFinding, ...] = ()
    unit: str = ""
    file_faults: tuple[str, ...] = ()
    is_file_read: bool = True


PromiseState = Literal["kept", "broken", "not-yet-known"]


class PromiseNow(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of the service file and what it measures now. measured: words with the
    interval; numbers: the same as data, enough to judge again."""

    text: str
    kind: Kind
    state: PromiseState
    measured: str
    is_met: bool
    numbers: dict[str, Any]


def finding_id(service: str, kind: Kind, subject: str, since: Instant) -> str:
    """The same incident has the same id wherever it is computed; 16 hexadecimal digits."""
    return digest_of(f"{service}\n{kind}\n{subject}\n{since}".encode())[:16]


def worse(one: Severity, other: Severity) -> Severity:
    return max(one, other, key=SEVERITIES.index)
