"""What happened to a service on its time axis: marks of its releases, lanes of its drift."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from doorstep.console.words import is_known
from doorstep.core.instant import Instant
from doorstep.govern.surface import Stop
from doorstep.monitor.surface import MonitorFindingView
from doorstep.release.surface import Release

LANES_MAX = 10
MARKS_MAX = 60
_WORDS = {
    "start": "starts",
    "rollback": "rolled back",
    "finish": "done",
    "promote": "promoted",
    "inconclusive": "inconclusive",
    "advance": "advanced",
    "pause": "paused",
    "resume": "resumed",
}


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to what serves. action: as in DecisionView, or `start`, `kill`,
    `revive`."""

    at: Instant
    action: str
    text: str
    reason: str


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time in which a column was known to differ from its reference."""

    column: str
    since: Instant
    until: Instant
    shift_sd: float | None


def marks_of(
    releases: Iterable[Release], stops: Iterable[Stop], service: str, since: Instant
) -> tuple[Mark, ...]:
    """What the releases did after `since` and which versions were killed, oldest first; holds and
    evaluations are left out."""
    marks = [mark for one in stops for mark in _of_stop(one, f"{service}@{one.version}")]
    for release in releases:
        name = f"{release.service}@{release.challenger}"
        start = Mark(at=release.started_at, action="start", text=f"{name} starts", reason="")
        marks.append(start)
        marks += [
            Mark(
                at=one.at, action=one.action, text=f"{name} {_WORDS[one.action]}", reason=one.reason
            )
            for one in release.decisions
            if one.action in _WORDS
        ]
    seen = sorted((mark for mark in marks if mark.at >= since), key=lambda mark: mark.at)
    return tuple(seen[-MARKS_MAX:])


def _of_stop(stop: Stop, name: str) -> Iterator[Mark]:
    yield Mark(at=stop.since, action="kill", text=f"{name} killed", reason=stop.why)
    if stop.until is not None:
        yield Mark(at=stop.until, action="revive", text=f"{name} revived", reason="")


def lanes_of(
    findings: Iterable[MonitorFindingView], window: tuple[Instant, Instant]
) -> tuple[Lane, ...]:
    """Drift findings that touch the window, the largest shift first, at most LANES_MAX columns. The
    shift is that of the finding's sentence, not of the window that the monitor page shows now."""
    lanes = [
        Lane(
            column=one.subject,
            since=max(one.since, window[0]),
            until=min(one.resolved_at or window[1], window[1]),
            shift_sd=_shift(one),
        )
        for one in findings
        if one.kind.startswith("drift") and one.since < window[1]
    ]
    touching = [lane for lane in lanes if lane.until > window[0]]
    order = sorted(touching, key=lambda lane: -(lane.shift_sd or 0.0))
    kept = tuple(dict.fromkeys(lane.column for lane in order))[:LANES_MAX]
    return tuple(lane for lane in order if lane.column in kept)


def _shift(finding: MonitorFindingView) -> float | None:
    stored = finding.numbers.get("shift_sd")
    return stored if isinstance(stored, (int, float)) and is_known(stored) else None
