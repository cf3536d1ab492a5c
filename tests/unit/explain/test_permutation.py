from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError, RefusedError
from doorstep.explain.permutation import (
    EXACT_COLUMNS_MAX,
    check_additive,
    explain_row,
    take,
)
from doorstep.formats.batch import Batch


def contract_of(width: int, texts: int = 0) -> Contract:
    numbers = tuple(Field(name=f"x{i}", type="float") for i in range(width))
    strings = tuple(Field(name=f"t{i}", type="category") for i in range(texts))
    return Contract(inputs=numbers + strings)


def rows_of(seed: int, rows: int, width: int) -> Batch:
    return Batch(np.random.default_rng(seed).normal(size=(rows, width)), [])


def by_column(answer):
    return {one.column: one.contribution for one in answer.contributions}


def curved(batch: Batch) -> np.ndarray:
    x = batch.numbers
    return 1 / (1 + np.exp(-(x[:, 0] * x[:, 1] + np.sin(x[:, 2]) * x[:, 3] - x[:, 4] ** 2)))


@pytest.mark.parametrize("width", [3, EXACT_COLUMNS_MAX, EXACT_COLUMNS_MAX + 1, 20])
def test_contributions_of_a_linear_model_are_its_coefficients(width: int) -> None:
    weights = np.linspace(-2, 3, width)
    background, row = rows_of(1, 60, width), rows_of(2, 1, width)
    answer = explain_row(lambda b: b.numbers @ weights + 5, contract_of(width), row, background)
    expected = weights * (row.numbers[0] - background.numbers.mean(axis=0))
    for position, value in enumerate(expected):
        assert by_column(answer)[f"x{position}"] == pytest.approx(value, abs=1e-9)
    assert answer.is_exact is (width <= EXACT_COLUMNS_MAX)


def test_six_columns_agree_with_an_enumeration_of_all_orders() -> None:
    background, row = rows_of(3, 12, 6), rows_of(4, 1, 6)

    def value(members: frozenset[int]) -> float:
        mixed = background.numbers.copy()
        mixed[:, list(members)] = row.numbers[0, list(members)]
        return float(curved(Batch(mixed, [])).mean())

    expected = np.zeros(6)
    for order in itertools.permutations(range(6)):
        for at, column in enumerate(order):
            before = frozenset(order[:at])
            expected[column] += (value(before | {column}) - value(before)) / math.factorial(6)
    answer = explain_row(curved, contract_of(6), row, background)
    assert [by_column(answer)[f"x{i}"] for i in range(6)] == pytest.approx(expected, abs=1e-12)


def test_sampling_is_near_the_exact_answer_and_says_how_near() -> None:
    background, row = rows_of(3, 30, 12), rows_of(4, 1, 12)

    def with_noise_columns(batch: Batch) -> np.ndarray:
        return curved(Batch(np.ascontiguousarray(batch.numbers[:, :6]), []))

    few = explain_row(curved, contract_of(6), take_columns(row, 6), take_columns(background, 6))
    many = explain_row(with_noise_columns, contract_of(12), row, background, pairs=200)
    assert not many.is_exact
    errors = {one.column: one.error for one in many.contributions}
    for name, exact in by_column(few).items():
        assert abs(by_column(many)[name] - exact) <= 4 * errors[name] + 1e-9


def take_columns(batch: Batch, width: int) -> Batch:
    return Batch(np.ascontiguousarray(batch.numbers[:, :width]), [])


def test_a_column_that_the_model_ignores_gets_nothing_at_all() -> None:
    answer = explain_row(curved, contract_of(12), rows_of(5, 1, 12), rows_of(6, 20, 12))
    assert [by_column(answer)[f"x{i}"] for i in range(5, 12)] == [0.0] * 7


def test_a_column_that_equals_the_background_gets_nothing_at_all() -> None:
    background = rows_of(7, 20, 5)
    background.numbers[:, 2] = 0.5
    row = rows_of(8, 1, 5)
    row.numbers[0, 2] = 0.5
    assert by_column(explain_row(curved, contract_of(5), row, background))["x2"] == 0.0


def test_columns_that_do_the_same_get_the_same() -> None:
    background = rows_of(9, 40, 4)
    background.numbers[:, 1] = background.numbers[:, 0]
    row = Batch(np.array([[0.7, 0.7, -1.0, 2.0]]), [])

    def symmetric(batch: Batch) -> np.ndarray:
        x = batch.numbers
        return np.tanh(x[:, 0] + x[:, 1]) * x[:, 2] + x[:, 3]

    found = by_column(explain_row(symmetric, contract_of(4), row, background))
    assert found["x0"] == pytest.approx(found["x1"], abs=1e-12)
    assert found["x0"] != 0


def test_texts_and_missing_values_take_part() -> None:
    contract = contract_of(2, texts=1)
    background = Batch(np.array([[1.0, 0.0], [3.0, 0.0]]), [["a", None]])
    row = Batch(np.array([[np.nan, 0.0]]), [["b"]])

    def score(batch: Batch) -> np.ndarray:
        texts = np.array([2.0 if t == "b" else 0.0 for t in batch.texts[0]])
        return np.nan_to_num(batch.numbers[:, 0]) + texts

    answer = explain_row(score, contract, row, background)
    assert by_column(answer) == {"x0": -2.0, "t0": 2.0, "x1": 0.0}
    assert {one.column: one.value for one in answer.contributions} == {
        "x0": None,
        "t0": "b",
        "x1": 0.0,
    }


@given(seed=st.integers(0, 10_000), width=st.integers(5, 14))
@settings(max_examples=30, deadline=None)
def test_contributions_always_add_up_and_the_same_seed_gives_the_same(
    seed: int, width: int
) -> None:
    background, row = rows_of(seed, 7, width), rows_of(seed + 1, 1, width)
    first = explain_row(curved, contract_of(width), row, background, seed=seed, pairs=2)
    again = explain_row(curved, contract_of(width), row, background, seed=seed, pairs=2)
    assert first == again
    total = first.base + sum(one.contribution for one in first.contributions)
    assert total == pytest.approx(first.score, rel=1e-9)


def test_an_answer_that_does_not_add_up_is_refused() -> None:
    import msgspec

    answer = explain_row(curved, contract_of(5), rows_of(1, 1, 5), rows_of(2, 9, 5))
    with pytest.raises(RefusedError, match="not-additive"):
        check_additive(msgspec.structs.replace(answer, base=answer.base + 1e-4))


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(RefusedError, match="bad-score"):
        explain_row(
            lambda b: np.full(b.rows, np.nan), contract_of(5), rows_of(1, 1, 5), rows_of(2, 9, 5)
        )


def test_without_a_background_there_is_no_explanation() -> None:
    with pytest.raises(InputError, match="no-background"):
        explain_row(curved, contract_of(5), rows_of(1, 1, 5), rows_of(2, 0, 5))


def test_two_rows_are_not_explained_as_one() -> None:
    with pytest.raises(InputError, match="bad-row"):
        explain_row(curved, contract_of(5), rows_of(1, 2, 5), rows_of(2, 3, 5))


def test_a_large_background_is_thinned_the_same_way_each_time() -> None:
    background, row = rows_of(1, 500, 5), rows_of(2, 1, 5)
    first = explain_row(curved, contract_of(5), row, background, seed=3)
    assert first.background_rows == 100
    assert first == explain_row(curved, contract_of(5), row, background, seed=3)


def test_taking_rows_keeps_numbers_and_texts_together() -> None:
    batch = Batch(np.array([[1.0], [2.0], [3.0]]), [["a", "b", None]])
    chosen = take(batch, [2, 0])
    assert chosen.numbers.tolist() == [[3.0], [1.0]]
    assert chosen.texts == [[None, "a"]]
