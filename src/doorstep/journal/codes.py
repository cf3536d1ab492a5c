"""Bin codes: a value of a column as one of 32 numbers, against the version's reference profile.

Code 0..31 as `core.manifest.ColumnProfile` says; NULL_CODE is a missing value. Counts of codes add
up, so any window or merge is a sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from doorstep.core.manifest import ColumnProfile

CODES = 32
NULL_CODE = 32
KNOWN_CODE = 30
UNSEEN_CODE = 31
Codes = NDArray[np.uint8]


def code_numbers(values: NDArray[np.float64], profile: ColumnProfile) -> Codes:
    """Codes of numbers, any shape: how many edges are at or below the value; NaN: NULL_CODE."""
    edges = np.asarray(profile.edges[: CODES - 1], dtype=np.float64)
    codes = np.searchsorted(edges, values, side="right").astype(np.uint8)
    codes[np.isnan(values)] = NULL_CODE
    return codes


def code_texts(values: Sequence[str | None], profile: ColumnProfile) -> Codes:
    """Codes of texts: position among the frequent categories, KNOWN_CODE, UNSEEN_CODE; None:
    NULL_CODE."""
    table: dict[str | None, int] = dict.fromkeys(profile.known, KNOWN_CODE)
    table |= {name: code for code, name in enumerate(profile.categories[:KNOWN_CODE])}
    table[None] = NULL_CODE
    found = (table.get(value, UNSEEN_CODE) for value in values)
    return np.fromiter(found, dtype=np.uint8, count=len(values))


def count_codes(codes: Codes, groups: NDArray[np.intp], count: int) -> NDArray[np.int64]:
    """How often each code comes in each group: (count, 33), the last column counts nulls.

    groups: the group of each code, 0..count-1.
    """
    width = CODES + 1
    flat = np.bincount(groups * width + codes, minlength=count * width)
    return flat.reshape(count, width).astype(np.int64)
