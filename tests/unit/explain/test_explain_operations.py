from __future__ import annotations

import numpy as np
import pytest

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import RefusedError
from doorstep.explain.child import Explained, row_batch
from doorstep.explain.operations import SCORE_APART_MAX, check_same_row, kept_inputs
from doorstep.explain.permutation import Explanation, explain_row
from doorstep.formats.batch import Batch

PLAIN = Contract(
    inputs=(Field(name="age", type="int"), Field(name="town", type="category")),
)


def with_personal(how: str) -> Contract:
    return Contract(
        inputs=(
            Field(name="age", type="int"),
            Field(name="name", type="text", personal=how),  # type: ignore[arg-type]
            Field(name="income", type="float", personal=how),  # type: ignore[arg-type]
        )
    )


def explanation(score: float) -> Explanation:
    one = Contract(inputs=(Field(name="x", type="float"),))
    row, background = Batch(np.array([[score]]), []), Batch(np.zeros((5, 1)), [])
    return explain_row(lambda batch: batch.numbers[:, 0], one, row, background)


def explained(score: float, of: str = "bad") -> Explained:
    return Explained(of=of, form="onnx", explanation=explanation(score), words=())


@pytest.mark.parametrize("how", ["pseudonymise", "drop"])
def test_a_row_with_personal_fields_is_not_explained_by_its_hashes(how: str) -> None:
    row = {"in.age": 40, "in.name": "00aa11bb22cc33dd", "in.income": None}
    with pytest.raises(RefusedError, match="name, income") as caught:
        kept_inputs(row, with_personal(how), "p1")
    assert caught.value.code == "inputs-not-kept"


def test_what_the_journal_kept_is_what_is_explained() -> None:
    row = {"in.age": 40, "in.town": None, "ctx.shop": 3, "out.bad": 0.5}
    assert kept_inputs(row, PLAIN, "p1") == {"age": 40, "town": None}


def test_a_row_of_which_nothing_was_kept_is_refused() -> None:
    with pytest.raises(RefusedError, match="did not keep the inputs"):
        kept_inputs({"in.age": None, "in.town": None}, PLAIN, "p1")


@pytest.mark.parametrize("apart", [0.0, 0.99 * SCORE_APART_MAX, -0.99 * SCORE_APART_MAX])
def test_the_score_that_was_answered_may_be_explained(apart: float) -> None:
    check_same_row({"out.bad": 0.5}, explained(0.5 + apart), "p1")


@pytest.mark.parametrize("recorded", [0.5 + 1.01 * SCORE_APART_MAX, 0.3, float("nan")])
def test_another_score_than_the_recorded_one_is_another_row(recorded: float) -> None:
    with pytest.raises(RefusedError) as caught:
        check_same_row({"out.bad": recorded}, explained(0.5), "p1")
    assert caught.value.code == "explains-another-row"


def test_a_regression_is_compared_with_its_value_relative_to_its_size() -> None:
    check_same_row({"out.value": 100_000.0}, explained(100_001.0, of=""), "p1")
    with pytest.raises(RefusedError, match="another row"):
        check_same_row({"out.value": 100_000.0}, explained(100_100.0, of=""), "p1")


def test_a_score_that_was_not_recorded_is_not_compared() -> None:
    check_same_row({"out.bad": None}, explained(0.5), "p1")


def test_a_category_that_the_version_saw_as_missing_is_explained_as_missing() -> None:
    field = Field(name="town", type="category", values=("ulm", "kiel"), unseen="missing")
    contract = Contract(inputs=(field,))
    assert row_batch({"town": "rome"}, contract).texts == [[None]]
    assert row_batch({"town": "ulm"}, contract).texts == [["ulm"]]
