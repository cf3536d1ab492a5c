"""Many rows of numbers that are checked against the contract at once, without an object each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Field
from doorstep.serve.limits import INT_MAX


class Bounds:
    """What the columns of a matrix must keep to: ranges, whole numbers, and where NaN (missing) is
    allowed. A whole number's largest bound is left to those who read it as it was written.
    places: of the fields, by name."""

    def __init__(self, fields: Sequence[Field]) -> None:
        whole = [one.type in ("int", "bool", "time") for one in fields]
        edge = [float(INT_MAX - 1) if one else float(np.finfo(float).max) for one in whole]
        low = [one.range_min for one in fields]
        high = [one.range_max for one in fields]
        for at, field in enumerate(fields):
            if field.type == "bool":
                low[at], high[at] = 0, 1
        pairs = list(zip(low, high, edge, strict=True))
        self._low = np.array([-top if one is None else max(one, -top) for one, _, top in pairs])
        self._high = np.array([top if one is None else min(one, top) for _, one, top in pairs])
        self._whole = np.flatnonzero(whole)
        self.places = {one.name: at for at, one in enumerate(fields)}
        self.is_bool = [one.type == "bool" for one in fields]
        self._optional = np.array([not one.required for one in fields], dtype=bool)
        self._may_miss = bool(self._optional.any())

    def hold(self, matrix: NDArray[np.float64]) -> bool:
        """Whether float64 [rows, fields] needs no second look."""
        fine = (matrix >= self._low) & (matrix <= self._high)
        if self._may_miss:
            fine |= np.isnan(matrix) & self._optional
        if not fine.all():
            return False
        found = matrix[:, self._whole]
        return bool(((found == np.floor(found)) | np.isnan(found)).all())
