"""Counters of nodes become the evidence of a release. Pure; any order, any number of times.

Each counter of a process only grows and each of its sets is only added to. So two readings of the
same (node, boot) are merged by the larger count and the union: the later one wins without knowing
which it is, a resend changes nothing, and merging is associative and commutative. Over nodes and
boots counts are summed and units united, because one unit may meet several processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.report import UNITS_MAX, NodeReport
from doorstep.core.report import Cell as NodeCell
from doorstep.release.types import Cell, Epoch, Evidence, Release, State

Units = NDArray[np.uint64]
Source = tuple[str, str]
"""(node, boot)"""
Key = tuple[str, str, int, str, str]
"""(node, boot, epoch, segment, arm)"""
Gathered = Mapping[Key, NodeCell]
Place = tuple[int, str, str]
"""(epoch, segment, arm)"""

ARMS = ("champion", "challenger")
COUNTERS = ("requests", "ok", "bad", "plus", "zero", "minus", "alike", "differ", "timed")
UNIT_BYTES = 8
_LITTLE_U64 = np.dtype("<u8")
_NONE: Units = np.empty(0, dtype=np.uint64)


def gather(release_id: str, reports: Iterable[NodeReport]) -> dict[Key, NodeCell]:
    """The cells of one release out of node reports; those of other releases are left out."""
    gathered: dict[Key, NodeCell] = {}
    for report in reports:
        mine = [cell for cell in report.cells if cell.release == release_id]
        gathered = merge(gathered, cells_of(report.node, report.boot, mine))
    return gathered


def cells_of(node: str, boot: str, cells: Iterable[NodeCell]) -> dict[Key, NodeCell]:
    """The cells that one process group of a node reports, by key."""
    found: dict[Key, NodeCell] = {}
    for cell in cells:
        key = (node, boot, cell.epoch, cell.segment, cell.arm)
        found[key] = _join(found[key], cell) if key in found else _canonical(cell)
    return found


def merge(one: Gathered, other: Gathered) -> dict[Key, NodeCell]:
    """Both readings together: associative, commutative, and merging twice is merging once."""
    both = dict(one)
    for key, cell in other.items():
        both[key] = _join(both[key], cell) if key in both else cell
    return both


def _join(a: NodeCell, b: NodeCell) -> NodeCell:
    if a == b:
        return a
    later = max(a, b, key=lambda cell: (cell.requests, cell.in_flight))
    return msgspec.structs.replace(
        a,
        **{name: max(getattr(a, name), getattr(b, name)) for name in COUNTERS},
        slow=tuple(map(max, a.slow, b.slow)),
        in_flight=later.in_flight,
        seen=_unite(a.seen, b.seen),
        bad_units=_unite(a.bad_units, b.bad_units),
    )


def _unite(a: bytes, b: bytes) -> bytes:
    return a if a == b else _pack(_both((_units(a), _units(b))))


def _canonical(cell: NodeCell) -> NodeCell:
    return msgspec.structs.replace(
        cell,
        seen=_pack(np.unique(_units(cell.seen))),
        bad_units=_pack(np.unique(_units(cell.bad_units))),
    )


def _units(packed: bytes) -> Units:
    whole = len(packed) // UNIT_BYTES * UNIT_BYTES
    return np.frombuffer(packed[:whole], dtype=_LITTLE_U64).astype(np.uint64)


def _pack(units: Units) -> bytes:
    return units.astype(_LITTLE_U64).tobytes()


def evidence_of(release: Release, gathered: Gathered, crash_loops: Sequence[str] = ()) -> Evidence:
    """What the gathered cells say about `release`.

    Cells of an epoch or a segment that the release does not have are left out. Warm-up epochs keep
    their requests and successes (for the hard kill), but none of their units.
    """
    epochs = {epoch.number: epoch for epoch in release.epochs}
    places = _by_place(gathered, epochs, release.spec.segments)
    measured = [place for place in places if epochs[place[0]].measured]
    units = _units_apart(release, measured, places)
    cells = tuple(_cell(place, places[place], units.get(place, {})) for place in sorted(places))
    current = [cell for key, cell in gathered.items() if key[2] == release.epoch.number]
    fullest = max((len(cell.bad_units) / UNIT_BYTES / UNITS_MAX for cell in current), default=0.0)
    return Evidence(cells=cells, fullest=fullest, crash_loops=tuple(sorted(set(crash_loops))))


def _by_place(
    gathered: Gathered, epochs: Mapping[int, Epoch], segments: Sequence[str]
) -> dict[Place, list[NodeCell]]:
    places: dict[Place, list[NodeCell]] = {}
    for (_, _, epoch, segment, arm), cell in gathered.items():
        if epoch in epochs and segment in segments:
            places.setdefault((epoch, segment, arm), []).append(cell)
    return places


def _cell(place: Place, cells: list[NodeCell], units: Mapping[str, int]) -> Cell:
    epoch, segment, arm = place
    total = {name: sum(getattr(cell, name) for cell in cells) for name in COUNTERS}
    return Cell(
        epoch=epoch,
        segment=segment,
        arm="challenger" if arm == "challenger" else "champion",
        requests=total["requests"],
        successes=total["ok"],
        in_flight=sum(cell.in_flight for cell in cells),
        plus=total["plus"],
        zero=total["zero"],
        minus=total["minus"],
        alike=total["alike"],
        differ=total["differ"],
        timed=total["timed"],
        slow=tuple(map(sum, zip(*(cell.slow for cell in cells), strict=True))),
        **units,
    )


def _units_apart(
    release: Release, measured: list[Place], places: Mapping[Place, list[NodeCell]]
) -> dict[Place, dict[str, int]]:
    """Those of the shadow, where only the challenger's errors make a unit bad, and those of the
    steps, where chance decides whose a unit is, each for themselves: else units that the challenger
    fails would be missing in its steps, and those that the champion fails would not."""
    if not release.spec.counts_pairs_by_unit:
        return _unit_counts(measured, places)
    shadow = {epoch.number for epoch in release.epochs if epoch.state is State.SHADOW}
    of_shadow = [place for place in measured if place[0] in shadow]
    of_steps = [place for place in measured if place[0] not in shadow]
    return _unit_counts(of_shadow, places) | _unit_counts(of_steps, places)


def _unit_counts(
    measured: list[Place], places: Mapping[Place, list[NodeCell]]
) -> dict[Place, dict[str, int]]:
    """Distinct units of each place, told apart from those of earlier epochs, in order of time.

    `first_units` end with the first set that is full: what a full set leaves out is not left out
    at random, and the split would look wrong.
    """
    seen = {place: _united(cell.seen for cell in places[place]) for place in measured}
    bad = {place: _united(cell.bad_units for cell in places[place]) for place in measured}
    bad_in = {arm: _both(bad[place] for place in measured if place[2] == arm) for arm in ARMS}
    before = _Before(bad=_NONE, seen=dict.fromkeys(ARMS, _NONE))
    is_complete = True
    counts = {}
    for epoch in sorted({place[0] for place in measured}):
        now = [place for place in measured if place[0] == epoch]
        is_complete = is_complete and not any(_is_full(places[place]) for place in now)
        for place in now:
            new = _without(seen[place], before.seen[place[2]])
            first = _without(new, _both(before.seen.values()))
            counts[place] = {
                "units": len(new),
                "first_units": len(first) if is_complete else 0,
                "bad_units": len(_without(bad[place], before.bad)),
                "bad_units_seen": len(np.intersect1d(new, bad_in[place[2]])),
            }
        before = before.with_epoch(now, seen, bad)
    return counts


class _Before(msgspec.Struct, frozen=True):
    """Units of earlier epochs: with a bad event in any arm, and seen by arm."""

    bad: Units
    seen: dict[str, Units]

    def with_epoch(
        self, now: list[Place], seen: Mapping[Place, Units], bad: Mapping[Place, Units]
    ) -> _Before:
        arms = {
            arm: _both([known, *(seen[place] for place in now if place[2] == arm)])
            for arm, known in self.seen.items()
        }
        return _Before(bad=_both([self.bad, *(bad[place] for place in now)]), seen=arms)


def _is_full(cells: Iterable[NodeCell]) -> bool:
    return any(len(cell.seen) >= UNITS_MAX * UNIT_BYTES for cell in cells)


def _united(packed: Iterable[bytes]) -> Units:
    return _both(_units(one) for one in packed)


def _both(sets: Iterable[Units]) -> Units:
    return np.unique(np.concatenate([_NONE, *sets]))


def _without(units: Units, others: Units) -> Units:
    return np.setdiff1d(units, others, assume_unique=True)
