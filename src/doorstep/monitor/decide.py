"""Is anything wrong with this service, since when, how sure, why, and what to do: pure.

`evaluate(facts, now)` looks once. It opens, updates or closes findings; what it cannot judge for
want of rows stays as it was, and is never taken for good news.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import Status
from doorstep.gate.rules import is_upward, meets, worst_end
from doorstep.gate.sentences import percent
from doorstep.gate.types import Estimate
from doorstep.monitor.drift import drift_subjects, observe_drift
from doorstep.monitor.incidents import carry_on
from doorstep.monitor.labels import say_stopped
from doorstep.monitor.promises import promises, quality_by
from doorstep.monitor.types import (
    Kind,
    MonitorFinding,
    Observation,
    PromiseNow,
    QualityWindow,
    ServiceFacts,
    Severity,
    TrafficWindow,
)
from doorstep.monitor.wording import counted, say_leaving, say_unloaded
from doorstep.stats.intervals import proportion

WARNED_SHARE_MAX = 0.01
"""Contract ranges come from the training data; a percent outside them is new, a few are not."""
WARNED_ROWS_MIN = 200
OUTCOMES_AWAITED_MIN = 1000
QUALITY_WINDOW_S = 7 * 86_400.0
LOADING = "loading"
RETENTION = "retention"
JOURNAL = "journal"
TROUBLES_SAID_MAX = 2
FILE = "service file"
RULES = "rules of the service file"
LATE_S = 120
"""Windows close two minutes late, so that slow writers are in."""
_OF_FILE: tuple[tuple[str, Severity, bool, str, str], ...] = (
    (FILE, "critical", False, "cannot be read",
     "nodes keep what they were told of it, and nothing else can be asked"),
    (RULES, "warning", True, "breaks a rule that is newer",
     "it stays in effect as it is written"),
)  # fmt: skip
"""(subject, severity, whether it is in effect, what is wrong, what then holds)"""
_WORDS = {
    Status.FAILED: "the version raised an error",
    Status.TIMED_OUT: "the version took too long",
    Status.INVALID: "the version answered something that is not a number",
    Status.DIED: "the process of the version died",
    Status.UNAVAILABLE: "no process was there to answer",
}


def evaluate(facts: ServiceFacts, now: Instant) -> list[MonitorFinding]:
    """The findings of the service that are open now, or that this look resolved; worst first."""
    asked = asked_subjects(facts)
    observed = [*_observe(facts), *_of_file(facts, now)]
    if not facts.is_file_read:  # nobody knows what is asked
        return carry_on(facts, observed, now)
    return carry_on(facts, observed, now, lambda kind, subject: (kind, subject) in asked)


def asked_subjects(facts: ServiceFacts) -> frozenset[tuple[Kind, str]]:
    """Everything that a look may judge, whether or not there are rows to judge it by: the columns
    of the champion's reference, the promises of the service file, and what keeps us from knowing.
    Without a champion, the file alone."""
    if facts.version is None:
        return frozenset({("data", FILE), ("data", RULES)})
    found: set[tuple[Kind, str]] = {("data", FILE), ("data", RULES)}
    found |= {("drift", one) for one in drift_subjects(facts)}
    found |= {(one.kind, one.text) for one in promises(facts)}
    found |= {("data", "traffic"), ("data", "contract"), ("data", LOADING)}
    found |= {("data", RETENTION), ("data", JOURNAL)}
    if _awaits(facts):
        found.add(("data", "outcomes"))
    return frozenset(found)


def latest_window(now: Instant, window_s: float, late_s: float = LATE_S) -> tuple[Instant, Instant]:
    """[since, until) of the last whole window that is closed. Windows start at multiples of their
    length, so that a window is looked at once and its error rate is what it is said to be."""
    width = max(1, round(window_s * SECOND_US))
    until = (now - round(late_s * SECOND_US)) // width * width
    return until - width, until


def _observe(facts: ServiceFacts) -> Iterator[Observation]:
    if facts.version is None:
        return
    drift = observe_drift(facts)
    yield from drift
    drifted = tuple(one.subject for one in drift if one.is_bad)
    for promise in promises(facts):
        observed = _of_promise(facts, promise, drifted)
        if observed is not None:
            yield observed
    yield from _of_data(facts)


def _of_file(facts: ServiceFacts, now: Instant) -> Iterator[Observation]:
    """A revision was right when it was applied; a later Doorstep may have rules that it breaks."""
    for subject, severity, is_read, said, why in _OF_FILE:
        yield Observation(
            kind="data",
            subject=subject,
            is_bad=bool(facts.file_faults) and facts.is_file_read is is_read,
            since=now,
            until=now,
            severity=severity,
            sentence=f"the newest service file {said}: {'; '.join(facts.file_faults)}",
            cause=f"another Doorstep accepted it; {why}",
            next="correct doorstep.yaml, then: doorstep apply",
            is_certain=True,
        )


def _of_promise(
    facts: ServiceFacts, promise: PromiseNow, drifted: tuple[str, ...]
) -> Observation | None:
    """Broken is bad. Clear only when the estimate itself keeps the promise: between the two, an
    open finding stays and none is opened. Quality is surely over when the whole interval keeps the
    promise, on newer outcomes only, however few days they took."""
    window = _window(facts, promise)
    if window is None or promise.state == "not-yet-known":
        return None
    is_bad = promise.state == "broken"
    is_sure = promise.kind == "quality" and not is_bad and _is_surely_kept(promise)
    if promise.text in facts.fresh and not (is_bad or is_sure or _is_whole(window)):
        return None
    return Observation(
        kind=promise.kind,
        subject=promise.text,
        is_bad=is_bad,
        since=window.since,
        until=window.until,
        severity=_severity(promise) if is_bad else "info",
        sentence=f"{promise.text} is broken: {promise.measured}",
        cause=_cause(facts, promise, drifted),
        next=_next(facts, promise),
        is_certain=is_sure,
        numbers=promise.numbers,
    )


def _window(facts: ServiceFacts, promise: PromiseNow) -> TrafficWindow | QualityWindow | None:
    return quality_by(facts, promise.text) if promise.kind == "quality" else facts.traffic


def _is_surely_kept(promise: PromiseNow) -> bool:
    found = msgspec.convert(promise.numbers["found"], Estimate)
    worst = worst_end(found, promise.numbers["operator"])
    bound = float(promise.numbers["bound"])
    return worst is not None and meets(worst, promise.numbers["operator"], bound)


def _is_whole(window: TrafficWindow | QualityWindow) -> bool:
    return window.until - window.since >= round(QUALITY_WINDOW_S * SECOND_US)


def _severity(promise: PromiseNow) -> Severity:
    """Errors and lost quality are critical where even the best end of the interval is at twice the
    allowed distance; a slow answer is a warning until it is twice as slow as promised."""
    found, bound = promise.numbers["found"], float(promise.numbers["bound"])
    is_up = is_upward(promise.numbers["operator"])
    best = found["high"] if is_up else found["low"]
    if best is None:
        return "warning"
    if promise.kind == "quality":
        return "critical" if abs(best - bound) > 0.1 * max(abs(bound), 1e-9) else "warning"
    if is_up:
        return "critical" if 1 - best > 2 * (1 - bound) else "warning"
    return "critical" if best > 2 * bound else "warning"


def _cause(facts: ServiceFacts, promise: PromiseNow, drifted: tuple[str, ...]) -> str:
    window = _window(facts, promise)
    assert window is not None
    if facts.served_since is not None and facts.served_since >= window.since:
        return f"{facts.service}@{facts.version} became champion in this window"
    if promise.kind == "errors" and facts.traffic is not None:
        return _most_common(facts.traffic)
    if promise.kind == "quality" and drifted:
        return f"at the same time {', '.join(drifted[:3])} drifted"
    if promise.kind == "quality":
        return "the inputs look as before: what they mean may have changed"
    return ""


def _most_common(traffic: TrafficWindow) -> str:
    """The most frequent way in which the assigned version did not do its job."""
    failures = {status: traffic.statuses[status] for status in _WORDS if traffic.statuses[status:]}
    worst = max(failures, key=lambda status: failures[status], default=None)
    if worst is None or not failures[worst]:
        return "requests that were refused before any version saw them"
    return f"{_WORDS[worst]} ({failures[worst]:,} of {counted(traffic)})"


def _next(facts: ServiceFacts, promise: PromiseNow) -> str:
    if promise.kind == "quality":
        return (
            f"train on newer rows, then doorstep register MODEL; doorstep monitor {facts.service}"
        )
    if facts.version is not None and facts.version > 1:
        return f"doorstep rollback {facts.service}"
    return f"doorstep status {facts.service}"


def _of_data(facts: ServiceFacts) -> Iterator[Observation]:
    """What keeps us from knowing, and rows that are not what the contract says."""
    if facts.traffic is not None:
        yield _of_loading(facts, facts.traffic)
        yield _of_retention(facts, facts.traffic)
        yield _of_journal(facts, facts.traffic)
        if facts.had_traffic:
            yield _of_silence(facts, facts.traffic)
    quality = facts.quality
    if _awaits(facts) and quality is not None and quality.rows >= OUTCOMES_AWAITED_MIN:
        yield _of_outcomes(facts, quality)
    if facts.drift is not None and facts.drift.rows >= WARNED_ROWS_MIN:
        yield from _of_warnings(facts)


def _awaits(facts: ServiceFacts) -> bool:
    """Whether the service file counts on outcomes: it promises quality, or says when they come."""
    return bool(facts.promised) or (facts.quality is not None and facts.quality.delay_s > 0)


def _of_outcomes(facts: ServiceFacts, quality: QualityWindow) -> Observation:
    nothing = f"no outcome has arrived for {counted(quality, 'prediction')}"
    said = say_stopped(quality) if quality.labelled else nothing
    return Observation(
        kind="data",
        subject="outcomes",
        is_bad=bool(said),
        since=quality.since,
        until=quality.until,
        sentence=f"{said}: whether quality is as promised cannot be known",
        cause="outcomes are not sent, or their keys do not match the predictions",
        next=f"doorstep outcome {facts.service} FILE",
        is_certain=True,
        numbers={"rows": quality.rows, "labelled": quality.labelled, "newest": quality.newest},
    )


def _of_loading(facts: ServiceFacts, traffic: TrafficWindow) -> Observation:
    return Observation(
        kind="data",
        subject=LOADING,
        is_bad=bool(facts.unloaded),
        since=traffic.until,  # a state, seen now; no window was judged
        until=traffic.until,
        severity="critical" if facts.version in facts.unloaded else "warning",
        sentence="; ".join(say_unloaded(facts.service, facts.unloaded)),
        cause="a file of it was changed or lost (registering the same model again writes it anew), "
        "or a package that it needs is missing",
        next="doorstep doctor",
        is_certain=True,
        numbers={"versions": sorted(facts.unloaded)},
    )


def _of_retention(facts: ServiceFacts, traffic: TrafficWindow) -> Observation:
    """Records that go because they are too old are what was asked for; because they are too many
    is news."""
    by_size = any(one.why == "size" for one in facts.leaving.values())
    return Observation(
        kind="data",
        subject=RETENTION,
        is_bad=bool(facts.leaving),
        since=traffic.since,
        until=traffic.until,
        severity="warning" if by_size else "info",
        sentence="; ".join(say_leaving(*one) for one in facts.leaving.items()),
        cause="the journal is nearly as large as it may be" if by_size else "privacy.keep",
        next="doorstep up --journal-max GB" if by_size else "doorstep check",
        is_certain=True,
        numbers={node: one.rows for node, one in facts.leaving.items()},
    )


def _of_journal(facts: ServiceFacts, traffic: TrafficWindow) -> Observation:
    found = [(node, one) for node, some in facts.troubles.items() for one in some]
    more = f"; and {len(found) - TROUBLES_SAID_MAX} more" if len(found) > TROUBLES_SAID_MAX else ""
    return Observation(
        kind="data",
        subject=JOURNAL,
        is_bad=bool(found),
        since=min((one.since for _, one in found), default=traffic.until),
        until=traffic.until,
        severity="warning",
        sentence="; ".join(f"{one.text} (node {node})" for node, one in found[:TROUBLES_SAID_MAX])
        + more,
        cause="what the journal keeps is not as its compactor needs it; nothing of it is deleted",
        next=found[0][1].next if found else "",
        is_certain=True,
        numbers={node: len(some) for node, some in facts.troubles.items()},
    )


def _of_silence(facts: ServiceFacts, traffic: TrafficWindow) -> Observation:
    return Observation(
        kind="data",
        subject="traffic",
        is_bad=traffic.rows == 0,
        since=traffic.since,
        until=traffic.until,
        sentence=f"no data: {counted(traffic)}",
        cause="callers are quiet, or cannot reach the service",
        next=f"doorstep status {facts.service}",
        numbers={"rows": traffic.rows},
    )


def _of_warnings(facts: ServiceFacts) -> Iterator[Observation]:
    window = facts.drift
    assert window is not None
    found = proportion(window.warned, window.rows)
    is_bad = found.low > WARNED_SHARE_MAX
    if is_bad or found.estimate <= WARNED_SHARE_MAX:
        yield Observation(
            kind="data",
            subject="contract",
            is_bad=is_bad,
            since=window.since,
            until=window.until,
            severity="warning" if found.low > 5 * WARNED_SHARE_MAX else "info",
            sentence=f"{percent(found.estimate)} of {counted(window)} have values outside "
            "what training had",
            cause="new categories or numbers out of range; the drifted columns say which",
            next=f"doorstep monitor {facts.service}",
            numbers={"warned": window.warned, "rows": window.rows, "low": found.low},
        )
