"""Requests that champion and challenger answered differently, to be looked at: the shadow scored
what callers had asked, so the journal has both answers under one prediction id."""

from __future__ import annotations

from typing import Any

from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.operation import operation
from doorstep.core.record import Kind
from doorstep.journal.duck import quote_name, quote_text
from doorstep.journal.sql import ask_sql
from doorstep.journal.tables import Span
from doorstep.kernel.app import App
from doorstep.register import store as versions
from doorstep.register.views import manifest_of
from doorstep.release import store
from doorstep.release.surface import Difference, Differences, Pattern, ShowDifferences
from doorstep.release.types import Release, State

EXAMPLES_MAX = 40
LATE_S = 120.0
"""The shadow lags: its last records come after the step that ended it."""
FRESH_S = 15.0
KEPT_S = 600.0
"""Of a shadow that is over: no longer, since records are erased and their time of keeping ends."""
TIMEOUT_S = 30.0
_ORDER = {True: '"at" DESC', False: 'abs(b - a) DESC, "at" DESC'}
"""Labels: the newest first. Numbers: those that are furthest apart."""


class _Kept:
    """What was found per release, and when."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Instant, Differences]] = {}


@operation("release.differences", permission="prediction:read", effect="read")
def show_differences(app: App, asked: ShowDifferences) -> Differences:
    """Show requests on which the champion and the challenger of a release answered differently."""
    with app.database.reading() as connection:
        row = store.find_running(connection, asked.release)
        release = (row or store.get_release(connection, asked.release)).release
    kept = app.kept.get(_Kept, _Kept).found
    now, until = app.clock.now(), _shadow_until(release)
    if release.id in kept:
        at, found = kept[release.id]
        fresh_s = KEPT_S if until is not None and at > until else FRESH_S
        if now - at < fresh_s * SECOND_US:
            return found
    found = _find(app, release, until or now)
    old = [name for name, (at, _) in kept.copy().items() if now - at >= KEPT_S * SECOND_US]
    for name in old:
        kept.pop(name, None)
    kept[release.id] = now, found
    return found


def _shadow_until(release: Release) -> Instant | None:
    """When its last shadow record has come; None while it goes on."""
    after = [one.started_at for one in release.epochs if one.state is not State.SHADOW]
    ended = min(after, default=release.epoch.started_at if release.is_over else None)
    return None if ended is None else ended + round(LATE_S * SECOND_US)


def _find(app: App, release: Release, until: Instant) -> Differences:
    if release.champion is None or not any(e.state is State.SHADOW for e in release.epochs):
        return _of(release, 0, 0, [])
    with app.database.reading() as connection:
        version = versions.get_version(connection, release.service, release.challenger)
    is_label = bool(manifest_of(app.home.bundles, version.digest).labels)
    found = ask_sql(
        app.home.path,
        _sql(release, is_label),
        (release.service,),
        Span(release.started_at, until),
        limit=EXAMPLES_MAX,
        timeout_s=TIMEOUT_S,
    )
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    compared = int(rows[0]["pairs"]) if rows else 0
    examples = [one for one in rows if one["a"] is not None]
    return _of(release, compared, int(examples[0]["differ"]) if examples else 0, examples)


def _sql(release: Release, is_label: bool) -> str:
    service, column = quote_name(release.service), '"out.answer"' if is_label else '"out.value"'
    return f"""
    WITH "in shadow" AS (SELECT id, {column} AS b FROM {service}
        WHERE kind = {int(Kind.SHADOW)} AND release = {quote_text(release.id)}),
    "both answers" AS (SELECT l.*, l.{column} AS a, s.b
        FROM {service} l JOIN "in shadow" s ON l.id = s.id
        WHERE l.kind <> {int(Kind.SHADOW)} AND l.{column} IS NOT NULL AND s.b IS NOT NULL),
    "answered apart" AS (SELECT *, count(*) OVER () AS differ,
            count(*) OVER (PARTITION BY a, b) AS same
        FROM "both answers" WHERE a <> b)
    SELECT * FROM (SELECT count(*) AS pairs FROM "both answers") LEFT JOIN "answered apart" ON true
    ORDER BY {_ORDER[is_label]} LIMIT {EXAMPLES_MAX}"""  # noqa: S608  both are quoted


def _of(release: Release, compared: int, differ: int, rows: list[dict[str, Any]]) -> Differences:
    patterns = {(row["a"], row["b"]): int(row["same"]) for row in rows}
    return Differences(
        release=release.id,
        service=release.service,
        champion=release.champion,
        challenger=release.challenger,
        compared=compared,
        differ=differ,
        patterns=tuple(
            Pattern(champion=a, challenger=b, requests=n)
            for (a, b), n in sorted(patterns.items(), key=lambda one: -one[1])
            if isinstance(a, str)
        ),
        examples=tuple(_example(row) for row in rows),
    )


def _example(row: dict[str, Any]) -> Difference:
    given = {name[3:]: value for name, value in row.items() if name.startswith("in.")}
    return Difference(
        prediction=row["id"],
        at=row["at"],
        segment=row["segment"] or "",
        champion=row["a"],
        challenger=row["b"],
        inputs={name: value for name, value in given.items() if value is not None},
    )
