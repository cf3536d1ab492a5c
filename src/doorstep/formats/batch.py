"""Rows on their way into a model, and the protocol of what scores them.

A `Batch` is what the front worker builds from requests without a Python object per number:
`numbers` is float64 [rows, len(contract.numbers)] (missing: NaN), `texts` holds one list per string
input, each with `rows` entries (missing: None), both in contract order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    numbers: NDArray[np.float64]
    texts: list[list[str | None]]

    @property
    def rows(self) -> int:
        return int(self.numbers.shape[0])

    def part(self, start: int, stop: int) -> Batch:
        """The rows from `start` to before `stop`, as far as there are any."""
        return Batch(self.numbers[start:stop], [texts[start:stop] for texts in self.texts])

    def parts(self, rows: int) -> Iterator[Batch]:
        """All rows, at most `rows` at a time."""
        return (self.part(start, start + rows) for start in range(0, self.rows, rows))


class Scorer(Protocol):
    """A loaded model. Not thread-safe: one caller at a time."""

    def score(self, batch: Batch) -> NDArray[np.float64]:
        """float64 [rows, n]: one column per label of the manifest, in its order (classification),
        or one column (regression). Raises whatever the model raises."""
        ...
