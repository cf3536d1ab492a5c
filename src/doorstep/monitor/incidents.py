"""One incident per subject while it lasts: opened at once, closed only when it is surely over.

No flapping, by three rules. A number that is neither bad nor good (its interval crosses the limit)
changes nothing. An incident closes after `LOOKS_CLEAR_MIN` judged windows without it that do not
overlap each other, nor the last window that showed it. One that comes back within `REOPEN_S` of its
end is the same incident again. A rolling window opens an incident at the first look that shows it,
but however often the same hour is looked at, it counts once for closing one. Quality, whose windows
are a week, is over at the first look at which newer outcomes are sure of it (`is_certain`).

A subject that is no longer asked about, such as a promise that was taken out of the service file,
cannot be judged any more: its incident is closed, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
NOT_ASKED = "no longer asked"
CLEARED = "clear"
REOPEN_S = 3600
ALERT_OF_KIND = {"drift": "drift", "quality": "quality", "errors": "slo", "latency": "slo"}
"""What `alert.when` of the service file calls each kind; `data` is shown, not told."""


def carry_on(
    facts: ServiceFacts,
    observations: Iterable[Observation],
    now: Instant,
    is_asked: Callable[[Kind, str], bool] = lambda _kind, _subject: True,
) -> list[MonitorFinding]:
    """The findings that are open now or were closed by this look, worst first.

    A subject that is asked about and was not observed keeps its open finding as it is; one that is
    not asked about is closed. Resolved findings that stay resolved are not repeated.
    """
    known = _latest(facts.known)
    seen = {one.key: one for one in observations}
    found: list[MonitorFinding] = []
    for key in known.keys() | seen.keys():
        before = known.get(key)
        is_over = before is not None and before.state == "open" and not is_asked(*key)
        after = _dropped(before, now) if is_over else step(facts, before, seen.get(key), now)
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
    if before is None or not is_open:
        return None
    is_new = seen.is_certain or seen.since >= before.judged_until
    return _cleared(before, seen, now) if is_new else before


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


def _cleared(before: MonitorFinding, seen: Observation, now: Instant) -> MonitorFinding:
    looks = before.looks_clear + 1
    is_over = seen.is_certain or looks >= LOOKS_CLEAR_MIN
    return msgspec.structs.replace(
        before,
        state="resolved" if is_over else "open",
        resolved_at=now if is_over else None,
        ended=CLEARED if is_over else "",
        looks_clear=looks,
        judged_until=seen.until,
        updated_at=now,
    )


def _dropped(before: MonitorFinding | None, now: Instant) -> MonitorFinding:
    assert before is not None
    return msgspec.structs.replace(
        before, state="resolved", resolved_at=now, ended=NOT_ASKED, updated_at=now
    )


def _is_told(facts: ServiceFacts, kind: str, severity: str) -> bool:
    """Somebody is told of what matters; small but certain changes wait in the report."""
    return severity != "info" and ALERT_OF_KIND.get(kind, "") in facts.alert_kinds
