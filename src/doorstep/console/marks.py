"""The geometry of small drawings: pure functions from numbers to coordinates that SVG macros draw.

Coordinates are pixels from the top left. A missing number leaves a gap and is never drawn as zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from doorstep.console.words import is_known, points, ratio

RATIO_FLOOR = 0.05
RATIO_CEILING = 20.0
METRIC_LABEL_WIDTH = 44
_RATIO_TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Spark(msgspec.Struct, frozen=True, kw_only=True):
    """line: an SVG path, area: the same closed to the baseline. last: its end, None if empty."""

    width: int
    height: int
    line: str
    area: str
    last: tuple[float, float] | None
    top: float


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    x: float
    width: float


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    x: float
    text: str


class Ruler(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its interval on an axis. low, high: None without an interval;
    *_beyond: it goes on past the axis. tolerance, margin: where the two thresholds stand."""

    width: int
    ticks: tuple[Tick, ...]
    low: float | None
    high: float | None
    low_beyond: bool
    high_beyond: bool
    estimate: float | None
    tolerance: Tick
    margin: Tick


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A metric with its interval on a straight axis from `start` to `end`, which stand for `ends`.
    bound: where the promise stands, None if there is none."""

    width: int
    start: float
    end: float
    ends: tuple[float, float]
    estimate: float
    low: float
    high: float
    bound: float | None


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """Two shapes over the same bins: filled bars of the reference, an outline of now."""

    width: int
    height: int
    bars: tuple[tuple[float, float, float, float], ...]
    outline: str


def sparkline(values: Sequence[float | None], width: int = 120, height: int = 24) -> Spark:
    """One point per value, oldest first, on an axis from zero to the largest value."""
    known = [number for number in values if number is not None and math.isfinite(number)]
    top = max(known, default=0.0)
    if not known:
        return Spark(width=width, height=height, line="", area="", last=None, top=0.0)
    step = (width - 4) / max(1, len(values) - 1)
    points: list[tuple[float, float] | None] = [
        (round(1 + place * step, 1), _level(number, top, height)) if is_known(number) else None
        for place, number in enumerate(values)
    ]
    line, area = _path(points, height)
    last = next(point for point in reversed(points) if point)
    return Spark(width=width, height=height, line=line, area=area, last=last, top=top)


def _level(value: float | None, top: float, height: int) -> float:
    share = (value or 0.0) / top if top > 0 else 0.0
    return round(height - 2 - max(0.0, share) * (height - 5), 1)


def _path(points: Sequence[tuple[float, float] | None], height: int) -> tuple[str, str]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    lines = ["M" + "L".join(f"{x} {y}" for x, y in run) for run in runs if run]
    areas = [
        f"M{run[0][0]} {height - 1}L" + "L".join(f"{x} {y}" for x, y in run) + f"L{run[-1][0]}"
        f" {height - 1}Z"
        for run in runs
        if run
    ]
    return "".join(lines), "".join(areas)


def split(shares: Sequence[float], width: int = 96) -> tuple[Bar, ...]:
    """Shares 0..1 side by side; a share above zero is at least two pixels wide, so it is seen."""
    wide = [max(2.0, share * width) if share > 0 else 0.0 for share in shares]
    scale = width / sum(wide) if sum(wide) > 0 else 0.0
    bars: list[Bar] = []
    left = 0.0
    for one in wide:
        bars.append(Bar(x=round(left, 1), width=round(one * scale, 1)))
        left += one * scale
    return tuple(bars)


def fill(value: float, whole: float, width: int) -> float:
    """How far a bar of `width` is filled by value / whole, between nothing and all of it."""
    if not (math.isfinite(value) and math.isfinite(whole)) or whole <= 0:
        return 0.0
    return round(min(1.0, max(0.0, value / whole)) * width, 1)


def gauge(value: float, limit: float, width: int) -> tuple[float, float]:
    """(end of the bar, place of the limit) on an axis from zero that holds both with some air."""
    top = max(value, limit) * 1.25
    return fill(value, top, width), fill(limit, top, width)


def ratio_domain(numbers: Sequence[float | None]) -> tuple[float, float]:
    """One axis for all rulers of a page, so that rows can be compared by eye: around 1, holding
    all the numbers, inside RATIO_FLOOR .. RATIO_CEILING."""
    known = [one for one in numbers if one is not None and math.isfinite(one) and one > 0]
    low = min([0.5, *known]) / 1.25
    high = max([2.0, *known]) * 1.25
    return max(RATIO_FLOOR, low), min(RATIO_CEILING, high)


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """The axis of a ruler. ends: outermost values; is_log: a ratio's axis, else a straight one."""

    ends: tuple[float, float]
    ticks: tuple[float, ...]
    is_log: bool

    def place(self, value: float, width: int) -> float:
        """In pixels, held inside the axis."""
        low, high = self.ends
        inside = min(high, max(low, value))
        share = (inside - low) / (high - low)
        if self.is_log:
            share = math.log(inside / low) / math.log(high / low)
        return round(6 + share * (width - 12), 1)

    def say(self, value: float) -> str:
        return ratio(value) if self.is_log else points(value)


def ratio_scale(domain: tuple[float, float]) -> Scale:
    ticks = tuple(one for one in _RATIO_TICKS if domain[0] < one < domain[1])
    return Scale(ends=domain, ticks=ticks, is_log=True)


def difference_scale(numbers: Sequence[float | None]) -> Scale:
    """Around 0, holding all the numbers that are not open ends of -1 or 1."""
    known = [abs(one) for one in numbers if one is not None and abs(one) < 1.0]
    most = max([0.01, *known]) * 1.25
    return Scale(ends=(-most, most), ticks=(0.0,), is_log=False)


def ruler(
    interval: tuple[float | None, float | None],
    estimate: float | None,
    thresholds: tuple[float, float],
    scale: Scale,
    width: int = 260,
) -> Ruler:
    """interval: an end that is None is open. thresholds: (tolerance, margin)."""
    known = is_known(interval[0]) or is_known(interval[1])
    ends = ((interval[0], -math.inf), (interval[1], math.inf))
    low, high = (end if end is not None and is_known(end) else open_end for end, open_end in ends)
    tolerance, margin = (Tick(x=scale.place(one, width), text=scale.say(one)) for one in thresholds)
    shown = estimate is not None and (estimate > 0 or not scale.is_log)
    return Ruler(
        width=width,
        ticks=tuple(Tick(x=scale.place(one, width), text=scale.say(one)) for one in scale.ticks),
        low=scale.place(low, width) if known else None,
        high=scale.place(high, width) if known else None,
        low_beyond=known and low < scale.ends[0],
        high_beyond=known and high > scale.ends[1],
        estimate=scale.place(estimate, width) if estimate is not None and shown else None,
        tolerance=tolerance,
        margin=margin,
    )


def metric_ruler(
    estimate: tuple[float, float, float], bound: float | None, width: int = 320
) -> Metric | None:
    """estimate: (value, low, high). bound: what is promised. The axis holds all of them with air,
    stays inside 0..1 if they do, and carries its ends; None if the interval is not known."""
    if not all(math.isfinite(one) for one in estimate):
        return None
    held = [*estimate, *([bound] if bound is not None and math.isfinite(bound) else [])]
    air = (max(held) - min(held)) * 0.4 or 0.05
    low, high = min(held) - air, max(held) + air
    if min(held) >= 0 and max(held) <= 1:
        low, high = max(0.0, low), min(1.0, high)
    start, end = METRIC_LABEL_WIDTH, width - METRIC_LABEL_WIDTH
    places = [round(start + (one - low) / (high - low) * (end - start), 1) for one in held]
    return Metric(
        width=width,
        start=start,
        end=end,
        ends=(low, high),
        estimate=places[0],
        low=places[1],
        high=places[2],
        bound=places[3] if len(places) > 3 else None,
    )


def signed(amounts: Sequence[float], width: int = 260) -> tuple[float, tuple[Bar, ...]]:
    """(place of zero, one bar per amount) on one axis that holds zero and all of them."""
    known = [one if math.isfinite(one) else 0.0 for one in amounts]
    low, high = min([0.0, *known]), max([0.0, *known])
    extent = (high - low) or 1.0
    zero = -low / extent * (width - 4) + 2
    bars = tuple(
        Bar(
            x=round(zero + min(0.0, one) / extent * (width - 4), 1),
            width=round(abs(one) / extent * (width - 4), 1),
        )
        for one in known
    )
    return round(zero, 1), bars


def shares(counts: Sequence[float]) -> tuple[float, ...]:
    """Counts as shares of their sum; of nothing, all zero."""
    known = [one if math.isfinite(one) and one > 0 else 0.0 for one in counts]
    whole = sum(known)
    return tuple(one / whole if whole else 0.0 for one in known)


def histogram(
    reference: Sequence[float], now: Sequence[float], width: int = 288, height: int = 64
) -> Steps:
    """Both as shares over the same bins, on one axis from zero to the largest share of either."""
    before, after = shares(reference), shares(now)
    bins = max(len(before), len(after), 1)
    top = max([*before, *after, 1e-9])
    wide = width / bins
    bars = tuple(
        (
            round(place * wide, 2),
            round(height - share / top * (height - 2), 1),
            round(wide, 2),
            round(share / top * (height - 2), 1),
        )
        for place, share in enumerate(before)
        if share > 0
    )
    steps = [
        f"L{round(place * wide, 1)} {round(height - share / top * (height - 2), 1)}"
        f"L{round((place + 1) * wide, 1)} {round(height - share / top * (height - 2), 1)}"
        for place, share in enumerate(after)
    ]
    outline = f"M0 {height}" + "".join(steps) + f"L{width} {height}" if any(after) else ""
    return Steps(width=width, height=height, bars=bars, outline=outline)
