"""Counts of both arms under the share that they were assigned with. Pure.

Segments of one epoch may have different shares: earlier waves keep what they have reached while a
later one rises. A count is evidence under the share of its own segment, and under no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doorstep.release.types import Cell, Release
from doorstep.stats.eprocess import ShareCell

RESTART_AT = ("step", "warm", "hour")
"""Where evidence is counted anew beside the whole, for faults that come late."""


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
