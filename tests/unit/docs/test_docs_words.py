"""One noun, one word: what the glossary defines is what everything is called."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from doc_pages import DOCS, PAGES, name_of, prose

from doorstep.api.openapi import path_of
from doorstep.cli.main import build
from doorstep.migrations.tables import all_tables
from doorstep.operations import table

GLOSSARY = DOCS / "reference" / "glossary.md"
ROW = re.compile(r"^\| (?P<words>[a-z, ]+) \| (?P<meaning>.+) \|$", re.M)
VERBS = frozenset({
    *("apply", "approve", "bench", "check", "console", "create", "demo", "diff", "doctor"),
    *("down", "erase", "estimate", "explain", "export", "find", "follow", "history", "hold"),
    *("import", "init", "kill", "list", "pause", "predict", "promote", "query", "register"),
    *("restore", "resume", "revive", "revoke", "rollback", "show", "start", "status", "trust"),
    *("up", "verify"),
})  # fmt: skip
"""What a command may be called besides a noun of the glossary."""
PARTS = frozenset({"cells", "document", "head", "moments", "node", "run", "watch"})
"""What the name of a table may go on with."""
OTHER_WORDS = {
    "deployment": "release",
    "rollout": "release",
    "canary": "step",
    "ground truth": "outcome",
    "feature store": "nothing of ours",
    "audit log": "ledger",
    "baseline model": "champion",
}
"""Words of others for what has a word here."""


def words() -> list[str]:
    found = [one["words"].split(", ") for one in ROW.finditer(GLOSSARY.read_text("utf-8"))]
    return [word for row in found for word in row if word not in ("word", "words")]


def singular(word: str) -> str:
    return word.removesuffix("s") if word not in ("status", "is") else word


def is_defined(noun: str) -> bool:
    return noun in words() or singular(noun) in words()


def test_every_word_is_defined_once() -> None:
    assert len(words()) > 30
    assert len(words()) == len(set(words()))


def test_the_glossary_is_in_order() -> None:
    rows = [one["words"] for one in ROW.finditer(GLOSSARY.read_text("utf-8"))][1:]
    assert rows == sorted(rows)


@pytest.mark.parametrize("name", sorted(table()))
def test_an_operation_is_about_a_word(name: str) -> None:
    assert is_defined(name.partition(".")[0])


@pytest.mark.parametrize("name", sorted(table()))
def test_what_an_operation_needs_is_about_a_word(name: str) -> None:
    assert is_defined(table()[name].permission.partition(":")[0])


def test_a_route_is_called_as_its_operation() -> None:
    assert all(path_of(one) == "/" + name.replace(".", "/") for name, one in table().items())


@pytest.mark.parametrize("name", sorted(all_tables().tables))
def test_a_table_is_named_by_a_word(name: str) -> None:
    first, *rest = name.split("_")
    assert is_defined(first)
    assert all(is_defined(part) or part in PARTS for part in rest)


def commands(command: Any) -> set[str]:
    inner = getattr(command, "commands", {})
    return set(inner).union(*(commands(one) for one in inner.values()))


def test_a_command_is_a_word_or_a_known_verb() -> None:
    found = commands(typer.main.get_command(build()))
    assert not {one for one in found if not is_defined(one) and one not in VERBS}


def test_a_page_of_the_console_is_at_a_word() -> None:
    routes = (DOCS.parent / "src/doorstep/console/routes.py").read_text("utf-8")
    pages = (DOCS.parent / "src/doorstep/console/pages.py").read_text("utf-8")
    found = set(re.findall(r'"/([a-z]+)', routes + pages))
    others = {"find", "history", "static", "api", "sign"}
    assert not {one for one in found if not is_defined(one)} - others


@pytest.mark.parametrize("page", [one for one in PAGES if one != GLOSSARY], ids=name_of)
def test_a_page_uses_our_word_for_what_has_one(page: Path) -> None:
    text = prose(page).lower()
    found = {word: ours for word, ours in OTHER_WORDS.items() if re.search(rf"\b{word}s?\b", text)}
    assert not found
