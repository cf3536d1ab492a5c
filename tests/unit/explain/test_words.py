from __future__ import annotations

import pytest

from doorstep.core.contract import Contract, Field
from doorstep.explain.permutation import Contribution, Explanation
from doorstep.explain.words import in_words, number, sentence

AMOUNT = Field(name="credit_amount", type="float")


def test_a_number_reads_like_a_sentence() -> None:
    one = Contribution(column="credit_amount", value=12000.0, contribution=0.1417)
    assert sentence(one, AMOUNT, "bad") == (
        "credit_amount = 12,000 raises the score of 'bad' by 0.142"
    )


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (Field(name="purpose", type="category"), "car", "purpose = 'car' lowers"),
        (Field(name="purpose", type="category"), None, "purpose missing lowers"),
        (Field(name="owner", type="bool"), 1.0, "owner = yes lowers"),
        (Field(name="duration", type="int", unit="months"), 24.0, "duration = 24 months lowers"),
    ],
)
def test_each_type_is_said_in_its_own_way(field: Field, value: object, says: str) -> None:
    one = Contribution(column=field.name, value=value, contribution=-2.0)  # type: ignore[arg-type]
    assert sentence(one, field, "").startswith(f"{says} the prediction by 2")


def test_columns_that_hardly_matter_are_not_reasons() -> None:
    explanation = Explanation(
        score=1.0,
        base=0.0,
        contributions=(
            Contribution(column="credit_amount", value=1.0, contribution=1.0),
            Contribution(column="credit_amount", value=1.0, contribution=0.001),
        ),
        is_exact=True,
        near_tie=False,
        pairs=0,
        background_rows=1,
        scored_rows=1,
        seed=0,
    )
    assert len(in_words(explanation, Contract(inputs=(AMOUNT,)), "bad")) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1417, "0.142"), (12_000.4, "12,000"), (3.0, "3"), (23.46, "23.5"), (0.0, "0"),
     (0.00001234, "1.2e-05"), (999.96, "1,000"), (100.4, "100"), (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert number(value) == text
