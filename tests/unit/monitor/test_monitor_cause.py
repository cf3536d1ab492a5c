"""What failed rows have in common."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.contract import Contract, Field
from doorstep.monitor.cause import G_MIN, find_cause

CONTRACT = Contract(
    inputs=(
        Field(name="purpose", type="category", values=("car", "education")),
        Field(name="amount", type="float", range_min=100.0, range_max=9000.0),
    )
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.sampled_from(["x", "y", "z"]),
            "b": st.none() | st.integers(0, 3) | st.floats(0, 1),
        }
    ),
    max_size=60,
)


def rows(count: int, **values: Any) -> list[dict[str, Any]]:
    common = {"purpose": "car", "amount": 500.0}
    return [{**common, "amount": 100.0 + at, **values} for at in range(count)]


def test_a_category_that_was_never_trained_on_is_named() -> None:
    cause = find_cause(rows(41, purpose="vacation"), rows(900), CONTRACT)
    assert cause is not None
    assert cause.sentence == "41 rows with purpose='vacation', never seen in training"


def test_a_known_category_is_named_without_a_claim_about_training() -> None:
    cause = find_cause(rows(41, purpose="education"), rows(900), CONTRACT)
    assert cause is not None
    assert cause.sentence == "41 rows with purpose='education'"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "amount missing"),
        (9001.0, "amount above 9000, the most in training"),
        (99.0, "amount below 100, the least in training"),
    ],
)
def test_numbers_out_of_range_and_missing_ones_are_named(value: float | None, words: str) -> None:
    failed = [{**one, "amount": value and value + at * value / 1e4 * (1 if value > 100 else -1)}
              for at, one in enumerate(rows(30))]  # fmt: skip
    cause = find_cause(failed, rows(500), CONTRACT)
    assert cause is not None
    assert cause.words == words


@pytest.mark.parametrize(("value", "known"), [(9000.0, True), (9000.5, False)])
def test_the_bounds_of_training_are_inside(value: float, known: bool) -> None:
    cause = find_cause(rows(30, amount=value), rows(500), CONTRACT)
    assert cause is not None
    assert ("above" not in cause.words) is known


def test_failures_that_are_spread_like_the_traffic_have_no_cause() -> None:
    half = rows(50, purpose="car") + rows(50, purpose="education")
    assert find_cause(half, half * 5, CONTRACT) is None


def test_what_fewer_than_half_of_the_failures_share_explains_nothing() -> None:
    failed = [{"purpose": f"new-{at % 3}", "amount": 500.0} for at in range(60)]
    assert find_cause(failed, [{"purpose": "car", "amount": 500.0}] * 600, CONTRACT) is None
    assert find_cause(failed[:1], [], CONTRACT) is None


def test_without_answered_rows_a_value_that_all_failures_share_is_still_not_enough_of_two() -> None:
    assert find_cause(rows(2, purpose="vacation"), [], CONTRACT) is None


@given(ROWS, ROWS)
def test_a_cause_is_over_represented_and_counts_failed_rows(
    failed: list[dict[str, Any]], answered: list[dict[str, Any]]
) -> None:
    cause = find_cause(failed, answered)
    if cause is not None:
        assert cause.g >= G_MIN
        assert len(failed) / 2 <= cause.rows <= len(failed)
    assert cause == find_cause(list(reversed(failed)), list(reversed(answered)))
