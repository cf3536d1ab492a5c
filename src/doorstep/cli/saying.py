"""Marked sentences of one command on one line, as far as the screen is wide."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from doorstep.cli.output import MARKS, note, paint

GAP = "   "
WIDTH = 160
COLOURS = {"✓": 32, "✗": 31, "?": 33, "!": 33}
Part = tuple[str, str]
"""(mark, sentence). mark: ✓ ✗ ? !, or pass, fail, inconclusive."""


def say(parts: Iterable[Part], width: int = 0) -> None:
    """Print the parts to standard error, several to a line. width: 0 is the terminal's, or
    `WIDTH` where there is none."""
    for line in lines_of(parts, width or shutil.get_terminal_size((WIDTH, 24)).columns):
        note(GAP.join(f"{paint(mark, COLOURS.get(mark, 0))} {text}" for mark, text in line))


def lines_of(parts: Iterable[Part], width: int) -> list[list[Part]]:
    """The parts in order, broken where the next one would reach beyond `width` characters."""
    lines: list[list[Part]] = []
    used = 0
    for mark, text in parts:
        part = (MARKS.get(mark, mark), text)
        size = len(text) + 2
        if lines and used + len(GAP) + size <= width:
            lines[-1].append(part)
            used += len(GAP) + size
        else:
            lines.append([part])
            used = size
    return lines
