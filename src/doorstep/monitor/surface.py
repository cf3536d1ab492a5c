"""What the operations of monitors take and give."""

from __future__ import annotations

from typing import Any

import msgspec

from doorstep.core.instant import Instant


class ListFindings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """service: "" for all. state: open, resolved, or "" for both."""

    service: str = ""
    state: str = "open"


class MonitorFindingView(msgspec.Struct, frozen=True, kw_only=True):
    """severity: info, warning or critical. alert: somebody was told about it."""

    id: str
    service: str
    kind: str
    subject: str
    severity: str
    state: str
    sentence: str
    cause: str
    next: str
    since: Instant
    updated_at: Instant
    resolved_at: Instant | None
    alert: bool
    numbers: dict[str, Any]


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """Worst and newest first."""

    findings: tuple[MonitorFindingView, ...]


class ShowMonitor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: str


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Reference against the window. p: smallest p-value of the column's tests after Holm.
    shift_sd: Wasserstein distance in standard deviations. counts: by code, 32 numbers and nulls."""

    column: str
    type: str
    drifted: bool
    p: float | None
    shift_sd: float | None
    ks: float | None
    psi: float | None
    nulls_reference: float
    nulls_now: float
    reference: tuple[float, ...]
    now: tuple[float, ...]
    labels: tuple[str, ...]


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the service file and what it measures now. state: kept, broken, not-yet-known."""

    text: str
    state: str
    measured: str


class ValueView(msgspec.Struct, frozen=True, kw_only=True):
    """What the cases of one version were worth, as far as it is known for `rows` of them. day: UTC,
    of the predictions; "" for all days. mean, total: (estimate, low, high), 95 %; low and high are
    None for a single case. total: rows times the mean."""

    version: int
    day: str
    rows: int
    mean: tuple[float, float | None, float | None]
    total: tuple[float, float | None, float | None]


class MonitorView(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured of a service now. quality: metric -> (estimate, low, high), empty before
    there are outcomes. Three windows: columns are compared on `rows` in [since, since + window_s),
    the newest closed one with traffic; errors, failed (not answered by the assigned version) and
    latency are of the last `traffic_s`; quality is of `quality_s` that ended `quality_delay_s` ago,
    where the share `labelled` of the predictions, `labelled_rows`, has an outcome; values are of
    the same predictions and count in `unit`. labels: the share in words, "" without predictions."""

    service: str
    version: int | None
    window_s: float
    since: Instant
    rows: int
    columns: tuple[ColumnDrift, ...]
    quality: dict[str, tuple[float, float, float]]
    labelled: float
    labelled_rows: int
    quality_s: float
    errors: float | None
    failed: float | None
    latency_ms_p99: float | None
    traffic_s: float
    promises: tuple[Promise, ...]
    findings: tuple[MonitorFindingView, ...]
    quality_delay_s: float = 0.0
    labels: str = ""
    unit: str = ""
    values: tuple[ValueView, ...] = ()


class GoalNow(msgspec.Struct, frozen=True, kw_only=True):
    """The goal as one version keeps it. state: kept, broken, not-yet-known. measured: words with
    the confidence sequence, whose ends are low and high; None without cases. counted: cases."""

    version: int
    text: str
    state: str
    measured: str
    value: float | None
    low: float | None
    high: float | None
    counted: int


class ShowStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """service: "" for all."""

    service: str = ""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One service at a glance. state: healthy, watch (a warning is open), broken (a critical
    finding), killed (the version that serves must not be asked: the headline says who answers),
    releasing, or waiting (nothing released yet).
    watched: the version that another service serves, where none is champion. headline: a sentence
    made from facts. requests, errors: per minute, the last 60, oldest first.
    rescued: in these 60, what the assigned version failed and another one or the fallback answered.
    quality: the first promised quality metric: (name, estimate, low, high), None without outcomes.
    requests, errors, rescued and latency are of the last `traffic_s`; quality, value and labelled
    of the `quality_s` that ended `quality_delay_s` ago. value: (mean, low, high) of what a case of
    its version was worth, in `unit`; None if it is not known. promise_ms_p99: the promised latency,
    None if nothing is promised. objective: kept, broken, not-yet-known, or none: of the goal, as
    the version that serves keeps it, else of all promised quality. goal: by version, newest
    first."""

    service: str
    state: str
    headline: str
    champion: int | None
    challenger: int | None
    share: float
    release_state: str
    requests: tuple[int, ...]
    errors: tuple[int, ...]
    error_rate: float | None
    rescued: int
    latency_ms_p99: float | None
    promise_ms_p99: float | None
    traffic_s: float
    quality: tuple[str, float, float, float] | None
    labelled: float
    quality_s: float
    drifted: tuple[str, ...]
    objective: str
    findings_open: int
    watched: int | None = None
    quality_delay_s: float = 0.0
    value: tuple[float, float | None, float | None] | None = None
    unit: str = ""
    goal: tuple[GoalNow, ...] = ()


class Statuses(msgspec.Struct, frozen=True, kw_only=True):
    """Worst first."""

    services: tuple[ServiceStatus, ...]
