"""What the operations of explanations take and give."""

from __future__ import annotations

from typing import Any

import msgspec


class ExplainPrediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prediction: str


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """amount: what this column's value added to the score, against the background sample."""

    column: str
    value: Any
    amount: float
    words: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """score = base + the sum of the contributions. of: the label that the score is of.
    contributions: largest first."""

    prediction: str
    version: str
    of: str
    answer: str | float | None
    score: float
    base: float
    background_rows: int
    contributions: tuple[Contribution, ...]
