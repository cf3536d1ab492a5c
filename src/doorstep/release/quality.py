"""The numbers of what the journal is read for: quality, conversion, revenue, means, gaps. Pure.

The difference is challenger minus champion of mean losses. R: it is larger than tolerated. P: it is
smaller than the step's margin. Shadow (pairs) and canary (each its own part) follow one another, so
a fixed mean of their e-processes is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from doorstep.release.groups import SIGNS, part_of
from doorstep.release.shares import compared_means
from doorstep.release.types import Guardrail, LossCell, Numbers, Release, State
from doorstep.stats import eprocess

SHADOW_WEIGHT_WORSE = 0.2
SHADOW_WEIGHT_BETTER = 0.5
CS_ALPHA = 0.05
Interval = tuple[float | None, float | None]


def quality_numbers(release: Release, losses: Sequence[LossCell], guardrail: Guardrail) -> Numbers:
    """losses: of this metric, of the segment that is judged, or all. Without any nothing is
    crossed. The limits are filled in later."""
    margin = guardrail.margin_at(release.step)
    fitting = [one for one in losses if one.margin == margin]
    if guardrail.name == "conversion":
        worse, better = _conversion(release, losses, guardrail, margin)
    elif guardrail.name == "fairness":
        worse, better = _gaps(release, losses, fitting, guardrail)
    else:
        worse = _log_e(release, losses, "worse", SHADOW_WEIGHT_WORSE)
        better = _log_e(release, fitting, "better", SHADOW_WEIGHT_BETTER)
    in_shadow = release.epoch.state is State.SHADOW and not release.spec.asks_callers_in_shadow
    is_of_callers = guardrail.name != "fairness" and guardrail.metric.read == "records"
    shown = _widest(losses)
    low, high = _interval(release, shown, guardrail)
    return Numbers(
        guardrail=guardrail.name,
        segment=None,
        method=_METHODS.get(guardrail.name, "M3 pairs, M2 difference"),
        champion_rate=_mean(shown, 0, guardrail),
        challenger_rate=_mean(shown, 1, guardrail),
        low=low,
        high=high,
        log_e_rollback=worse,
        log_rollback_at=math.inf,
        # What only callers bring about cannot be waited for where the challenger answers none.
        log_e_advance=None if is_of_callers and in_shadow else better,
        log_advance_at=None,
        units_missing=_missing(release, shown, better),
    )


_METHODS = {
    "conversion": "M1 share",
    "revenue": "M2 difference",
    "mean-latency": "M2 difference",
    "fairness": "M3 blocks",
}


def _log_e(release: Release, cells: Sequence[LossCell], name: str, shadow_weight: float) -> float:
    shadow = _wealth([one for one in cells if one.paired], name)
    canary = _wealth([one for one in cells if not one.paired], name)
    if release.spec.shadow_requests == 0:
        return canary
    return eprocess.log_mean_exp([shadow, canary], [shadow_weight, 1.0 - shadow_weight])


def _wealth(cells: Sequence[LossCell], name: str) -> float:
    if not cells:
        return 0.0
    return eprocess.log_mean_exp(np.sum([getattr(one, name) for one in cells], axis=0))


def _events(release: Release, cells: Sequence[LossCell]) -> list[eprocess.ShareCell]:
    """Conversions of both arms, as M1 counts events."""
    return [
        (_share(release, one), round(n_b - lost_b), round(n_a - lost_a))
        for one in cells
        for (n_b, lost_b), (n_a, lost_a) in [(one.challenger, one.champion)]
    ]


def _conversion(
    release: Release, losses: Sequence[LossCell], guardrail: Guardrail, margin: float
) -> tuple[float, float]:
    cells, grid = _events(release, losses), eprocess.GRID_KPI
    worse = eprocess.share_log_e(cells, 1.0 - guardrail.tolerance, -1, grid)
    return worse, eprocess.share_log_e(cells, 1.0 - margin, +1, grid)


def _gaps(
    release: Release,
    losses: Sequence[LossCell],
    fitting: Sequence[LossCell],
    guardrail: Guardrail,
) -> tuple[float, float]:
    """R: some pair's gap, of either sign, is too large: both signs share a pair's capital, and the
    pairs share alpha, also those of which nothing has come yet. P: every gap is small enough; of
    one of which nothing has come that is not known."""
    parts = [part_of(guardrail, group) for group, _ in guardrail.groups[1:]]
    worse = [
        eprocess.log_mean_exp([_signed(release, losses, part, "worse", at) for at in _PLACES])
        for part in parts
    ]
    better = [_signed(release, fitting, part, "better", at) for part in parts for at in _PLACES]
    return max(worse) - math.log(len(parts)), min(better)


_PLACES = range(len(SIGNS))


def _signed(release: Release, cells: Sequence[LossCell], part: str, name: str, at: int) -> float:
    mine = [one for one in cells if one.part == part]
    half = len(eprocess.BETS_PAIRED)

    def wealth(paired: bool) -> float:
        sums = [getattr(one, name)[at * half : (at + 1) * half]
                for one in mine if one.paired is paired]  # fmt: skip
        return eprocess.log_mean_exp(np.sum(sums, axis=0)) if sums else 0.0

    if release.spec.shadow_requests == 0:
        return wealth(False)
    weight = SHADOW_WEIGHT_WORSE if name == "worse" else SHADOW_WEIGHT_BETTER
    return eprocess.log_mean_exp([wealth(True), wealth(False)], [weight, 1.0 - weight])


def _widest(cells: Sequence[LossCell]) -> list[LossCell]:
    """Of several comparisons the one to show: whose difference is largest."""
    sums: dict[str, list[float]] = {}
    for one in cells:
        n, total = sums.setdefault(one.part, [0.0, 0.0])
        sums[one.part] = [n + one.sums[0], total + one.sums[1]]
    part = max(sums, key=lambda name: abs(sums[name][1] / max(sums[name][0], 1)), default="")
    return [one for one in cells if one.part == part]


def _mean(cells: Sequence[LossCell], at: int, guardrail: Guardrail) -> float | None:
    """Of the champion (0) or the challenger, in the metric's own terms."""
    if not cells or (guardrail.name == "fairness" and at == 0 and not cells[0].paired):
        return None
    loss = compared_means((one.champion, one.challenger) for one in cells)[at]
    if loss is None or guardrail.metric.compared != "part":
        return loss
    return (1.0 - loss if guardrail.metric.is_better_high else loss) * guardrail.loss_max


def _share(release: Release, cell: LossCell) -> float:
    epoch = next(one for one in release.epochs if one.number == cell.epoch)
    return release.share_in(epoch, cell.segment)


def _interval(release: Release, cells: Sequence[LossCell], guardrail: Guardrail) -> Interval:
    """95 % confidence sequence of the ratio or of the difference."""
    if guardrail.name == "conversion":
        low, high = eprocess.share_interval(_events(release, cells), CS_ALPHA, eprocess.GRID_KPI)
        return low, high if math.isfinite(high) else None
    low_, high_ = _difference(release, cells, guardrail)
    if low_ is None or high_ is None or guardrail.metric.compared != "part":
        return low_, high_
    if guardrail.metric.is_better_high:
        return max(1.0 - high_ / guardrail.mean, 0.0), max(1.0 - low_ / guardrail.mean, 0.0)
    return max(1.0 + low_ / guardrail.mean, 0.0), max(1.0 + high_ / guardrail.mean, 0.0)


def _difference(release: Release, cells: Sequence[LossCell], guardrail: Guardrail) -> Interval:
    """The asymptotic sequence: of the canary, once it says something, else of the pairs."""
    split = [one for one in cells if not one.paired]
    used = split or list(cells)
    is_whole = guardrail.name == "fairness"
    shares = [_share(release, one) for one in used]
    weights = [
        1.0 if one.paired or is_whole else share * (1.0 - share)
        for one, share in zip(used, shares, strict=True)
    ]
    n = sum(one.sums[0] for one in used)
    v = sum(one.sums[0] * weight for one, weight in zip(used, weights, strict=True))
    first, second = sum(one.sums[1] for one in used), sum(one.sums[2] for one in used)
    if n == 0 or v == 0.0:
        return None, None
    variance = max(second / n - (first / n) ** 2, 0.0)
    half = eprocess.residual_half_width(n, v, variance, CS_ALPHA)
    return max(first / v - half, -1.0), min(first / v + half, 1.0)


def _missing(release: Release, cells: Sequence[LossCell], log_better: float) -> int | None:
    """Outcomes: log evidence grows in proportion to what was counted."""
    need = math.log(1.0 / release.spec.alpha_p)
    n = sum(one.sums[0] for one in cells)
    if n == 0 or log_better <= 0.0:
        return None
    return max(1, math.ceil(n * (need - log_better) / log_better))
