"""One incident per subject while it lasts: opened at once, closed only when it is surely over.

No flapping, by three rules. A number that is neither bad nor good (its interval crosses the limit)
changes nothing. An incident closes after `LOOKS_CLEAR_MIN` judged windows without it. One that
comes back within `REOPEN_S` of its end is the same incident again. A window is judged once, however
often it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.monitor.types import (
    SEVERITIES,
    Kind,
    MonitorFinding,
    Observation,
    ServiceFacts,
    finding_id,
    worse,
)

LOOKS_CLEAR_MIN = 3
REOPEN_S = 3600
ALERT_OF_KIND = {"drift": "drift", "quality": "quality", "errors": "slo", "latency": "slo"}
"""What `alert.when` of the service file calls each kind; `data` is shown, not told."""


def carry_on(
    facts: ServiceFacts, observations: Iterable[Observation], now: Instant
) -> list[MonitorFinding]:
    """The findings that are open now or were closed by this look, worst first.

    A subject that was not observed keeps its open finding as it is. Resolved findings that stay
    resolved are not repeated.
    """
    known = _latest(facts.known)
    seen = {one.key: one for one in observations}
    found: list[MonitorFinding] = []
    for key in known.keys() | seen.keys():
        after = step(facts, known.get(key), seen.get(key), now)
        if after is not None:
            found.append(after)
    return sorted(found, key=_rank)


def _latest(findings: Iterable[MonitorFinding]) -> dict[tuple[Kind, str], MonitorFinding]:
    return {one.key: one for one in sorted(findings, key=lambda one: one.updated_at)}


def _rank(one: MonitorFinding) -> tuple[bool, int, Instant, str]:
    return (one.state != "open", -SEVERITIES.index(one.severity), -one.since, one.subject)


def step(
    facts: ServiceFacts,
    before: MonitorFinding | None,
    seen: Observation | None,
    now: Instant,
) -> MonitorFinding | None:
    """What becomes of one subject after one look. None: nothing to tell."""
    is_open = before is not None and before.state == "open"
    if seen is None:
        return before if is_open else None
    if before is not None and seen.until <= before.judged_until:
        return before if is_open else None
    if seen.is_bad:
        can_resume = before is not None and (is_open or _ended_lately(before, now))
        return _resumed(facts, before, seen, now) if can_resume else _opened(facts, seen, now)
    return _cleared(before, seen, now) if is_open else None


def _ended_lately(before: MonitorFinding, now: Instant) -> bool:
    return before.resolved_at is not None and now - before.resolved_at < REOPEN_S * SECOND_US


def _opened(facts: ServiceFacts, seen: Observation, now: Instant) -> MonitorFinding:
    return MonitorFinding(
        id=finding_id(facts.service, seen.kind, seen.subject, seen.since),
        service=facts.service,
        kind=seen.kind,
        subject=seen.subject,
        severity=seen.severity,
        state="open",
        sentence=seen.sentence,
        cause=seen.cause,
        next=seen.next,
        since=seen.since,
        updated_at=now,
        judged_until=seen.until,
        alert=_is_told(facts, seen.kind, seen.severity),
        numbers=seen.numbers,
    )


def _resumed(
    facts: ServiceFacts, before: MonitorFinding | None, seen: Observation, now: Instant
) -> MonitorFinding:
    assert before is not None
    severity = worse(before.severity, seen.severity)
    return msgspec.structs.replace(
        _opened(facts, seen, now),
        id=before.id,
        since=before.since,
        severity=severity,
        alert=before.alert or _is_told(facts, seen.kind, severity),
    )


def _cleared(before: MonitorFinding | None, seen: Observation, now: Instant) -> MonitorFinding:
    assert before is not None
    looks = before.looks_clear + 1
    is_over = looks >= LOOKS_CLEAR_MIN
    return msgspec.structs.replace(
        before,
        state="resolved" if is_over else "open",
        resolved_at=now if is_over else None,
        looks_clear=looks,
        judged_until=seen.until,
        updated_at=now,
    )


def _is_told(facts: ServiceFacts, kind: str, severity: str) -> bool:
    """Somebody is told of what matters; small but certain changes wait in the report."""
    return severity != "info" and ALERT_OF_KIND.get(kind, "") in facts.alert_kinds


def alerts(
    before: Iterable[MonitorFinding], after: Iterable[MonitorFinding]
) -> list[MonitorFinding]:
    """Of the findings after a look: those that somebody must be told of now, once per incident and
    once more when it gets critical."""
    told = {one.id: one for one in before if one.alert}
    return [one for one in after if one.state == "open" and one.alert and _is_news(told, one)]


def _is_news(told: dict[str, MonitorFinding], one: MonitorFinding) -> bool:
    was = told.get(one.id)
    return was is None or (one.severity == "critical" and was.severity != "critical")
