"""M2 of a 0/1 loss, from counts, by what judges one request after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from doorstep.stats import eprocess

CountCell = tuple[float, float, int, int, int, int]
"""(pi, m, B bad, B good, A bad, A good) of one period; m = A's mean, frozen before it."""


def residual_log_e(cells: Sequence[CountCell], delta: float = 0.0, direction: int = +1) -> float:
    total = np.zeros(len(eprocess.BETS))
    for pi, m, *counts in cells:
        is_b = np.repeat([True, True, False, False], counts)
        y = np.repeat([1.0, 0.0, 1.0, 0.0], counts)
        total += eprocess.residual_wealth(is_b, y, pi, m, delta, direction)
    return eprocess.log_mean_exp(total)
