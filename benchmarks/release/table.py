"""What a part of the benchmark answers, and how near to a goal a number of runs can be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

ALPHA = 0.05


@dataclass
class Part:
    """title, lines: to be printed. missed: goals that were not met."""

    title: str
    lines: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def row(self, name: str, *cells: str, width: int = 16) -> None:
        self.lines.append(f"  {name:<36}" + "".join(f"{cell:>{width}}" for cell in cells))

    def goal(self, is_met: bool, what: str) -> None:
        if not is_met:
            self.missed.append(f"{self.title.partition(':')[0]}: {what}")


def at_most(share: float, runs: int) -> float:
    """What a true `share` may look like in this many runs: three standard errors above it."""
    return share + 3 * math.sqrt(share * (1 - share) / runs)


def at_least(share: float, runs: int) -> float:
    return share - 3 * math.sqrt(share * (1 - share) / runs)


def share_of(found: Iterable[bool]) -> float:
    known = list(found)
    return sum(known) / len(known)


def requests(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else "never"
