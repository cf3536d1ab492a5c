"""A table in memory: typed columns with masks, as training and hold-out files are read.

A column has one kind, decided from all its values. Whole numbers stay whole numbers, and text that
merely looks like a number (`007`) stays text.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from doorstep.core.errors import InputError

Kind = Literal["int", "float", "bool", "time", "text"]
_DTYPES: dict[Kind, str] = {
    "int": "<i8",
    "float": "<f8",
    "bool": "|b1",
    "time": "<i8",
    "text": "|O",
}


@dataclass(frozen=True, slots=True)
class Column:
    """values: int64, float64, bool, int64 microseconds UTC (time), or object (str or None).

    missing: bool [rows]. Where it is True, values holds 0, NaN, False, 0 or None.
    """

    name: str
    kind: Kind
    values: NDArray[Any]
    missing: NDArray[np.bool_]

    @property
    def missing_rows(self) -> int:
        return int(self.missing.sum())

    def as_numbers(self) -> NDArray[np.float64]:
        """float64 [rows], missing: NaN. Raises: InputError (`bad-column`) for text."""
        if self.kind == "text":
            raise InputError("bad-column", f"column {self.name!r} holds text, expected numbers")
        numbers = self.values.astype(np.float64)
        numbers[self.missing] = np.nan
        return numbers

    def as_texts(self) -> list[str | None]:
        """Each value as text, missing: None. True is `true`; 3.0 is `3`."""
        if self.kind == "text":
            return list(self.values)
        pairs = zip(self.values.tolist(), self.missing.tolist(), strict=True)
        return [None if missing else value_text(value) for value, missing in pairs]

    def take(self, rows: NDArray[Any]) -> Column:
        return Column(self.name, self.kind, self.values[rows], self.missing[rows])


@dataclass(frozen=True, slots=True)
class Table:
    """columns: at least one, all of length `rows`, names unique. notes: what reading it decided."""

    columns: tuple[Column, ...]
    rows: int
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def __contains__(self, name: str) -> bool:
        return any(column.name == name for column in self.columns)

    def column(self, name: str) -> Column:
        """Raises: InputError (`no-column`) naming the nearest column."""
        for column in self.columns:
            if column.name == name:
                return column
        raise missing_column(name, self.names)

    def take(self, rows: NDArray[Any]) -> Table:
        """The rows of a bool mask or of indices, in that order."""
        taken = tuple(column.take(rows) for column in self.columns)
        return Table(taken, len(taken[0].values), self.notes)

    def only(self, names: Iterable[str]) -> Table:
        """The named columns, in the order given. Raises: InputError (`no-column`)."""
        return Table(tuple(self.column(name) for name in names), self.rows, self.notes)


def missing_column(name: str, names: Sequence[str]) -> InputError:
    """The error for a column that is not there."""
    import difflib

    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return InputError("no-column", f"there is no column {name!r}; the columns are {shown}", hint)


def value_text(value: object) -> str:
    """One value as a label or a category: `true`, `3` (of 3 and 3.0), `3.5`, or the text itself."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)


def table_digest(table: Table) -> str:
    """SHA-256 (hex) of the content: names, kinds, values and missing ones, in order.

    The same rows give the same digest from CSV, Parquet or JSON lines, on any platform.
    """
    digest = hashlib.sha256(b"doorstep table 1\n")
    for column in table.columns:
        name = column.name.encode()
        head = f"{column.kind} {len(column.values)} {len(name)}\n"
        digest.update(head.encode() + name)
        digest.update(np.packbits(column.missing).tobytes())
        if column.kind == "text":
            _hash_texts(digest, column.values)
        else:
            values = np.where(column.missing, np.zeros(1, column.values.dtype), column.values)
            digest.update(values.astype(_DTYPES[column.kind]).tobytes())
    return digest.hexdigest()


def _hash_texts(digest: Any, values: NDArray[Any]) -> None:
    for text in values:
        data = b"" if text is None else text.encode("utf-8", "surrogatepass")
        digest.update(struct.pack("<I", len(data)) + data)


def row_hashes(table: Table, names: Iterable[str] | None = None) -> NDArray[np.uint64]:
    """uint64 [rows]: a hash of the content of each row over `names` (default: all columns).

    Equal rows have equal hashes whatever file they came from; 3 and 3.0 are equal, missing values
    are equal. The order of columns does not matter.
    """
    total: NDArray[np.uint64] = np.zeros(table.rows, np.uint64)
    for name in table.names if names is None else names:
        salt = _hash_text(name)
        total += _mix(_column_hashes(table.column(name)) ^ salt)
    return _mix(total)


def _column_hashes(column: Column) -> NDArray[np.uint64]:
    hashes: NDArray[np.uint64]
    if column.kind == "text":
        seen: dict[str | None, int] = {text: int(_hash_text(text or "")) for text in column.values}
        hashes = np.fromiter((seen[t] for t in column.values), np.uint64, len(column.values))
    else:
        hashes = (column.values.astype(np.float64) + 0.0).view(np.uint64).copy()
    hashes[column.missing] = np.uint64(0x9E3779B97F4A7C15)
    return hashes


def _hash_text(text: str) -> np.uint64:
    data = text.encode("utf-8", "surrogatepass")
    return np.uint64(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): every bit depends on every other."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
