"""Records as columns: what a row of the journal is called in Parquet and in queries.

Inputs are `in.<name>`, context `ctx.<name>`, outputs `out.<name>`, ours bare. Numbers are DOUBLE
as the model got them (a missing one is NULL); times and `at` are microseconds UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.errors import InputError
from doorstep.core.record import Layout, OutcomeRecord, PredictionMeta
from doorstep.journal.block import outcome_leaf, prediction_leaves
from doorstep.journal.duck import LISTS_JOINED_BY, Array, Columns, Computed
from doorstep.journal.reader import Group

PREDICTION_TYPES = {
    "id": "VARCHAR",
    "request": "VARCHAR",
    "row": "BIGINT",
    "at": "BIGINT",
    "version": "BIGINT",
    "assigned": "BIGINT",
    "status": "BIGINT",
    "kind": "BIGINT",
    "release": "VARCHAR",
    "epoch": "BIGINT",
    "share": "DOUBLE",
    "segment": "VARCHAR",
    "key": "VARCHAR",
    "unit": "VARCHAR",
    "latency_us": "BIGINT",
    "warnings": "VARCHAR[]",
    "error": "VARCHAR",
    "cached": "BOOLEAN",
    "leaf_hash": "BLOB",
    "node": "VARCHAR",
    "block": "VARCHAR",
    "ordinal": "BIGINT",
}
OUTCOME_TYPES = {
    "service": "VARCHAR",
    "at": "BIGINT",
    "received_at": "BIGINT",
    "prediction": "VARCHAR",
    "key": "VARCHAR",
    "label": "VARCHAR",
    "value": "DOUBLE",
    "source": "VARCHAR",
    "leaf_hash": "BLOB",
    "node": "VARCHAR",
    "block": "VARCHAR",
    "ordinal": "BIGINT",
}
_INTEGERS = ("row", "at", "version", "assigned", "status", "kind", "epoch", "latency_us")
_TEXTS = ("release", "segment", "key", "unit", "error")
_KINDS: dict[str, type] = {
    **dict.fromkeys(_INTEGERS, np.int64),
    **dict.fromkeys(_TEXTS, object),
    "share": np.float64,
    "cached": np.bool_,
}
WORD_BYTES = 8


def _uuid_of(high: str, low: str) -> str:
    """SQL: of two columns of words. DuckDB reads numbers five times as fast as it reads objects."""
    return f'CAST((CAST("{high}" AS UHUGEINT) << 64) | "{low}" AS UUID)'


_REQUEST_WORDS = ("request 0", "request 1")
_LEAF_WORDS = ("leaf 0", "leaf 1", "leaf 2", "leaf 3")
_REQUEST = f"CAST({_uuid_of(*_REQUEST_WORDS)} AS VARCHAR)"
_LEAF = " || ".join(
    f"CAST({_uuid_of(*_LEAF_WORDS[at : at + 2])} AS BLOB)" for at in range(0, len(_LEAF_WORDS), 2)
)
TURNED_ROWS = 2000
"""Rows that are turned into columns at once stay in the processor's cache: half the time."""
SEALED_KEY = "sealed_key"
"""What opens the text in the column `sealed`: of a block its seal, else a key wrapped by another.
It is for us alone: no query and no export has it."""


class Origin(msgspec.Struct, frozen=True):
    """Where records were read: node, stem of the block."""

    node: str
    block: str


class Batch(msgspec.Struct, frozen=True, dict=True):
    """Predictions of one layout. fields: name -> the values of all rows, of each field of
    `PredictionMeta`. matrix: (rows, numbers). ordinals: position among the block's records, from 0.
    leaves: their Merkle leaf hashes. keys: what opens the sealed fields of each, of a layout that
    has some."""

    layout: Layout
    fields: dict[str, list[Any]]
    matrix: NDArray[np.float64]
    ordinals: list[int]
    leaves: list[bytes]
    keys: Sequence[bytes | None] = ()

    @cached_property
    def values(self) -> dict[str, Array]:
        """Inputs, context and outputs: float64 arrays and object arrays of text or None."""
        columns = np.empty(self.matrix.shape[::-1])
        for first in range(0, len(self.matrix), TURNED_ROWS):
            columns[:, first : first + TURNED_ROWS] = self.matrix[first : first + TURNED_ROWS].T
        numbers = {one.name: columns[i] for i, one in enumerate(self.layout.numbers)}
        texts = zip(*self.fields["texts"], strict=True)
        return numbers | {one.name: objects(next(texts, ())) for one in self.layout.texts}

    @cached_property
    def constants(self) -> frozenset[str]:
        """The fields of _KINDS of which all rows have the same value."""
        return frozenset(name for name in _KINDS if _is_constant(self.fields[name]))

    @cached_property
    def integers(self) -> dict[str, NDArray[np.int64]]:
        """name -> the values of all rows, of each field that is a whole number."""
        count = len(self.matrix)
        return {
            name: np.full(count, self.fields[name][0], dtype=np.int64)
            if name in self.constants
            else np.fromiter(self.fields[name], dtype=np.int64, count=count)
            for name in _INTEGERS
        }


class BatchMaker:
    """Groups of one layout on their way to a batch: every so many rows are hashed and turned into
    columns while the processor's cache has them, and let go. hashed: False leaves the leaf hashes
    out (b"")."""

    def __init__(self, layout: Layout, *, hashed: bool = True) -> None:
        self._layout, self._hashed = layout, hashed
        self._columns: tuple[list[Any], ...] = tuple([] for _ in PredictionMeta.__struct_fields__)
        self._rows: list[PredictionMeta] = []
        self._numbers, self._matrix = bytearray(), bytearray()
        self._ordinals: list[int] = []
        self._leaves: list[bytes] = []
        self._keys: list[bytes | None] = []

    @property
    def rows(self) -> int:
        return len(self._ordinals)

    def add(self, group: Group, ordinal: int) -> None:
        """ordinal: of the group's first record."""
        self._rows += group.rows
        self._numbers += group.matrix
        self._ordinals += range(ordinal, ordinal + len(group.rows))
        if self._layout.seals:
            self._keys += [group.seal or None] * len(group.rows)
        if len(self._rows) >= TURNED_ROWS:
            self._turn()

    def _turn(self) -> None:
        rows, numbers = self._rows, bytes(self._numbers)
        leaves = (
            prediction_leaves(self._layout, rows, numbers) if self._hashed else [b""] * len(rows)
        )
        self._leaves += leaves
        turned = zip(*map(msgspec.structs.astuple, rows), strict=True)
        for column, part in zip(self._columns, turned, strict=True):
            column += part
        self._matrix += numbers
        self._rows, self._numbers = [], bytearray()

    def finish(self) -> Batch:
        """At least one group was added."""
        if self._rows:
            self._turn()
        shape = len(self._ordinals), len(self._layout.numbers)
        matrix = np.frombuffer(self._matrix, dtype="<f8").reshape(shape)
        fields = dict(zip(PredictionMeta.__struct_fields__, self._columns, strict=True))
        return Batch(self._layout, fields, matrix, self._ordinals, self._leaves, self._keys)


def batch_of(groups: Sequence[Group], ordinals: Sequence[int], *, hashed: bool = True) -> Batch:
    """One batch of groups that have the same layout. ordinals: of each group's first record."""
    made = BatchMaker(groups[0].layout, hashed=hashed)
    for group, first in zip(groups, ordinals, strict=True):
        made.add(group, first)
    return made.finish()


def objects(values: Sequence[object]) -> Array:
    """An object array (numpy would try to make an array of arrays of some values)."""
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _is_constant(values: Sequence[object]) -> bool:
    # Most that are not say so at their ends.
    ends = values[:1] == values[-1:] == values[len(values) // 2 :][:1]
    return bool(values) and ends and values.count(values[0]) == len(values)


def _texts(values: Sequence[str | None]) -> Array | Computed:
    """Texts, or the one that all of them are."""
    if _is_constant(values):
        return Computed("?", (values[0],))
    return objects(values)


def _words(values: Sequence[bytes], names: Sequence[str]) -> dict[str, Array | Computed]:
    """Values of 8 bytes for each name as columns of whole numbers.

    Raises: InputError (`bad-block`) for one of another length."""
    size = WORD_BYTES * len(names)
    if strange := set(map(len, values)) - {size}:
        raise InputError("bad-block", f"an id has {min(strange)} bytes; expected {size}")
    rows = np.frombuffer(b"".join(values), dtype=">u8").reshape(-1, len(names))
    return dict(zip(names, np.ascontiguousarray(rows.T, dtype=np.uint64), strict=True))


def prediction_columns(batch: Batch, origin: Origin) -> Columns:
    """name -> column, of PREDICTION_TYPES and of the layout. `warnings` are joined texts here.

    Raises: InputError (`bad-block`)."""
    fields = batch.fields
    row = str(int(fields["row"][0])) if "row" in batch.constants else '"row"'
    ours: dict[str, Array | Computed] = {
        **_words(fields["request"], _REQUEST_WORDS),
        "id": Computed(f"{_REQUEST} || '.' || {row}"),
        "request": Computed(_REQUEST),
    }
    for name, kind in _KINDS.items():
        if name in batch.constants:
            ours[name] = Computed("?", (fields[name][0],))
        elif name in _INTEGERS:
            ours[name] = batch.integers[name]
        else:
            ours[name] = np.array(fields[name], dtype=kind)
    ours["warnings"] = Computed("[]")
    if any(fields["warnings"]):
        ours["warnings"] = objects([LISTS_JOINED_BY.join(one) for one in fields["warnings"]])
    if batch.layout.seals:
        ours[SEALED_KEY] = objects(batch.keys)
    return ours | _origin_columns(batch.ordinals, batch.leaves, origin) | batch.values


def outcome_columns(
    outcomes: Sequence[OutcomeRecord], ordinals: Sequence[int], origin: Origin
) -> Columns:
    """name -> array, of OUTCOME_TYPES."""
    count = len(outcomes)
    names = ("service", "prediction", "key", "label", "source")
    columns: dict[str, Array | Computed] = {
        name: _texts([*map(attrgetter(name), outcomes)]) for name in names
    }
    for name in ("at", "received_at"):
        columns[name] = np.fromiter(map(attrgetter(name), outcomes), dtype=np.int64, count=count)
    values = (float("nan") if one.value is None else one.value for one in outcomes)
    columns["value"] = np.fromiter(values, dtype=np.float64, count=count)
    leaves = [outcome_leaf(one) for one in outcomes]
    return columns | _origin_columns(ordinals, leaves, origin)


def _origin_columns(
    ordinals: Sequence[int], leaves: Sequence[bytes], origin: Origin
) -> dict[str, Array | Computed]:
    hashes: dict[str, Array | Computed] = {"leaf_hash": Computed("''::BLOB")}
    if any(leaves):
        hashes = {**_words(leaves, _LEAF_WORDS), "leaf_hash": Computed(_LEAF)}
    return {
        **hashes,
        "node": Computed("?", (origin.node,)),
        "block": Computed("?", (origin.block,)),
        "ordinal": np.array(ordinals, dtype=np.int64),
    }


def prediction_types(layout: Layout) -> dict[str, str]:
    """name -> SQL type of every column of this layout."""
    types = PREDICTION_TYPES | {one.name: "DOUBLE" for one in layout.numbers}
    types |= {SEALED_KEY: "BLOB"} if layout.seals else {}
    return types | {one.name: "VARCHAR" for one in layout.texts}
