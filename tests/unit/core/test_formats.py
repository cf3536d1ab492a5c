"""What a newer Doorstep wrote is refused and said to be that; what was accepted once stays."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from doorstep.core.errors import InputError
from doorstep.core.manifest import Profile, decode_part
from doorstep.core.plan import PlanRoot
from doorstep.core.servicefile import (
    parse_service_file,
    read_rules,
    read_stored,
    stored_service_file,
)
from doorstep.journal.summary import decode_summary
from doorstep.release.types import ReleaseSpec

PROFILE: dict[str, Any] = {"format": 1, "rows": 1, "columns": []}
ROOT: dict[str, Any] = {
    "format": 1, "environment": "test", "term": 1, "number": 1, "made_at": 0, "services": {},
}  # fmt: skip
FILE = "doorstep: 1\nservice: loans\nmodel: {label: good}\ndata: {holdout: rows.parquet}\n"
LATE = "monitor: {outcomes: {delay: 30d}}\nprivacy: {keep: 7d}\n"


@pytest.mark.parametrize(
    ("kind", "document"), [(Profile, PROFILE), (PlanRoot, ROOT)], ids=["profile", "plan"]
)
@pytest.mark.parametrize(
    ("more", "fact"),
    [
        ({"format": 2}, "it has format 2, and this one reads up to 1"),
        ({"format": 2, "later": {}}, "it has format 2, and this one reads up to 1"),
        ({"later": {}}, "Object contains unknown field `later`"),
    ],
)
def test_a_newer_document_is_refused_as_one(
    kind: Any, document: dict[str, Any], more: dict[str, Any], fact: str
) -> None:
    assert decode_part(msgspec.json.encode(document), kind, "document").format == 1
    with pytest.raises(InputError) as refused:
        decode_part(msgspec.json.encode(document | more), kind, "document")
    assert refused.value.message == f"the document was written by a newer Doorstep: {fact}"
    assert refused.value.hint == "pip install --upgrade doorstep"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"format": 1}', b'{"format": "2"}'])
def test_one_that_is_damaged_is_not_called_newer(data: bytes) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        decode_part(data, Profile, "profile")


def test_a_newer_summary_and_a_newer_release_are_refused_as_such() -> None:
    with pytest.raises(InputError, match=r"bad-summary: .* written by a newer Doorstep.* format 9"):
        decode_summary(b'{"format": 9}')
    spec = msgspec.to_builtins(ReleaseSpec()) | {"method": 9}
    with pytest.raises(InputError, match=r"newer-release: .*method 9, written by a newer Doorstep"):
        msgspec.json.decode(msgspec.json.encode(spec), type=ReleaseSpec)


def test_a_rule_that_is_newer_than_a_revision_does_not_make_it_unreadable() -> None:
    with pytest.raises(InputError, match="gone when they could be judged"):
        parse_service_file(FILE + LATE)
    assert stored_service_file(FILE + LATE).privacy.keep_s == 7 * 86_400.0
    _, problems = read_stored(FILE + LATE)
    assert [(one.path, one.is_rule) for one in problems] == [("monitor.outcomes.delay", True)]


@pytest.mark.parametrize("wrong", ["serve: {timeout: soon}\n", "later: 1\n", "doorstep: 2\n"])
def test_a_value_that_is_not_understood_is_never_taken_for_its_default(wrong: str) -> None:
    text = FILE.replace("doorstep: 1\n", "") + wrong
    assert read_stored(text)[0] is None
    with pytest.raises(InputError) as refused:
        stored_service_file(text)
    assert refused.value.code == "unreadable-service-file"
    assert refused.value.hint == "correct doorstep.yaml, then: doorstep apply"


@pytest.mark.parametrize(
    ("more", "people", "named"),
    [
        ("later: {a: 1}\nrisk: high\n", 2, ()),
        ("doorstep: 2\nserve: soon\napprove: {people: 3, quorum: 5}\n", 3, ()),
        ("later: 1\nmay: {approve: [ann]}\napprove: person\n", 1, ("ann",)),
        ("approve: everybody\n", 2, ()),
        ("approve: {people: {prod: 3}}\nrisk: high\n", 2, ()),
        ("approve: {quorum: 2}\nrisk: medium\n", 1, ()),
        ("risk: extreme\n", 2, ()),
        ("risk: extreme\napprove: person\n", 1, ()),
        ("later: 1\n", 0, ()),
    ],
)
def test_rules_are_read_of_a_file_that_is_newer(
    more: str, people: int, named: tuple[str, ...]
) -> None:
    text = more + (FILE.replace("doorstep: 1\n", "") if "doorstep" in more else FILE)
    assert read_stored(text)[0] is None
    found = read_rules(text)
    assert found is not None
    assert (found.approve.people, found.may.approve) == (people, named)
    over = read_rules(text + "environments: {prod: {approve: {people: 4}}}\n", "prod")
    assert over is not None
    assert over.approve.people == 4


@pytest.mark.parametrize("text", ["", "- a\n", "a: 1\na: 2\n"])
def test_rules_of_what_is_no_file_are_none(text: str) -> None:
    assert read_rules(text) is None
