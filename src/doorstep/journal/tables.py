"""The journal as relations of DuckDB: listed files and unlisted tails together, exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from doorstep.core.instant import Instant
from doorstep.core.record import OutcomeRecord
from doorstep.journal import duck
from doorstep.journal.away import locate
from doorstep.journal.columns import (
    OUTCOME_TYPES,
    PREDICTION_TYPES,
    SEALED_KEY,
    Origin,
    batch_of,
    outcome_columns,
    prediction_columns,
    prediction_types,
)
from doorstep.journal.reader import Group
from doorstep.journal.rows import tail_parts
from doorstep.journal.snapshot import NO_END, Listed, NodeSnapshot, TailPart

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Keeps = Callable[[str], bool]


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times [since, until) in microseconds UTC."""

    since: Instant = 0
    until: Instant = NO_END


class Source(msgspec.Struct, frozen=True):
    """What one snapshot of all nodes has of a service. tail: what is not listed yet."""

    service: str
    predictions: list[Listed]
    outcomes: list[Listed]
    tail: list[TailPart]

    @property
    def files(self) -> list[Listed]:
        return [*self.predictions, *self.outcomes]


def sources_of(
    snapshots: Sequence[NodeSnapshot], services: Iterable[str], span: Span
) -> dict[str, Source]:
    """Of these services and of all that the journal knows, by name.

    Outcomes have no upper end: one that came later may be about a prediction in the span."""
    tails: dict[str, list[TailPart]] = {}
    for one in tail_parts(snapshots):
        of = one.part.layout.service if isinstance(one.part, Group) else one.part.service
        tails.setdefault(of, []).append(one)
    listed = {one.service for snapshot in snapshots for one in snapshot.files}
    return {
        name: Source(
            name,
            _files(snapshots, name, "predictions", span),
            _files(snapshots, name, "outcomes", Span(span.since)),
            tails.get(name, []),
        )
        for name in sorted(listed | tails.keys() | set(services))
    }


def _files(snapshots: Iterable[NodeSnapshot], service: str, holds: str, span: Span) -> list[Listed]:
    return [
        file for one in snapshots for file in one.listed(service, holds, span.since, span.until)
    ]


def _every(_name: str) -> bool:
    return True


def load_predictions(
    con: DuckDBPyConnection, parts: Iterable[TailPart], keeps: Keeps = _every
) -> list[str]:
    """Tables of unlisted predictions of one service, one per layout. keeps: which columns."""
    layouts: dict[str, list[TailPart]] = {}
    for one in parts:
        if isinstance(one.part, Group) and one.part.rows:
            layouts.setdefault(one.part.layout.digest, []).append(one)
    return [_load_layout(con, members, keeps) for members in layouts.values()]


def _load_layout(con: DuckDBPyConnection, members: Sequence[TailPart], keeps: Keeps) -> str:
    name = ""
    for block in sorted({(one.node, one.block) for one in members}):
        some = [one for one in members if (one.node, one.block) == block]
        groups = [one.part for one in some if isinstance(one.part, Group)]
        batch = batch_of(groups, [one.ordinal for one in some], hashed=False)
        types = {k: v for k, v in prediction_types(batch.layout).items() if keeps(k)}
        if not name:
            name = f"unlisted {batch.layout.service} {batch.layout.digest[:12]}"
            duck.create_table(con, name, types)
        duck.insert(con, name, types, prediction_columns(batch, Origin(*block)))
    return duck.quote_name(name)


def load_outcomes(con: DuckDBPyConnection, parts: Iterable[TailPart], service: str) -> str:
    """The table of unlisted outcomes of one service, empty if there are none."""
    name = f"unlisted outcomes of {service}"
    duck.create_table(con, name, OUTCOME_TYPES)
    blocks: dict[tuple[str, str], list[TailPart]] = {}
    for one in parts:
        if isinstance(one.part, OutcomeRecord):
            blocks.setdefault((one.node, one.block), []).append(one)
    for block, some in blocks.items():
        told = [one.part for one in some if isinstance(one.part, OutcomeRecord)]
        columns = outcome_columns(told, [one.ordinal for one in some], Origin(*block))
        duck.insert(con, name, OUTCOME_TYPES, columns)
    return duck.quote_name(name)


def create_predictions(con: DuckDBPyConnection, source: Source, span: Span) -> str:
    """The view of a service's predictions, named after it: our columns first, then those that any
    of its versions had, and `time` beside `at`."""
    duck.create_table(con, "no predictions", {**PREDICTION_TYPES, SEALED_KEY: "BLOB"})
    items = [duck.quote_name("no predictions"), *_parquet(source.predictions)]
    items += load_predictions(con, source.tail)
    service = duck.quote_text(source.service)
    return _create(
        con,
        source.service,
        f'SELECT {service} AS service, make_timestamp("at") AS "time", * EXCLUDE '  # noqa: S608
        f"({SEALED_KEY}) FROM ({_union(items)}) "
        f'WHERE "at" >= {span.since:d} AND "at" < {span.until:d}',
    )


def create_outcomes(con: DuckDBPyConnection, source: Source, span: Span) -> str:
    """The view of a service's outcomes that were received in the span or later."""
    items = [*_parquet(source.outcomes), load_outcomes(con, source.tail, source.service)]
    return _create(
        con,
        f"outcomes of {source.service}",
        f'SELECT make_timestamp("at") AS "time", * FROM ({_union(items)}) '  # noqa: S608
        f"WHERE received_at >= {span.since:d}",
    )


def create_union(con: DuckDBPyConnection, name: str, views: Sequence[str]) -> str:
    """All of these views under one name."""
    return _create(con, name, _union(views))


def _union(items: Iterable[str]) -> str:
    """Columns matched by name."""
    return " UNION ALL BY NAME ".join(f"SELECT * FROM {one}" for one in items)  # noqa: S608


def _create(con: DuckDBPyConnection, name: str, query: str) -> str:
    quoted = duck.quote_name(name)
    con.execute(f"CREATE OR REPLACE VIEW {quoted} AS {query}")
    return quoted


def _parquet(files: Sequence[Listed]) -> list[str]:
    return [duck.parquet_of(locate(files))] if files else []
