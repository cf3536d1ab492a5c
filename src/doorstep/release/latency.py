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

from doorstep.release.types import (
    SLOW_QUANTILES,
    Cell,
    Epoch,
    Guardrail,
    Numbers,
    Release,
    State,
)
from doorstep.stats import eprocess

CS_ALPHA = 0.05
SHOWN = SLOW_QUANTILES.index(0.9)
WAITED_FOR = SLOW_QUANTILES[:3]
SLOW_SHARE_MAX = 0.9


def latency_numbers(
    release: Release,
    cells: Sequence[Cell],
    epochs: Sequence[Epoch],
    starts: Sequence[int],
    guardrail: Guardrail,
) -> Numbers:
    """cells: of the segment that is judged, or all. epochs: those of the canary that are measured,
    in order; starts: places in them where evidence begins anew. The limits are filled in later."""
    if guardrail.limits:
        return _promised_numbers(release, cells, guardrail)
    slow = [_slow(cells, epochs, place) for place in range(len(SLOW_QUANTILES))]
    worse = [eprocess.share_log_e_restarted(one, starts, 1.0, +1) for one in slow]
    better = None
    if release.state is not State.SHADOW and release.epoch.state is not State.SHADOW:
        better = _log_advance(cells, epochs, slow, guardrail.margins[release.step])
    low, high = eprocess.share_interval(slow[SHOWN], CS_ALPHA)
    return Numbers(
        guardrail=guardrail.name,
        segment=None,
        method="M1 shares slower",
        champion_rate=_rate(cells, epochs, "champion"),
        challenger_rate=_rate(cells, epochs, "challenger"),
        low=low,
        high=high if math.isfinite(high) else None,
        log_e_rollback=eprocess.log_mean_exp(worse),
        log_rollback_at=math.inf,
        log_e_advance=better,
        log_advance_at=None,
        units_missing=None,
    )


def _promised_numbers(release: Release, cells: Sequence[Cell], guardrail: Guardrail) -> Numbers:
    """Of a first release: M4 on what callers were promised, of all its measured requests. What is
    shown is the promise that fewest requests may miss."""
    epochs = [one for one in release.epochs if one.measured and one.share > 0.0]
    mine = _mine(cells, epochs, "challenger")
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
    cells: Sequence[Cell],
    epochs: Sequence[Epoch],
    slow: Sequence[Sequence[eprocess.ShareCell]],
    margin: float,
) -> float:
    """P, against "some of the quantiles is worse by the margin, both than the champion's now and
    than what it was before the release"."""
    n = _timed(cells, epochs, "challenger")
    found = []
    for quantile, counts in zip(WAITED_FOR, slow, strict=False):
        share = eprocess.share_log_e(counts, margin, -1)
        limit = min(margin * (1.0 - quantile), SLOW_SHARE_MAX)
        few = eprocess.one_sample_log_e(sum(in_b for _, in_b, _ in counts), n, limit, -1)
        found.append(eprocess.log_mean_exp([share, few]))
    return min(found)


def _slow(cells: Sequence[Cell], epochs: Sequence[Epoch], place: int) -> list[eprocess.ShareCell]:
    counts = {(epoch.number, arm): 0 for epoch in epochs for arm in ("champion", "challenger")}
    for cell in cells:
        if (cell.epoch, cell.arm) in counts and cell.slow:
            counts[cell.epoch, cell.arm] += cell.slow[place]
    return [
        (one.share, counts[one.number, "challenger"], counts[one.number, "champion"])
        for one in epochs
    ]


def _mine(cells: Sequence[Cell], epochs: Sequence[Epoch], arm: str) -> list[Cell]:
    numbers = {epoch.number for epoch in epochs}
    return [one for one in cells if one.epoch in numbers and one.arm == arm and one.slow]


def _timed(cells: Sequence[Cell], epochs: Sequence[Epoch], arm: str) -> int:
    return sum(one.timed for one in _mine(cells, epochs, arm))


def _rate(cells: Sequence[Cell], epochs: Sequence[Epoch], arm: str) -> float | None:
    timed = _timed(cells, epochs, arm)
    return sum(one.slow[SHOWN] for one in _mine(cells, epochs, arm)) / timed if timed else None


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
