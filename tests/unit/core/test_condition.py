"""The one condition grammar."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.condition import (
    CONDITION_LENGTH_MAX,
    Champion,
    Condition,
    Operator,
    Quantity,
    Text,
    Unit,
    bound_of,
    holds,
    parse_condition,
)
from doorstep.core.errors import DoorstepError, InputError, UsageError


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("auc >= 0.75", Condition("auc", ">=", Quantity(0.75))),
        ("auc>=champion-0.005", Condition("auc", ">=", Champion(Quantity(-0.005)))),
        ("f1 >= champion", Condition("f1", ">=", Champion())),
        ("p99 <= champion + 5 ms", Condition("p99", "<=", Champion(Quantity(5.0, "ms")))),
        ("p99 <= 20 ms", Condition("p99", "<=", Quantity(20.0, "ms"))),
        ("p99 <= 0.02s", Condition("p99", "<=", Quantity(20.0, "ms"))),
        ("size <= 50 MB", Condition("size", "<=", Quantity(50e6, "bytes"))),
        ("size <= 1 KiB", Condition("size", "<=", Quantity(1024.0, "bytes"))),
        ("availability >= 99.9%", Condition("availability", ">=", Quantity(0.999, "%"))),
        ("answer == 'bad'", Condition("answer", "==", Text("bad"))),
        ('answer != "it\'s"', Condition("answer", "!=", Text("it's"))),
        ("confidence < 0.6", Condition("confidence", "<", Quantity(0.6))),
        ("default_rate <= 0.24", Condition("default_rate", "<=", Quantity(0.24))),
        ("score > -1e-3", Condition("score", ">", Quantity(-0.001))),
    ],
)
def test_what_people_write_is_understood(text: str, condition: Condition) -> None:
    assert parse_condition(text) == condition


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "NAME OPERATOR VALUE"),
        ("auc", "NAME OPERATOR VALUE"),
        ("auc => 0.7", "= is not an operator"),
        ("auc = 0.7", "= is not an operator; expected =="),
        ("auc >= ", "expected a number"),
        ("auc >= high", "'text' in quotes"),
        ("auc >= 0.7 stones", "unit 'stones' is not known"),
        ("auc >= champion * 2", "expected a number"),
        ("auc >= champion - -1", "expected a number"),
        ("auc == champion", "the champion is compared with"),
        ("answer > 'bad'", "text is compared with"),
        ("answer == 'bad", "expected a number"),
        ("1 < 2", "NAME OPERATOR VALUE"),
        ("auc >= 1e999", "too large"),
        ("auc >= nan", "expected a number"),
        ("a >= 1 and b >= 2", "expected a number"),
        ("a >= " + "1" * CONDITION_LENGTH_MAX, "at most 200 characters"),
    ],
)
def test_what_is_not_a_condition_says_why(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_condition(text)
    assert caught.value.code == "bad-condition"
    assert words in caught.value.message


def test_a_condition_made_in_code_checks_itself() -> None:
    with pytest.raises(InputError):
        Condition("answer", "<", Text("bad"))
    with pytest.raises(InputError):
        Condition("auc", "==", Champion())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("availability>=99.9%", "availability >= 99.9%"),
        ("size<=52428800B", "size <= 52.4288 MB"),
        ("p99 <= 1 s", "p99 <= 1000 ms"),
        ("x < 1e-30", "x < 1e-30"),
        ("auc >= champion -0.0050", "auc >= champion - 0.005"),
        ("auc >= champion - 0 ms", "auc >= champion"),
    ],
)
def test_a_condition_is_shown_as_a_person_would_write_it(text: str, shown: str) -> None:
    assert str(parse_condition(text)) == shown


@pytest.mark.parametrize(
    ("text", "value", "answer"),
    [
        ("auc >= 0.75", 0.75, True),
        ("auc >= 0.75", 0.7499999, False),
        ("auc > 0.75", 0.75, False),
        ("p99 <= 20 ms", 20.0, True),
        ("p99 < 20 ms", 20.0, False),
        ("x == 1", 1.0, True),
        ("x == 1", True, True),
        ("x != 1", 2, True),
        ("x == 1", "1", True),
        ("x < 1", "low", False),
        ("x != 1", "low", False),
        ("answer == 'bad'", "bad", True),
        ("answer != 'bad'", "good", True),
        ("answer == '1'", 1, True),
        ("answer == '1'", 1.0, True),
        ("answer == 'true'", True, True),
        ("x < 1", 10**400, False),
    ],
)
def test_holds_on_both_sides_of_the_boundary(
    text: str, value: float | str | bool, answer: bool
) -> None:
    assert holds(parse_condition(text), value) is answer


@pytest.mark.parametrize("value", [None, math.nan, "nan"])
@pytest.mark.parametrize("operator", ["<=", ">=", "<", ">", "==", "!="])
def test_a_missing_value_never_holds(value: float | str | None, operator: Operator) -> None:
    assert not holds(Condition("x", operator, Quantity(0.0)), value)


def test_the_champion_is_asked_for_and_moves_the_bound() -> None:
    condition = parse_condition("auc >= champion - 0.005")
    assert condition.needs_champion
    assert bound_of(condition, 0.8) == pytest.approx(0.795)
    assert holds(condition, 0.7951, champion=0.8)
    assert not holds(condition, 0.7949, champion=0.8)
    assert not holds(condition, 0.9, champion=math.nan)
    with pytest.raises(UsageError) as caught:
        holds(condition, 0.9)
    assert caught.value.code == "no-champion"


def test_the_unit_says_what_the_left_side_is_measured_in() -> None:
    assert parse_condition("p99 <= champion + 1 s").unit == "ms"
    assert parse_condition("size <= 1 GB").unit == "bytes"
    assert parse_condition("answer == 'x'").unit is None


_finite = st.floats(allow_nan=False, allow_infinity=False)
_unit: st.SearchStrategy[Unit] = st.sampled_from(["", "ms", "bytes", "%"])
_scaled = st.floats(min_value=-1e290, max_value=1e290).map(lambda x: x + 0.0)
_quantities = st.builds(Quantity, _scaled, _unit)
_texts = st.builds(
    Text, st.text(st.characters(exclude_characters="'\"\n", codec="utf-8"), max_size=40)
)
_champions = st.builds(
    Champion, _quantities.filter(lambda q: q.value != 0) | st.just(Quantity(0.0))
)
_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,20}", fullmatch=True)
_conditions = (
    st.builds(Condition, _names, st.sampled_from(["<=", ">=", "<", ">", "==", "!="]), _quantities)
    | st.builds(Condition, _names, st.sampled_from(["==", "!="]), _texts)
    | st.builds(Condition, _names, st.sampled_from(["<=", ">=", "<", ">"]), _champions)
)


@given(_conditions)
def test_showing_and_parsing_gives_the_same_condition(condition: Condition) -> None:
    assert parse_condition(str(condition)) == condition


@given(_conditions)
def test_a_condition_travels_in_json(condition: Condition) -> None:
    assert msgspec.json.decode(msgspec.json.encode(condition), type=Condition) == condition


@given(_names, _quantities, _finite)
def test_an_operator_and_its_opposite_never_agree(name: str, bound: Quantity, value: float) -> None:
    pairs: list[tuple[Operator, Operator]] = [("<=", ">"), (">=", "<"), ("==", "!=")]
    for operator, opposite in pairs:
        assert holds(Condition(name, operator, bound), value) is not holds(
            Condition(name, opposite, bound), value
        )


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_an_input_error(text: str) -> None:
    try:
        parse_condition(text)
    except DoorstepError as error:
        assert isinstance(error, InputError)
