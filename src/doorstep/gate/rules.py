"""The three-valued rules that turn an estimate with its interval into a verdict.

Error rates and why these rules: docs/decisions/0003-gate-verdicts.md.
"""

from __future__ import annotations

import math
import operator as compare

from doorstep.core.verdict import Verdict
from doorstep.gate.types import ChampionEvidence, ColumnChange, Estimate, Order, Unseen
from doorstep.stats.intervals import proportion

_COMPARE = {"<=": compare.le, ">=": compare.ge, "<": compare.lt, ">": compare.gt}
LEAK_SHARE_MIN = 0.01
"""Shared rows beyond chance; fewer cannot move a metric by more than this."""
ROWS_NEEDED_MAX = 10_000_000
SCALE_MIN = 10.0
SCALE_KS_MIN = 0.8
"""A unit mistake moves nearly the whole column (0.94 for 12 x on uniform data), drift does not."""
SHIFT_SD_LARGE = 0.5
DIVERGENCE_LARGE = 0.1
UNSEEN_LARGE = 0.05


def meets(value: float, order: Order, bound: float) -> bool:
    """`value order bound`; NaN never."""
    return bool(_COMPARE[order](value, bound))


def is_upward(order: Order) -> bool:
    """Whether more is better under this operator."""
    return order in (">=", ">")


def judge(found: Estimate, order: Order, bound: float) -> Verdict:
    """Pass: the estimate meets the bound on enough rows. Fail: the whole interval misses it.
    Inconclusive: the estimate misses it and the interval does not, or there are too few rows."""
    if found.value is None or found.counted < found.counted_min:
        return Verdict.INCONCLUSIVE
    best = found.high if is_upward(order) else found.low
    if best is not None and not meets(best, order, bound):
        return Verdict.FAIL
    return Verdict.PASS if meets(found.value, order, bound) else Verdict.INCONCLUSIVE


def judge_against_champion(evidence: ChampionEvidence) -> Verdict:
    """Written: as `judge`, on the paired difference against the slack. By default: fail if surely
    worse; pass if a loss beyond the tolerance is ruled out; else inconclusive."""
    if not evidence.champion:
        return Verdict.PASS
    verdict = judge(evidence.difference, evidence.operator, evidence.slack)
    if evidence.tolerance is None or evidence.difference.value is None:
        return verdict
    if verdict is Verdict.FAIL or evidence.difference.counted < evidence.difference.counted_min:
        return verdict
    worst = worst_end(evidence.difference, evidence.operator)
    is_ruled_out = worst is not None and loss_of(worst, evidence.operator) <= evidence.tolerance
    return Verdict.PASS if is_ruled_out else Verdict.INCONCLUSIVE


def worst_end(found: Estimate, order: Order) -> float | None:
    return found.low if is_upward(order) else found.high


def loss_of(difference: float, order: Order) -> float:
    """How much worse than the champion; negative if better."""
    return -difference if is_upward(order) else difference


def rows_needed(found: Estimate, order: Order, bound: float, rows: int) -> int | None:
    """About how many rows would put the bound outside the interval, if the estimate stays.

    An interval narrows with the square root of the rows. None when it cannot be said.
    """
    best = found.high if is_upward(order) else found.low
    if found.value is None or best is None or not rows:
        return None
    gap, half = abs(found.value - bound), abs(best - found.value)
    if gap <= 0:
        return None
    needed = rows * (half / gap) ** 2
    return min(ROWS_NEEDED_MAX, round_up(needed))


def round_up(value: float) -> int:
    """Two significant digits, upwards: nobody needs 3,217 rows exactly."""
    size: int = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return math.ceil(value / size) * size


def is_leak(unseen: Unseen) -> bool:
    """Whether more held-out rows are in the training data than chance explains.

    Rows of two samples of one source are exchangeable, so a held-out row has a twin in the
    training data about as often as a training row has one (`by_chance`). Leak: the lower end of
    the 95 % interval of the shared rows is above that and one percent more.
    """
    if unseen.is_same_file:
        return True
    if unseen.compared == "nothing":
        return False
    rows = unseen.rows if unseen.compared == "training data" else unseen.compared_rows
    return proportion(unseen.shared, rows).low > unseen.by_chance + LEAK_SHARE_MIN


def is_other_unit(change: ColumnChange) -> bool:
    """Whether the column seems to be in another unit: its median is 10 times off or more, and the
    two hardly overlap."""
    if change.scale is None or change.ks is None:
        return False
    factor = max(change.scale, 1 / change.scale) if change.scale > 0 else 0.0
    return factor >= SCALE_MIN and change.ks >= SCALE_KS_MIN


def is_large(change: ColumnChange) -> bool:
    """Whether the hold-out differs so much from the training data that a person should know."""
    return (
        (change.shift_sd or 0.0) >= SHIFT_SD_LARGE
        or (change.divergence or 0.0) >= DIVERGENCE_LARGE
        or change.unseen >= UNSEEN_LARGE
        or abs(change.missing_holdout - change.missing_reference) >= UNSEEN_LARGE
    )


def size_of(change: ColumnChange) -> float:
    """One scale for numbers and categories, to say which column changed most."""
    return max(
        change.shift_sd or 0.0,
        5.0 * (change.divergence or 0.0),
        10.0 * change.unseen,
        10.0 * abs(change.missing_holdout - change.missing_reference),
    )
