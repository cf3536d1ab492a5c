"""Facts and findings as the operations give them."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec

from doorstep.core.contract import FieldType
from doorstep.core.manifest import ColumnProfile
from doorstep.core.record import Status
from doorstep.journal.summary import latency_ms
from doorstep.monitor.drift import column_report, compared_columns, subject_of
from doorstep.monitor.promises import promises
from doorstep.monitor.surface import (
    ColumnDrift,
    MonitorFindingView,
    MonitorView,
    Promise,
    ValueView,
)
from doorstep.monitor.types import MonitorFinding, ServiceFacts, ValueOf
from doorstep.monitor.wording import length_s, say_labels
from doorstep.stats.distances import ColumnCounts
from doorstep.stats.distances import ColumnDrift as Report

QUANTILE_MS = 0.99


def finding_view(one: MonitorFinding) -> MonitorFindingView:
    return MonitorFindingView(
        id=one.id,
        service=one.service,
        kind=one.kind,
        subject=one.subject,
        severity=one.severity,
        state=one.state,
        sentence=one.sentence,
        cause=one.cause,
        next=one.next,
        since=one.since,
        updated_at=one.updated_at,
        resolved_at=one.resolved_at,
        alert=one.alert,
        numbers=msgspec.to_builtins(_finite_numbers(one.numbers)),
    )


def _finite_numbers(numbers: dict[str, object]) -> dict[str, object]:
    """JSON has no NaN: a number that is not one is absent."""
    return {
        key: value
        for key, value in numbers.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }


def monitor_view(facts: ServiceFacts, findings: tuple[MonitorFindingView, ...]) -> MonitorView:
    """What `doorstep monitor` and the monitor page show."""
    drift, traffic, quality = facts.drift, facts.traffic, facts.quality
    assert drift is not None
    profiles, _ = compared_columns(facts)
    metrics = quality.metrics if quality else {}
    return MonitorView(
        service=facts.service,
        version=facts.version,
        window_s=length_s(drift),
        since=drift.since,
        rows=drift.rows,
        columns=tuple(
            _column(one, profiles[one.column], drift.columns[one.column])
            for one in column_report(facts)
        ),
        quality={
            name: (one.value, one.low, one.high)
            for name, one in metrics.items()
            if one.value is not None and one.low is not None and one.high is not None
        },
        labelled=quality.labelled / quality.rows if quality and quality.rows else 0.0,
        labelled_rows=quality.labelled if quality else 0,
        quality_s=length_s(quality) if quality else 0.0,
        errors=traffic.errors / traffic.rows if traffic and traffic.rows else None,
        failed=1 - traffic.statuses[Status.OK] / traffic.rows if traffic and traffic.rows else None,
        latency_ms_p99=_p99(facts),
        traffic_s=length_s(traffic) if traffic else 0.0,
        promises=tuple(
            Promise(text=one.text, state=one.state, measured=one.measured)
            for one in promises(facts)
        ),
        findings=findings,
        quality_delay_s=quality.delay_s if quality else 0.0,
        labels=say_labels(quality) if quality and quality.rows else "",
        unit=facts.unit,
        values=tuple(map(_value, quality.values)) if quality else (),
    )


def _value(one: ValueOf) -> ValueView:
    rows = one.mean.counted
    low, high = (end if end is None else end * rows for end in (one.mean.low, one.mean.high))
    return ValueView(
        version=one.version,
        day=one.day,
        rows=rows,
        mean=mean_of(one),
        total=(one.total, low, high),
    )


def mean_of(one: ValueOf) -> tuple[float, float | None, float | None]:
    return one.mean.value or 0.0, one.mean.low, one.mean.high


def _p99(facts: ServiceFacts) -> float | None:
    if facts.traffic is None or not sum(facts.traffic.latency):
        return None
    return latency_ms(facts.traffic.latency, QUANTILE_MS)


def _column(one: Report, profile: ColumnProfile, now: ColumnCounts) -> ColumnDrift:
    rows_then = sum(profile.counts) + profile.nulls
    rows_now = sum(now.codes) + now.missing
    reference, current, labels = _bars(profile, now)
    return ColumnDrift(
        column=subject_of(one.column),
        type=profile.type,
        drifted=one.drifted,
        p=min(one.p_holm.values(), default=None),
        shift_sd=_known(one.wasserstein_sd) if profile.edges else None,
        ks=_known(one.ks) if profile.edges else None,
        psi=_known(one.psi),
        nulls_reference=profile.nulls / rows_then if rows_then else 0.0,
        nulls_now=now.missing / rows_now if rows_now else 0.0,
        reference=reference,
        now=current,
        labels=labels,
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bars(
    profile: ColumnProfile, now: ColumnCounts
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Shares by bar, then missing: eight groups of bins for numbers, values for the rest."""
    groups, labels = (
        _number_groups(profile) if profile.edges else _text_groups(profile.categories, profile.type)
    )

    def shares(counts: tuple[int, ...], nulls: int) -> tuple[float, ...]:
        total = max(1, sum(counts) + nulls)
        found = [sum(counts[code] for code in group) / total for group in groups]
        return (*found, nulls / total)

    return (
        shares(profile.counts, profile.nulls),
        shares(now.codes, now.missing),
        (*labels, "missing"),
    )


def _number_groups(profile: ColumnProfile) -> tuple[list[range], list[str]]:
    groups = [range(start, start + 4) for start in range(0, 32, 4)]
    edges = [profile.edges[group.stop - 1] for group in groups[:-1]]
    labels = [f"below {edges[0]:.4g}"]
    labels += [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return groups, [*labels, f"{edges[-1]:.4g} and above"]


def _text_groups(categories: tuple[str, ...], kind: FieldType) -> tuple[list[range], list[str]]:
    groups = [range(code, code + 1) for code in range(len(categories))]
    labels = list(categories)
    groups += [range(30, 31), range(31, 32)]
    return groups, [*labels, "other known", "never seen" if kind == "category" else "new"]
