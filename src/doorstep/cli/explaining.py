"""The service file explained: its sections on one page, or one section key by key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.cli.output import table
from doorstep.core.errors import UsageError
from doorstep.core.servicefile import ROOT
from doorstep.core.servicefile_explain import NOT_SET, ExplainedKey, declared, section_of

if TYPE_CHECKING:
    from doorstep.cli.checking import Place

ALL = "all"
SAID_CHARS_MAX = 56


def which(file: Path, section: str, is_explained: bool) -> tuple[Path, str]:
    """The file and the section: `check --explain release` names only a section, or a key of one.
    Raises: UsageError (`no-section`)."""
    known = (*ROOT.keys, ALL, *(one.path for one in declared()))
    if is_explained and not section and str(file) in known and not file.exists():
        file, section = Path("doorstep.yaml"), str(file)
    if section and (not is_explained or section not in known):
        raise UsageError(
            "no-section",
            f"there is no section {section!r} to explain; expected --explain and one of "
            f"{', '.join((*ROOT.keys, ALL))}, or a key of one, as it is shown",
            "doorstep check --explain",
        )
    return file, section


def sections_of(problems: Iterable[Place]) -> list[str]:
    """The sections that have a problem."""
    found = dict.fromkeys(section_of(one.path) for one in problems)
    return [one for one in found if one in ROOT.keys]


def explained_text(rows: Sequence[ExplainedKey], section: str) -> str:
    """What `doorstep check --explain` prints. rows: () of a file that cannot be read."""
    if not section:
        return _overview(rows)
    return "\n".join(_keys(rows, section))


def _overview(rows: Sequence[ExplainedKey]) -> str:
    lines = []
    for name, key in ROOT.keys.items():
        mine = [one for one in rows if section_of(one.path) == name]
        said = [one for one in mine if one.source == "file"]
        short = " ".join(_short(one, name) for one in said)
        lines.append((name, key.about, _clip(short) or "–", str(len(mine) - len(said))))
    text = table(("section", "what it says", "in the file", "defaults"), lines, right=(3,))
    return f"{text}\n\nnext: doorstep check --explain release"


def _short(one: ExplainedKey, section: str) -> str:
    path = one.path.removeprefix(section).removeprefix(".")
    return f"{path}: {one.value}" if path else one.value


def _clip(text: str) -> str:
    return text if len(text) <= SAID_CHARS_MAX else text[: SAID_CHARS_MAX - 1] + "…"


def _keys(rows: Sequence[ExplainedKey], wanted: str) -> Iterable[str]:
    values = {one.path: one for one in rows}
    for key in declared():
        if wanted != ALL and not f"{key.path}.".startswith((f"{wanted}.", f"{wanted}[")):
            continue
        mine = values.get(key.path)
        is_said = mine is not None and mine.source == "file"
        value = f": {mine.value}" if mine is not None and mine.value != NOT_SET else ""
        yield f"{key.path}{value}{' (in the file)' if is_said else ''}"
        yield f"    {key.about}"
        if not key.expected.startswith("a mapping with"):
            yield f"    written as {key.expected}"
        if key.why and not is_said:
            yield f"    default {key.why}"
