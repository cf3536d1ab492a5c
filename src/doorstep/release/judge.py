"""What the evidence of a release says, guardrail by guardrail. Pure; no opinion on what to do.

Errors in canary: M1 on units whose first bad event of the release fell in each arm; R with restarts
against the tolerance, P at the step's margin averaged with M4 against the ceiling, because without
errors M1 has nothing to count. Errors in shadow: M3 on pairs. First release: M4 on the challenger
alone. The others: `latency.py`, `quality.py`. See `doorstep.stats.eprocess` for the methods and
docs/concepts/release.md for the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from doorstep.release.latency import disagreement_numbers, latency_numbers
from doorstep.release.quality import quality_numbers
from doorstep.release.shares import compared_rates, share_cells
from doorstep.release.types import (
    EXPERIMENT,
    Cell,
    Evidence,
    Experiment,
    Guardrail,
    Numbers,
    Release,
    State,
)
from doorstep.stats import eprocess
from doorstep.stats.planner import clean_units_needed

SPLIT_LIMIT = math.log(1000.0)
SHADOW_WEIGHT = 0.1
"""Part of the rollback capital that is bet in shadow, where a wrong version hurts nobody: what is
bet there is missing where it does."""
SHADOW_WEIGHT_BEFORE = {1: 0.2, 2: 0.2}
"""By the method that a release was started with."""
CS_ALPHA = 0.05
POOLED_PART = 0.5
"""With several segments: this part of alpha watches their sum, the rest is shared among them."""
_ARMS = ("champion", "challenger")


class _Tally(msgspec.Struct, frozen=True):
    """What one judgement looks at: the cells of all segments, or of one. pairs: in shadow, as each
    node counted its own units. apart: of them the units of which the challenger alone erred, and of
    which the champion did, each once on all nodes together. requests: measured, of the
    challenger; failed: units with a bad one among them, each once."""

    share_cells: list[eprocess.ShareCell]
    starts: list[int]
    pairs: tuple[int, int, int]
    apart: tuple[int, int]
    requests: int
    failed: int
    units: dict[str, int]
    bad: dict[str, int]
    rates: tuple[float | None, float | None]


def judge(release: Release, evidence: Evidence) -> tuple[Numbers, ...]:
    """Numbers of each guardrail: pooled, then per segment where there are several. Those that say
    whether it advances are of the wave that is carried, or pooled where there is none."""
    segments: list[str | None] = [None]
    if len(release.spec.segments) > 1:
        segments += release.spec.segments
    found = [
        _numbers(release, evidence, guardrail, segment)
        for guardrail in release.spec.guardrails
        for segment in segments
    ]
    if release.spec.experiment is not None:
        found.append(_experiment(release, evidence, release.spec.experiment))
    return tuple(found)


def _experiment(release: Release, evidence: Evidence, asked: Experiment) -> Numbers:
    """Both ways against "there is no difference": R that the challenger is worse, P that it is
    better, each with half of alpha."""
    if asked.measure.name == "errors":
        segments = release.spec.segments
        tally = _tally(release, evidence.cells, segments)
        found = msgspec.structs.replace(
            _error_numbers(release, evidence.cells, segments, asked.measure),
            method="M1 share",
            log_e_rollback=eprocess.share_log_e(tally.share_cells, 1.0, +1),
            log_e_advance=eprocess.share_log_e(tally.share_cells, 1.0, -1),
            units_missing=None,
        )
    else:
        losses = [one for one in evidence.losses if one.metric == EXPERIMENT]
        found = quality_numbers(release, losses, asked.measure)
    need = math.log(2.0 / asked.alpha)
    return msgspec.structs.replace(
        found, is_experiment=True, log_rollback_at=need, log_advance_at=need, units_missing=None
    )


def split_log_e(release: Release, evidence: Evidence) -> float:
    """M5: log evidence that units are not split as planned, all measured epochs and segments."""
    counts: dict[tuple[int, str], dict[str, int]] = {}
    for cell in evidence.cells:
        counts.setdefault((cell.epoch, cell.segment), {})[cell.arm] = cell.first_units
    epochs = {epoch.number: epoch for epoch in release.epochs}
    found = []
    for (at, segment), n in sorted(counts.items()):
        if at in epochs and release.is_split(epochs[at], segment):
            share = release.share_in(epochs[at], segment)
            planned = (share, 1.0 - share)
            found.append((planned, (n.get("challenger", 0), n.get("champion", 0))))
    return eprocess.split_log_e(found)


def is_advancing(numbers: Sequence[Numbers]) -> bool:
    """Every guardrail excluded its margin, of those that can here (latency cannot in shadow). Of
    none: false."""
    asked = [one for one in numbers if one.log_e_advance is not None]
    return bool(asked) and all(one.is_good for one in asked)


def step_cells(release: Release, evidence: Evidence) -> list[Cell]:
    """Measured cells of the challenger since the current step began, of the wave it carries."""
    entered = {
        epoch.number
        for epoch in release.epochs
        if epoch.measured and (epoch.state, epoch.step) == (release.epoch.state, release.epoch.step)
    }
    mine = [c for c in evidence.cells if c.arm == "challenger" and c.epoch in entered]
    return [c for c in mine if release.wave in (None, c.segment)]


def pairs_of(cells: Iterable[Cell]) -> tuple[int, int, int]:
    """Shadow pairs: only the challenger erred, alike, only the champion erred."""
    cells = list(cells)
    return (sum(c.plus for c in cells), sum(c.zero for c in cells), sum(c.minus for c in cells))


def scored_of(cells: Iterable[Cell], release: Release) -> int:
    """Requests that the challenger scored in shadow."""
    shadow = {one.number for one in release.epochs if one.state is State.SHADOW}
    return sum(c.requests for c in cells if c.arm == "challenger" and c.epoch in shadow)


def _numbers(
    release: Release, evidence: Evidence, guardrail: Guardrail, segment: str | None
) -> Numbers:
    """Weighed, and beside it how much evidence is enough. What is carried now advances on its own
    evidence; every other segment only watches."""
    found = _weigh(release, evidence, guardrail, segment)
    spent = release.spec.alpha * guardrail.weight * _part(release, segment)
    better = found.log_e_advance if segment == release.wave else None
    need = math.log(1.0 / release.spec.alpha_p)
    missing = found.units_missing
    if better is None or better >= need:
        missing = None if better is None else 0
    return msgspec.structs.replace(
        found,
        segment=segment,
        log_rollback_at=math.log(1.0 / spent),
        log_e_advance=better,
        log_advance_at=None if better is None else need,
        units_missing=missing,
    )


def _weigh(
    release: Release, evidence: Evidence, guardrail: Guardrail, segment: str | None
) -> Numbers:
    cells = [one for one in evidence.cells if segment is None or one.segment == segment]
    segments = release.spec.segments if segment is None else (segment,)
    match guardrail.name:
        case "errors":
            return _error_numbers(release, cells, segments, guardrail)
        case "latency":
            return latency_numbers(release, cells, segments, guardrail)
        case "disagreement":
            return disagreement_numbers(release, cells, guardrail)
        case name:
            losses = [
                one
                for one in evidence.losses
                if one.metric == name and segment in (None, one.segment)
            ]
            return quality_numbers(release, losses, guardrail)


def _error_numbers(
    release: Release, cells: Sequence[Cell], segments: Sequence[str], guardrail: Guardrail
) -> Numbers:
    tally = _tally(release, cells, segments)
    log_advance = _log_advance(release, guardrail, tally)
    low, high = eprocess.share_interval(tally.share_cells, CS_ALPHA)
    rates = _rates(release, tally)
    return Numbers(
        guardrail=guardrail.name,
        segment=None,
        method=_method(release),
        champion_rate=rates[0],
        challenger_rate=rates[1],
        low=low,
        high=high if math.isfinite(high) else None,
        log_e_rollback=_log_rollback(release, guardrail, tally),
        log_rollback_at=math.inf,
        log_e_advance=log_advance,
        log_advance_at=None,
        units_missing=_units_missing(release, guardrail, tally, log_advance),
    )


def _part(release: Release, segment: str | None) -> float:
    """Part of a guardrail's alpha that the pooled sum, or one of several segments, may spend."""
    segments = len(release.spec.segments)
    if segments == 1:
        return 1.0
    return POOLED_PART if segment is None else (1.0 - POOLED_PART) / segments


def _method(release: Release) -> str:
    if release.is_first:
        return "M4 ceiling"
    return "M3 pairs" if release.epoch.state is State.SHADOW else "M1 share, M4 ceiling"


def _tally(release: Release, cells: Sequence[Cell], segments: Sequence[str]) -> _Tally:
    counted, starts = share_cells(release, cells, segments, lambda cell: cell.bad_units)
    epochs = {e.number: e for e in release.epochs if e.measured}
    asked = [c for c in cells if c.epoch in epochs]
    live = [c for c in asked if release.share_in(epochs[c.epoch], c.segment) > 0.0]
    shadow = {e.number for e in release.epochs if e.state is State.SHADOW}
    scored = [c for c in cells if c.epoch in shadow and c.arm == "challenger"]
    return _Tally(
        share_cells=counted,
        starts=starts,
        pairs=pairs_of(scored),
        apart=(sum(c.bad_units for c in scored), sum(c.units for c in scored)),
        requests=sum(c.requests for c in live if c.arm == "challenger"),
        failed=sum(c.bad_units for c in live if c.arm == "challenger"),
        units={arm: sum(c.units for c in live if c.arm == arm) for arm in _ARMS},
        bad={arm: sum(c.bad_units_seen for c in live if c.arm == arm) for arm in _ARMS},
        rates=compared_rates(live, lambda cell: (cell.units, cell.bad_units_seen)),
    )


def _log_rollback(release: Release, guardrail: Guardrail, tally: _Tally) -> float:
    """R: the challenger is worse than tolerated.

    Shadow and canary follow one another, so a fixed mean of their e-processes is one: the chance of
    a false rollback is alpha over both together.
    """
    if release.is_first:
        # Trials are requests, and a unit is bad once: those that come often would else be bad
        # sooner or later however good the version is. Later requests of a bad unit count as good,
        # so under the ceiling the chance of a bad trial is never larger than it.
        return eprocess.one_sample_log_e(tally.failed, tally.requests, guardrail.ceiling)
    canary = eprocess.share_log_e_restarted(
        tally.share_cells,
        tally.starts,
        guardrail.tolerance,
        +1,
        is_open=release.spec.has_open_restarts,
    )
    if release.spec.shadow_requests == 0:
        return canary
    # What both did alike is no evidence of it: nothing is tolerated.
    plus, minus = tally.apart if release.spec.counts_pairs_by_unit else tally.pairs[::2]
    shadow = eprocess.paired_log_e(plus, 0, minus)
    weight = SHADOW_WEIGHT_BEFORE.get(release.spec.method, SHADOW_WEIGHT)
    return eprocess.log_mean_exp([shadow, canary], [weight, 1.0 - weight])


def _log_advance(release: Release, guardrail: Guardrail, tally: _Tally) -> float | None:
    """P: the challenger is not worse than the margin of the step, on all data so far."""
    if release.is_first:
        return None
    if release.epoch.state is State.SHADOW:
        return eprocess.paired_log_e(*tally.pairs, release.spec.shadow_margin, -1)
    margin = release.spec.margins[release.step]
    share = eprocess.share_log_e(tally.share_cells, margin, -1)
    ceiling = eprocess.one_sample_log_e(
        tally.bad["challenger"], tally.units["challenger"], guardrail.ceiling, -1
    )
    return eprocess.log_mean_exp([share, ceiling])


def _rates(release: Release, tally: _Tally) -> tuple[float | None, float | None]:
    """(champion, challenger): bad units among counted units; in shadow the two discordant rates."""
    if release.epoch.state is State.SHADOW:
        plus, zero, minus = tally.pairs
        n = plus + zero + minus
        return (minus / n, plus / n) if n else (None, None)
    if release.is_first:
        return None, tally.failed / tally.requests if tally.requests else None
    return tally.rates


def _units_missing(
    release: Release, guardrail: Guardrail, tally: _Tally, log_advance: float | None
) -> int | None:
    """Roughly how much more is needed: log evidence grows in proportion to what was counted."""
    if log_advance is None:
        return None
    need = math.log(1.0 / release.spec.alpha_p)
    in_shadow = release.epoch.state is State.SHADOW
    counted = sum(tally.pairs) if in_shadow else sum(tally.units.values())
    if not in_shadow and tally.bad["challenger"] == 0 and release.share > 0.0:
        clean = clean_units_needed(guardrail.ceiling, release.spec.alpha_p)
        return max(1, math.ceil((clean - tally.units["challenger"]) / release.share))
    if log_advance <= 0.0 or counted == 0:
        return None
    return max(1, math.ceil(counted * (need - log_advance) / log_advance))
