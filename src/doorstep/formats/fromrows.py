"""A table from rows that were read one by one: the first ones of a stream, as a sample of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from doorstep.core.errors import InputError
from doorstep.core.instant import parse_instant
from doorstep.formats.columns import Column, Kind, Table, value_text
from doorstep.formats.table import MISSING_TEXTS, SHAPES

_NARROW: tuple[Kind, ...] = ("int", "float", "bool", "time")
_EMPTY: dict[Kind, Any] = {"int": 0, "float": np.nan, "bool": False, "time": 0, "text": None}
_MADE: dict[Kind, Any] = {"int": int, "float": float, "bool": lambda one: one.lower() == "true"}
_DTYPES: dict[Kind, Any] = {
    "int": np.int64, "float": np.float64, "bool": np.bool_, "time": np.int64, "text": object,
}  # fmt: skip


def table_of_rows(rows: Sequence[Mapping[str, Any]], texts: frozenset[str] = frozenset()) -> Table:
    """The rows as columns, each of the narrowest kind that all its values have, as `read_table`
    decides it. texts: columns to keep as text whatever they look like.

    Raises: InputError (`empty-table`) without rows or columns.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise InputError("empty-table", "there are no rows", "name a file with rows")
    columns = (_column(name, [row.get(name) for row in rows], name in texts) for name in names)
    return Table(tuple(columns), len(rows))


def is_missing(value: Any) -> bool:
    """Whether a value stands for none, as `read_table` reads it."""
    if isinstance(value, str):
        return value.strip() in MISSING_TEXTS
    return value is None or (isinstance(value, float) and value != value)


def _column(name: str, values: list[Any], is_text: bool) -> Column:
    missing = np.array([is_missing(one) for one in values], dtype=np.bool_)
    said = [None if gone else _said(one) for one, gone in zip(values, missing, strict=True)]
    present = [one for one in said if one is not None]
    kind: Kind = "text" if is_text else _kind(present)
    make = _MADE.get(kind, parse_instant if kind == "time" else str)
    made = np.empty(len(values), dtype=_DTYPES[kind])
    made[:] = [_EMPTY[kind] if one is None else make(one) for one in said]
    return Column(name, kind, made, missing)


def _said(value: Any) -> str:
    """Text as it is, what is no text as it would stand in a CSV file."""
    if isinstance(value, float):
        return repr(value)
    return value.strip() if isinstance(value, str) else value_text(value)


def _kind(present: list[str]) -> Kind:
    if not present:
        return "float"
    fits = (kind for kind in _NARROW if all(re.match(SHAPES[kind], one) for one in present))
    return next((kind for kind in fits if kind != "time" or _are_times(present)), "text")


def _are_times(present: list[str]) -> bool:
    try:
        return all(parse_instant(one) is not None for one in present)
    except InputError:
        return False
