"""Each request of the table in docs/concepts/serve.md is answered as the table says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from doc_pages import DOCS

from doorstep.core.contract import Contract, Field
from serve_case import OneSite

CONTRACT = Contract(
    inputs=(
        Field(name="age", type="int"),
        Field(name="amount", type="float"),
        Field(name="purpose", type="category", values=("car", "home")),
    )
)
ROW = re.compile(
    r"^\| (?P<client>[^|]+) \| `POST (?P<path>\S+) ?(?P<media>\S*)` "
    r"\| `(?P<body>[^`]+)` \| `(?P<answer>[^`]+)` \|$",
    re.M,
)
SHAPES = [one.groupdict() for one in ROW.finditer((DOCS / "concepts" / "serve.md").read_text())]


def part_of(found: Any, expected: Any) -> Any:
    """`found` without what `expected` does not speak of; numbers to nine digits."""
    if isinstance(expected, dict):
        return {name: part_of(found[name], value) for name, value in expected.items()}
    if isinstance(expected, list) and len(found) == len(expected):
        return [part_of(*pair) for pair in zip(found, expected, strict=True)]
    return round(found, 9) if isinstance(expected, float) else found


@pytest.mark.parametrize("shape", SHAPES, ids=lambda one: one["client"])
def test_a_request_of_the_table_is_answered_as_it_says(
    shape: dict[str, str], tmp_path: Path
) -> None:
    site = OneSite(tmp_path, {"loans": (CONTRACT, ("bad", "good"))})
    path = shape["path"].replace("$AIP_PREDICT_ROUTE", "/vertex")
    media = shape["media"] or "application/json"
    answer = site.ask("POST", path, shape["body"].encode(), content_type=media.encode())
    site.close()
    expected = json.loads(shape["answer"])
    assert part_of(json.loads(answer.body), expected) == expected
    assert b"doorstep-version: 1\r\n" in answer.headers


def test_the_table_has_all_protocols() -> None:
    assert len(SHAPES) == 13
