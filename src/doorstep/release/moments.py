"""How the evidence of a release went, for people to look at: nothing is decided on it.

A release may last seconds or weeks, so what is kept is thinned: the longer it lasts, the further
apart the moments are, and there are never more than MOMENTS_MAX.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.kernel.app import App
from doorstep.release import store
from doorstep.release.collect import collect
from doorstep.release.judge import judge
from doorstep.release.types import Numbers, Release
from doorstep.release.wording import name_of

MOMENTS_MAX = 120
APART_S_MIN = 5.0
LOG_E_SHOWN = 60.0
"""Beyond it evidence is overwhelming, and infinity has no place on an axis."""


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """A guardrail at one moment: log evidence against the challenger and for it, each as a part of
    what is enough. better: None where it could not advance."""

    name: str
    worse: float
    better: float | None


class Moment(msgspec.Struct, frozen=True, array_like=True):
    at: Instant
    readings: tuple[Reading, ...]


def moment_of(at: Instant, numbers: Iterable[Numbers]) -> Moment:
    """Of each guardrail, of all traffic and of the wave that is carried."""
    asked = [one for one in numbers if one.segment is None or one.log_e_advance is not None]
    return Moment(at, tuple(map(_reading, asked)))


def _reading(numbers: Numbers) -> Reading:
    worse = _part(numbers.log_e_rollback, numbers.log_rollback_at)
    return Reading(
        name_of(numbers),
        0.0 if worse is None else worse,
        _part(numbers.log_e_advance, numbers.log_advance_at),
    )


def _part(log_e: float | None, enough: float | None) -> float | None:
    if log_e is None or not enough or not math.isfinite(enough):
        return None
    return round(max(-LOG_E_SHOWN, min(log_e, LOG_E_SHOWN)) / enough, 4)


def kept_with(moments: Sequence[Moment], new: Moment) -> tuple[Moment, ...] | None:
    """`moments` with the new one, thinned; None if it is too close to the last one to be kept."""
    if moments:
        lasted = moments[-1].at - moments[0].at
        apart = max(lasted // (MOMENTS_MAX // 2), round(APART_S_MIN * SECOND_US))
        if new.at - moments[-1].at < apart:
            return None
    found = (*moments, new)
    return found[::2] if len(found) > MOMENTS_MAX else found


def note_moments(app: App, releases: Iterable[Release]) -> None:
    """Keep how the evidence of running releases stands now."""
    now = app.clock.now()
    with app.database.reading() as connection:
        known = [(one, store.read_moments(connection, one.id)) for one in releases]
    changed = {}
    for release, document in known:
        before = moments_in(document)
        new = moment_of(now, judge(release, collect(app, release)))
        if new.readings and (after := kept_with(before, new)) is not None:
            changed[release.id] = after
    if changed:
        with app.database.transaction() as unit:
            for name, moments in changed.items():
                store.save_moments(unit.connection, name, msgspec.json.encode(moments))


def moments_in(document: bytes) -> tuple[Moment, ...]:
    return msgspec.json.decode(document, type=tuple[Moment, ...]) if document else ()
