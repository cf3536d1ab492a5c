"""Counts with the window that they are of: a sentence is read long after it was made."""

from __future__ import annotations

from collections.abc import Mapping

from doorstep.core.instant import SECOND_US
from doorstep.monitor.types import DriftWindow, QualityWindow, TrafficWindow
from doorstep.release.wording import say_time

Window = DriftWindow | QualityWindow | TrafficWindow


def length_s(window: Window) -> float:
    return (window.until - window.since) / SECOND_US


def counted(window: Window, what: str = "requests") -> str:
    """`2,000 requests in 1 h`; `no requests in 1 h`."""
    rows = f"{window.rows:,}" if window.rows else "no"
    return f"{rows} {what} in {say_time(length_s(window))}"


def say_unloaded(service: str, unloaded: Mapping[int, str]) -> list[str]:
    """unloaded: see `ServiceFacts`."""
    return [
        f"{service}@{number} cannot be loaded, its fallback chain answers: {why}"
        for number, why in sorted(unloaded.items())
    ]
