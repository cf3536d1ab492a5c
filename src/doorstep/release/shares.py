"""Counts of both arms under the share that they were assigned with. Pure.

Segments of one epoch may have different shares: earlier waves keep what they have reached while a
later one rises. A count is evidence under the share of its own segment, and under no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from doorstep.release.types import Cell, Release
from doorstep.stats.eprocess import ShareCell

RESTART_AT = ("step", "warm", "hour")
"""Where evidence is counted anew beside the whole, for faults that come late."""


Sum = tuple[int, float]
"""(how many, their sum)"""


def compared_means(cells: Iterable[tuple[Sum, Sum]]) -> tuple[float | None, float | None]:
    """Means of both arms, of cells of one epoch and segment each. From one to another shares differ
    and so may what is counted: arms are compared within a cell, which weighs n_a n_b / (n_a + n_b)
    (Mantel & Haenszel 1959), so that no version is said to be worse for having been asked where all
    is worse. Where no cell has both arms each stands for itself. None: nothing was counted."""
    known = list(cells)
    both = [(a, b) for a, b in known if a[0] and b[0]]
    if not both:
        return _mean(one[0] for one in known), _mean(one[1] for one in known)
    weights = [a[0] * b[0] / (a[0] + b[0]) for a, b in both]
    found = [
        sum(weight * one[at][1] / one[at][0] for weight, one in zip(weights, both, strict=True))
        for at in (0, 1)
    ]
    return found[0] / sum(weights), found[1] / sum(weights)


def _mean(sums: Iterable[Sum]) -> float | None:
    known = list(sums)
    n = sum(one[0] for one in known)
    return sum(one[1] for one in known) / n if n else None


def compared_rates(
    cells: Iterable[Cell], count: Callable[[Cell], tuple[int, int]]
) -> tuple[float | None, float | None]:
    """`compared_means` of what `count` says of a cell: (how many, how many of them)."""
    found: dict[tuple[int, str], dict[str, Sum]] = {}
    for one in cells:
        found.setdefault((one.epoch, one.segment), {})[one.arm] = count(one)
    none = (0, 0.0)
    return compared_means(
        (one.get("champion", none), one.get("challenger", none)) for one in found.values()
    )


def share_cells(
    release: Release,
    cells: Sequence[Cell],
    segments: Sequence[str],
    count: Callable[[Cell], int],
) -> tuple[list[ShareCell], list[int]]:
    """(share, count of the challenger, count of the champion) by epoch and share, in order of time,
    and the places in it where evidence begins anew. cells: of `segments`."""
    counts: dict[tuple[int, float], dict[str, int]] = {}
    starts = []
    epochs = {epoch.number: epoch for epoch in release.epochs}
    for epoch in release.epochs:
        split = [one for one in segments if release.is_split(epoch, one)]
        if split and counts and epoch.opened in RESTART_AT:
            starts.append(len(counts))
        for share in sorted({release.share_in(epoch, one) for one in split}):
            counts[epoch.number, share] = {"challenger": 0, "champion": 0}
    for cell in cells:
        epoch_of = epochs.get(cell.epoch)
        place = (cell.epoch, release.share_in(epoch_of, cell.segment) if epoch_of else 0.0)
        if place in counts:
            counts[place][cell.arm] += count(cell)
    found = [(at[1], n["challenger"], n["champion"]) for at, n in counts.items()]
    return found, starts
