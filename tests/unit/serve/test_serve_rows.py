"""Rows: the fast way and the careful way give the same, or the careful one says what is wrong."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.core.plan import Segment, ServicePlan
from doorstep.serve.limits import PROBLEMS_SAID_MAX
from doorstep.serve.rows import Parsed, RowReader

INPUTS = (
    Field(name="whole number", type="int", range_min=-5, range_max=5),
    Field(name="real", type="float", range_max=10.0, required=False),
    Field(name="class", type="bool"),
    Field(name="when", type="time", required=False),
    Field(name="kind", type="category", values=("a", "b"), unseen="missing"),
    Field(name="text", type="text", required=False),
)
CONTEXT = (
    Field(name="store", type="int", required=False),
    Field(name="region", type="category", required=False),
)


def plan(**changes: Any) -> ServicePlan:
    given = {
        "contract": Contract(inputs=INPUTS, context=CONTEXT),
        "segments": (
            Segment(name="pilot", match={"store": ("3", "17")}),
            Segment(name="north", match={"region": ("north",)}),
        ),
        "key": "application",
        "unit": "customer",
    }
    return ServicePlan(
        format=1, service="loans", versions=(), champion=None, **{**given, **changes}
    )


READER = RowReader(plan())
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10),
    st.integers(2**52, 2**55),
    st.floats(-20, 20),
    st.sampled_from(["a", "b", "c", "north", "2026-01-02T03:04:05Z", "2026-01-02", "2026-13-01"]),
)
rows = st.fixed_dictionaries(
    {"whole number": scalars, "class": st.booleans(), "kind": st.sampled_from(["a", "b", "c"])},
    optional={
        "real": scalars, "when": scalars, "text": scalars, "application": scalars,
        "customer": scalars, "other": scalars,
    },
)  # fmt: skip
contexts = st.one_of(
    st.none(), st.fixed_dictionaries({}, optional={"store": scalars, "region": scalars})
)


def outcome(read: Any) -> Any:
    try:
        found: Parsed = read()
    except InputError as error:
        return ("refused", error.code)
    bits = struct.unpack(f"<{len(found.numbers) // 8}Q", found.numbers)
    return (found.count, bits, found.texts, found.keys, found.units, found.segments)


def careful(body: bytes) -> Any:
    return READER._read_carefully(body, b"")


@settings(max_examples=400, deadline=None)
@given(st.lists(rows, min_size=1, max_size=3), contexts, st.booleans())
def test_what_the_fast_way_lets_through_the_careful_way_reads_the_same(
    found: list[dict[str, Any]], context: dict[str, Any] | None, bare: bool
) -> None:
    envelope: Any = {"rows": found}
    if context is not None:
        envelope["context"] = context
    body = json.dumps(found[0] if bare else envelope).encode()
    try:
        fast = READER._read_fast(body, b"")
    except Exception:
        return
    assert outcome(lambda: fast) == outcome(lambda: careful(body))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.recursive(scalars, st.lists, max_leaves=8).map(
    lambda value: json.dumps(value).encode()
)))  # fmt: skip
def test_no_body_raises_anything_but_a_refusal(body: bytes) -> None:
    outcome(lambda: READER.read(body))


GOOD = {"whole number": 3, "class": False, "kind": "a"}


def read(row: dict[str, Any], **envelope: Any) -> Parsed:
    return READER.read(json.dumps({"rows": [{**GOOD, **row}], **envelope}).encode())


def numbers(found: Parsed) -> tuple[float, ...]:
    return struct.unpack(f"{len(found.numbers) // 8}d", found.numbers)


def test_missing_numbers_are_nan_and_missing_texts_none() -> None:
    found = read({"real": None})
    whole, real, flag, when, store = numbers(found)
    assert (whole, flag) == (3.0, 0.0)
    assert all(map(math.isnan, (real, when, store)))
    assert found.texts == [("a", None, None)]


def test_times_are_microseconds_with_or_without_an_offset() -> None:
    expected = 1767323045_000000.0
    for text in ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T04:04:05+01:00"):
        assert numbers(read({"when": text}))[3] == expected
    assert numbers(read({"when": int(expected)}))[3] == expected


@pytest.mark.parametrize(
    ("value", "warned"), [(5, False), (6, True), (-5, False), (-6, True), (5.0, False)]
)
def test_a_range_includes_its_ends(value: float, warned: bool) -> None:
    assert (read({"whole number": value}).warnings is not None) == warned


def test_an_unseen_category_that_counts_as_missing_is_none_and_warned() -> None:
    found = read({"kind": "zzz"})
    assert found.texts[0][0] is None
    assert found.warnings == [("unseen:kind",)]


def test_the_first_segment_that_matches_wins_and_the_rest_is_implied() -> None:
    body = {"rows": [GOOD] * 4, "context": [
        {"store": 17, "region": "north"}, {"store": 4, "region": "north"}, {"store": 4}, {},
    ]}  # fmt: skip
    found = READER.read(json.dumps(body).encode())
    assert found.segments == ["pilot", "north", "", ""]


def test_what_is_wrong_with_a_request_is_said_together_and_bounded() -> None:
    def refused(*rows: dict[str, Any], **envelope: Any) -> InputError:
        body = {"rows": [{**GOOD, **row} for row in rows], **envelope}
        with pytest.raises(InputError) as caught:
            READER.read(json.dumps(body).encode())
        return caught.value

    found = refused({"reel": 3, "class": 1}, {"kind": None}, context={"store": "x"})
    assert (found.code, found.hint) == ("extra-field", "did you mean 'real'?")
    assert found.message == (
        "row 0: field 'reel' is not in the contract. "
        "Also row 0: field 'class' is number 1; expected true or false. "
        "Also row 1: field 'kind' is null; expected text. "
        "Also context: field 'store' is text 'x'; expected int"
    )
    bad = {"class": 1}
    assert refused(*[bad] * PROBLEMS_SAID_MAX).message.endswith("expected true or false")
    many = refused(*[bad] * (PROBLEMS_SAID_MAX + 1)).message
    assert many.count("field 'class'") == PROBLEMS_SAID_MAX
    assert many.endswith(". There may be more")


def test_keys_and_units_are_text_whatever_they_were() -> None:
    found = read({"application": 7, "customer": "c"})
    assert (found.keys, found.units) == (["7"], ["c"])
    found = read({}, keys=["k"], context={"customer": 9})
    assert (found.keys, found.units) == (["k"], ["9"])


def test_a_unit_that_is_not_named_is_the_key() -> None:
    reader = RowReader(plan(unit=""))
    found = reader.read(json.dumps({**GOOD, "application": "a"}).encode())
    assert found.units == ["a"]


def test_a_required_context_field_must_come() -> None:
    contract = Contract(inputs=INPUTS, context=(Field(name="store", type="int"),))
    reader = RowReader(plan(contract=contract, segments=()))
    with pytest.raises(InputError, match="field 'store' is missing"):
        reader.read(json.dumps(GOOD).encode())
    assert reader.read(json.dumps(GOOD).encode(), b'{"store": 3}').count == 1


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1])
def test_a_whole_number_that_is_not_exact_is_refused_on_both_ways(number: int) -> None:
    fields = (Field(name="i", type="int"), Field(name="c", type="category", values=("p",)))
    reader = RowReader(
        ServicePlan(
            format=1, service="s", contract=Contract(inputs=fields), versions=(), champion=None
        )
    )
    for category in ("p", "new"):
        with pytest.raises(InputError) as caught:
            reader.read(json.dumps({"i": number, "c": category}).encode())
        assert caught.value.code == "bad-field"
        exact = number - 1 if number > 0 else number + 1
        assert reader.read(json.dumps({"i": exact, "c": category}).encode()).count == 1
