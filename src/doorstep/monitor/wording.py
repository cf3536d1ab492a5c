"""Counts with the window that they are of: a sentence is read long after it was made."""

from __future__ import annotations

from collections.abc import Mapping

from doorstep.core.instant import SECOND_US, to_text
from doorstep.core.plural import plural
from doorstep.gate.sentences import percent
from doorstep.journal.retain import Due
from doorstep.monitor.types import DriftWindow, QualityWindow, TrafficWindow
from doorstep.release.wording import say_time

Window = DriftWindow | QualityWindow | TrafficWindow


def length_s(window: Window) -> float:
    return (window.until - window.since) / SECOND_US


def counted(window: Window, what: str = "request") -> str:
    """`2,000 requests in 1 h`; `no requests in 1 h`."""
    rows = plural(window.rows, what) if window.rows else f"no {what}s"
    return f"{rows} in {say_time(length_s(window))}"


def say_ended(length_s: float, delay_s: float) -> str:
    """`last 7 d`, or `7 d that ended 30 d ago`."""
    if not delay_s:
        return f"last {say_time(length_s)}"
    return f"{say_time(length_s)} that ended {say_time(delay_s)} ago"


def say_labels(window: QualityWindow) -> str:
    """`labels for 62 % of 1,000 predictions in 7 d`, or of those that are due, with their days."""
    share = f"labels for {percent(window.labelled / window.rows)} of"
    if not window.delay_s:
        return f"{share} {counted(window, 'prediction')}"
    delay_us = round(window.delay_s * SECOND_US)
    first, last = (to_text(one - delay_us)[:10] for one in (window.since, window.until))
    days = first if first == last else f"{first} to {last}"
    rows = plural(window.rows, "prediction")
    return f"{share} {rows} of {days}, older than {say_time(window.delay_s)}"


def say_leaving(node: str, due: Due) -> str:
    first, last = to_text(due.first)[:10], to_text(due.last)[:10]
    return (
        f"{plural(due.rows, 'record')} of {first} to {last} will go within a week from node {node}"
    )


def say_unloaded(service: str, unloaded: Mapping[int, str]) -> list[str]:
    """unloaded: see `ServiceFacts`."""
    return [
        f"{service}@{number} cannot be loaded, its fallback chain answers: {why}"
        for number, why in sorted(unloaded.items())
    ]
