"""What outcomes say besides quality: what cases were worth, and whether labels still come. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from doorstep.core.instant import SECOND_US, Instant, to_text
from doorstep.gate.metrics import as_estimate
from doorstep.monitor.types import QualityWindow, ValueOf
from doorstep.stats.intervals import mean, proportion

DAY_US = 86_400 * SECOND_US
PAUSES_MIN = 3
"""Fewer pauses between outcomes do not tell how long one may be."""
PAUSE_FACTOR = 3.0
SILENT_S_MIN = 86_400.0
NEWEST_ROWS_MIN = 200
STOPPED_SHARE = 0.5
"""Of what was known before: less is no longer a slow week."""
VALUE_ROWS_MIN = 30
ARRIVED_TOGETHER_US = 60 * SECOND_US


def values_of(
    version: NDArray[np.int64], at: NDArray[np.int64], value: NDArray[np.float64]
) -> tuple[ValueOf, ...]:
    """By version, newest first: of all its days together (day ""), then of each day (UTC) of its
    predictions. value: NaN where none is known."""
    found: list[ValueOf] = []
    known = np.isfinite(value)
    version, day, value = version[known], at[known] // DAY_US, value[known]
    for number in np.unique(version)[::-1].tolist():
        mine = version == number
        found.append(_value_of(number, "", value[mine]))
        for one in np.unique(day[mine]).tolist():
            name = to_text(one * DAY_US)[:10]
            found.append(_value_of(number, name, value[mine & (day == one)]))
    return tuple(found)


def _value_of(version: int, day: str, value: NDArray[np.float64]) -> ValueOf:
    rows = int(value.size)
    found = as_estimate(mean(value), rows, VALUE_ROWS_MIN, "cases with a value")
    return ValueOf(version=version, day=day, mean=found, total=float(value.sum()))


def pauses_of(received_at: NDArray[np.int64], now: Instant) -> tuple[float, float]:
    """(seconds since the last outcome came, the longest pause between two before it); (0, 0) where
    too few came to tell."""
    times = np.unique(received_at // ARRIVED_TOGETHER_US) * ARRIVED_TOGETHER_US
    pauses = np.diff(times)
    if pauses.size < PAUSES_MIN:
        return 0.0, 0.0
    return (now - int(times[-1])) / SECOND_US, float(pauses.max()) / SECOND_US


def say_stopped(window: QualityWindow) -> str:
    """Why labels no longer come as they did; "" if they do, or nobody can tell.

    With a delay that is declared, by the newest day of which they are due; else by how long none
    came, because of new predictions nobody knows whether they are due."""
    # Predictions are counted in buckets, labels one by one: at the edge there may be more of these.
    rows, labelled = window.newest[0], min(window.newest)
    before = (window.rows - rows, min(window.rows - rows, window.labelled - labelled))
    if rows >= NEWEST_ROWS_MIN and before[0] >= NEWEST_ROWS_MIN:
        least = STOPPED_SHARE * proportion(before[1], before[0]).low
        if proportion(labelled, rows).high < least:
            return (
                f"labels are known for {labelled / rows:.0%} of {rows:,} predictions of the newest "
                f"day of which they are due, and for {before[1] / before[0]:.0%} of those before"
            )
    if window.silent_s > max(SILENT_S_MIN, PAUSE_FACTOR * window.pause_s):
        days, hours = window.silent_s / 86_400, window.pause_s / 3_600
        return f"no outcome has come for {days:.1f} d; the longest pause before was {hours:.1f} h"
    return ""
