"""Whether answers treat groups of people alike: blocks of requests become loss evidence. Pure.

M3 on blocks: one request of the smaller group beside m of the larger, in order of time, is one bet
on how much more often the larger one is answered favourably. m is about the ratio of their sizes,
fixed before the release. In canary it is the challenger's own gap that is held against the limit,
in shadow how much larger it is than the champion's on the same requests, against half of it. Each
pair (the largest group, another one) and each sign is a bet of its own. Of a unit the first
request counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from doorstep.core.record import Kind
from doorstep.journal.joined import OutcomeArrays
from doorstep.release.losses import Floats, Mask, first_of_units, shadow_epochs, units_of
from doorstep.release.types import Guardrail, LossCell, Release
from doorstep.stats import eprocess

SIGNS = (+1, -1)
BLOCKS_WAITING = 20
Places = NDArray[np.int64]


def gap_cells(
    arrays: OutcomeArrays, release: Release, guardrail: Guardrail
) -> tuple[LossCell, ...]:
    """By pair of groups, then epoch and segment: of the last request of each block. arrays: records
    of this release, by time."""
    selected = (arrays.answer == guardrail.label).astype(np.float64)
    known = np.array([one is not None for one in arrays.answer], dtype=bool)
    return tuple(
        cell
        for pair in guardrail.groups[1:]
        for segment in release.spec.segments
        for cell in _cells(
            arrays, release, guardrail, pair, segment, selected, known & (arrays.segment == segment)
        )
    )


def _cells(
    arrays: OutcomeArrays,
    release: Release,
    guardrail: Guardrail,
    pair: tuple[str, int],
    segment: str,
    selected: Floats,
    known: Mask,
) -> Iterator[LossCell]:
    largest = guardrail.groups[0][0]
    kinds = arrays.kind == int(Kind.SHADOW)
    is_b = arrays.assigned == release.challenger
    shadow = shadow_epochs(release)
    live = [one.number for one in release.epochs if one.measured and one.share > 0.0]
    pairs = _copied(arrays, known & kinds & np.isin(arrays.epoch, shadow), known & ~kinds)
    answered = known & ~kinds & np.isin(arrays.epoch, live)
    units = units_of(arrays)
    own = first_of_units(units, np.flatnonzero(answered))
    is_first = first_of_units(units, pairs[0])[pairs[0]]
    pairs = pairs[0][is_first], pairs[1][is_first]
    for epochs, rows, other in (
        (shadow, pairs[0], pairs[1]),
        (live, np.flatnonzero(own & is_b), None),
    ):
        # A shadow record has no inputs: whose request it was says the live one.
        named = arrays.group[rows if other is None else other]
        large, small = named == largest, named == pair[0]
        mine = selected[rows]
        theirs = None if other is None else selected[other]
        blocks = blocks_of(large, small, pair[1])
        if not len(blocks[0]):
            continue
        gap = _gap(mine, blocks)
        champion = np.zeros_like(gap) if theirs is None else _gap(theirs, blocks)
        at = arrays.epoch[rows][blocks[2]]
        for epoch in epochs:
            here = at == epoch
            if here.any():
                yield _cell(
                    epoch, segment, part_of(guardrail, pair[0]), guardrail,
                    release, gap[here], champion[here], is_paired=other is not None,
                )  # fmt: skip


def part_of(guardrail: Guardrail, group: str) -> str:
    """The comparison of the largest group with this one."""
    return f"{guardrail.field}: {guardrail.groups[0][0]}, {group}"


def _copied(arrays: OutcomeArrays, shadow: Mask, live: Mask) -> tuple[Places, Places]:
    """Places of shadow records, and of the live ones of the same requests."""
    place_of = dict(zip(arrays.id[live], np.flatnonzero(live), strict=True))
    both = [
        (at, place_of[arrays.id[at]]) for at in np.flatnonzero(shadow) if arrays.id[at] in place_of
    ]
    found = np.array(both, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def blocks_of(large: Mask, small: Mask, m: int) -> tuple[Places, Places, Places]:
    """([blocks, m] of the larger group, [blocks] of the smaller one, [blocks] the last of each), in
    order of time. Few wait for the others, and the longest is given up: what a block compares came
    at about one time, so that what changes for both groups does not look like a gap."""
    waiting: deque[int] = deque(maxlen=BLOCKS_WAITING * m)
    alone: deque[int] = deque(maxlen=BLOCKS_WAITING)
    many, few, last = [], [], []
    for at in np.flatnonzero(large | small).tolist():
        (waiting if large[at] else alone).append(at)
        if alone and len(waiting) >= m:
            many.append([waiting.popleft() for _ in range(m)])
            few.append(alone.popleft())
            last.append(at)
    places = np.array(many, dtype=np.int64).reshape(-1, m)
    return places, np.array(few, dtype=np.int64), np.array(last, dtype=np.int64)


def _gap(selected: Floats, blocks: tuple[Places, Places, Places]) -> Floats:
    gap: Floats = selected[blocks[0]].mean(axis=1) - selected[blocks[1]]
    return gap


def _cell(
    epoch: int,
    segment: str,
    part: str,
    guardrail: Guardrail,
    release: Release,
    gap: Floats,
    champion: Floats,
    *,
    is_paired: bool,
) -> LossCell:
    # Differences of gaps go from -2 to 2: half of it, against half the limit.
    difference = (gap - champion) / 2.0 if is_paired else gap
    halved = 0.5 if is_paired else 1.0
    margin = guardrail.margin_at(release.step)
    return LossCell(
        epoch=epoch,
        segment=segment,
        paired=is_paired,
        champion=(len(gap), float(champion.sum())),
        challenger=(len(gap), float(gap.sum())),
        sums=(len(gap), float(difference.sum()), float(difference @ difference)),
        margin=margin,
        worse=_wealth(difference, guardrail.tolerance * halved, +1),
        better=_wealth(difference, margin * halved, -1),
        metric=guardrail.name,
        part=part,
    )


def _wealth(difference: Floats, limit: float, direction: int) -> tuple[float, ...]:
    """Of both signs, one after the other: the larger group ahead, and behind."""
    both: Sequence[Floats] = [
        eprocess.paired_wealth(sign * difference, limit, direction) for sign in SIGNS
    ]
    return tuple(np.concatenate(both).tolist())
