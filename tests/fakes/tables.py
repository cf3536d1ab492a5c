"""Columns of a table from plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doorstep.formats.columns import Column, Kind

DTYPES = {"int": np.int64, "float": np.float64, "bool": np.bool_, "time": np.int64}


def column_of(name: str, values: Sequence[Any] | NDArray[Any], kind: Kind) -> Column:
    """A column from plain values; None and NaN are missing."""
    mask = np.fromiter((v is None or v != v for v in values), np.bool_, len(values))
    if kind == "text":
        texts: NDArray[Any] = np.empty(len(values), dtype=object)
        texts[:] = [None if gone else str(v) for v, gone in zip(values, mask, strict=True)]
        return Column(name, kind, texts, mask)
    blank = np.nan if kind == "float" else 0
    filled = [blank if gone else v for v, gone in zip(values, mask, strict=True)]
    return Column(name, kind, np.array(filled, dtype=DTYPES[kind]), mask)
