"""What gates say: numbers with their intervals, in the words of a person."""

from __future__ import annotations

from doorstep.explain.words import number
from doorstep.gate.rules import is_large, is_leak, is_upward, size_of
from doorstep.gate.types import ColumnChange, Estimate, Order, Unseen

NAMED_MAX = 5


def measured(value: float | None) -> str:
    """Three decimals below one, three digits above."""
    if value is None:
        return "unknown"
    return f"{value:.3f}" if abs(value) < 1 else number(value)


def with_interval(found: Estimate) -> str:
    """`0.781 [0.764, 0.797]`."""
    low = "-" if found.low is None else measured(found.low)
    high = "-" if found.high is None else measured(found.high)
    return f"{measured(found.value)} [{low}, {high}]"


def missed(order: Order) -> str:
    return "below" if is_upward(order) else "above"


def percent(share: float) -> str:
    """`0.4 %`, `12 %`."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"


def too_few(found: Estimate) -> str:
    return f"{found.counted:,} {found.what}, {found.counted_min:,} needed"


def ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 9.5 else f"{value:.2g}"


def of_column(change: ColumnChange) -> str:
    """`credit_amount (contract range [250, 20,000], held-out p50 2,300 vs training reference p50
    23, 100 times)`."""
    facts: list[str] = []
    if change.range_min is not None and change.range_max is not None:
        facts.append(f"contract range [{number(change.range_min)}, {number(change.range_max)}]")
    if change.holdout_p50 is not None and change.reference_p50 is not None:
        times = f", {_times(change.scale)}" if change.scale is not None else ""
        facts.append(
            f"held-out p50 {number(change.holdout_p50)} vs training reference p50 "
            f"{number(change.reference_p50)}{times}"
        )
    if change.unseen > 0:
        facts.append(f"{percent(change.unseen)} of values never seen in training")
    if abs(change.missing_holdout - change.missing_reference) >= 0.01:
        facts.append(
            f"missing {percent(change.missing_holdout)} vs {percent(change.missing_reference)}"
        )
    return f"{change.column} ({'; '.join(facts)})" if facts else change.column


def _times(scale: float) -> str:
    if scale <= 0:
        return "of another sign"
    return f"{ratio(scale)} times" if scale >= 1 else f"{ratio(1 / scale)} times less"


def most_changed(changed: tuple[ColumnChange, ...]) -> str:
    """`; most changed column: ...`, or "" if no column changed much."""
    large = [one for one in changed if is_large(one)]
    if not large:
        return ""
    return f"; most changed column: {of_column(max(large, key=size_of))}"


def of_unseen(unseen: Unseen) -> str:
    """Whether the model has seen the held-out rows, as one sentence."""
    if unseen.is_same_file:
        return "the hold-out is the file that this version was trained on"
    if unseen.compared == "nothing":
        return (
            "no training data is named, so that these rows were held out is taken "
            "from the service file"
        )
    if unseen.compared == "training data":
        rows, other = unseen.rows, "held-out rows are in the training data too"
    else:
        rows, other = unseen.compared_rows, "sampled training rows are in the hold-out too"
    chance = f"{percent(unseen.by_chance)} would be chance"
    if is_leak(unseen):
        return f"{unseen.shared:,} of {rows:,} {other} ({chance})"
    if unseen.shared:
        return f"{unseen.shared:,} of {rows:,} {other}, as chance would have it ({chance})"
    return f"none of {rows:,} {other}"
