"""What a risk tier sets where the file says nothing: approval, review, retention."""

from __future__ import annotations

import msgspec

from doorstep.core.condition import parse_condition
from doorstep.core.servicefile_people import ReviewRule
from doorstep.core.servicefile_running import DAY_S

REVIEW_SHARE = 0.01
"""One in a hundred, drawn at random, is what shows a reviewer how the model answers normally."""
CONFIDENCE_MIN = "confidence < 0.6"


class RiskDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """people: how many approve a release. keep_s: how long predictions are kept."""

    people: int
    review: tuple[ReviewRule, ...]
    keep_s: float


def defaults_of(risk: str, task: str | None) -> RiskDefaults:
    """The defaults of a tier. A task without a confidence is reviewed at random only."""
    sampled = ReviewRule(sample=REVIEW_SHARE)
    match risk:
        case "high":
            doubtful = ReviewRule(when=parse_condition(CONFIDENCE_MIN))
            has_confidence = task not in {"regression", "ranking"}
            review = (doubtful, sampled) if has_confidence else (sampled,)
            return RiskDefaults(people=2, review=review, keep_s=800 * DAY_S)
        case "medium":
            return RiskDefaults(people=1, review=(sampled,), keep_s=400 * DAY_S)
        case _:
            return RiskDefaults(people=0, review=(), keep_s=400 * DAY_S)
