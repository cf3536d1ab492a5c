"""Commands in hints and `next:` lines work as they are printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from cli_case import Run

from doorstep.cli.main import build
from doorstep.cli.pointing import GROUPS, WITHOUT, reachable


def test_what_is_suggested_reaches_the_home_that_was_named(here: Path, run: Run) -> None:
    said = run("list --home 'my home'")
    assert "hint: start one: doorstep up --home 'my home' -d" in said.text
    said = run("list --home=other --json")
    assert said.text.count("doorstep up --home other -d") == 2
    assert "doorstep up -d" in run("list").text
    assert "next: doorstep up --home other -d" in run("doctor --home other").text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("doorstep release start a@1", "doorstep release start --home h a@1"),
        ("doorstep up -d, or doorstep up", "doorstep up --home h -d, or doorstep up --home h"),
        ("doorstep up --home h -d, or doorstep down",
         "doorstep up --home h -d, or doorstep down --home h"),
        ("doorstep down; doorstep list --home=x", "doorstep down --home h; doorstep list --home=x"),
        ('doorstep trust FILE --why "..."', 'doorstep trust FILE --why "..."'),
        ("export PATH first", "export PATH first"),
    ],
)  # fmt: skip
def test_the_home_goes_to_every_command_that_has_one(text: str, expected: str) -> None:
    assert reachable(text, ["doorstep", "list", "--home", "h"]) == expected
    assert reachable(text, ["doorstep", "list"]) == text


def test_the_server_goes_to_commands_that_ask_one() -> None:
    argv = ["doorstep", "list", "--url", "http://a:1"]
    assert reachable("doorstep up -d", argv) == "doorstep up -d"
    assert reachable("doorstep status", argv) == "doorstep status --url http://a:1"


def test_the_table_of_options_is_what_the_commands_have() -> None:
    tree: Any = typer.main.get_command(build())
    groups = {name for name, one in tree.commands.items() if hasattr(one, "commands")}
    assert groups == set(GROUPS)
    for option, without in WITHOUT.items():
        assert _lacking(tree, option) | {"demo"} == without


def _lacking(group: Any, option: str) -> set[str]:
    """Commands without the option; of a group where all of them lack it, the group."""
    found = set()
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            inner = _lacking(one, option)
            is_all = inner == set(one.commands)
            found |= {name} if is_all else {f"{name} {lacks}" for lacks in inner}
        elif not any(option in given.opts for given in one.params):
            found.add(name)
    return found
