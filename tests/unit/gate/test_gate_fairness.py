from __future__ import annotations

import numpy as np
import pytest

from doorstep.core.verdict import Verdict
from doorstep.gate.decide import decide
from doorstep.gate.types import FairnessEvidence, GroupAnswers


def evidence(*groups: tuple[str, int, int]) -> FairnessEvidence:
    return FairnessEvidence(
        check="selection_rate_ratio >= 0.8 by sex",
        attribute="sex",
        favourable="good",
        operator=">=",
        bound=0.8,
        groups=tuple(GroupAnswers(name=n, rows=r, selected=s) for n, r, s in groups),
    )


@pytest.mark.parametrize(
    ("groups", "verdict"),
    [
        ((("f", 1000, 500), ("m", 1000, 520)), Verdict.PASS),
        ((("f", 1000, 200), ("m", 1000, 500)), Verdict.FAIL),
        ((("f", 100, 39), ("m", 100, 50)), Verdict.INCONCLUSIVE),
        ((("f", 29, 15), ("m", 1000, 500)), Verdict.INCONCLUSIVE),
        ((("f", 1000, 0), ("m", 1000, 500)), Verdict.FAIL),
        ((("f", 1000, 0), ("m", 1000, 0)), Verdict.INCONCLUSIVE),
        ((("m", 1000, 500),), Verdict.INCONCLUSIVE),
        ((), Verdict.INCONCLUSIVE),
    ],
)
def test_selection_rates_fail_only_beyond_chance(groups, verdict) -> None:
    assert decide(evidence(*groups)).verdict is verdict


def test_groups_that_are_too_small_are_named_with_what_is_needed() -> None:
    reason = decide(evidence(("divorced", 38, 2), ("single", 2000, 83))).reason
    assert "38 rows of 'divorced', 120 needed" in reason


def test_five_equal_groups_rarely_fail() -> None:
    generator = np.random.default_rng(3)
    failed = 0
    for _ in range(300):
        groups = [(str(i), 100, int(generator.binomial(100, 0.5))) for i in range(5)]
        failed += decide(evidence(*groups)).verdict is Verdict.FAIL
    assert failed / 300 <= 0.05
