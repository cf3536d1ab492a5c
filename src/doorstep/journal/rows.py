"""Rows of the journal as dicts, from listed files by DuckDB and from open blocks directly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from doorstep.core.instant import Instant
from doorstep.core.record import Kind, Layout, PredictionMeta
from doorstep.journal import duck
from doorstep.journal.columns import SEALED_KEY
from doorstep.journal.reader import Group
from doorstep.journal.snapshot import NodeSnapshot, TailBlock, TailPart

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Row = dict[str, Any]
VISIBLE = (int(Kind.LIVE), int(Kind.REHEARSAL), int(Kind.WATCHED))


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Any of these columns (`in.age`) has this value; a number may be written in any way.
    is_start: or begins with it."""

    columns: tuple[str, ...]
    text: str
    is_start: bool = False

    def is_in(self, row: Row) -> bool:
        return any(self._is(row.get(name)) for name in self.columns)

    def _is(self, value: object) -> bool:
        if self.is_start:
            return isinstance(value, str) and value.startswith(self.text)
        return value is not None and value == (
            self.number if value.__class__ is float else self.text
        )

    @property
    def number(self) -> float | None:
        try:
            return float(self.text)
        except ValueError:
            return None

    def where(self, types: Mapping[str, str]) -> tuple[str, list[Any]]:
        """The same in SQL, of a table with columns of these types."""
        known = [
            (duck.quote_name(name), self.number if types[name] == "DOUBLE" else self.text)
            for name in self.columns
            if name in types
        ]
        form = "starts_with({}, ?)" if self.is_start else "{} = ?"
        condition = " OR ".join(form.format(name) for name, _ in known) or "false"
        return f"({condition})", [value for _, value in known]


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows must match all that is given; None asks nothing. version: who answered."""

    kinds: tuple[int, ...] = VISIBLE
    version: int | None = None
    assigned: int | None = None
    status: int | None = None
    segment: str | None = None
    release: str | None = None
    key: str | None = None
    unit: str | None = None
    has_error: bool | None = None
    has_warning: bool | None = None
    since: Instant | None = None
    wanted: tuple[Wanted, ...] = ()

    def matches(self, row: PredictionMeta) -> bool:
        """Whether an unlisted row passes, but for `wanted`; `where` is the same in SQL."""
        named = ((getattr(self, name), getattr(row, name)) for name in _EQUAL)
        return (
            row.kind in self.kinds
            and all(wanted is None or wanted == found for wanted, found in named)
            and self.has_error in (None, row.error != "")
            and self.has_warning in (None, bool(row.warnings))
            and (self.since is None or row.at >= self.since)
        )

    def where(self, types: Mapping[str, str]) -> tuple[str, list[Any]]:
        """(a condition with parameters, their values). types: of the table's columns, where
        `wanted` names some."""
        parts = ["list_contains(?, kind)"]
        values: list[Any] = [list(self.kinds)]
        for name in _EQUAL:
            if (wanted := getattr(self, name)) is not None:
                parts.append(f"{duck.quote_name(name)} = ?")
                values.append(wanted)
        if self.has_error is not None:
            parts.append("(error <> '') = ?")
            values.append(self.has_error)
        if self.has_warning is not None:
            parts.append("(len(warnings) > 0) = ?")
            values.append(self.has_warning)
        if self.since is not None:
            parts.append('"at" >= ?')
            values.append(self.since)
        for one in self.wanted:
            condition, some = one.where(types)
            parts.append(condition)
            values += some
        return " AND ".join(parts), values


_EQUAL = ("version", "assigned", "status", "segment", "release", "key", "unit")


def tail_parts(snapshots: Iterable[NodeSnapshot], service: str | None = None) -> Iterator[TailPart]:
    """Parts of the unlisted blocks; of one service if it is named."""
    for snapshot in snapshots:
        for tail in snapshot.tails:
            for one in tail.parts():
                of = one.part.layout.service if isinstance(one.part, Group) else one.part.service
                if service in (None, of):
                    yield one


def tail_rows(parts: Iterable[TailPart], service_filters: Filters) -> Iterator[Row]:
    """Unlisted rows that pass, as dicts. Their leaf hashes are not known yet: None."""
    for one in parts:
        if not isinstance(one.part, Group):
            continue
        for index, row in enumerate(one.part.rows):
            if service_filters.matches(row):
                found = row_of(one, one.part, index)
                if all(wanted.is_in(found) for wanted in service_filters.wanted):
                    yield found


def row_of(origin: TailPart, group: Group, index: int) -> Row:
    """One record as a dict, with the names and types that a listed row has."""
    row = group.rows[index]
    request = str(UUID(bytes=row.request))
    ours: Row = {"service": group.layout.service, "id": f"{request}.{row.row}", "request": request}
    ours |= {name: getattr(row, name) for name in _PLAIN}
    ours |= {"warnings": list(row.warnings), "leaf_hash": None, "node": origin.node}
    ours |= {"block": origin.block, "ordinal": origin.ordinal + index}
    ours |= {SEALED_KEY: group.seal or None} if group.layout.seals else {}
    return ours | _values(group.layout, row, group.matrix, index)


_PLAIN = (
    *("row", "at", "version", "assigned", "status", "kind", "release", "epoch", "share"),
    *("segment", "key", "unit", "latency_us", "error", "cached"),
)


def _values(layout: Layout, row: PredictionMeta, matrix: memoryview, index: int) -> Row:
    width = len(layout.numbers)
    numbers = matrix.cast("d")[index * width : (index + 1) * width] if width else ()
    found: Row = {
        column.name: None if math.isnan(value) else value
        for column, value in zip(layout.numbers, numbers, strict=True)
    }
    return found | {one.name: row.texts[i] for i, one in enumerate(layout.texts)}


def find_in_tail(tail: TailBlock, request: bytes) -> Iterator[TailPart]:
    """Parts that may have this request; a block without its bytes costs one search."""
    if request in tail.data:
        yield from (one for one in tail.parts() if isinstance(one.part, Group))


def types_of(con: DuckDBPyConnection, files: Sequence[Path]) -> dict[str, str]:
    """name -> SQL type of the columns of these files together."""
    described = con.execute(f"DESCRIBE SELECT * FROM {duck.parquet_of(files)}")  # noqa: S608
    return {str(one[0]): str(one[1]) for one in described.fetchall()}


def listed_rows(
    con: DuckDBPyConnection, service: str, files: Sequence[Path], tail: str, values: list[Any]
) -> list[Row]:
    """Rows of these files. tail: what follows FROM (WHERE ..., ORDER BY ..., LIMIT)."""
    query = f"SELECT * FROM {duck.parquet_of(files)} {tail}"  # noqa: S608
    cursor = con.execute(query, values)
    names = [column[0] for column in cursor.description or ()]
    rows = [dict(zip(names, found, strict=True)) for found in cursor.fetchall()]
    for row in rows:
        row["cached"] = bool(row.get("cached"))  # files of before there was a cache
        row["leaf_hash"] = bytes(row["leaf_hash"]).hex()
        row["service"] = service
    return rows
