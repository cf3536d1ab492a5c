"""Latency and disagreement: the numbers of two guardrails that nodes count as requests come. Pure.

Latency in canary: requests slower than the champion's p50, p90, p99 and p99.9 in the time before
the release, the challenger's against the same times the tolerance; the mean of four M1. Of each
unit only its first request in an epoch is taken. Disagreement in shadow: M4 on pairs of answers.
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


def latency_numbers(
    release: Release,
    cells: Sequence[Cell],
    epochs: Sequence[Epoch],
    starts: Sequence[int],
    guardrail: Guardrail,
) -> Numbers:
    """cells: of the segment that is judged, or all. epochs: those of the canary that are measured,
    in order; starts: places in them where evidence begins anew. The limits are filled in later."""
    slow = [_slow(cells, epochs, place) for place in range(len(SLOW_QUANTILES))]
    worse = [eprocess.share_log_e_restarted(one, starts, 1.0, +1) for one in slow]
    better = None
    if release.state is not State.SHADOW and release.epoch.state is not State.SHADOW:
        margin = guardrail.margins[release.step]
        better = eprocess.log_mean_exp([eprocess.share_log_e(one, margin, -1) for one in slow])
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


def _slow(cells: Sequence[Cell], epochs: Sequence[Epoch], place: int) -> list[eprocess.ShareCell]:
    counts = {(epoch.number, arm): 0 for epoch in epochs for arm in ("champion", "challenger")}
    for cell in cells:
        if (cell.epoch, cell.arm) in counts and cell.slow:
            counts[cell.epoch, cell.arm] += cell.slow[place]
    return [
        (one.share, counts[one.number, "challenger"], counts[one.number, "champion"])
        for one in epochs
    ]


def _rate(cells: Sequence[Cell], epochs: Sequence[Epoch], arm: str) -> float | None:
    numbers = {epoch.number for epoch in epochs}
    mine = [one for one in cells if one.epoch in numbers and one.arm == arm and one.slow]
    timed = sum(one.timed for one in mine)
    return sum(one.slow[SHOWN] for one in mine) / timed if timed else None


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
