"""What is known of a champion before a release, and frozen into the release. Pure."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np

from doorstep.core.errors import RefusedError
from doorstep.core.instant import Instant
from doorstep.core.record import Kind
from doorstep.core.servicefile_running import LossName
from doorstep.journal.joined import OutcomeArrays
from doorstep.release.losses import Floats, losses_of, unit_losses, worth_of
from doorstep.release.types import Guardrail

REFERENCE = (0.001, 0.999)
MEAN_LEAST = 1e-6
LOSS_MAX_OF = 0.99
"""Quantile of the champion's absolute errors that counts as a loss of 1."""
PAID_MAX_OF, LATENCY_MAX_OF = 0.995, 0.999
"""Quantiles of the champion's paid values and latencies, above which all count alike."""
ROWS_MIN = 100
GROUP_ROWS_MIN = 30
BESIDE_MAX = 10
"""Requests of the largest group beside one of another, at most."""


class Baseline(msgspec.Struct, frozen=True):
    """Fields of `types.Guardrail`, measured."""

    reference: float = 0.1
    loss_max: float = 1.0
    label: str = ""
    field: str = ""
    groups: tuple[tuple[str, int], ...] = ()


def baseline_from(
    arrays: OutcomeArrays, service: str, champion: int, loss: LossName = "wrong", positive: str = ""
) -> Baseline:
    """Of quality. positive: the label that it tells from others, if it is one of two. Raises:
    RefusedError (`no-outcomes`)."""
    loss_max = _loss_max(arrays)
    losses = losses_of(
        arrays, Guardrail(name="quality", tolerance=0.0, loss=loss, loss_max=loss_max)
    )
    if np.isnan(losses).all():
        compared = "answers" if loss == "wrong" else "probabilities"
        raise RefusedError(
            "no-outcomes",
            f"release.guardrails names quality, but no outcome of {service} that its {compared} "
            "can be compared with came in the last 30 days, so nothing would ever be decided",
            f"record outcomes (doorstep outcome {service} FILE), or take quality out of the "
            "guardrails",
        )
    known = losses[(arrays.assigned == champion) & ~np.isnan(losses)]
    mean = float(known.mean()) if len(known) else 0.1
    return Baseline(reference=_within(mean, *REFERENCE), loss_max=loss_max, label=positive)


def _loss_max(arrays: OutcomeArrays) -> float:
    if "value" not in arrays.scores:
        return 1.0
    errors = np.abs(arrays.scores["value"] - arrays.value)
    return _quantile(errors[~np.isnan(errors)], LOSS_MAX_OF)


def _quantile(values: Floats, of: float) -> float:
    found = float(np.quantile(values, of)) if len(values) else 0.0
    return found if found > 0.0 else 1.0


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def worth_before(
    arrays: OutcomeArrays, service: str, champion: int, asked: Guardrail, now: Instant
) -> Baseline:
    """Of conversion or revenue (`asked`: with `delay_s` and `label`). arrays: records with and
    without an outcome, by time. Raises: RefusedError (`no-outcomes`)."""
    worth = worth_of(arrays, asked)
    if not (worth > 0.0).any():
        what = f"label {asked.label!r}" if asked.label else "a value above 0"
        raise RefusedError(
            "no-outcomes",
            f"the release is to be decided by {asked.name}, but no outcome of {service} with "
            f"{what} came in the last 30 days, so nothing would ever be decided",
            f"record outcomes: doorstep outcome {service} FILE",
        )
    loss_max = _quantile(worth[worth > 0.0], PAID_MAX_OF) if asked.name == "revenue" else 1.0
    capped = msgspec.structs.replace(asked, loss_max=loss_max)
    live = (arrays.kind == int(Kind.LIVE)) & (arrays.assigned == champion)
    loss, due = unit_losses(arrays, live, capped, now)
    mean = float(loss[due].mean()) if due.any() else 0.9
    return Baseline(
        reference=_within(mean, MEAN_LEAST, 1.0 - MEAN_LEAST), loss_max=loss_max, label=asked.label
    )


def latency_before(arrays: OutcomeArrays, service: str, champion: int) -> Baseline:
    """Of mean latency. Raises: RefusedError (`no-traffic`)."""
    mine = (arrays.assigned == champion) & (arrays.latency_us >= 0)
    taken = arrays.latency_us[mine & (arrays.kind == int(Kind.LIVE))].astype(np.float64)
    if len(taken) < ROWS_MIN:
        raise RefusedError(
            "no-traffic",
            f"release.guardrails names mean-latency, but {service}@{champion} answered "
            f"{len(taken)} requests in the last 30 days; its mean is known from {ROWS_MIN}",
            "wait for traffic, or take mean-latency out of the guardrails",
        )
    cap = _quantile(taken, LATENCY_MAX_OF)
    return Baseline(reference=_within(float(np.minimum(taken / cap, 1.0).mean()), *REFERENCE),
                    loss_max=cap)  # fmt: skip


def groups_before(arrays: OutcomeArrays, service: str, field: str, favourable: str) -> Baseline:
    """Of fairness. Raises: RefusedError (`no-groups`)."""
    live = arrays.kind == int(Kind.LIVE)
    sizes = Counter(one for one in arrays.group[live] if one is not None)
    large = [(name, n) for name, n in sizes.most_common() if n >= GROUP_ROWS_MIN]
    if len(large) < 2:
        found = ", ".join(f"{name} ({n})" for name, n in sizes.most_common(5)) or "none"
        raise RefusedError(
            "no-groups",
            f"release.guardrails names fairness, but of {service} fewer than two groups of "
            f"{field!r} are recorded with {GROUP_ROWS_MIN} requests in the last 30 days "
            f"(found {found})",
            "send the field with the requests and record it, or take fairness out of the "
            "guardrails",
        )
    most = large[0][1]
    beside = tuple((name, int(_within(round(most / n), 1, BESIDE_MAX))) for name, n in large)
    return Baseline(label=favourable, field=field, groups=beside)
