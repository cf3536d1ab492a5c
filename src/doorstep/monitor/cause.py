"""What rows that failed have in common, that the others do not: pure, on rows as dicts.

A pointer for a person, not a proof: the one value that is most over-represented among failed rows,
by the likelihood-ratio statistic G of the two-by-two table (value or not, failed or not).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from doorstep.core.contract import Contract, Field

SHARE_MIN = 0.5
"""A value that fewer than half of the failed rows have does not explain them."""
ROWS_MIN = 2
G_MIN = 10.83
"""Chi-square of one degree of freedom at 0.001: below it, chance does as well."""
Row = Mapping[str, Any]


class Cause(msgspec.Struct, frozen=True):
    """rows: failed rows that have it. words: `purpose='vacation', never seen in training`."""

    column: str
    rows: int
    words: str
    g: float

    @property
    def sentence(self) -> str:
        """`41 rows with purpose='vacation', never seen in training`."""
        return f"{self.rows:,} {'row' if self.rows == 1 else 'rows'} with {self.words}"


def find_cause(
    failed: Sequence[Row], answered: Sequence[Row], contract: Contract | None = None
) -> Cause | None:
    """The value that most sets the failed rows apart, or None if none does surely enough.

    contract: of the version that failed; with it, a value that is unknown to it or out of its range
    is said to be so, and ranges are looked at as well as single values. A missing value counts as
    a value. Of equally telling ones, that of the first column by name.
    """
    if len(failed) < ROWS_MIN:
        return None
    fields = {one.name: one for one in contract.inputs} if contract else {}
    names = sorted({name for row in failed for name in row})
    found = [
        cause
        for name in names
        for cause in _of_column(name, failed, answered, fields.get(name))
        if cause.g >= G_MIN
    ]
    return max(found, key=lambda one: one.g, default=None)


def _of_column(
    name: str, failed: Sequence[Row], answered: Sequence[Row], field: Field | None
) -> Iterator[Cause]:
    mine = _counts(name, failed, field)
    others = _counts(name, answered, field)
    for words, count in mine.items():
        if count < max(ROWS_MIN, SHARE_MIN * len(failed)):
            continue
        g = _telling(count, len(failed), others.get(words, 0), len(answered))
        yield Cause(name, count, words, g)


def _counts(name: str, rows: Iterable[Row], field: Field | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        for words in _words(name, row.get(name), field):
            found[words] = found.get(words, 0) + 1
    return found


def _words(name: str, value: Any, field: Field | None) -> Iterator[str]:
    """What can be said of one value, in words that are equal for equal facts."""
    if value is None:
        yield f"{name} missing"
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if field is not None and is_number:
        if field.range_max is not None and value > field.range_max:
            yield f"{name} above {field.range_max:g}, the most in training"
        elif field.range_min is not None and value < field.range_min:
            yield f"{name} below {field.range_min:g}, the least in training"
    is_new = field is not None and bool(field.values) and str(value) not in field.values
    yield f"{name}={value!r}" + (", never seen in training" if is_new else "")


def _telling(with_it: int, failed: int, others_with_it: int, others: int) -> float:
    """G = 2 sum O ln(O / E); 0 where the failed rows do not have it more often than the others."""
    if others and with_it / failed <= others_with_it / others:
        return 0.0
    # Without rows that were answered, one imagined row without the value stands for them.
    others = others or 1
    total = failed + others
    cells = (
        (with_it, failed, with_it + others_with_it),
        (failed - with_it, failed, total - with_it - others_with_it),
        (others_with_it, others, with_it + others_with_it),
        (others - others_with_it, others, total - with_it - others_with_it),
    )
    return 2 * sum(n * math.log(n * total / (row * column)) for n, row, column in cells if n)
