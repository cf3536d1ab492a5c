"""What nodes counted of a release, beside what the journal says of it. Pure.

Decisions are made from the nodes' cells; the journal is another record of the same requests. The
two differ for reasons that are known: a request in flight in a process that died is a failure in
the cells, and nobody was answered; a request for which the version was not asked, for a reason that
says nothing of it, is in no cell; what came in while the decision was made is in no evidence of it.
What is left is not explained, and an answer that was counted and is not in the journal must not be.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.journal.summary import ReleaseCount
from doorstep.release.surface import ComparedCell
from doorstep.release.types import Cell, Release, State

REPORTED_S = 10.0
"""A node's report may be that old when a decision is made."""
DIED_MAX, DIED_PART_MAX = 256, 0.01
"""Failures without a record that deaths of processes explain: about a front's queue, or a small
part of the requests. More of them are a journal that loses failures."""
Place = tuple[int, str, str]


class _Recorded(msgspec.Struct):
    ok: int = 0
    failed: int = 0
    passed: int = 0


def compare(
    release: Release,
    cells: Iterable[Cell],
    counts: Iterable[ReleaseCount],
    at: Instant,
    kept_since: Instant,
) -> tuple[ComparedCell, ...]:
    """By epoch, segment and arm, in order. at: when the cells were read. kept_since: older records
    may be gone."""
    recorded = _recorded(release, counts)
    counting = _counting(release)
    counted = {
        (one.epoch, one.segment, str(one.arm)): one
        for one in cells
        if (one.epoch, one.segment) in counting
    }
    found = []
    for place in sorted(counted.keys() | recorded.keys()):
        epoch, segment, arm = place
        cell = counted.get(place) or Cell(
            epoch=epoch, segment=segment, arm="challenger" if arm == "challenger" else "champion"
        )
        mine = recorded.get(place, _Recorded())
        ended_at = _ended_at(release, epoch) or (at if release.is_over else None)
        said, is_explained = _differ(cell, mine, ended_at, at, kept_since)
        found.append(
            ComparedCell(
                epoch=epoch,
                segment=segment,
                arm=arm,
                counted=(cell.requests, cell.requests - cell.successes),
                recorded=(mine.ok + mine.failed + mine.passed, mine.failed + mine.passed),
                said=said,
                explained=is_explained,
            )
        )
    return tuple(found)


def _counting(release: Release) -> set[tuple[int, str]]:
    """Epochs and segments in which nodes count: not those of a wave that is not begun."""
    return {
        (epoch.number, segment)
        for epoch in release.epochs
        for segment in release.spec.segments
        if epoch.state is State.SHADOW or release.share_in(epoch, segment) > 0.0
    }


def _recorded(release: Release, counts: Iterable[ReleaseCount]) -> dict[Place, _Recorded]:
    """As evidence is: what the release has no epoch or segment for is left out."""
    counting = _counting(release)
    found: dict[Place, _Recorded] = {}
    for one in counts:
        if (one.epoch, one.segment) in counting:
            arm = "challenger" if one.assigned == release.challenger else "champion"
            mine = found.setdefault((one.epoch, one.segment, arm), _Recorded())
            mine.ok += one.ok
            mine.failed += one.failed
            mine.passed += one.passed
    return found


def _ended_at(release: Release, epoch: int) -> Instant | None:
    later = [one.started_at for one in release.epochs if one.number > epoch]
    return min(later, default=None)


def _differ(
    cell: Cell, recorded: _Recorded, ended_at: Instant | None, at: Instant, kept_since: Instant
) -> tuple[str, bool]:
    """(in words how they differ, "" if they do not; whether that is explained)."""
    failures = cell.requests - cell.successes
    missing = cell.successes - recorded.ok
    died = failures - recorded.failed - recorded.passed
    more = max(0, -missing) + max(0, recorded.failed - failures)
    passed = max(0, recorded.passed - max(0, failures - recorded.failed))
    if missing > 0 and ended_at is not None and ended_at < kept_since:
        return "older than records are kept", True
    is_recent = ended_at is None or ended_at > at - round(REPORTED_S * SECOND_US)
    said = []
    if missing > 0:
        said.append(f"{missing:,} answers were counted and are not in the journal")
    if died > 0:
        said.append(f"{died:,} failures without a record: in flight when their process died")
    if passed:
        said.append(f"{passed:,} were not asked, for a reason that says nothing of the version")
    if more:
        why = (
            "came in while it was decided"
            if is_recent
            else "are recorded, and no node counted them"
        )
        said.append(f"{more:,} {why}")
    lost = died > max(DIED_MAX, round(DIED_PART_MAX * cell.requests))
    return "; ".join(said), missing <= 0 and not lost and (is_recent or not more)
