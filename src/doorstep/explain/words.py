"""Contributions in words that a person who is not an engineer reads without help."""

from __future__ import annotations

import math

from doorstep.core.contract import Contract, Field
from doorstep.explain.permutation import Contribution, Explanation

REASONS = 4
NEGLIGIBLE_SHARE = 0.005
"""A column that moves the score by under half a percent of the largest move is not a reason."""


def in_words(
    explanation: Explanation, contract: Contract, positive: str, reasons: int = REASONS
) -> tuple[str, ...]:
    """The largest contributions as sentences, largest first; at most `reasons`.

    positive: the label whose score is explained; "" for a regression.
    `credit_amount = 12,000 raises the score of 'bad' by 0.14`.
    """
    fields = {field.name: field for field in contract.inputs}
    largest = max((abs(one.contribution) for one in explanation.contributions), default=0.0)
    return tuple(
        sentence(one, fields[one.column], positive)
        for one in explanation.contributions[:reasons]
        if abs(one.contribution) > NEGLIGIBLE_SHARE * largest
    )


def sentence(one: Contribution, field: Field, positive: str) -> str:
    verb = "raises" if one.contribution > 0 else "lowers"
    what = f"the score of '{positive}'" if positive else "the prediction"
    return f"{one.column} {_value(one, field)} {verb} {what} by {number(abs(one.contribution))}"


def _value(one: Contribution, field: Field) -> str:
    if one.value is None:
        return "missing"
    if isinstance(one.value, str):
        return f"= '{one.value}'"
    if field.type == "bool":
        return "= yes" if one.value else "= no"
    return f"= {number(one.value)} {field.unit}".rstrip()


def number(value: float) -> str:
    """Three significant digits below a thousand, whole numbers with commas from there on."""
    if value != 0 and abs(value) < 1e-4:
        return f"{value:.1e}"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 999.5 or float(value).is_integer():
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
