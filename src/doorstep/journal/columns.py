"""Records as columns: what a row of the journal is called in Parquet and in queries.

Inputs are `in.<name>`, context `ctx.<name>`, outputs `out.<name>`, ours bare. Numbers are DOUBLE
as the model got them (a missing one is NULL); times and `at` are microseconds UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.record import Layout, OutcomeRecord, PredictionMeta
from doorstep.journal.block import outcome_leaf, prediction_leaves
from doorstep.journal.reader import Group

Array = NDArray[Any]
Columns = dict[str, Array]
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
SEALED_KEY = "sealed_key"
"""What opens the text in the column `sealed`: of a block its seal, else a key wrapped by another.
It is for us alone: no query and no export has it."""
WARNINGS_JOINED_BY = "\x1f"


class Origin(msgspec.Struct, frozen=True):
    """Where records were read: node, stem of the block."""

    node: str
    block: str


class Batch(msgspec.Struct, frozen=True):
    """Predictions of one layout. matrix: (rows, numbers). ordinals: position among the block's
    records, from 0. leaves: their Merkle leaf hashes. keys: what opens the sealed fields of each,
    of a layout that has some."""

    layout: Layout
    rows: list[PredictionMeta]
    matrix: NDArray[np.float64]
    ordinals: list[int]
    leaves: list[bytes]
    keys: Sequence[bytes | None] = ()

    @property
    def ats(self) -> NDArray[np.int64]:
        return integers(self.rows, "at")


def batch_of(groups: Sequence[Group], ordinals: Sequence[int], *, hashed: bool = True) -> Batch:
    """One batch of groups that have the same layout. ordinals: of each group's first record.
    hashed: False leaves the leaf hashes out (b"")."""
    layout = groups[0].layout
    rows = [row for group in groups for row in group.rows]
    data = b"".join(group.matrix for group in groups)
    matrix = np.frombuffer(data, dtype="<f8").reshape(len(rows), len(layout.numbers))
    leaves = list(prediction_leaves(layout, rows, data)) if hashed else [b""] * len(rows)
    positions = [
        position
        for group, first in zip(groups, ordinals, strict=True)
        for position in range(first, first + len(group.rows))
    ]
    keys = [group.seal or None for group in groups if layout.seals for _ in group.rows]
    return Batch(layout, rows, matrix, positions, leaves, keys)


def integers(rows: Sequence[PredictionMeta], name: str) -> NDArray[np.int64]:
    return np.fromiter(map(attrgetter(name), rows), dtype=np.int64, count=len(rows))


def objects(values: Iterable[object], count: int) -> Array:
    """An object array (numpy would try to make an array of arrays of some values)."""
    made = np.empty(count, dtype=object)
    made[:] = list(values)
    return made


def prediction_columns(batch: Batch, origin: Origin) -> Columns:
    """name -> array, of PREDICTION_TYPES and of the layout. `warnings` are joined texts here."""
    rows, count = batch.rows, len(batch.rows)
    requests = [str(UUID(bytes=row.request)) for row in rows]
    ids = [f"{request}.{row.row}" for request, row in zip(requests, rows, strict=True)]
    ours: Columns = {"id": objects(ids, count), "request": objects(requests, count)}
    ours |= {name: integers(rows, name) for name in _INTEGERS}
    ours |= {name: objects(map(attrgetter(name), rows), count) for name in _TEXTS}
    ours["share"] = np.fromiter((row.share for row in rows), dtype=np.float64, count=count)
    ours["cached"] = np.fromiter((row.cached for row in rows), dtype=np.bool_, count=count)
    ours["warnings"] = objects((WARNINGS_JOINED_BY.join(row.warnings) for row in rows), count)
    if batch.layout.seals:
        ours[SEALED_KEY] = objects(batch.keys, count)
    return ours | _origin_columns(batch.ordinals, batch.leaves, origin) | value_columns(batch)


def value_columns(batch: Batch) -> Columns:
    """Inputs, context and outputs: float64 arrays and object arrays of text or None."""
    numbers = {one.name: batch.matrix[:, i] for i, one in enumerate(batch.layout.numbers)}
    count = len(batch.rows)
    texts = {
        one.name: objects((row.texts[i] for row in batch.rows), count)
        for i, one in enumerate(batch.layout.texts)
    }
    return numbers | texts


def outcome_columns(
    outcomes: Sequence[OutcomeRecord], ordinals: Sequence[int], origin: Origin
) -> Columns:
    """name -> array, of OUTCOME_TYPES."""
    count = len(outcomes)
    names = ("service", "prediction", "key", "label", "source")
    columns: Columns = {name: objects(map(attrgetter(name), outcomes), count) for name in names}
    for name in ("at", "received_at"):
        columns[name] = np.fromiter(map(attrgetter(name), outcomes), dtype=np.int64, count=count)
    values = (float("nan") if one.value is None else one.value for one in outcomes)
    columns["value"] = np.fromiter(values, dtype=np.float64, count=count)
    leaves = [outcome_leaf(one) for one in outcomes]
    return columns | _origin_columns(ordinals, leaves, origin)


def _origin_columns(ordinals: Sequence[int], leaves: Sequence[bytes], origin: Origin) -> Columns:
    count = len(leaves)
    return {
        "leaf_hash": objects(leaves, count),
        "node": objects([origin.node] * count, count),
        "block": objects([origin.block] * count, count),
        "ordinal": np.array(ordinals, dtype=np.int64),
    }


def prediction_types(layout: Layout) -> dict[str, str]:
    """name -> SQL type of every column of this layout."""
    types = PREDICTION_TYPES | {one.name: "DOUBLE" for one in layout.numbers}
    types |= {SEALED_KEY: "BLOB"} if layout.seals else {}
    return types | {one.name: "VARCHAR" for one in layout.texts}
