"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    """code: the exit code. text: everything that was printed, in order."""

    code: int
    text: str


Run = Callable[[str], Said]
