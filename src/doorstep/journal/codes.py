"""Codes of a column, counted per group. What a code is says `stats.codes`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from doorstep.core.manifest import ColumnProfile
from doorstep.journal.duck import Array
from doorstep.stats.codes import CODES, EDGES, MISSING, code_numbers, code_texts


def code_column(values: Array, profile: ColumnProfile) -> NDArray[np.uint8]:
    """uint8 [n]: codes of float64 values or of texts (object array), `MISSING` for NaN and None."""
    if values.dtype == object:
        return code_texts(values.tolist(), profile)
    return code_numbers(values, profile.edges[:EDGES])


def count_by_group(
    codes: NDArray[np.uint8], groups: NDArray[np.intp], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(codes per group [count, 32], missing values per group [count]).

    groups: the group of each code, 0..count-1.
    """
    missing = codes == MISSING
    nulls = np.bincount(groups[missing], minlength=count)
    if nulls.any():
        codes, groups = codes[~missing], groups[~missing]
    table = np.bincount(groups * CODES + codes, minlength=count * CODES).reshape(count, CODES)
    return table.astype(np.int64), nulls.astype(np.int64)
