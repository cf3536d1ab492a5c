"""YAML text: 1.2 core values, raw text kept, and everything that is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.core.errors import InputError
from doorstep.core.yamltext import (
    DEPTH_MAX,
    NUMBER_LENGTH_MAX,
    TEXT_BYTES_MAX,
    Fault,
    Mapping,
    Scalar,
    Sequence,
    compose,
    plain_value,
    walk_scalars,
)
from fakes.yaml_plain import parse_yaml, to_plain


@pytest.mark.parametrize(
    "word", ["no", "on", "yes", "off", "y", "12:30", "1_000", "0b1", "2026-01-01", "nul", "1.2.3"]
)
def test_words_that_yaml_1_1_would_change_are_text(word: str) -> None:
    assert to_plain(parse_yaml(f"key: {word}")) == {"key": word}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("007", 7),
        ("-12", -12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        (".5.", ".5."),
        ("0o8", "0o8"),
    ],
)
def test_plain_words_follow_the_core_schema(word: str, value: Any) -> None:
    found = plain_value(word)
    assert (found, type(found)) == (value, type(value))


def test_nan_is_a_float() -> None:
    found = plain_value(".nan")
    assert isinstance(found, float) and math.isnan(found)


def test_a_number_too_long_to_be_meant_is_text() -> None:
    assert plain_value("9" * NUMBER_LENGTH_MAX) == int("9" * NUMBER_LENGTH_MAX)
    assert plain_value("9" * (NUMBER_LENGTH_MAX + 1)) == "9" * (NUMBER_LENGTH_MAX + 1)


def test_the_raw_text_is_kept_beside_the_value() -> None:
    root = parse_yaml("values: [007, no, 12:30, true, '1']")
    assert [scalar.text for scalar in walk_scalars(root)] == [
        "values",
        "007",
        "no",
        "12:30",
        "true",
        "1",
    ]
    assert to_plain(root) == {"values": [7, "no", "12:30", True, "1"]}


def test_every_value_knows_its_line_and_column() -> None:
    root = parse_yaml("a: 1\nlist:\n  - x\n  - {deep: é y}\n")
    assert isinstance(root, Mapping)
    items = root.get("list")
    assert isinstance(items, Sequence)
    deep = items.items[1]
    assert isinstance(deep, Mapping)
    assert (deep.line, deep.column) == (4, 5)
    assert deep.pairs[0][1] == Scalar("é y", False, 4, 12)
    assert root.get("none") is None


def test_quoted_and_block_scalars_are_always_text() -> None:
    assert to_plain(parse_yaml("a: '1'\nb: \"true\"\nc: |\n  null\n")) == {
        "a": "1",
        "b": "true",
        "c": "null\n",
    }


def test_an_empty_file_is_an_empty_scalar() -> None:
    for text in ("", "# only a comment\n", "\ufeff"):
        root = parse_yaml(text)
        assert isinstance(root, Scalar) and root.is_empty


@pytest.mark.parametrize(
    ("source", "line", "column", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "duplicate key 'a', first given in line 1"),
        ("a: &x 1\nb: *x\n", 1, 4, "anchor"),
        ("a: *x\n", 1, 4, "alias"),
        ("a: !!python/object:os.system [x]\n", 1, 4, "tag"),
        ("a: ! x\n", 1, 4, "tag"),
        ("a: !!str x\n", 1, 4, "tag"),
        ("a: 1\n---\nb: 2\n", 2, 1, "a second document"),
        ("? [a, b]\n: 1\n", 1, 3, "as a key"),
        ("a: 'open\n", 2, 1, "not YAML"),
        ("a: [1,\n", 2, 1, "not YAML"),
        ("a:\n\t- x\n", 2, 1, "not YAML"),
        ("a: \0\n", 1, 4, "NUL"),
        ("a: \ud800\n", 1, 4, "surrogate"),
        (b"a: 1\nbb: \xff\n", 2, 5, "UTF-8"),
        ("a: \x01\n", 1, 1, "not YAML"),
    ],
)
def test_what_is_refused_names_where(
    source: str | bytes, line: int, column: int, words: str
) -> None:
    fault = compose(source)
    assert isinstance(fault, Fault)
    assert (fault.line, fault.column) == (line, column), fault
    assert words in fault.message


def test_nesting_is_allowed_to_the_limit_and_no_further() -> None:
    assert not isinstance(compose("[" * DEPTH_MAX + "]" * DEPTH_MAX), Fault)
    fault = compose("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))
    assert isinstance(fault, Fault)
    assert (fault.column, "deeper than 20" in fault.message) == (DEPTH_MAX + 1, True)


def test_a_million_brackets_are_refused_without_exhausting_the_stack() -> None:
    assert isinstance(compose("[" * 1_000_000), Fault)
    assert isinstance(compose("- " * 500_000), Fault)


def test_size_is_allowed_to_the_limit_and_no_further() -> None:
    start = "a: "
    assert not isinstance(compose(start + "x" * (TEXT_BYTES_MAX - len(start))), Fault)
    fault = compose(start + "x" * (TEXT_BYTES_MAX - len(start) + 1))
    assert isinstance(fault, Fault)
    assert "too large" in fault.message


def test_a_bomb_of_aliases_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(50))
    fault = compose(bomb)
    assert isinstance(fault, Fault)
    assert fault.line == 1


def test_the_refusal_names_the_file() -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml("a: 1\na: 2\n", "mine.yaml")
    assert caught.value.code == "bad-yaml"
    assert caught.value.message.startswith("mine.yaml:2:1: duplicate key")


@given(st.text() | st.binary())
def test_any_input_gives_a_tree_or_a_fault(source: str | bytes) -> None:
    assert isinstance(compose(source), Scalar | Sequence | Mapping | Fault)


@settings(deadline=None)
@given(st.text(alphabet="{}[],:-&*!|>'\"#%@`?~ \n\tab01.", max_size=60))
def test_any_punctuation_gives_a_tree_or_a_fault(source: str) -> None:
    found = compose(source)
    if not isinstance(found, Fault):
        to_plain(found)
