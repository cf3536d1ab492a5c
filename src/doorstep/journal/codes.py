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
    width = MISSING + 1
    table = np.bincount(groups * width + codes, minlength=count * width).reshape(count, width)
    return table[:, :CODES].astype(np.int64), table[:, MISSING].astype(np.int64)
