"""What the journal says of a release becomes its loss evidence. Pure.

Every metric is a loss in 0..1 of a record: 1 for a wrong answer, a regression's absolute error, a
case that did not convert, revenue or latency as a part of a cap. In shadow both versions are asked
the same, so their losses are compared request by request (M3); in canary each answers its own part
(M2; of conversion, where only the events count, M1). Of a unit only the first request counts, of
those in shadow and of those in canary after each warm-up: those that follow are about the same case
or go to the same version, and say little new. A caller's answer counts for the version whose turn
it was, also where another one stood in for it. Fairness compares groups: `groups.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import Kind
from doorstep.core.report import Arm
from doorstep.journal.joined import OutcomeArrays
from doorstep.release.types import Guardrail, LossCell, Ranking, Release, State
from doorstep.stats import eprocess
from doorstep.stats.ranking import auc

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
LOG_LOSS_LEAST = 0.001
"""Probabilities are taken as at least this, so that one answer costs at most ln 1000."""
SUM_TOLERANCE = 1e-3


class Told(msgspec.Struct, frozen=True):
    """Records of one release that count, by time: arrays of one length. loss: NaN where it cannot
    be said."""

    id: NDArray[np.object_]
    epoch: NDArray[np.int64]
    segment: NDArray[np.object_]
    unit: NDArray[np.object_]
    is_challenger: Mask
    is_shadow: Mask
    loss: Floats


def told_of(arrays: OutcomeArrays, release: Release, guardrail: Guardrail) -> Told:
    """Of quality. arrays: live and shadow records with their outcomes. Where outcomes take
    `delay_s`, each counts as it was known at that age: what came later is left out of both arms."""
    mine = arrays.release == release.id
    shadow = mine & (arrays.kind == int(Kind.SHADOW))
    copied = _are_among(arrays.id, arrays.id[shadow])
    live = (mine | copied) & (arrays.kind == int(Kind.LIVE))
    loss = losses_of(arrays, guardrail)
    if guardrail.delay_s:
        known = arrays.received_at - arrays.at <= guardrail.delay_s * SECOND_US
        live, shadow = live & known, shadow & known
    # Live rows of another release, or of none, are only there to be compared with.
    epoch = np.where(mine, arrays.epoch, -1)
    return _chosen(arrays, release, (live | shadow) & ~np.isnan(loss), epoch, loss)


def trials_of(arrays: OutcomeArrays, release: Release, guardrail: Guardrail, now: Instant) -> Told:
    """Of a metric that needs no outcome. arrays: records of this release by time, of each unit the
    first. A unit counts where it was first met; conversion and revenue are what came of all its
    requests within `delay_s` from then, so a unit is looked at once that time is over."""
    live = arrays.kind == int(Kind.LIVE)
    live &= is_split(arrays.epoch, arrays.segment, release)
    if guardrail.name == "mean-latency":
        loss = np.minimum(arrays.latency_us / guardrail.loss_max, 1.0)
        return _chosen(arrays, release, live & (arrays.latency_us >= 0), arrays.epoch, loss)
    loss, due = unit_losses(arrays, live, guardrail, now)
    return _chosen(arrays, release, live & due, arrays.epoch, loss)


def unit_losses(
    arrays: OutcomeArrays, live: Mask, guardrail: Guardrail, now: Instant
) -> tuple[Floats, Mask]:
    """(loss, whether it is the first of its unit and its time is over), [rows] by time."""
    loss, due = np.ones(arrays.rows), np.zeros(arrays.rows, dtype=bool)
    rows = np.flatnonzero(live)
    names, first, of = np.unique(
        units_of(arrays)[rows].astype(str), return_index=True, return_inverse=True
    )
    wait_us = round(guardrail.delay_s * SECOND_US)
    began = arrays.at[rows[first]]
    known = (arrays.received_at[rows] > 0) & (arrays.received_at[rows] <= began[of] + wait_us)
    worth = np.where(known, worth_of(arrays, guardrail)[rows], 0.0)
    total = np.bincount(of, weights=worth, minlength=len(names))
    loss[rows[first]] = 1.0 - np.clip(total / guardrail.loss_max, 0.0, 1.0)
    due[rows[first]] = began <= now - wait_us
    return loss, due


def worth_of(arrays: OutcomeArrays, guardrail: Guardrail) -> Floats:
    """[rows]: what a record's outcome is worth; of conversion 1 where it is one."""
    if guardrail.name == "revenue":
        return np.maximum(np.nan_to_num(arrays.value), 0.0)
    converted: Mask = np.nan_to_num(arrays.value) > 0.0
    if guardrail.label:
        converted = np.array([one == guardrail.label for one in arrays.label], dtype=bool)
    return converted.astype(np.float64)


def shadow_epochs(release: Release) -> list[int]:
    return [one.number for one in release.epochs if one.measured and one.state is State.SHADOW]


def units_of(arrays: OutcomeArrays) -> NDArray[np.object_]:
    """[rows]; where nobody is named the request is, of which all rows went to one version together.
    In the shadow both versions had each row, so there it stands for itself."""
    found = np.empty(arrays.rows, dtype=object)
    requests = [id.partition(".")[0] for id in arrays.id]
    found[:] = [
        id if kind == int(Kind.SHADOW) and unit in ("", request) else unit or request
        for unit, id, kind, request in zip(
            arrays.unit, arrays.id, arrays.kind, requests, strict=True
        )
    ]
    return found


def _chosen(
    arrays: OutcomeArrays, release: Release, which: Mask, epoch: NDArray[np.int64], loss: Floats
) -> Told:
    chosen = np.flatnonzero(which)
    return Told(
        id=arrays.id[chosen],
        epoch=epoch[chosen],
        segment=arrays.segment[chosen],
        unit=units_of(arrays)[chosen],
        is_challenger=(arrays.assigned == release.challenger)[chosen],
        is_shadow=(arrays.kind == int(Kind.SHADOW))[chosen],
        loss=loss[chosen],
    )


def losses_of(arrays: OutcomeArrays, guardrail: Guardrail) -> Floats:
    """[rows], 0..1, NaN where the answer or the outcome has none."""
    found = np.full(arrays.rows, np.nan)
    labelled = np.array([one is not None for one in arrays.label], dtype=bool)
    if guardrail.loss != "wrong":
        found[labelled] = _probability_losses(arrays, guardrail.loss)[labelled]
        return found
    answered = np.array([one is not None for one in arrays.answer], dtype=bool)
    both = labelled & answered
    found[both] = (arrays.label[both] != arrays.answer[both]).astype(np.float64)
    if "value" in arrays.scores:
        error = np.abs(arrays.scores["value"] - arrays.value)
        numeric = ~labelled & ~np.isnan(error)
        found[numeric] = np.minimum(error[numeric] / guardrail.loss_max, 1.0)
    return found


def rankings_of(arrays: OutcomeArrays, release: Release, label: str) -> tuple[Ranking, ...]:
    """Of each version on its own outcomes, of each unit the first; in the shadow both on the same.
    label: the positive one. A version that met one class only has none."""
    if label not in arrays.scores:
        return ()
    mine = (arrays.release == release.id) & ~np.isnan(arrays.scores[label])
    mine &= np.array([one is not None for one in arrays.label], dtype=bool)
    shadow = mine & (arrays.kind == int(Kind.SHADOW))
    split = mine & ~shadow & is_split(arrays.epoch, arrays.segment, release)
    units = units_of(arrays)
    split = first_of_units(units, np.flatnonzero(split))
    is_b = arrays.assigned == release.challenger
    of_arm = (split & ~is_b, split & is_b)
    if not split.any():
        live = mine & ~shadow
        shadow &= _are_among(arrays.id, arrays.id[live])
        shadow = first_of_units(units, np.flatnonzero(shadow))
        of_arm = (live & _are_among(arrays.id, arrays.id[shadow]), shadow)
    found = []
    arms: tuple[Arm, Arm] = ("champion", "challenger")
    for arm, which in zip(arms, of_arm, strict=True):
        area = auc(arrays.label[which] == label, arrays.scores[label][which])
        if area.is_known:
            found.append(Ranking(arm, area.estimate, area.low, area.high, area.n))
    return tuple(found)


def _are_among(ids: NDArray[np.object_], of: NDArray[np.object_]) -> Mask:
    known = set(of)
    return np.array([one in known for one in ids], dtype=bool)


def _probability_losses(arrays: OutcomeArrays, loss: str) -> Floats:
    """Brier: half the squared distance of the probabilities to the truth, which of two classes is
    (p - y)^2. log-loss: as a part of the largest. NaN where the scores are no probabilities."""
    labels = sorted(arrays.scores.keys() - {"value"})
    scores = np.array([arrays.scores[one] for one in labels]).reshape(len(labels), arrays.rows)
    # A version without a label has no column of it.
    given = np.nan_to_num(scores)
    truth = np.array([arrays.label == one for one in labels]).reshape(scores.shape)
    is_fine = (np.abs(given.sum(axis=0) - 1.0) < SUM_TOLERANCE) & (given >= 0.0).all(axis=0)
    if loss == "brier":
        found = ((given - truth) ** 2).sum(axis=0) / 2.0
    else:
        right = np.clip((given * truth).sum(axis=0), LOG_LOSS_LEAST, 1.0 - LOG_LOSS_LEAST)
        found = np.log(right) / math.log(LOG_LOSS_LEAST)
    missed: Floats = np.where(is_fine & truth.any(axis=0), found, np.nan)
    return missed


def loss_cells(
    told: Told, release: Release, guardrail: Guardrail, metric: str = ""
) -> tuple[LossCell, ...]:
    """By epoch and segment; periods in which nothing counts are left out. metric: of the cells,
    where it is not the guardrail's name."""
    found = _cells(told, release, guardrail)
    return tuple(msgspec.structs.replace(one, metric=metric or guardrail.name) for one in found)


def _cells(told: Told, release: Release, guardrail: Guardrail) -> Iterator[LossCell]:
    split = ~told.is_shadow & is_split(told.epoch, told.segment, release)
    first = first_of_units(told.unit, np.flatnonzero(split))
    of_live: dict[str, float] = {}
    shadow = np.flatnonzero(told.is_shadow & np.isin(told.epoch, shadow_epochs(release)))
    if len(shadow):
        live = ~told.is_shadow
        of_live = dict(zip(told.id[live], told.loss[live], strict=True))
        pairs = [at for at in shadow if told.id[at] in of_live]
        first |= first_of_units(told.unit, np.array(pairs, dtype=np.int64))
    margin = guardrail.margin_at(release.step)
    for epoch in release.epochs:
        for segment in release.spec.segments:
            here = (told.epoch == epoch.number) & (told.segment == segment)
            if not epoch.measured or not here.any():
                continue
            if epoch.state is State.SHADOW:
                chosen = here & told.is_shadow & first
                champion = np.array([of_live[one] for one in told.id[chosen]])
                place = epoch.number, segment
                cell = _paired(told.loss[chosen], champion, place, guardrail, margin)
            else:
                share = release.share_in(epoch, segment)
                cell = _split(told, here & first, (epoch.number, segment, share), guardrail, margin)
            if cell is not None:
                yield cell


def is_split(epochs: NDArray[np.int64], segments: NDArray[np.object_], release: Release) -> Mask:
    """[rows]: what came while both versions were asked, which chance had divided."""
    found = np.zeros(len(epochs), dtype=bool)
    for epoch in release.epochs:
        split = [one for one in release.spec.segments if release.is_split(epoch, one)]
        found |= (epochs == epoch.number) & np.isin(segments.astype(str), split)
    return found


def first_of_units(units: NDArray[np.object_], among: NDArray[np.int64]) -> Mask:
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
    cell = LossCell(
        epoch=epoch,
        segment=segment,
        paired=False,
        champion=_sum(loss[~is_b]),
        challenger=_sum(loss[is_b]),
        sums=(len(z), float(z.sum()), float(z @ z)),
        margin=margin,
    )
    if guardrail.name == "conversion":
        return cell
    wealth = eprocess.residual_wealth
    tolerated, excluded = guardrail.delta(guardrail.tolerance), guardrail.delta(margin)
    return msgspec.structs.replace(
        cell,
        worse=tuple(wealth(is_b, loss, pi, m, tolerated, +1).tolist()),
        better=tuple(wealth(is_b, loss, pi, m, excluded, -1).tolist()),
    )


def _paired(
    challenger: Floats,
    champion: Floats,
    place: tuple[int, str],
    guardrail: Guardrail,
    margin: float,
) -> LossCell | None:
    """challenger, champion: losses on the same requests. place: epoch and segment."""
    if not len(champion):
        return None
    difference = challenger - champion
    epoch, segment = place
    return LossCell(
        epoch=epoch,
        segment=segment,
        paired=True,
        champion=_sum(champion),
        challenger=_sum(challenger),
        sums=(len(difference), float(difference.sum()), float(difference @ difference)),
        margin=margin,
        worse=tuple(eprocess.paired_wealth(difference, guardrail.tolerance, +1).tolist()),
        better=tuple(eprocess.paired_wealth(difference, margin, -1).tolist()),
    )


def _sum(losses: Floats) -> tuple[int, float]:
    return len(losses), float(losses.sum())
