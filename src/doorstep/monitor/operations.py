"""Operations of monitors, findings and the status of services."""

from __future__ import annotations

from collections.abc import Iterable

from doorstep.core.condition import Condition, Quantity
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.operation import operation
from doorstep.core.plural import plural
from doorstep.core.record import TRAFFIC
from doorstep.core.servicefile import read_stored
from doorstep.core.servicefile_watch import WatchSpec
from doorstep.journal.operations import count_rescued, count_rows
from doorstep.journal.spool import count_waiting
from doorstep.journal.summary import Cell, latency_ms
from doorstep.journal.watched import read_watched
from doorstep.kernel.app import App
from doorstep.monitor import store
from doorstep.monitor.decide import LOADING, QUALITY_WINDOW_S
from doorstep.monitor.gather import Watched, gather_shown, quality_seen, unloaded_of, watched
from doorstep.monitor.goals import goals_of
from doorstep.monitor.headline import headline, state_of
from doorstep.monitor.promises import promises
from doorstep.monitor.surface import (
    Findings,
    GoalNow,
    ListFindings,
    MonitorView,
    ServiceStatus,
    ShowMonitor,
    ShowStatus,
    Statuses,
)
from doorstep.monitor.types import SEVERITIES, MonitorFinding, QualityWindow, ServiceFacts
from doorstep.monitor.views import finding_view, mean_of, monitor_view
from doorstep.register.store import ServiceRow, get_service, list_services
from doorstep.release import store as releases
from doorstep.release.callers import read_callers

MINUTES_SHOWN = 60
ORDER = ("killed", "broken", "watch", "releasing", "healthy", "waiting")


@operation("finding.list", permission="finding:read", effect="read")
def list_findings(app: App, asked: ListFindings) -> Findings:
    """List findings, worst first."""
    with app.database.reading() as connection:
        found = store.list_findings(connection, asked.service, asked.state)
    return Findings(findings=tuple(finding_view(one) for one in _worst_first(found)))


def _worst_first(found: Iterable[MonitorFinding]) -> list[MonitorFinding]:
    return sorted(
        found, key=lambda one: (one.state != "open", -SEVERITIES.index(one.severity), -one.since)
    )


@operation("monitor.show", permission="finding:read", effect="read")
def show_monitor(app: App, asked: ShowMonitor) -> MonitorView:
    """Show what is measured of a service now: drift, quality, errors, latency, promises."""
    now = app.clock.now()
    seen = watched(app, asked.service)
    with app.database.reading() as connection:
        known = store.list_findings(connection, asked.service, "open")
    shown = tuple(finding_view(one) for one in _worst_first(known))
    if seen is None:
        return _nothing_yet(asked.service, now)
    return monitor_view(gather_shown(app, seen, now), shown)


def _nothing_yet(service: str, now: Instant) -> MonitorView:
    return MonitorView(
        service=service,
        version=None,
        window_s=0.0,
        since=now,
        rows=0,
        columns=(),
        quality={},
        labelled=0.0,
        labelled_rows=0,
        quality_s=0.0,
        errors=None,
        failed=None,
        latency_ms_p99=None,
        traffic_s=0.0,
        promises=(),
        findings=(),
    )


@operation("service.status", permission="service:read", effect="read")
def show_status(app: App, asked: ShowStatus) -> Statuses:
    """Show services at a glance, worst first."""
    with app.database.reading() as connection:
        rows = (
            [get_service(connection, asked.service)] if asked.service else list_services(connection)
        )
    found = [_status(app, row, app.clock.now()) for row in rows]
    return Statuses(services=tuple(sorted(found, key=lambda one: ORDER.index(one.state))))


def _recorded(app: App, row: ServiceRow) -> str:
    """What waits of a service that is to be watched, in words; "" if nothing does."""
    file, _ = read_stored(row.file)
    most = ((file and file.watch) or WatchSpec()).reference_rows
    count = count_waiting(app.home.path, row.name, most)
    other = f"doorstep journal import {row.name} --reference FILE"
    rows = plural(count, "row was", "rows were")
    said = f"{rows} recorded; with {most:,}, later ones are compared with these"
    return f"{said}, or at once with others: {other}" if count else ""


def _status(app: App, row: ServiceRow, now: Instant) -> ServiceStatus:
    with app.database.reading() as connection:
        champion = releases.champions(connection).get(row.name)
        tenures = releases.list_tenures(connection, row.name)
        running = releases.find_running(connection, row.name)
        callers = read_callers(connection, row, app.home.environment)
        known = store.list_findings(connection, row.name, "open")
    unloaded = unloaded_of(app, row.name)
    # What nodes say now is newer than the finding about it.
    findings = _worst_first(one for one in known if one.subject != LOADING)
    since = now - MINUTES_SHOWN * 60 * SECOND_US
    rows = count_rows(app, row.name, since, now, 60)
    counted = [one for one in rows if one.kind in TRAFFIC]
    seen = watched(app, row.name)
    quality = quality_seen(app, seen) if seen else None
    goals = goals_of(app, row.name, seen.file.goal if seen else None)
    release = running.release if running else None
    requests, errors = _per_minute(counted, now)
    elsewhere = seen.elsewhere if seen else None
    asked = champion or (elsewhere.number if elsewhere else None)
    known_elsewhere = read_watched(app.home.path, row.name)
    said = headline(
        row.name, champion, tenures, release, findings, now, callers, unloaded, known_elsewhere
    )
    if asked is None and release is None:
        said = _recorded(app, row) or said
    state = state_of(asked, release, findings, callers.kill, unloaded, was_served=bool(tenures))
    promised = _promised_ms(seen.file.monitor.slo if seen else ())
    first_quality = _first_quality(seen.file.monitor.quality if seen else (), quality)
    return ServiceStatus(
        service=row.name,
        state=state,
        headline=said,
        champion=champion,
        watched=elsewhere.number if elsewhere else None,
        challenger=release.challenger if release else None,
        share=release.share if release else 0.0,
        release_state=release.state.value if release else "",
        requests=requests,
        errors=errors,
        error_rate=sum(errors) / sum(requests) if sum(requests) else None,
        rescued=count_rescued(counted),
        latency_ms_p99=_p99(counted),
        promise_ms_p99=promised,
        traffic_s=MINUTES_SHOWN * 60.0,
        quality=first_quality,
        labelled=quality.labelled / quality.rows if quality and quality.rows else 0.0,
        quality_s=QUALITY_WINDOW_S,
        drifted=tuple(one.subject for one in findings if one.kind == "drift"),
        objective=_objective(seen, quality, goals),
        findings_open=len(known),
        quality_delay_s=quality.delay_s if quality else 0.0,
        value=_value(seen, quality),
        unit=seen.file.monitor.outcomes.unit if seen else "",
        goal=goals,
    )


def _value(
    seen: Watched | None, quality: QualityWindow | None
) -> tuple[float, float | None, float | None] | None:
    for one in quality.values if quality else ():
        if seen is not None and (one.version, one.day) == (seen.version.number, ""):
            return mean_of(one)
    return None


def _per_minute(rows: list[Cell], now: Instant) -> tuple[tuple[int, ...], tuple[int, ...]]:
    newest = now // (60 * SECOND_US)
    requests, errors = [0] * MINUTES_SHOWN, [0] * MINUTES_SHOWN
    for row in rows:
        index = MINUTES_SHOWN - 1 - (newest - row.at // (60 * SECOND_US))
        if 0 <= index < MINUTES_SHOWN:
            requests[index] += row.rows
            errors[index] += row.errors
    return tuple(requests), tuple(errors)


def _p99(rows: list[Cell]) -> float | None:
    if not rows:
        return None
    histogram = tuple(sum(bins) for bins in zip(*(row.latency for row in rows), strict=True))
    return latency_ms(histogram, 0.99) if sum(histogram) else None


def _promised_ms(slo: tuple[Condition, ...]) -> float | None:
    bounds = [one.right for one in slo if one.left == "p99"]
    return next((float(one.value) for one in bounds if isinstance(one, Quantity)), None)


def _first_quality(
    promised: tuple[Condition, ...], window: QualityWindow | None
) -> tuple[str, float, float, float] | None:
    if window is None or not window.labelled:
        return None
    names = [*(one.left for one in promised), "auc", "r2", "accuracy"]
    for name in names:
        found = window.metrics.get(name)
        if found and found.value is not None and found.low is not None and found.high is not None:
            return name, found.value, found.low, found.high
    return None


def _objective(
    seen: Watched | None, quality: QualityWindow | None, goals: tuple[GoalNow, ...]
) -> str:
    """Of the goal, as the version that serves keeps it; without one of all promised quality: broken
    if any is, kept if all are."""
    if seen is not None and seen.file.goal is not None:
        mine = (one.state for one in goals if one.version == seen.version.number)
        return next(mine, "not-yet-known")
    if seen is None or not seen.file.monitor.quality:
        return "none"
    facts = ServiceFacts(
        service=seen.version.service,
        version=seen.version.number,
        positive=seen.manifest.positive,
        quality=quality,
        promised=seen.file.monitor.quality,
    )
    states = {one.state for one in promises(facts) if one.kind == "quality"}
    if "broken" in states:
        return "broken"
    return "kept" if states == {"kept"} else "not-yet-known"
