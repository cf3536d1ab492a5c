"""The monitors' own clock: each service in turn; what a look finds is stored and ledgered."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from doorstep.core.errors import DoorstepError
from doorstep.core.instant import Instant
from doorstep.core.servicefile import describe_problem, read_stored
from doorstep.journal.reports import leave_report
from doorstep.kernel.app import App
from doorstep.kernel.event import Object
from doorstep.monitor import store
from doorstep.monitor.decide import evaluate
from doorstep.monitor.gather import gather, watched
from doorstep.monitor.goals import look_at_goal
from doorstep.monitor.types import MonitorFinding, ServiceFacts
from doorstep.register.store import get_service, list_services

_log = logging.getLogger("doorstep.monitor")


class Monitors:
    """Looks at every service each `every_s`, or each of its drift windows if they are shorter;
    only where this process leads."""

    def __init__(self, app: Callable[[], App], every_s: float) -> None:
        self._app = app
        self._every_s = every_s
        self._looked_s: dict[str, float] = {}

    def tick(self) -> None:
        app = self._app()
        if app.leader_term == 0:
            return
        with app.database.reading() as connection:
            services = list_services(connection)
        now_s = app.clock.monotonic_s()
        for service in services:
            file, _ = read_stored(service.file, app.home.environment)
            every_s = min(self._every_s, file.monitor.drift.window_s if file else self._every_s)
            if now_s - self._looked_s.get(service.name, -every_s) < every_s:
                continue
            self._looked_s[service.name] = now_s
            try:
                look(app, service.name, app.clock.now())
                if file is not None:
                    look_at_goal(app, service.name, file)
            except DoorstepError as error:
                # One service that cannot be looked at must not blind the others.
                _log.warning("%s: %s", service.name, error)


def look(app: App, service: str, now: Instant) -> list[MonitorFinding]:
    """Judge one service once; store and ledger what changed. Returns the findings that changed."""
    seen = watched(app, service)
    with app.database.reading() as connection:
        known = tuple(store.list_findings(connection, service))
        file, faults = read_stored(get_service(connection, service).file, app.home.environment)
    nothing_serves = ServiceFacts(service=service, version=None, known=known)
    facts = msgspec.structs.replace(
        gather(app, seen, now, known) if seen else nothing_serves,
        file_faults=tuple(map(describe_problem, faults)),
        is_file_read=file is not None,
    )
    found = evaluate(facts, now)
    before = {one.id: one for one in known}
    changed = [one for one in found if before.get(one.id) != one]
    if changed:
        _save(app, changed, before)
    return changed


def _save(app: App, changed: list[MonitorFinding], before: dict[str, MonitorFinding]) -> None:
    with app.database.transaction() as unit:
        for one in changed:
            store.save_finding(unit.connection, one)
            kind = _kind_of(before.get(one.id), one)
            if kind:
                _report(app, kind, one)
                unit.record(
                    kind,
                    Object("finding", one.id),
                    {
                        "service": one.service,
                        "kind": one.kind,
                        "subject": one.subject,
                        "severity": one.severity,
                        "sentence": one.sentence,
                        "alert": one.alert,
                        "ended": one.ended,
                    },
                )


def _report(app: App, kind: str, one: MonitorFinding) -> None:
    """Before the commit: after a crash between the two, what is seen again is told again."""
    name = f"{one.id}-{kind.rpartition('.')[2]}"
    document = {"format": 1, "kind": kind, "finding": one}
    try:
        leave_report(
            app.home.path, one.service, name, one.updated_at, msgspec.json.encode(document)
        )
    except (OSError, DoorstepError) as error:
        _log.warning("%s: the report of %s is not kept: %s", one.service, one.subject, error)


def _kind_of(before: MonitorFinding | None, after: MonitorFinding) -> str:
    """ "" where only numbers moved: those are the finding's row, not a change of state."""
    if before is None or (before.state == "resolved" and after.state == "open"):
        return "finding.opened"
    if before.state == "open" and after.state == "resolved":
        return "finding.resolved"
    return "finding.escalated" if before.severity != after.severity else ""
