"""Rows on their way into a model, and the protocol of what scores them.

A `Batch` is what the front worker builds from requests without a Python object per number:
`numbers` is float64 [rows, len(contract.numbers)] (missing: NaN), `texts` holds one list per string
input, each with `rows` entries (missing: None), both in contract order.
"""

from __future__ import annotations

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


class Scorer(Protocol):
    """A loaded model. Not thread-safe: one caller at a time."""

    def score(self, batch: Batch) -> NDArray[np.float64]:
        """float64 [rows, n]: one column per label of the manifest, in its order (classification),
        or one column (regression). Raises whatever the model raises."""
        ...
