"""What a release will need, said before it starts. Pure; a forecast, never a decision.

It assumes an equal challenger: how long until each step can be left, and whether that fits the
deadline.
"""

from __future__ import annotations

import math

import msgspec

from doorstep.release.decide import CEILING_PART, PATIENCE
from doorstep.release.types import ReleaseSpec
from doorstep.stats.planner import (
    clean_units_needed,
    one_sample_needed,
    share_requests_needed,
)


class StepEstimate(msgspec.Struct, frozen=True):
    """share: of the challenger. units: of both arms until the step's evidence is there, counted
    from the start of the first step. seconds: in this step, at least its dwell time."""

    share: float
    units: float
    seconds: float


class Estimate(msgspec.Struct, frozen=True):
    """fits: all steps and the shadow end before the deadline. reason: said when they do not."""

    shadow_s: float
    steps: tuple[StepEstimate, ...]
    total_s: float
    fits: bool
    reason: str


def estimate(spec: ReleaseSpec, units_per_s: float, error_rate: float = 0.0) -> Estimate:
    """How long each step takes with `units_per_s` distinct units and this error rate of both
    versions. No traffic: infinite times, and it does not fit."""
    shadow_s = _time_for(spec.shadow_requests, units_per_s * spec.shadow_sample)
    steps: list[StepEstimate] = []
    done_s, mine = 0.0, 0.0
    for at in range(len(spec.steps)):
        share = spec.share_of(at)
        need = _units_needed(spec, at, error_rate, mine)
        stay_s = max(spec.dwell_s[at], spec.warmup_s + _time_for(need, units_per_s))
        if at + 1 == len(spec.steps):
            proof = _units_needed(spec, at, error_rate, mine, CEILING_PART)
            sure_s = max(spec.dwell_s[at], spec.warmup_s + _time_for(proof, units_per_s))
            left_s = max(0.0, spec.deadline_s - shadow_s - done_s)
            long_s = min(PATIENCE * spec.dwell_s[at], left_s / 2)
            stay_s = min(sure_s, max(stay_s, long_s))
        steps.append(StepEstimate(share, need, stay_s))
        mine += max(0.0, stay_s - spec.warmup_s) * units_per_s * share
        done_s += stay_s
    total_s = shadow_s + done_s
    fits = total_s <= spec.deadline_s
    return Estimate(shadow_s, tuple(steps), total_s, fits, "" if fits else _why(spec, units_per_s))


def _units_needed(
    spec: ReleaseSpec, at: int, error_rate: float, mine: float, part: float = 1.0
) -> float:
    """Units of both arms in this step, when the challenger already has `mine` from earlier ones.
    part: of the ceiling that has to be excluded."""
    share = spec.share_of(at)
    by_ratio = share_requests_needed(share, error_rate, 1.0, spec.margins[at], spec.alpha_p)
    ceiling = part * min(guardrail.ceiling for guardrail in spec.guardrails)
    if error_rate == 0.0:
        by_ceiling = float(clean_units_needed(ceiling, spec.alpha_p))
    elif error_rate < ceiling:
        by_ceiling = one_sample_needed(error_rate, ceiling, spec.alpha_p / 2)
    else:
        by_ceiling = math.inf
    return min(by_ratio, max(0.0, by_ceiling - mine) / share)


def _time_for(units: float, units_per_s: float) -> float:
    if units <= 0:
        return 0.0
    return units / units_per_s if units_per_s > 0 else math.inf


def _why(spec: ReleaseSpec, units_per_s: float) -> str:
    hours = spec.deadline_s / 3600
    return (
        f"{units_per_s:.3g} units a second are too few for these steps within {hours:.3g} h; "
        "take larger steps, a later deadline, or let a person decide"
    )
