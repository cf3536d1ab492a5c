from __future__ import annotations

import pytest

from doorstep.core.contract import Contract, Field
from doorstep.gate.compatibility import contract_breaks


def contract(*fields: Field, enforce: str = "warn") -> Contract:
    return Contract(inputs=fields, enforce=enforce)  # type: ignore[arg-type]


AGE = Field(name="age", type="int", range_min=18, range_max=99)
PURPOSE = Field(name="purpose", type="category", values=("car", "house"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (contract(AGE), contract(AGE), ""),
        (contract(AGE, PURPOSE), contract(AGE), ""),
        (contract(), contract(AGE), "'age' is required"),
        (contract(), contract(Field(name="age", type="int", required=False)), ""),
        (contract(AGE), contract(Field(name="age", type="float")), ""),
        (contract(Field(name="age", type="float")), contract(AGE), "was float and is int"),
        (contract(Field(name="age", type="int", required=False)), contract(AGE), "may be missing"),
        (contract(AGE), contract(AGE, enforce="reject"), "refuses values outside [18, 99]"),
        (contract(AGE, enforce="reject"), contract(AGE, enforce="reject"), ""),
        (
            contract(AGE, enforce="reject"),
            contract(Field(name="age", type="int", range_min=21, range_max=99), enforce="reject"),
            "refuses values outside [21, 99]",
        ),
        (
            contract(PURPOSE),
            contract(Field(name="purpose", type="category", values=("car",), unseen="reject")),
            "refuses unseen categories",
        ),
    ],
)
def test_a_break_is_a_row_that_passed_and_is_refused(old, new, says) -> None:
    found = contract_breaks(old, new)
    assert bool(found) is bool(says)
    assert not says or says in found[0]
