"""Contract, target, personal data, splits, profile: from all rows; what people wrote wins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.formats.batch import Batch
from doorstep.formats.columns import Table
from doorstep.register.personal import looks_personal, looks_protected
from doorstep.register.profile import measure_importance, profile_field, profile_table
from doorstep.register.schema import choose_inputs, find_target, honest_range, infer_contract
from doorstep.register.split import overlap, sample_rows, split_table, time_column
from fakes.tables import column_of

FREQUENT = ["car"] * 5 + ["home"] * 3 + ["boat"] * 2


def table(**columns: tuple[str, list[object]]) -> Table:
    made = tuple(column_of(name, cells, kind) for name, (kind, cells) in columns.items())
    return Table(made, len(made[0].values))


BASIC = table(
    age=("int", [18, 75, 40, 33, 21, 60, 44, 39, 28, 51]),
    amount=("float", [12.5, 98765.4, None, 1, 2, 3, 4, 5, 6, 7]),
    purpose=("text", FREQUENT),
    said=("text", [f"free text number {n}" for n in range(10)]),
    code=("int", [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]),
    gone=("float", [None] * 10),
    default=("bool", [True, False] * 5),
)


def test_types_required_ranges_and_values_come_from_all_rows() -> None:
    contract = infer_contract(BASIC, ["age", "amount", "purpose", "said", "code", "gone"])
    age, amount, purpose, said, code, gone = contract.inputs
    assert (age.type, age.required, age.range_min, age.range_max) == ("int", True, 18, 75)
    assert (amount.type, amount.required, amount.range_min) == ("float", False, 0)
    assert amount.range_max == 98_800
    assert (purpose.type, purpose.values) == ("category", ("car", "home", "boat"))
    assert (said.type, said.values) == ("text", ())
    assert code.type == "int"
    assert (gone.required, gone.range_min) == (False, None)


def test_what_a_person_wrote_wins_over_the_data() -> None:
    contract = infer_contract(
        BASIC,
        ["age", "code", "purpose"],
        overrides={
            "age": {"type": "int", "range": (18, 120), "unit": "years", "required": False},
            "code": {"type": "category", "values": None, "unseen": "reject"},
            "purpose": {"type": "category", "values": ("car",), "personal": "drop"},
        },
        context={"region": {"type": "category", "protected": True}, "default": {"type": None}},
        enforce="reject",
    )
    age, code, purpose = contract.inputs
    assert (age.range_max, age.unit, age.required) == (120, "years", False)
    assert (code.values, code.unseen) == (("1", "2", "3"), "reject")
    assert (purpose.personal, purpose.values) == ("drop", ())
    assert [one.name for one in contract.context] == ["default", "region"]
    assert contract.context[1].protected
    assert contract.enforce == "reject"


def test_a_contract_that_the_model_or_the_data_contradicts_is_refused() -> None:
    with pytest.raises(InputError, match="which the model does not read"):
        infer_contract(BASIC, ["age"], overrides={"purpose": {"type": "category"}})
    with pytest.raises(InputError, match="the data has text"):
        infer_contract(BASIC, ["purpose"], overrides={"purpose": {"type": "int"}})


NUMBER = st.floats(-1e12, 1e12, allow_nan=False)


@settings(deadline=None)
@given(NUMBER, NUMBER, st.booleans())
def test_nothing_observed_lies_outside_its_range(one: float, two: float, whole: bool) -> None:
    low, high = min(one, two), max(one, two)
    down, up = honest_range(low, high, whole=whole)
    assert down <= low <= high <= up
    assert max(low - down, up - high) <= 0.011 * max(abs(low), abs(high)) + 1e-300


def test_inputs_are_what_the_model_knows_or_what_is_left() -> None:
    assert choose_inputs(BASIC, ["code", "age"], None, []) == ("code", "age")
    left_out = ["default", "said", "purpose", "gone"]
    assert choose_inputs(BASIC, None, 3, left_out) == ("age", "amount", "code")
    with pytest.raises(InputError, match="takes 2 columns, and the data has 3"):
        choose_inputs(BASIC, None, 2, left_out)
    with pytest.raises(InputError) as caught:
        choose_inputs(BASIC, ["amuont"], None, [])
    assert caught.value.hint == "did you mean 'amount'?"


@pytest.mark.parametrize(
    ("kind", "cells", "classes", "task", "positive"),
    [
        ("int", [0, 1, 1], ("0", "1"), "binary", "1"),
        ("int", [0, 1, 1], None, "binary", "1"),
        ("bool", [True, False, True], None, "binary", "true"),
        ("text", ["no", "yes", "yes"], None, "binary", "yes"),
        ("text", ["paid", "late", "paid"], None, "binary", "late"),
        ("text", ["a", "b", "c"], None, "multiclass", ""),
        ("float", [1.5, 2.5, 3.5], None, "regression", ""),
        ("float", [1.5, 2.5, 3.5], (), "regression", ""),
        ("float", [0.0, 1.0, None], ("0", "1"), "binary", "1"),
        ("int", list(range(50)), None, "regression", ""),
    ],
)
def test_task_labels_and_positive_are_found(
    kind: str, cells: list[object], classes: tuple[str, ...] | None, task: str, positive: str
) -> None:
    target = find_target(column_of("y", cells, kind), classes)  # type: ignore[arg-type]
    assert (target.task, target.positive) == (task, positive)


def test_whole_number_labels_are_in_their_own_order() -> None:
    assert find_target(column_of("y", [10, 9, 2], "int"), None).labels == ("2", "9", "10")


def test_labels_that_the_model_has_not_are_refused() -> None:
    column = column_of("y", ["good", "ugly"], "text")
    with pytest.raises(InputError, match="'ugly'") as caught:
        find_target(column, ("bad", "good"))
    assert caught.value.code == "bad-label"
    with pytest.raises(InputError, match="expected one of bad, good"):
        find_target(column_of("y", ["good", "bad"], "text"), None, positive="evil")
    with pytest.raises(InputError, match="has no values"):
        find_target(column_of("y", [None, None], "text"), None)


@pytest.mark.parametrize(
    ("name", "cells", "personal"),
    [
        ("email", ["x"], True),
        ("customerFullName", ["x"], True),
        ("name", ["x"], True),
        ("phone_number", ["1"], True),
        ("dob", ["x"], True),
        ("contact", ["ann@example.org", "bob@example.com", None], True),
        ("ref", ["DE44500105175407324931", "FR1420041010050500013M02606"], True),
        ("tax", ["123-45-6789"], True),
        ("product_name", ["chair"], False),
        ("mailing_list", ["yes"], False),
        ("purpose", ["car", "home"], False),
        ("note", ["write to ann@example.org", "hello"], False),
    ],
)
def test_personal_data_is_seen_by_name_or_content(
    name: str, cells: list[object], personal: bool
) -> None:
    assert looks_personal(column_of(name, cells, "text")) is personal


def test_personal_inputs_are_pseudonymised_and_their_values_not_kept() -> None:
    people = table(email=("text", ["a@b.org"] * 10), n=("int", [1] * 10))
    field = infer_contract(people, ["email"]).inputs[0]
    assert (field.personal, field.values) == ("pseudonymise", ())
    profile = profile_field(people.column("email"), field)
    assert (profile.categories, profile.known) == ((), ())


def test_protected_names_are_words_not_parts_of_words() -> None:
    assert looks_protected("applicant_sex")
    assert looks_protected("age")
    assert not looks_protected("average")
    assert not looks_protected("package")


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=30, max_size=80)


@settings(deadline=None)
@given(ROWS, st.randoms())
def test_a_split_shares_no_row_and_does_not_depend_on_order(rows: list, random: object) -> None:
    def held(cells: list[tuple[int, int]]) -> list[tuple[int, int]]:
        one = table(a=("int", [a for a, _ in cells]), b=("int", [b for _, b in cells]))
        try:
            split = split_table(one)
        except InputError:
            return []
        assert overlap(split.train, split.holdout) == 0
        assert split.train.rows + split.holdout.rows == one.rows
        return sorted(
            zip(*(column.values.tolist() for column in split.holdout.columns), strict=True)
        )

    first = held(rows)
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert held(rows) == first


def test_a_split_by_time_holds_out_the_latest() -> None:
    moments = [3, 1, 2, 5, 4, 9, 8, 7, 6, 10]
    one = table(at=("time", moments), x=("int", list(range(10))))
    assert time_column(one) == "at"
    split = split_table(one, "at")
    assert sorted(split.holdout.column("at").values.tolist()) == [9, 10]
    assert split.rule == "2 of 10 rows (20%) held out, the latest by at"
    with pytest.raises(InputError, match="cannot be split"):
        split_table(one.take(np.array([0])), "at")


def test_rows_in_both_files_are_counted_by_content() -> None:
    train = table(a=("int", [1, 2, 3]), b=("text", ["x", "y", "z"]))
    holdout = table(b=("text", ["y", "y", "q"]), a=("int", [2, 2, 3]), c=("int", [0, 0, 0]))
    assert overlap(train, holdout) == 2
    assert overlap(train, table(c=("int", [1]))) == 0


@settings(deadline=None)
@given(ROWS, st.integers(1, 40), st.randoms())
def test_a_sample_is_the_same_rows_in_any_order(rows: list, count: int, random: object) -> None:
    def sampled(cells: list[tuple[int, int]]) -> list[tuple[int, int]]:
        one = table(a=("int", [a for a, _ in cells]), b=("int", [b for _, b in cells]))
        chosen = sample_rows(one, count)
        assert len(chosen) == min(count, len(cells))
        assert (np.diff(chosen) > 0).all()
        return sorted(cells[at] for at in chosen)

    first = sampled(rows)
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert sampled(rows) == first


def test_a_profile_counts_every_present_value_once() -> None:
    contract = infer_contract(BASIC, ["age", "amount", "purpose", "said", "gone"])
    profile = profile_table(BASIC, contract, np.linspace(0, 1, 20).reshape(10, 2), ["n", "y"], {})
    by_name = {one.name: one for one in profile.columns}
    for name, one in by_name.items():
        assert sum(one.counts) + one.nulls == 10, name
        assert len(one.counts) == 32
    assert by_name["amount"].nulls == 1
    assert by_name["age"].mean == pytest.approx(40.9)
    assert by_name["purpose"].counts[:3] == (5, 3, 2)
    assert by_name["said"].known == ()
    assert [one.name for one in profile.scores] == ["n", "y"]


def test_importance_is_the_share_of_change_and_zero_for_what_is_not_read() -> None:
    contract = Contract(
        inputs=(
            Field(name="a", type="float"),
            Field(name="b", type="float"),
            Field(name="c", type="category"),
        )
    )
    rng = np.random.default_rng(0)
    batch = Batch(rng.normal(size=(100, 2)), [["x", "y"] * 50])
    found = measure_importance(lambda one: one.numbers[:, :1] * 2, batch, contract)
    assert found == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert measure_importance(lambda one: one.numbers[:, :1], Batch(batch.numbers[:1], [["x"]]),
                              contract) == {}  # fmt: skip


@pytest.mark.parametrize("labels", [("yes", "YES", "no"), ("answer", "question"), ("Answer", "b")])
def test_labels_that_the_journal_cannot_keep_apart_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        find_target(column_of("y", list(labels), "text"), labels)
    assert caught.value.code == "bad-label"


def test_fields_that_the_journal_cannot_keep_apart_are_refused() -> None:
    fields = (Field(name="Age", type="float"), Field(name="age", type="float"))
    with pytest.raises(ValueError, match="'Age' and 'age'"):
        Contract(inputs=fields)
    with pytest.raises(ValueError, match="'Age' and 'age'"):
        Contract(inputs=(), context=fields)
    assert Contract(inputs=fields[:1], context=fields[1:]).inputs == fields[:1]
