"""What outcomes say about a release: the numbers of its quality guardrail. Pure.

The difference is challenger minus champion of mean losses. R: it is larger than tolerated. P: it is
smaller than the step's margin. Shadow (pairs) and canary (each its own part) follow one another, so
a fixed mean of their e-processes is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from doorstep.release.types import Guardrail, LossCell, Numbers, Release
from doorstep.stats import eprocess

SHADOW_WEIGHT_WORSE = 0.2
SHADOW_WEIGHT_BETTER = 0.5
CS_ALPHA = 0.05


def quality_numbers(release: Release, losses: Sequence[LossCell], guardrail: Guardrail) -> Numbers:
    """losses: of the segment that is judged, or all. Without outcomes nothing is crossed. The
    limits are filled in later."""
    margin = guardrail.margins[release.step]
    fitting = [one for one in losses if one.margin == margin]
    better = _log_e(release, fitting, "better", SHADOW_WEIGHT_BETTER)
    low, high = _interval(release, losses)
    return Numbers(
        guardrail=guardrail.name,
        segment=None,
        method="M3 pairs, M2 difference",
        champion_rate=_mean(losses, "champion"),
        challenger_rate=_mean(losses, "challenger"),
        low=low,
        high=high,
        log_e_rollback=_log_e(release, losses, "worse", SHADOW_WEIGHT_WORSE),
        log_rollback_at=math.inf,
        log_e_advance=better,
        log_advance_at=None,
        units_missing=_missing(release, losses, better),
    )


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


def _mean(cells: Sequence[LossCell], arm: str) -> float | None:
    n: Any = sum(getattr(one, arm)[0] for one in cells)
    total: float = sum(getattr(one, arm)[1] for one in cells)
    return total / n if n else None


def _interval(release: Release, cells: Sequence[LossCell]) -> tuple[float | None, float | None]:
    """The difference with its asymptotic confidence sequence: of the canary, once it says
    something, else of the pairs."""
    split = [one for one in cells if not one.paired]
    epochs = {epoch.number: epoch for epoch in release.epochs}
    used = split or list(cells)
    shares = [release.share_in(epochs[one.epoch], one.segment) for one in used]
    weights = [
        1.0 if one.paired else share * (1.0 - share)
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
