"""A verdict is three-valued and is never stored without the numbers it was computed from."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Fail if any failed, else inconclusive if any is, else pass. Of nothing: inconclusive."""
    seen = set(verdicts)
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if verdict in seen:
            return verdict
    return Verdict.PASS if seen else Verdict.INCONCLUSIVE


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One answer with its evidence, as gates, `check` and monitors give it.

    check: what was asked, in the words of the service file ("auc >= 0.75").
    reason: one sentence a person would say, with the values.
    evidence: the numbers behind it, JSON types only, enough to recompute the verdict.
    next: the command that helps, or "".
    """

    check: str
    verdict: Verdict
    reason: str
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    next: str = ""
