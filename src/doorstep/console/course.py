"""How a release went, as drawings: its split over time with its decisions, and its evidence.

Geometry only, in pixels from the top left; the template draws it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from doorstep.console.marks import Tick
from doorstep.console.words import is_known, rate
from doorstep.core.instant import SECOND_US, Instant
from doorstep.release.surface import MomentView, Release

TOP, FLOOR, HEIGHT = 36, 132, 152
LABEL_WIDTH, LETTER = 44.0, 6.5
EDGE = 5.0
"""A mark at the very end is seen whole."""
TICK_WIDTH = 110.0
MARKED = ("advance", "rollback", "finish", "promote", "pause", "resume", "inconclusive")
_STEPS_S = (
    *(1, 5, 10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600),
    *(86_400, 2 * 86_400, 7 * 86_400, 30 * 86_400),
)
SPARK_TOP = 1.2
"""The axis of evidence ends a little above what is enough."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of one share. y: the top of the challenger's part. label: "" where it has no
    room."""

    x: float
    width: float
    y: float
    height: float
    label: str


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    x: float
    action: str
    text: str


class Course(msgspec.Struct, frozen=True, kw_only=True):
    width: int
    height: int
    parts: tuple[Part, ...]
    decided: tuple[Decided, ...]
    ticks: tuple[Tick, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """worse, better: SVG paths. enough: where the threshold of both lies."""

    width: int
    height: int
    worse: str
    better: str
    enough: float


def course(shown: Release, now: Instant, width: int) -> Course | None:
    """None before anything is known of the split."""
    if not shown.split:
        return None
    ends = shown.split[0].at, max(shown.ended_at or now, shown.split[0].at + SECOND_US)
    scale = _Scale(ends, width)
    return Course(
        width=width,
        height=HEIGHT,
        parts=tuple(_parts(shown, scale)),
        decided=tuple(
            Decided(
                x=scale.mark(one.at),
                action=one.action,
                text=one.reason[:300],
            )
            for one in shown.decisions
            if one.action in MARKED
        ),
        ticks=tuple(scale.ticks()),
    )


class _Scale:
    def __init__(self, ends: tuple[Instant, Instant], width: int) -> None:
        self.ends, self.width = ends, width

    def x(self, at: Instant) -> float:
        since, until = self.ends
        return round(min(max((at - since) / (until - since), 0.0), 1.0) * self.width, 1)

    def mark(self, at: Instant) -> float:
        return min(max(self.x(at), EDGE), self.width - EDGE)

    def ticks(self) -> Iterator[Tick]:
        since, until = self.ends
        most = max(2.0, self.width / TICK_WIDTH)
        lasted_s = (until - since) / SECOND_US
        step_s = next((one for one in _STEPS_S if lasted_s / one <= most), _STEPS_S[-1])
        form = "%H:%M:%S" if step_s < 60 else "%H:%M" if step_s < 86_400 else "%d %b"
        step = step_s * SECOND_US
        for at in range(-(-since // step) * step, until + 1, step):
            text = datetime.fromtimestamp(at / SECOND_US, UTC).strftime(form)
            yield Tick(x=self.x(at), text=text)


def _parts(shown: Release, scale: _Scale) -> Iterator[Part]:
    until = [one.at for one in shown.split[1:]] + [scale.ends[1]]
    for one, end in zip(shown.split, until, strict=True):
        share = one.share if is_known(one.share) else 0.0
        high = max(share * (FLOOR - TOP), 2.0) if share > 0 else 0.0
        x = scale.x(one.at)
        width = round(scale.x(end) - x, 1)
        label = one.state if one.state in ("shadow", "paused") else rate(one.share)
        named = f"{one.wave} {label}" if one.wave else label
        yield Part(
            x=x,
            width=width,
            y=round(FLOOR - high, 1),
            height=round(high, 1),
            label=named if width >= max(LABEL_WIDTH, LETTER * len(named)) else "",
        )


def evidence(
    moments: Sequence[MomentView], guardrail: str, width: int = 176, height: int = 40
) -> Evidence | None:
    """Of one guardrail over the life of its release; None if nothing was kept of it."""
    mine = [one for one in moments if guardrail in one.worse]
    if len(mine) < 2:
        return None
    scale = _Scale((moments[0].at, max(moments[-1].at, moments[0].at + 1)), width - 2)

    def place(part: float) -> float:
        inside = min(max(part, 0.0), SPARK_TOP)
        return round(height - 2 - inside / SPARK_TOP * (height - 4), 1)

    def path(values: list[tuple[Instant, float]]) -> str:
        known = [(at, value) for at, value in values if is_known(value)]
        points = [f"{1 + scale.x(at):g} {place(value):g}" for at, value in known]
        return "M" + "L".join(points) if points else ""

    return Evidence(
        width=width,
        height=height,
        worse=path([(one.at, one.worse[guardrail]) for one in mine]),
        better=path([(o.at, o.better[guardrail]) for o in mine if guardrail in o.better]),
        enough=place(1.0),
    )
