"""The goal of a service: kept, broken, or not yet known, per version."""

from __future__ import annotations

import numpy as np
import pytest

from doorstep.core.condition import parse_condition
from doorstep.core.errors import InputError
from doorstep.core.servicefile import parse_service_file
from doorstep.journal.joined import OutcomeArrays
from doorstep.monitor.goals import Counted, _of_outcomes, judge_goal
from doorstep.testing.installation import service_file


def arrays(cases: list[tuple[str, str, float]]) -> OutcomeArrays:
    """cases: (answer, outcome, value)."""
    n = len(cases)
    text = np.full(n, "", dtype=object)
    zero = np.zeros(n, dtype=np.int64)
    return OutcomeArrays(
        id=text, at=zero, version=zero + 1, assigned=zero + 1, kind=zero, segment=text,
        release=text, epoch=zero, unit=text,
        answer=np.array([one[0] for one in cases], dtype=object),
        label=np.array([one[1] for one in cases], dtype=object),
        value=np.array([one[2] for one in cases]),
        latency_us=zero, group=text, outcome_at=zero, received_at=zero, scores={}, is_cut=False,
    )  # fmt: skip


CASES = [
    *[("good", "good", 10.0)] * 60,
    *[("good", "bad", -30.0)] * 20,
    *[("bad", "bad", 0.0)] * 15,
    *[("bad", "good", 0.0)] * 5,
]


@pytest.mark.parametrize(
    ("name", "k", "n"),
    [
        ("accuracy", 75, 100),
        ("precision", 15, 20),
        ("recall", 15, 35),
        ("specificity", 60, 65),
        ("outcome_rate", 35, 100),
        ("default_rate", 20, 80),
        ("mean_value", 0, 100),
    ],
)
def test_a_measure_counts_its_own_cases(name: str, k: int, n: int) -> None:
    found = _of_outcomes(arrays(CASES), name, 1, "bad")
    assert (found.total, found.n) == (k, n)
    assert _of_outcomes(arrays(CASES), name, 2, "bad").n == 0


@pytest.mark.parametrize(
    ("text", "k", "n", "state"),
    [
        ("default_rate <= 0.24", 100, 1_000, "kept"),
        ("default_rate <= 0.24", 400, 1_000, "broken"),
        ("default_rate <= 0.24", 230, 1_000, "not-yet-known"),
        ("default_rate <= 0.24", 0, 3, "not-yet-known"),
        ("accuracy >= 0.8", 950, 1_000, "kept"),
        ("accuracy >= 0.8", 700, 1_000, "broken"),
        ("accuracy >= 0.8", 0, 0, "not-yet-known"),
    ],
)
def test_only_a_whole_sequence_decides(text: str, k: int, n: int, state: str) -> None:
    found = judge_goal(parse_condition(text), 3, Counted(n, float(k), float(k)))
    assert (found.version, found.state, found.counted) == (3, state, n)
    assert (found.value is None) is (n == 0)
    assert f"{n:,}" in found.measured or "yet" in found.measured


def test_a_mean_of_values_says_its_own_unit() -> None:
    counted = Counted(400, 400 * 120.0, 400 * (120.0**2 + 30.0**2))
    found = judge_goal(parse_condition("mean_value >= 100"), 1, counted)
    assert found.state == "kept"
    assert found.measured.startswith("120 [")
    assert found.measured.endswith("of 400 cases with a value")


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ("profit >= 3", "metric 'profit' is not known; expected one of error_rate, accuracy"),
        ("auc >= 0.8", "metric 'auc' is not known"),
        ("accuracy >= champion", "is a bound on a number"),
        ("accuracy == 0.8", "is a bound on a number"),
        ("accuracy >= 80", "is between 0 and 1"),
        ("conversion >= 3%", "needs monitor.outcomes.delay"),
        ("mean_value >= 100", "needs monitor.outcomes.unit"),
        ("selection_rate >= 20%", "needs model.favourable"),
    ],
)
def test_a_goal_that_cannot_be_measured_is_refused(goal: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_service_file(service_file("loans", more=f'goal: "{goal}"'))
    assert said in refused.value.message
    assert "goal" in refused.value.message
