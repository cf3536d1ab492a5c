"""Whether columns still go together as they did in the reference: each may look as before alone.

One observation for all pairs, since one column that is scrambled moves with none of the others. A
column that has drifted is left out: what it does to its pairs is no news.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doorstep.core.manifest import ColumnProfile, Profile
from doorstep.monitor.types import DriftWindow, Observation, ServiceFacts, Severity
from doorstep.monitor.wording import counted
from doorstep.stats.distances import ColumnCounts
from doorstep.stats.pairs import (
    ColumnPair,
    correlations,
    kurtosis_of,
    pair_report,
    score_table,
)

SUBJECT = "correlations"
WARNING, CRITICAL = 0.1, 0.5
"""Change of a correlation: small and large effects (Cohen 1988, q)."""
CLEAR_P_MIN = 0.05
PAIRS_KEPT = 10


def judges_pairs(reference: Profile | None) -> bool:
    return reference is not None and len(reference.pairs.columns) > 1


def observe_pairs(facts: ServiceFacts, drifted: Collection[str]) -> Observation | None:
    """None if there is nothing to compare, or it is neither surely so nor surely not. drifted:
    names of columns."""
    window = facts.drift
    if window is None or facts.reference is None:
        return None
    report = [
        one
        for one in report_pairs(facts.reference, window)
        if not {one.one, one.other} & set(drifted)
    ]
    found = sorted((one for one in report if one.drifted), key=lambda one: one.p_holm)
    if not found and min((one.p_holm for one in report), default=0.0) <= CLEAR_P_MIN:
        return None
    return Observation(
        kind="drift",
        subject=SUBJECT,
        is_bad=bool(found),
        since=window.since,
        until=window.until,
        severity=_severity(found),
        sentence=_sentence(found, window) if found else "",
        cause="how one of them is made or collected has changed, or who is asked about",
        next=f"doorstep monitor {facts.service}",
        numbers={
            "rows": window.rows,
            "pairs": [
                {
                    "columns": (one.one, one.other),
                    "before": one.before,
                    "now": one.now,
                    "p": one.p_holm,
                }
                for one in found[:PAIRS_KEPT]
            ],
            "drifted": len(found),
            "compared": len(report),
        },
    )


def report_pairs(reference: Profile, window: DriftWindow) -> list[ColumnPair]:
    """Pairs of columns that all rows of the window had, whose products were all summed."""
    profiles = {one.name: one for one in reference.columns}
    known = [_column(name, profiles, window) for name in reference.pairs.columns]
    usable = [at for at, one in enumerate(known) if one is not None]
    if len(usable) < 2 or not window.pairs.products:
        return []
    chosen = [one for one in known if one is not None]
    names = [profile.name for profile, _ in chosen]
    rows = window.pairs.rows
    tables = [score_table(profile.counts) for profile, _ in chosen]
    products = _among(usable, len(known), window.pairs.sums)
    now = correlations(rows, [counts.codes for _, counts in chosen], tables, products)
    kurtosis = np.array([kurtosis_of(profile.counts, profile.nulls) for profile, _ in chosen])
    before, spread = (
        _among(usable, len(known), one)
        for one in (reference.pairs.correlations, reference.pairs.spreads)
    )
    return pair_report(names, before, spread, now, kurtosis, (reference.rows, rows))


def _column(
    name: str, profiles: dict[str, ColumnProfile], window: DriftWindow
) -> tuple[ColumnProfile, ColumnCounts] | None:
    for column in (f"in.{name}", f"ctx.{name}"):
        counts = window.columns.get(column)
        if name in profiles and counts is not None and counts.rows == window.pairs.rows:
            return profiles[name], counts
    return None


def _among(usable: list[int], count: int, values: ArrayLike) -> NDArray[np.float64]:
    """What belongs to pairs of these columns, of what belongs to all pairs of `count` columns."""
    square = np.zeros((count, count))
    square[np.triu_indices(count, 1)] = values
    within = square[np.ix_(usable, usable)]
    found: NDArray[np.float64] = within[np.triu_indices(len(usable), 1)]
    return found


def _severity(found: list[ColumnPair]) -> Severity:
    most = max((abs(one.now - one.before) for one in found), default=0.0)
    return "critical" if most >= CRITICAL else "warning" if most >= WARNING else "info"


def _sentence(found: list[ColumnPair], window: DriftWindow) -> str:
    one = max(found, key=lambda one: abs(one.now - one.before))
    more = f" (and {len(found) - 1} other pairs)" if len(found) > 1 else ""
    return (
        f"{one.one} and {one.other} go together otherwise than in training: correlation "
        f"{one.now:.2f} in {counted(window)}, {one.before:.2f} before{more}"
    )
