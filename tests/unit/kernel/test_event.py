from __future__ import annotations

import math
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.errors import InputError
from doorstep.kernel.event import (
    EVENT_BYTES_MAX,
    Actor,
    Event,
    Object,
    decode_event,
    encode_event,
    plain,
)

ID = UUID("0196f0a0-0000-7000-8000-000000000000")
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
documents = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def event(data: dict, kind: str = "thing.added", about: Object | None = None) -> Event:
    return Event(
        seq=0, ts=1, kind=kind, id=ID, actor=Actor("user", "ada"),
        object=about or Object("thing", "a"), data=data,
    )  # fmt: skip


@given(st.dictionaries(st.text(), documents, max_size=4))
def test_an_event_is_one_line_and_survives_it(data: dict):
    made = event(plain(data))
    line = encode_event(made)
    assert b"\n" not in line and b"\r" not in line
    assert decode_event(line) == made
    assert encode_event(decode_event(line)) == line


def test_the_bytes_have_sorted_keys_and_no_blanks():
    assert encode_event(event({"b": 1, "a": 0.5})) == (
        b'{"actor":{"id":"ada","type":"user"},"data":{"a":0.5,"b":1},'
        b'"id":"0196f0a0-0000-7000-8000-000000000000","kind":"thing.added",'
        b'"object":{"id":"a","type":"thing","ver":""},"seq":0,"ts":1,"v":1}'
    )


@given(documents, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_no_event_holds_a_number_that_json_has_not(document: object, wrong: float):
    for data in ({"x": wrong}, {"x": [document, {"y": wrong}]}, {"x": (wrong,)}):
        with pytest.raises(InputError) as refused:
            plain(data)
        assert refused.value.code == "not-json"


def test_structs_ids_and_tuples_become_json_types():
    class Step(msgspec.Struct):
        share: float
        id: UUID

    assert plain(Step(0.5, ID)) == {"share": 0.5, "id": str(ID)}
    assert plain({"at": (1, 2), 3: b"\x00"}) == {"at": [1, 2], "3": "AA=="}


def test_data_that_cannot_be_written_is_refused():
    endless: dict = {}
    endless["self"] = endless
    for data in ({"x": object()}, {"x": "\ud800"}, endless):
        with pytest.raises(InputError):
            plain(data)


def test_an_event_is_at_most_its_limit():
    room = EVENT_BYTES_MAX - len(encode_event(event({"x": ""})))
    assert len(encode_event(event({"x": "y" * room}))) == EVENT_BYTES_MAX
    with pytest.raises(InputError) as refused:
        encode_event(event({"x": "y" * (room + 1)}))
    assert refused.value.code == "event-too-large"


@pytest.mark.parametrize("kind", ["", "added", "Thing.added", "thing.added\n", "thing..x", "a_b.c"])
def test_a_kind_is_noun_verb(kind: str):
    with pytest.raises(ValueError):
        event({}, kind)


@pytest.mark.parametrize(
    "kind", ["thing.added", "journal.closed", "access.login.denied", "a-b.c-d"]
)
def test_a_kind_may_have_several_parts(kind: str):
    assert event({}, kind).kind == kind


@pytest.mark.parametrize("line", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"data":' * 50_000])
def test_bytes_that_are_no_event_are_refused(line: bytes):
    with pytest.raises(InputError):
        decode_event(line)


def test_an_event_of_a_later_release_with_more_fields_is_read():
    line = encode_event(event({}))
    assert decode_event(line[:-1] + b',"sealed":null}').kind == "thing.added"


def test_an_event_belongs_to_the_service_that_it_names():
    assert event({}, about=Object("service", "loans")).service == "loans"
    assert event({"service": "loans"}).service == "loans"
    assert event({"service": 7}).service == event({}).service == ""
