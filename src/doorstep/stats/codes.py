"""Values as one of 32 codes, so that any two windows of data can be compared by counts alone.

A code is a position in a reference profile (`core.manifest.ColumnProfile`). Numbers fall between 31
quantile edges; texts are one of the 30 most frequent categories, another known one, or unseen.
Missing values have no code in the counts: they get `MISSING` here and are counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doorstep.core.manifest import ColumnProfile

CODES = 32
EDGES = CODES - 1
CATEGORIES_MAX = CODES - 2
CODE_OTHER_KNOWN = 30
CODE_UNSEEN = 31
MISSING = 255


def quantile_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 31 inner quantile edges (k/32, k = 1..31) of `values`, ascending, float64.

    NaN is left out; infinities are kept. An edge is always one of the values (the lower of the two
    neighbours), so that integers keep integer edges. Of nothing: 31 zeros.
    """
    present = values[~np.isnan(values)]
    if present.size == 0:
        return np.zeros(EDGES)
    ordered = np.sort(present)
    at = np.arange(1, CODES) * ordered.size // CODES
    return ordered[at].astype(np.float64)


def code_numbers(values: ArrayLike, edges: ArrayLike) -> NDArray[np.uint8]:
    """uint8 [n]: how many edges are <= each value, 0..31; NaN gives `MISSING`.

    edges: ascending; equal edges collapse bins (the codes between them stay empty).
    """
    numbers = np.asarray(values, dtype=np.float64)
    bounds = np.asarray(edges, dtype=np.float64)
    codes, is_above = np.zeros(numbers.shape, np.uint8), np.empty(numbers.shape, np.bool_)
    for bound in bounds:  # four times as fast as a binary search for each value
        np.greater_equal(numbers, bound, out=is_above)
        codes += is_above
    codes[np.isnan(numbers)] = MISSING
    return codes


def code_texts(values: Sequence[str | None], profile: ColumnProfile) -> NDArray[np.uint8]:
    """uint8 [n]: the position among `profile.categories`, 30 for another of `profile.known`,
    31 for anything else; None gives `MISSING`."""
    table: dict[str | None, int] = dict.fromkeys(profile.known, CODE_OTHER_KNOWN)
    table.update({text: at for at, text in enumerate(profile.categories[:CATEGORIES_MAX])})
    table[None] = MISSING
    get = table.get
    return np.fromiter((get(text, CODE_UNSEEN) for text in values), np.uint8, count=len(values))


def count_codes(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """int64 [32]: how often each code occurs; `MISSING` is left out."""
    return np.bincount(codes[codes < CODES], minlength=CODES).astype(np.int64)
