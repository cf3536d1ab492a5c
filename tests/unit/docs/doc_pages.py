"""The pages that people read, and what is in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted([
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *DOCS.rglob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
])  # fmt: skip

_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`(doorstep [^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, kind: str) -> Iterator[str]:
    """The fenced blocks of one kind."""
    for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if found["kind"] == kind:
            yield found["text"]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def session_commands(page: Path) -> Iterator[list[str]]:
    """Every `doorstep` command that a console block types, as words."""
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                for part in line[2:].split(" && "):
                    if part.startswith("doorstep"):
                        yield shlex.split(part, comments=True)[1:]


def named_commands(page: Path) -> Iterator[list[str]]:
    """Every `doorstep ...` that a sentence or table names, as words; a mention may be in part."""
    for found in _INLINE.finditer(prose(page)):
        yield shlex.split(found[1].replace("...", "x"))[1:]


def links(page: Path) -> Iterator[str]:
    """Targets of links and images that are not on another host."""
    for found in _LINK.finditer(prose(page)):
        if "://" not in found["target"] and not found["target"].startswith("mailto:"):
            yield found["target"]


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
