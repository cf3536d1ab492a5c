"""What messages tell people to type can be typed: each `doorstep ...` in a string of src."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from doc_pages import ROOT

from doorstep.cli.main import build

SOURCE = ROOT / "src" / "doorstep"
SAID = re.compile(r"\bdoorstep ([a-z][a-z-]*(?: [^`\n]*)?)")
CODE = re.compile(r"`[^`\n]*`")
PROSE_AFTER = re.compile(r"(?<=[;,:.)])(?: |$)|[`]")
FILES = sorted(SOURCE.rglob("*.py"))


def strings(tree: ast.AST) -> Iterator[str]:
    """Every string literal; what an f-string fills in is `x`."""
    inner = {id(part) for one in ast.walk(tree) if isinstance(one, ast.JoinedStr)
             for part in one.values}  # fmt: skip
    for one in ast.walk(tree):
        if isinstance(one, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "x" for p in one.values)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in inner:
            yield one.value


def said(text: str) -> Iterator[list[str]]:
    """The words after each `doorstep` that is followed by a small word, up to the end of it."""
    for found in SAID.finditer(text):
        words = PROSE_AFTER.split(found[1])[0].rstrip(";,:.)")
        yield words.split()


@cache
def tree() -> Any:
    return typer.main.get_command(build())


def fault(words: list[str]) -> str:
    """Why these words are no command of ours, "" if they are one. Prose may follow a command."""
    command, left = tree(), list(words)
    while left and left[0] in getattr(command, "commands", {}):
        command = command.commands[left.pop(0)]
    if command is tree():
        return "no such command"
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    given = {word.partition("=")[0] for word in left if re.match(r"--?[a-z][a-z-]*$", word)}
    unknown = given - options - {"-h", "--help"} if "--x-port" not in given else set()
    return f"no option {', '.join(sorted(unknown))}" if unknown else ""


@pytest.mark.parametrize("path", FILES, ids=lambda one: one.relative_to(SOURCE).as_posix())
def test_a_command_that_the_source_names_exists(path: Path) -> None:
    faults = [
        f"doorstep {' '.join(words)}: {found}"
        for text in strings(ast.parse(path.read_text("utf-8")))
        for words in said(text)
        if (found := fault(words))
    ]
    assert not faults


@pytest.mark.parametrize(
    ("text", "is_fine"),
    [
        ("doorstep restore, or choose another --home", False),
        ("doorstep gate SERVICE@N --only repeatability", False),
        ("doorstep retrain loans --why", False),
        ("doorstep gate loans@3", True),
        ('sign it again: doorstep trust FILE --why "..."', True),
        ("start it: doorstep up -d, then doorstep register x", True),
        ("made by `doorstep init` from a model", True),
    ],
)
def test_what_cannot_be_typed_would_be_found(text: str, is_fine: bool) -> None:
    assert all(fault(words) == "" for words in said(text)) is is_fine
