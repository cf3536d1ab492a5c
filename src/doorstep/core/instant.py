"""Time as values. `_at` is UTC wall time in integer microseconds since 1970; durations are seconds.

Decisions never ask what time it is: they are given an Instant. `Clock` is the port,
and `SystemClock` the real one.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Protocol

from doorstep.core.errors import InputError

Instant = int
"""Microseconds since 1970-01-01T00:00:00Z."""

SECOND_US = 1_000_000
_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>ms|s|m|h|d)\Z")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Clock(Protocol):
    def now(self) -> Instant:
        """Wall time, for `_at` fields."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never jump, for durations and leases."""
        ...


class SystemClock:
    def now(self) -> Instant:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()


def to_text(at: Instant) -> str:
    """`2026-11-22T14:02:03.123456Z`."""
    moment = datetime.fromtimestamp(at / SECOND_US, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at % SECOND_US:06d}Z"


def parse_instant(text: str) -> Instant:
    """ISO 8601 with an offset or Z; without one it is taken as UTC. Raises: InputError."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise InputError(
            "bad-time", f"{text!r} is not a time; expected ISO 8601 such as 2026-11-22T14:02:00Z"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * SECOND_US)


def parse_duration_s(text: str) -> float:
    """`200 ms`, `10m`, `1.5 h`, `400d` -> seconds. Raises: InputError (`bad-duration`)."""
    match = _DURATION.match(text.strip()) if isinstance(text, str) else None
    if not match:
        raise InputError(
            "bad-duration", f"{text!r} is not a duration; expected a number with ms, s, m, h or d"
        )
    return float(match["number"]) * _SECONDS[match["unit"]]
