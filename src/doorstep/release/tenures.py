"""Who served before, and where a rollback goes. Pure; tenures are given newest first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from doorstep.release.store import TenureRow


def standing(tenures: Sequence[TenureRow]) -> list[int]:
    """The versions that a way back leads through, oldest first; the last one serves now, unless
    nothing does. What was taken back is not among them.

    A release crowns once: a second tenure of it is a way back, to a version that stands or, on a
    person's word, to any other. Where nothing served for a while, nothing before it stands.
    """
    found: list[int] = []
    crowned: set[str] = set()
    for before, tenure in pairwise([None, *reversed(tenures)]):
        assert tenure is not None
        if before is not None and before.until not in (None, tenure.since):
            found.clear()
        if tenure.release in crowned and tenure.version in found:
            while found[-1] != tenure.version:
                found.pop()
        if found[-1:] != [tenure.version]:
            found.append(tenure.version)
        crowned.add(tenure.release)
    return found


def serving(tenures: Sequence[TenureRow]) -> TenureRow | None:
    """The tenure that lasts."""
    return tenures[0] if tenures and tenures[0].until is None else None


def previous_champion(tenures: Sequence[TenureRow]) -> int | None:
    """The version that served before the champion of now, of those that stand."""
    found = standing(tenures)
    return found[-2] if serving(tenures) and len(found) > 1 else None


def is_way_back(tenures: Sequence[TenureRow]) -> bool:
    """Whether the newest change of champion was a rollback."""
    return any(one.release == tenures[0].release for one in tenures[1:])
