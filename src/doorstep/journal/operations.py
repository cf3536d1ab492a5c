"""Operations of predictions, outcomes and traffic."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.ids import parse_prediction_id
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.operation import operation
from doorstep.core.outcome import AT_MAX
from doorstep.core.record import (
    SEALED,
    TRAFFIC,
    Kind,
    Status,
)
from doorstep.core.servicefile import stored_service_file
from doorstep.journal import query
from doorstep.journal.erased import kept_subjects, personal_of
from doorstep.journal.export import export_file
from doorstep.journal.joined import About
from doorstep.journal.profiles import PlanProfiles
from doorstep.journal.rows import VISIBLE, Filters, Wanted
from doorstep.journal.sealing import pseudonym
from doorstep.journal.snapshot import NO_END
from doorstep.journal.sql import ask_sql
from doorstep.journal.summary import HOUR_S, Cell, ReleaseCount, latency_ms
from doorstep.journal.surface import (
    PREDICTIONS_MAX,
    QUERY_ROWS_MAX,
    QUERY_S_MAX,
    CountTraffic,
    ExportJournal,
    JournalTable,
    ListPredictions,
    Personal,
    Prediction,
    Predictions,
    QueryJournal,
    ShowPrediction,
    Traffic,
    TrafficBucket,
)
from doorstep.journal.tables import Span
from doorstep.journal.windows import SummaryCache, counts, release_counts
from doorstep.kernel.app import App
from doorstep.register.store import get_service, list_services, list_versions
from doorstep.register.views import manifest_of

TRAFFIC_MINUTES_MAX = 60 * 24 * 31
Known = Mapping[str, tuple[str | None, float | None, Instant]]
"""Prediction id -> (label, value, when it became true)."""


class Windows:
    """Summaries that were read, shared by the threads of this process, one at a time."""

    def __init__(self, home: Path) -> None:
        self.lock = threading.Lock()
        self.cache = SummaryCache(PlanProfiles(home))


def windows_of(app: App) -> Windows:
    return app.kept.get(Windows, lambda: Windows(app.home.path))


@operation("prediction.show", permission="prediction:read", effect="read")
def show_prediction(app: App, asked: ShowPrediction) -> Prediction:
    """Show one prediction: input, answer, version, outcome."""
    row = find_row(app, asked.prediction)
    return views_of(app, row["service"], [row])[0]


def views_of(
    app: App,
    service: str,
    rows: Sequence[dict[str, Any]],
    opened: Sequence[Mapping[str, Any]] = (),
) -> tuple[Prediction, ...]:
    """Records in words, with what became of them. opened: the sealed values of each, if they are
    to be shown."""
    known = _outcomes(app, service, rows)
    if opened:
        return tuple(
            prediction_view(row | dict(values), known, "open" if values else "none")
            for row, values in zip(rows, opened, strict=True)
        )
    both = zip(rows, personal_of(app, rows), strict=True)
    return tuple(prediction_view(row, known, personal) for row, personal in both)


def find_row(app: App, prediction: str) -> dict[str, Any]:
    """The record with this id. Raises: NotFoundError (`no-prediction`), InputError."""
    parse_prediction_id(prediction)
    found = query.ask(query.Question(what="prediction", home=str(app.home.path), id=prediction))
    if found is None:
        raise NotFoundError(
            "no-prediction",
            f"there is no prediction {prediction}",
            "doorstep journal list SERVICE",
        )
    row: dict[str, Any] = found
    return row


@operation("prediction.list", permission="prediction:read", effect="read")
def list_predictions(app: App, asked: ListPredictions) -> Predictions:
    """List the newest predictions of a service."""
    if not 1 <= asked.limit <= PREDICTIONS_MAX:
        raise InputError("bad-limit", f"limit is {asked.limit}; expected 1 to {PREDICTIONS_MAX}")
    before = _span(asked.since, asked.before).until
    with app.database.reading() as connection:
        service = get_service(connection, asked.service)
        versions = list_versions(connection, asked.service)
    contracts = [manifest_of(app.home.bundles, one.digest).contract for one in versions]
    rows = query.ask(
        query.Question(
            what="predictions",
            home=str(app.home.path),
            service=asked.service,
            limit=asked.limit,
            before=(before, asked.before_id) if asked.before else None,
            filters=_filters(app, asked, service.file, contracts),
        )
    )
    return Predictions(predictions=views_of(app, asked.service, rows))


def _filters(app: App, asked: ListPredictions, file: str, contracts: Sequence[Contract]) -> Filters:
    """Raises: InputError (`bad-kind`, `bad-status`, `no-subject`)."""
    wanted = [Wanted(("out.answer",), asked.answer)] if asked.answer else []
    if asked.subject:
        ids, seals = stored_service_file(file).ids, any(one.seals for one in contracts)
        name = ids.subject or (ids.key if seals else "")
        if not name:
            raise InputError(
                "no-subject",
                f"{asked.service} does not say whose data a prediction is of",
                "declare the field in doorstep.yaml:  ids: {subject: NAME}",
            )
        subjects = kept_subjects(app)
        if subjects is not None and seals:
            wanted.append(
                Wanted((SEALED,), f"{pseudonym(subjects.secret, asked.subject)}.", is_start=True)
            )
        else:
            wanted.append(Wanted((f"in.{name}", f"ctx.{name}"), asked.subject))
    return Filters(
        kinds=_kinds(asked.kind),
        version=asked.version or None,
        segment=asked.segment or None,
        key=recorded_key(app, file, contracts)(asked.key) if asked.key else None,
        status=_status(asked.status),
        since=asked.since or None,
        wanted=tuple(wanted),
    )


@operation("journal.query", permission="prediction:read", effect="read")
def query_journal(app: App, asked: QueryJournal) -> JournalTable:
    """Ask the journal in SQL."""
    if not 1 <= asked.limit <= QUERY_ROWS_MAX:
        raise InputError("bad-limit", f"limit is {asked.limit}; expected 1 to {QUERY_ROWS_MAX}")
    if not 0 < asked.timeout_s <= QUERY_S_MAX:
        said = f"timeout_s is {asked.timeout_s:g}; expected more than 0, at most {QUERY_S_MAX:g}"
        raise InputError("bad-timeout", said)
    return ask_sql(
        app.home.path,
        asked.sql,
        _services(app),
        _span(asked.since, asked.until),
        limit=asked.limit,
        timeout_s=asked.timeout_s,
    )


def export_journal(app: App, asked: ExportJournal) -> BinaryIO:
    """The predictions of a service as one file, which is gone when it is closed."""
    with app.database.reading() as connection:
        get_service(connection, asked.service)
    return export_file(
        app.home.path,
        asked.service,
        _span(asked.since, asked.until),
        kinds=_kinds(asked.kind),
        format=asked.format,
        outcomes=asked.outcomes,
    )


def _span(since: Instant, until: Instant) -> Span:
    """until: 0 is no end. Raises: InputError (`bad-time`)."""
    if not (0 <= since <= AT_MAX and 0 <= until <= AT_MAX):
        said = f"since is {since}, until {until}; expected microseconds since 1970"
        raise InputError("bad-time", said)
    return Span(since, until or NO_END)


def _services(app: App) -> tuple[str, ...]:
    with app.database.reading() as connection:
        return tuple(one.name for one in list_services(connection))


def _status(name: str) -> int | None:
    """Raises: InputError (`bad-status`)."""
    if not name:
        return None
    names = {one.name.lower().replace("_", "-"): int(one) for one in Status}
    if name not in names:
        raise InputError(
            "bad-status", f"{name!r} is not a status; expected one of {', '.join(names)}"
        )
    return names[name]


def _kinds(name: str) -> tuple[int, ...]:
    """Raises: InputError (`bad-kind`)."""
    if not name:
        return VISIBLE
    names = {one.name.lower(): int(one) for one in Kind}
    if name not in names:
        raise InputError("bad-kind", f"{name!r} is not a kind; expected one of {', '.join(names)}")
    return (names[name],)


def prediction_view(row: dict[str, Any], known: Known, personal: Personal) -> Prediction:
    """One record in words."""
    label, value, outcome_at = known.get(row["id"], (None, None, None))
    answer = row.get("out.answer")
    scores = {
        name.removeprefix("out."): value
        for name, value in row.items()
        if name.startswith("out.") and name != "out.answer" and value is not None
    }
    return Prediction(
        id=row["id"],
        service=row["service"],
        at=row["at"],
        assigned=row["assigned"],
        answered_by=row["version"] if row["version"] > 0 else None,
        status=Status(row["status"]).name.lower().replace("_", "-"),
        kind=Kind(row["kind"]).name.lower(),
        release=row["release"],
        segment=row["segment"],
        key=row["key"],
        latency_ms=row["latency_us"] / 1000,
        warnings=tuple(row["warnings"] or ()),
        error=row["error"],
        cached=row["cached"],
        inputs=_prefixed(row, "in."),
        context=_prefixed(row, "ctx."),
        answer=answer if answer is not None else next(iter(scores.values()), None),
        scores=scores,
        outcome=label if label is not None else value,
        outcome_at=outcome_at,
        value=value,
        personal=personal,
    )


def _prefixed(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)
    }


def _outcomes(app: App, service: str, rows: Sequence[dict[str, Any]]) -> Known:
    """What became of these records, by prediction id, asked for all of them at once."""
    if not rows:
        return {}
    times = [row["at"] for row in rows]
    keys = {row["key"] for row in rows} - {""}
    arrays = query.ask(
        query.Question(
            what="outcomes_joined",
            home=str(app.home.path),
            service=service,
            since=min(times),
            until=max(times) + 1,
            kinds=(*TRAFFIC, Kind.REHEARSAL),
            about=About(tuple(row["id"] for row in rows), tuple(sorted(keys))),
        )
    )
    return {
        name: (label, float(value) if math.isfinite(value) else None, int(at))
        for name, label, value, at in zip(
            arrays.id, arrays.label, arrays.value, arrays.outcome_at, strict=True
        )
    }


def recorded_key(app: App, file: str, contracts: Iterable[Contract]) -> Callable[[str], str]:
    """What the journal has for a key: a pseudonym, where it is personal in any version."""
    ids = stored_service_file(file, app.home.environment).ids
    subjects = kept_subjects(app)
    if subjects is None or not any(
        ids.key in one.hidden(ids.subject or ids.key) for one in contracts
    ):
        return str
    secret = subjects.secret
    return lambda key: pseudonym(secret, key)


@operation("traffic.count", permission="prediction:read", effect="read")
def count_traffic(app: App, asked: CountTraffic) -> Traffic:
    """Count requests, errors and latency by version over time."""
    if not 1 <= asked.minutes <= TRAFFIC_MINUTES_MAX or asked.bucket_s % 60 or asked.bucket_s < 60:
        raise InputError(
            "bad-window",
            f"{asked.minutes} minutes in buckets of {asked.bucket_s} s; expected 1 to "
            f"{TRAFFIC_MINUTES_MAX} minutes, buckets of whole minutes",
        )
    with app.database.reading() as connection:
        get_service(connection, asked.service)
    kinds = _kinds(asked.kind)
    until = app.clock.now()
    since = until - asked.minutes * 60 * SECOND_US
    counted = count_rows(app, asked.service, since, until, asked.bucket_s)
    rows = [one for one in counted if one.kind in kinds]
    return Traffic(
        service=asked.service,
        since=since,
        until=until,
        bucket_s=asked.bucket_s,
        buckets=tuple(_buckets(rows)),
    )


def count_rows(app: App, service: str, since: Instant, until: Instant, bucket_s: int) -> list[Cell]:
    """Counts of what callers got (no shadow records)."""
    windows = windows_of(app)
    with windows.lock:
        found = counts(app.home.path, service, since, until, bucket_s, cache=windows.cache)
    return [row for row in found if row.kind != Kind.SHADOW]


def count_release(app: App, service: str, release: str, since: Instant) -> tuple[ReleaseCount, ...]:
    """What is recorded of a release. since: when it started, by a clock that is no node's."""
    windows = windows_of(app)
    since -= HOUR_S * SECOND_US
    with windows.lock:
        return release_counts(app.home.path, service, release, since, cache=windows.cache)


def count_rescued(rows: Iterable[Cell]) -> int:
    """Requests that the assigned version failed, and that got an answer all the same."""
    return sum(row.failed for row in rows if row.version >= 0)


def _buckets(rows: Iterable[Cell]) -> Iterator[TrafficBucket]:
    """One for each time and version that answered or should have."""
    answered: dict[tuple[Instant, int], list[Cell]] = {}
    assigned: dict[tuple[Instant, int], list[Cell]] = {}
    for row in rows:
        answered.setdefault((row.at, row.version), []).append(row)
        assigned.setdefault((row.at, row.assigned), []).append(row)
    for key in sorted(answered.keys() | assigned.keys()):
        yield _bucket(key, answered.get(key, []), assigned.get(key, []))


def _bucket(key: tuple[Instant, int], answered: list[Cell], assigned: list[Cell]) -> TrafficBucket:
    histogram = tuple(sum(bins) for bins in zip(*(row.latency for row in answered), strict=True))
    return TrafficBucket(
        at=key[0],
        version=key[1],
        requests=sum(row.rows for row in answered),
        errors=sum(row.errors for row in answered),
        assigned=sum(row.rows for row in assigned),
        failed=sum(row.failed for row in assigned),
        rescued=count_rescued(assigned),
        latency_ms_p50=_finite(latency_ms(histogram, 0.5)),
        latency_ms_p99=_finite(latency_ms(histogram, 0.99)),
    )


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
