"""Outcomes become the loss evidence of a release. Pure.

A request's loss is 1 where the answer was wrong and 0 where it was right; of a regression it is the
absolute error, as a part of what counts as a loss of 1. In shadow both versions are asked the same,
so their losses are compared request by request (M3); in canary each answers its own part (M2). Of a
unit only the first request that has an outcome counts, of those in canary after each warm-up: those
that follow go to the same version and say nothing new about the split. A caller's answer counts for
the version whose turn it was, also where another one stood in for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.errors import RefusedError
from doorstep.core.instant import SECOND_US
from doorstep.core.record import Kind
from doorstep.journal.joined import OutcomeArrays
from doorstep.release.types import Epoch, Guardrail, LossCell, Release, State
from doorstep.stats import eprocess

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
REFERENCE = (0.001, 0.999)
LOSS_MAX_OF = 0.99
"""Quantile of the champion's absolute errors that counts as a loss of 1."""


class Baseline(msgspec.Struct, frozen=True):
    """What became true before a release, which is frozen into it. reference: the champion's mean
    loss; loss_max: the absolute error that counts as a loss of 1."""

    reference: float
    loss_max: float


class Told(msgspec.Struct, frozen=True):
    """Predictions of one release whose outcome is known, by time: arrays of one length. loss: NaN
    where it cannot be said."""

    id: NDArray[np.object_]
    epoch: NDArray[np.int64]
    segment: NDArray[np.object_]
    unit: NDArray[np.object_]
    is_challenger: Mask
    is_shadow: Mask
    loss: Floats


def told_of(arrays: OutcomeArrays, release: Release, guardrail: Guardrail) -> Told:
    """arrays: live and shadow records with their outcomes. Where outcomes take `delay_s`, each
    counts as it was known at that age: what came later is left out of both arms."""
    mine = arrays.release == release.id
    shadow = mine & (arrays.kind == int(Kind.SHADOW))
    scored = set(arrays.id[shadow])
    copied = np.array([one in scored for one in arrays.id], dtype=bool)
    live = (mine | copied) & (arrays.kind == int(Kind.LIVE))
    loss = losses_of(arrays, guardrail.loss_max)
    if guardrail.delay_s:
        known = arrays.received_at - arrays.at <= guardrail.delay_s * SECOND_US
        live, shadow = live & known, shadow & known
    chosen = np.flatnonzero((live | shadow) & ~np.isnan(loss))
    ids, units = arrays.id[chosen], arrays.unit[chosen]
    return Told(
        id=ids,
        # Live rows of another release, or of none, are only there to be compared with.
        epoch=np.where(mine, arrays.epoch, -1)[chosen],
        segment=arrays.segment[chosen],
        unit=np.where(units == "", ids, units),
        is_challenger=(arrays.assigned == release.challenger)[chosen],
        is_shadow=shadow[chosen],
        loss=loss[chosen],
    )


def losses_of(arrays: OutcomeArrays, loss_max: float) -> Floats:
    """[rows], 0..1, NaN where the answer or the outcome has none."""
    found = np.full(arrays.rows, np.nan)
    labelled = np.array([one is not None for one in arrays.label], dtype=bool)
    answered = np.array([one is not None for one in arrays.answer], dtype=bool)
    both = labelled & answered
    found[both] = (arrays.label[both] != arrays.answer[both]).astype(np.float64)
    if "value" in arrays.scores:
        error = np.abs(arrays.scores["value"] - arrays.value)
        numeric = ~labelled & ~np.isnan(error)
        found[numeric] = np.minimum(error[numeric] / loss_max, 1.0)
    return found


def loss_cells(told: Told, release: Release, guardrail: Guardrail) -> tuple[LossCell, ...]:
    """By epoch and segment; periods without outcomes are left out."""
    return tuple(_cells(told, release, guardrail))


def _cells(told: Told, release: Release, guardrail: Guardrail) -> Iterator[LossCell]:
    margin = guardrail.margins[min(release.step, len(guardrail.margins) - 1)]
    first = _first_of_units(told.unit, np.flatnonzero(_split_of(told, release)))
    for epoch in release.epochs:
        for segment in release.spec.segments:
            here = (told.epoch == epoch.number) & (told.segment == segment)
            if not epoch.measured:
                continue
            if epoch.state is State.SHADOW:
                cell = _paired(told, here, epoch, segment, guardrail, margin)
            else:
                share = release.share_in(epoch, segment)
                cell = _split(told, here & first, (epoch.number, segment, share), guardrail, margin)
            if cell is not None:
                yield cell


def _split_of(told: Told, release: Release) -> Mask:
    """Those that came while both versions were asked, which chance had divided."""
    found = np.zeros(len(told.id), dtype=bool)
    for epoch in release.epochs:
        split = [one for one in release.spec.segments if release.is_split(epoch, one)]
        found |= (told.epoch == epoch.number) & np.isin(told.segment.astype(str), split)
    return found & ~told.is_shadow


def _first_of_units(units: NDArray[np.object_], among: NDArray[np.int64]) -> Mask:
    """Which of `among`, in order of time, are the first of their unit."""
    _, at = np.unique(units[among].astype(str), return_index=True)
    found = np.zeros(len(units), dtype=bool)
    found[among[at]] = True
    return found


def _split(
    told: Told, here: Mask, place: tuple[int, str, float], guardrail: Guardrail, margin: float
) -> LossCell | None:
    """place: epoch, segment and the challenger's share there."""
    if not here.any():
        return None
    is_b, loss = told.is_challenger[here], told.loss[here]
    epoch, segment, pi = place
    m = guardrail.reference
    z = (is_b - pi) * (loss - m)
    wealth = eprocess.residual_wealth
    return LossCell(
        epoch=epoch,
        segment=segment,
        paired=False,
        champion=_sum(loss[~is_b]),
        challenger=_sum(loss[is_b]),
        sums=(len(z), float(z.sum()), float(z @ z)),
        margin=margin,
        worse=tuple(wealth(is_b, loss, pi, m, guardrail.tolerance, +1).tolist()),
        better=tuple(wealth(is_b, loss, pi, m, margin, -1).tolist()),
    )


def _paired(
    told: Told, here: Mask, epoch: Epoch, segment: str, guardrail: Guardrail, margin: float
) -> LossCell | None:
    live, shadow = ~told.is_shadow, here & told.is_shadow
    of_live = dict(zip(told.id[live], told.loss[live], strict=True))
    pairs = [
        (loss, of_live[one])
        for one, loss in zip(told.id[shadow], told.loss[shadow], strict=True)
        if one in of_live
    ]
    if not pairs:
        return None
    challenger, champion = np.array(pairs).T
    difference = challenger - champion
    return LossCell(
        epoch=epoch.number,
        segment=segment,
        paired=True,
        champion=_sum(champion),
        challenger=_sum(challenger),
        sums=(len(pairs), float(difference.sum()), float(difference @ difference)),
        margin=margin,
        worse=tuple(eprocess.paired_wealth(difference, guardrail.tolerance, +1).tolist()),
        better=tuple(eprocess.paired_wealth(difference, margin, -1).tolist()),
    )


def _sum(losses: Floats) -> tuple[int, float]:
    return len(losses), float(losses.sum())


def baseline_from(arrays: OutcomeArrays, service: str, champion: int) -> Baseline:
    """Raises: RefusedError (`no-outcomes`)."""
    loss_max = _loss_max(arrays)
    losses = losses_of(arrays, loss_max)
    if np.isnan(losses).all():
        raise RefusedError(
            "no-outcomes",
            f"release.guardrails names quality, but no outcome of {service} that its answers can "
            "be compared with came in the last 30 days, so nothing would ever be decided",
            f"record outcomes (doorstep outcome {service} FILE), or take quality out of the "
            "guardrails",
        )
    known = losses[(arrays.assigned == champion) & ~np.isnan(losses)]
    mean = float(known.mean()) if len(known) else 0.1
    return Baseline(min(max(mean, REFERENCE[0]), REFERENCE[1]), loss_max)


def _loss_max(arrays: OutcomeArrays) -> float:
    if "value" not in arrays.scores:
        return 1.0
    errors = np.abs(arrays.scores["value"] - arrays.value)
    known = errors[~np.isnan(errors)]
    found = float(np.quantile(known, LOSS_MAX_OF)) if len(known) else 0.0
    return found if found > 0.0 else 1.0
