"""Rows as other servers' clients send them: lists of rows, columns, split frames.

A row is an object by field name, a list of the contract's inputs in their order, or, where the
contract has one input, its bare value. Fields of the context and ids may be among a row's own.
All values are those of the native protocol; what a client cannot say in it is mended: a list of one
is its value, 0 and 1 are false and true, `{"b64": ...}` is text. How many rows and columns there
are is checked before anything is made of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import FIELDS_MAX
from doorstep.core.errors import InputError
from doorstep.serve.fields import describe
from doorstep.serve.limits import FOUND_CHARS_MAX
from doorstep.serve.rows import Parsed, RowReader, read_header
from doorstep.serve.service import Service

NAMES_MAX = 2 * FIELDS_MAX
"""A frame may have columns that are no fields, but not any number of them."""
Column = list[Any] | NDArray[Any]
Piece = tuple[list[str], Column]
"""Fields that are neighbours in the contract's order, and their values row by row."""


class Instances:
    """Reads the rows of one request. lenient: names that no field has are left out, and are in
    `spare`; else they are refused. All methods raise InputError; key: where something was found."""

    def __init__(self, service: Service, *, lenient: bool = False) -> None:
        self.service = service
        self._reader = service.reader
        self.inputs = [one.name for one in service.plan.contract.inputs]
        self.rows_max = service.plan.rows_max
        self._lenient = lenient and service.plan.contract.enforce == "warn"
        self.spare: set[str] = set()

    def parse(self, rows: list[Any], header: bytes) -> Parsed:
        """The rows, made by one of the forms below. header: Doorstep-Context."""
        self._reader.check_count(len(rows))
        return _read([self._object(one, at) for at, one in enumerate(rows)], self._reader, header)

    # -- forms

    def rows(self, found: Any, key: str) -> list[Any]:
        """`[row, ...]`."""
        if not isinstance(found, list):
            raise _bad(f"{key!r} is {describe(found)}; expected a list of rows")
        return found

    def columns(self, found: Any, key: str) -> list[Any]:
        """`{"field": [value, ...]}`, or rows; a name alone that is no field has rows."""
        if not isinstance(found, dict):
            return self.rows(found, key)
        lists = [one for one in found.values() if isinstance(one, list)]
        if not lists:
            return [found]
        if len(found) == 1 and not self.is_field(next(iter(found))):
            return lists[0]
        self._check_names(list(found))
        count = len(lists[0])
        for name, values in found.items():
            if not isinstance(values, list) or len(values) != count:
                raise _bad(
                    f"{key!r}: column {name[:FOUND_CHARS_MAX]!r} is {_size(values)}; expected a "
                    f"list of {count}, as the first column is"
                )
        self._reader.check_count(count)
        kept = self._kept(list(found))
        return [{name: found[name][at] for name in kept} for at in range(count)]

    def split(self, found: Any, key: str) -> list[Any]:
        """`{"columns": [name, ...], "data": [[value, ...], ...]}`, or rows; values without names
        are in contract order."""
        if not isinstance(found, dict):
            return self.rows(found, key)
        rows, names = self.rows(found.get("data"), f"{key}.data"), found.get("columns")
        if names is None:
            return rows
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise _bad(f"'{key}.columns' is no list of names")
        return self.named(names, rows, {})

    def named(
        self, names: list[str], rows: list[Any], read: Mapping[str, Callable[[Any], Any]]
    ) -> list[Any]:
        """Lists of values under these names. read: what makes a value of what is under a name."""
        self._check_names(names)
        self._reader.check_count(len(rows))
        for at, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != len(names):
                raise _bad(f"row {at} is {_size(row)}; expected a list of {len(names)}")
        kept = set(self._kept(names))
        places = [
            (at, one, read.get(one, _as_it_is)) for at, one in enumerate(names) if one in kept
        ]
        return [{name: value(row[at]) for at, name, value in places} for row in rows]

    def is_field(self, name: str) -> bool:
        return name in self._reader.row_names or name in self._reader.context_names

    # -- ours

    def _kept(self, names: list[str]) -> list[str]:
        """Names that are fields; of those that are not, one stays if they are not left out: what
        is refused needs no more."""
        known = [name for name in names if self.is_field(name)]
        if len(known) == len(names):
            return known
        others = [name for name in names if not self.is_field(name)]
        if not self._lenient:
            return [*known, others[0]]
        self.spare.update(others[:10])
        return known

    def _check_names(self, names: list[str]) -> None:
        if len(names) > NAMES_MAX:
            raise _bad(f"{len(names)} columns; expected at most {NAMES_MAX}")
        if len(set(names)) != len(names):
            raise _bad("a column name comes twice")

    def _object(self, found: Any, at: int) -> dict[str, Any]:
        if isinstance(found, dict):
            if len(found) > NAMES_MAX:
                raise _bad(f"row {at} has {len(found)} fields; expected at most {NAMES_MAX}")
            if len(found) == 1:
                name, value = next(iter(found.items()))
                if isinstance(value, list) and not self.is_field(name):
                    return self._object(value, at)
            if self._lenient and not all(map(self.is_field, found)):
                return {name: found[name] for name in self._kept(list(found))}
            return found
        inputs = self.inputs
        if isinstance(found, list) and len(found) == len(inputs):
            return dict(zip(inputs, found, strict=True))
        if len(inputs) == 1 and not isinstance(found, list):
            return {inputs[0]: found}
        raise InputError(
            "bad-row",
            f"row {at} is {_size(found)}; expected an object, or a list of the contract's "
            f"{len(inputs)} inputs",
            f"in this order: {', '.join(inputs[:40])}",
        )


def read_pieces(
    pieces: Sequence[Piece], count: int, reader: RowReader, header: bytes,
    defaults: Mapping[str, Any],
) -> Parsed:  # fmt: skip
    """What `count` rows are that come in pieces. defaults: of fields that are in none."""
    if not header and not defaults:
        packed = _pack(pieces, count, reader)
        if packed is not None:
            return Parsed(count, packed)
    columns: dict[str, list[Any]] = {}
    for names, found in pieces:
        values = _items(found)
        columns |= {name: values[at :: len(names)] for at, name in enumerate(names)}
    rows = zip(*columns.values(), strict=True)
    return _read(
        [{**defaults, **dict(zip(columns, row, strict=True))} for row in rows], reader, header
    )


def _pack(pieces: Sequence[Piece], count: int, reader: RowReader) -> bytes | None:
    """All numbers of the rows at once; None if something needs a second look."""
    bounds = reader.bounds
    if bounds is None:
        return None
    matrix = np.full((count, reader.width), np.nan)
    for names, found in pieces:
        at = bounds.places.get(names[0])
        if at is None or isinstance(found, list):
            return None
        if found.dtype == bool and not all(bounds.is_bool[at : at + len(names)]):
            return None
        matrix[:, at : at + len(names)] = found.reshape(count, len(names))
    return matrix.tobytes() if bounds.hold(matrix) else None


def _items(column: Column) -> list[Any]:
    """A column's values as JSON has them: NaN is null."""
    if isinstance(column, list):
        return column
    found: list[Any] = column.tolist()
    return [None if one != one else one for one in found] if column.dtype.kind == "f" else found


def _read(rows: list[dict[str, Any]], reader: RowReader, header: bytes) -> Parsed:
    parsed = None if header else reader.read_plainly(rows)
    if parsed is not None:
        return parsed
    menders, given = _menders(reader), read_header(header)
    apart = reader.context_names - reader.row_names
    contexts = given if isinstance(given, list) else [given or {}] * len(rows)
    if len(contexts) != len(rows) or not all(isinstance(one, dict) for one in contexts):
        return reader.read_objects(rows, given, None)
    inputs, about = [], []
    for row, context in zip(rows, contexts, strict=True):
        mended = {name: menders.get(name, _as_it_is)(value) for name, value in row.items()}
        inputs.append({name: mended.pop(name) for name in row if name not in apart})
        about.append({**context, **mended})
    return reader.read_objects(inputs, about, None)


def _menders(reader: RowReader) -> dict[str, Callable[[Any], Any]]:
    found: dict[str, Callable[[Any], Any]] = {}
    for shape in (reader.context, reader.row):
        found |= {
            one.name: _mend_bool if one.type == "bool" else _unwrap
            for one in (*shape.numbers, *shape.texts)
        }
        found |= dict.fromkeys(shape.ids, _mend_id)
    return found


def _as_it_is(value: Any) -> Any:
    return value


def _unwrap(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str):
        try:
            return base64.b64decode(value["b64"], validate=True).decode()
        except ValueError:
            raise _bad("a value under 'b64' is no UTF-8 text in base64") from None
    return value


def _mend_bool(value: Any) -> Any:
    found = _unwrap(value)
    return bool(found) if isinstance(found, int | float) and found in (0, 1) else found


def _mend_id(value: Any) -> Any:
    """Some clients write every number as a float."""
    found = _unwrap(value)
    return int(found) if isinstance(found, float) and found.is_integer() else found


def _size(found: Any) -> str:
    return f"a list of {len(found)}" if isinstance(found, list) else describe(found)


def _bad(message: str) -> InputError:
    return InputError("bad-instances", message)
