"""Latency and disagreement: the numbers of two guardrails that nodes count as requests come. Pure.

Latency in canary: requests slower than the champion's p50, p90, p99 and p99.9 in the time before
the release, the challenger's against the same times the tolerance. R: the mean of four M1. P: each
of the first three must be there, or a fast middle would speak for a slow tail; the fourth is too
rare to be waited for. Of each unit only its first request in an epoch is taken. Disagreement in
shadow: M4 on pairs of answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from doorstep.release.shares import compared_rates, share_cells
from doorstep.release.types import (
    SLOW_QUANTILES,
    SLOWER,
    Cell,
    Guardrail,
    Numbers,
    Release,
    State,
)
from doorstep.stats import eprocess

CS_ALPHA = 0.05
SHOWN = SLOW_QUANTILES.index(0.9)
"""Whose shares are shown, until another one's say that the challenger is slower."""
WAITED_FOR = SLOW_QUANTILES[:3]
SLOW_SHARE_MAX = 0.9


def latency_numbers(
    release: Release, cells: Sequence[Cell], segments: Sequence[str], guardrail: Guardrail
) -> Numbers:
    """cells: of `segments`, those that are judged together. The limits are filled in later."""
    if guardrail.limits:
        return _promised_numbers(release, cells, guardrail)
    timed = _timed(release, cells)
    counted = [
        share_cells(release, timed, segments, lambda cell, at=place: cell.slow[at])  # type: ignore[misc]
        for place in range(len(SLOW_QUANTILES))
    ]
    slow = [one for one, _ in counted]
    worse = [
        eprocess.share_log_e_restarted(*one, 1.0, +1, is_open=release.spec.has_open_restarts)
        for one in counted
    ]
    better = None
    if release.state is not State.SHADOW and release.epoch.state is not State.SHADOW:
        better = _log_advance(timed, slow, guardrail.margins[release.step])
    against = eprocess.log_mean_exp(worse)
    shown = SHOWN if against < -math.log(CS_ALPHA) else worse.index(max(worse))
    low, high = eprocess.share_interval(slow[shown], CS_ALPHA)
    rates = compared_rates(timed, lambda cell: (cell.timed, cell.slow[shown]))
    return Numbers(
        guardrail=guardrail.name,
        segment=None,
        method=f"{SLOWER}{SLOW_QUANTILES[shown] * 100:g}",
        champion_rate=rates[0],
        challenger_rate=rates[1],
        low=low,
        high=high if math.isfinite(high) else None,
        log_e_rollback=against,
        log_rollback_at=math.inf,
        log_e_advance=better,
        log_advance_at=None,
        units_missing=None,
    )


def _promised_numbers(release: Release, cells: Sequence[Cell], guardrail: Guardrail) -> Numbers:
    """Of a first release: M4 on what callers were promised, of all its measured requests. What is
    shown is the promise that fewest requests may miss."""
    measured = {one.number for one in release.epochs if one.measured}
    mine = [one for one in cells if one.slow and one.arm == "challenger" and one.epoch in measured]
    n = sum(one.timed for one in mine)
    slow = [sum(one.slow[place] for one in mine) for place in range(len(guardrail.limits))]
    worse = [
        eprocess.one_sample_log_e(k, n, limit)
        for k, limit in zip(slow, guardrail.limits, strict=True)
    ]
    return Numbers(
        guardrail=guardrail.name,
        segment=None,
        method="M4 promise",
        champion_rate=None,
        challenger_rate=slow[0] / n if n else None,
        low=None,
        high=None,
        log_e_rollback=eprocess.log_mean_exp(worse),
        log_rollback_at=math.inf,
        log_e_advance=None,
        log_advance_at=None,
        units_missing=None,
    )


def _log_advance(
    timed: Sequence[Cell], slow: Sequence[Sequence[eprocess.ShareCell]], margin: float
) -> float:
    """P, against "some of the quantiles is worse by the margin, both than the champion's now and
    than what it was before the release"."""
    n = sum(one.timed for one in timed if one.arm == "challenger")
    found = []
    for quantile, counts in zip(WAITED_FOR, slow, strict=False):
        share = eprocess.share_log_e(counts, margin, -1)
        limit = min(margin * (1.0 - quantile), SLOW_SHARE_MAX)
        few = eprocess.one_sample_log_e(sum(in_b for _, in_b, _ in counts), n, limit, -1)
        found.append(eprocess.log_mean_exp([share, few]))
    return min(found)


def _timed(release: Release, cells: Sequence[Cell]) -> list[Cell]:
    """Those that say how long requests took while both versions were asked."""
    epochs = {epoch.number: epoch for epoch in release.epochs}
    timed = [one for one in cells if one.slow and one.epoch in epochs]
    return [one for one in timed if release.is_split(epochs[one.epoch], one.segment)]


def disagreement_numbers(release: Release, cells: Sequence[Cell], guardrail: Guardrail) -> Numbers:
    """Of all shadow pairs of answers. The limits are filled in later."""
    alike, differ = sum(one.alike for one in cells), sum(one.differ for one in cells)
    n, limit = alike + differ, guardrail.tolerance
    in_shadow = release.epoch.state is State.SHADOW
    return Numbers(
        guardrail=guardrail.name,
        segment=None,
        method="M4 limit",
        champion_rate=None,
        challenger_rate=differ / n if n else None,
        low=None,
        high=None,
        log_e_rollback=eprocess.one_sample_log_e(differ, n, limit),
        log_rollback_at=math.inf,
        log_e_advance=eprocess.one_sample_log_e(differ, n, limit, -1) if in_shadow else None,
        log_advance_at=None,
        units_missing=None,
    )
