"""What README and docs say can be typed, and what they point to is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from doc_pages import (
    DOCS,
    PAGES,
    ROOT,
    anchors,
    links,
    name_of,
    named_commands,
    session_commands,
)

from doorstep.cli.main import build

README = ROOT / "README.md"


@pytest.fixture(scope="module")
def tree() -> Any:
    return typer.main.get_command(build())


def find(tree: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words that are left for it."""
    command, left = tree, list(words)
    while left and left[0] in getattr(command, "commands", {}):
        command = command.commands[left.pop(0)]
    return command, left


def options_of(command: Any) -> set[str]:
    names = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    return names | {"-h", "--help"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_session_parses(page: Path, tree: Any) -> None:
    for words in session_commands(page):
        command, left = find(tree, words)
        assert not getattr(command, "commands", {}), f"doorstep {' '.join(words)}: no such command"
        command.make_context("doorstep", left)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_named_exists_with_its_options(page: Path, tree: Any) -> None:
    for words in named_commands(page):
        command, left = find(tree, words)
        said = f"doorstep {' '.join(words)}"
        assert command is not tree or left[:1] in ([], ["--version"], ["--help"]), said
        given = {word.partition("=")[0] for word in left if word.startswith("-")}
        assert given <= options_of(command), said


def test_a_command_that_does_not_exist_would_be_found(tree: Any) -> None:
    assert find(tree, ["teleport", "loans"])[0] is tree


def test_an_option_that_does_not_exist_would_be_found(tree: Any) -> None:
    assert "--harder" not in options_of(find(tree, ["rollback", "loans"])[0])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_image_leads_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), target


def test_every_page_is_reached_from_the_index() -> None:
    seen: set[Path] = set()
    todo = [DOCS / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        todo += [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
    assert not {name_of(page) for page in DOCS.rglob("*.md")} - {name_of(one) for one in seen}


def test_the_readme_has_the_two_commands_and_one_picture() -> None:
    text = README.read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text
    assert sum(target.endswith(".svg") for target in links(README)) == 1


@pytest.mark.parametrize("picture", sorted((DOCS / "images").glob("*.svg")), ids=lambda p: p.name)
def test_a_picture_asks_no_other_host_and_has_words_for_who_cannot_see_it(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text and "<script" not in text
    assert "<title" in text and "<desc" in text and "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_output_is_still_to_be_filled_in(page: Path) -> None:
    assert not re.findall(r"^[A-Z_]{4,}$", page.read_text(encoding="utf-8"), re.M)
