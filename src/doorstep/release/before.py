"""What is measured of a champion before a release begins, and frozen into the release."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from doorstep.core.errors import RefusedError
from doorstep.core.instant import SECOND_US
from doorstep.core.record import TRAFFIC, Kind
from doorstep.journal import query
from doorstep.journal.operations import count_rows
from doorstep.journal.summary import Cell, latency_ms
from doorstep.kernel.app import App
from doorstep.release.losses import Baseline, baseline_from
from doorstep.release.spec import Before
from doorstep.release.types import SLOW_QUANTILES

OUTCOMES_S = 30 * 86_400
LATENCY_S = (3_600, 86_400)
"""The last hour, or, where that is too quiet, the last day."""
REQUESTS_MIN = 100
BUCKET_S = 60


def measure(app: App, service: str, champion: int, guarded: Collection[str]) -> Before:
    """guarded: names of the guardrails. Raises: RefusedError (`no-outcomes`, `no-traffic`)."""
    return Before(
        quality=_quality(app, service, champion) if "quality" in guarded else None,
        slow_us=_slow_us(app, service, champion) if "latency" in guarded else (),
    )


def _quality(app: App, service: str, champion: int) -> Baseline:
    now = app.clock.now()
    asked = query.Question(
        what="outcomes_joined", home=str(app.home.path), service=service,
        since=now - OUTCOMES_S * SECOND_US, until=now, kinds=tuple(int(one) for one in TRAFFIC),
    )  # fmt: skip
    return baseline_from(query.ask(asked), service, champion)


def _slow_us(app: App, service: str, champion: int) -> tuple[int, ...]:
    now = app.clock.now()
    seen = 0
    for seconds in LATENCY_S:
        counted = count_rows(app, service, now - seconds * SECOND_US, now, BUCKET_S)
        histogram = latency_of(counted, champion)
        seen = sum(histogram)
        if seen >= REQUESTS_MIN:
            return tuple(round(latency_ms(histogram, q) * 1000) for q in SLOW_QUANTILES)
    raise RefusedError(
        "no-traffic",
        f"release.guardrails names latency, but {service}@{champion} answered {seen} requests in "
        f"the last day; its times are known from {REQUESTS_MIN}",
        "wait for traffic, or take latency out of the guardrails",
    )


def latency_of(counted: Iterable[Cell], version: int) -> tuple[int, ...]:
    """The histogram of what this version answered callers; () if it answered none."""
    mine = [
        one.latency
        for one in counted
        if (one.version, one.kind) == (version, int(Kind.LIVE)) and one.latency
    ]
    return tuple(map(sum, zip(*mine, strict=True)))
