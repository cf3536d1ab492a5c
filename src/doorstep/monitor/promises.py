"""What the service file promises, beside what is measured now."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from doorstep.core.condition import Condition, Quantity, parse_condition
from doorstep.core.verdict import Verdict
from doorstep.gate.metrics import as_estimate
from doorstep.gate.rules import judge, meets
from doorstep.gate.sentences import too_few, with_interval
from doorstep.gate.types import Estimate, Order
from doorstep.monitor.types import (
    Kind,
    PromiseNow,
    PromiseState,
    QualityWindow,
    ServiceFacts,
    TrafficWindow,
)
from doorstep.monitor.wording import counted, say_labels
from doorstep.stats.intervals import Interval, normal_quantile, proportion, unknown

ROWS_MIN = 50
"""Fewer requests say nothing about a rate: one error in ten is no outage."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
DEFAULT_ERRORS = "error_rate <= 5%"
"""Judged although nobody promised it: a service that fails one request in twenty is broken."""
_STATE: dict[Verdict, PromiseState] = {Verdict.PASS: "kept", Verdict.FAIL: "broken"}


def promises(facts: ServiceFacts) -> list[PromiseNow]:
    """Every condition of `monitor.slo` and `monitor.quality`, in the order of the file; and the
    default for errors, if the file promises neither availability nor an error rate."""
    slo = list(facts.slo)
    if not any(one.left in ("availability", "error_rate") for one in slo):
        slo.append(parse_condition(DEFAULT_ERRORS))
    return [
        *(_of_traffic(one, facts.traffic) for one in slo),
        *(_of_quality(one, facts) for one in facts.promised),
    ]


def _of_traffic(condition: Condition, traffic: TrafficWindow | None) -> PromiseNow:
    kind: Kind = "errors" if condition.left in ("availability", "error_rate") else "latency"
    if traffic is None or traffic.rows == 0:
        return _unknown(condition, kind, "no requests" if traffic is None else counted(traffic))
    found = _measure_traffic(condition.left, traffic)
    said = _say_share(found) if kind == "errors" else _say_ms(found)
    return _judged(condition, kind, found, f"{said} of {counted(traffic)}")


def _measure_traffic(name: str, traffic: TrafficWindow) -> Estimate:
    if name == "error_rate":
        found = proportion(traffic.errors, traffic.rows)
    elif name == "availability":
        found = proportion(traffic.rows - traffic.errors, traffic.rows)
    else:
        found = latency_quantile(traffic.latency, QUANTILES.get(name, math.nan))
    return as_estimate(found, traffic.rows, ROWS_MIN, "requests")


def latency_quantile(counts: tuple[int, ...], q: float, confidence: float = 0.95) -> Interval:
    """The q-quantile in ms from the journal's latency histogram, between two order statistics.

    The ends lie at the outer edges of their bins, so that the width of a bin (19 %) never makes
    a promise look broken. The estimate is at the geometric middle of its bin. NaN q: unknown.
    """
    n = sum(counts)
    if n == 0 or math.isnan(q):
        return unknown(0.0, math.inf, n)
    ranks = np.cumsum(counts)
    half = normal_quantile(confidence) * math.sqrt(n * q * (1 - q))

    def bin_of(rank: float) -> int:
        return int(np.searchsorted(ranks, min(max(1.0, rank), n)))

    low, middle, high = bin_of(n * q - half), bin_of(n * q), bin_of(n * q + half)
    ends = (2.0 ** (low / 4), 2.0 ** ((middle + 0.5) / 4), 2.0 ** ((high + 1) / 4))
    return Interval(ends[1] / 1000, ends[0] / 1000, ends[2] / 1000, n)


def quality_by(facts: ServiceFacts, promise: str) -> QualityWindow | None:
    """The window by which a promise of quality is judged."""
    return facts.fresh.get(promise, facts.quality)


def _of_quality(condition: Condition, facts: ServiceFacts) -> PromiseNow:
    window = quality_by(facts, str(condition))
    if window is None or window.rows == 0:
        return _unknown(condition, "quality", "no predictions whose outcome could be known")
    labels = say_labels(window)
    found = window.metrics.get(condition.left)
    if window.labelled == 0 or found is None:
        what = "no outcomes yet" if window.labelled == 0 else f"{condition.left} is not measured"
        return _unknown(condition, "quality", f"{what} ({labels})")
    return _judged(condition, "quality", found, f"{with_interval(found)}, {labels}")


def _judged(condition: Condition, kind: Kind, found: Estimate, said: str) -> PromiseNow:
    bound = _bound(condition)
    if bound is None:
        return _unknown(condition, kind, "only numbers can be promised")
    order, limit = bound
    verdict = judge(found, order, limit)
    if found.counted < found.counted_min:
        said = f"{said}: {too_few(found)}"
    return PromiseNow(
        text=str(condition),
        kind=kind,
        state=_STATE.get(verdict, "not-yet-known"),
        measured=said,
        is_met=found.value is not None and meets(found.value, order, limit),
        numbers={"found": msgspec.to_builtins(found), "operator": order, "bound": limit},
    )


def _bound(condition: Condition) -> tuple[Order, float] | None:
    if condition.operator == "==" or condition.operator == "!=":
        return None
    if not isinstance(condition.right, Quantity):
        return None
    return condition.operator, condition.right.value


def _unknown(condition: Condition, kind: Kind, said: str) -> PromiseNow:
    numbers: dict[str, Any] = {}
    return PromiseNow(
        text=str(condition),
        kind=kind,
        state="not-yet-known",
        measured=said,
        is_met=False,
        numbers=numbers,
    )


def _say_share(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "unknown"
    return f"{100 * found.value:.3g} % [{100 * found.low:.3g}, {100 * found.high:.3g}]"


def _say_ms(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "unknown"
    return f"{found.value:.3g} ms [{found.low:.3g}, {found.high:.3g}]"
