"""From measured steps of load to what a machine bears, and how many machines a load needs. Pure.

knee      the highest offered rate that was answered within 3 % and kept the SLO
load      users x requests a minute of each / 60 x peak, or requests per second as they are
machines  ceil(load / (knee x 0.7)) + 1 spare; 0.7 leaves room for queues and for a lost node
cost      machines x price an hour x 730 hours a month
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from doorstep.core.condition import Condition, Quantity
from doorstep.core.errors import UsageError
from doorstep.gate.rules import meets

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
SHORT_OF_MAX = 0.03
"""What of an offered rate may go unanswered before the service does not keep up with it."""
HEADROOM = 0.7
PER_S_MAX = 1e15
SPARE = 1
HOURS_A_MONTH = 730
_LOAD = re.compile(r"\s*([0-9][0-9,_]*(?:\.[0-9]+)?)\s*(users?|/s)\s*\Z")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rate that was held. offered, answered: requests per second; answered are good answers.
    errors: the share that got another answer, or none. latency_ms: by `quantiles_ms`. cpu_ms: of
    the node's processes per good answer, None where they cannot be seen. cpu_share_generator: of
    one core; near 1 the generator was the limit."""

    offered: float
    answered: float
    requests: int
    errors: float
    latency_ms: dict[str, float]
    cpu_ms: float | None = None
    cpu_share_generator: float = 0.0
    statuses: dict[int, int] = {}


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """What a load needs. arithmetic: how the numbers come about, on one line. machines, cost: None
    without a knee; cost also without a price."""

    load: str
    per_s: float
    machines: int | None
    cost_a_month: float | None
    arithmetic: str


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What users do. per_user: requests a minute of each. peak: the busiest time over the mean.
    price: of a machine and hour, 0 if it is not given."""

    per_user: float = 1.0
    peak: float = 3.0
    price: float = 0.0


def quantiles_ms(latencies_ms: Sequence[float]) -> dict[str, float]:
    """p50 ... p999, each a latency that was measured (the nearest rank above); {} of none."""
    if not len(latencies_ms):
        return {}
    found = np.quantile(np.asarray(latencies_ms), list(QUANTILES.values()), method="higher")
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def broken_by(step: Step, slo: Sequence[Condition]) -> list[Condition]:
    """The promises that a step does not keep; one about what was not measured is not kept."""
    return [one for one in slo if not _keeps(step, one)]


def _keeps(step: Step, promise: Condition) -> bool:
    rates = {"availability": 1 - step.errors, "error_rate": step.errors}
    value = (step.latency_ms | rates).get(promise.left, math.nan)
    order = promise.operator
    if not isinstance(promise.right, Quantity) or order == "==" or order == "!=":
        return True  # says nothing that a load could break
    return meets(value, order, promise.right.value)


def keeps_up(step: Step) -> bool:
    return step.answered >= (1 - SHORT_OF_MAX) * step.offered


def find_knee(steps: Sequence[Step], slo: Sequence[Condition]) -> Step | None:
    """The step of the highest offered rate that keeps up and keeps every promise."""
    kept = [one for one in steps if keeps_up(one) and not broken_by(one, slo)]
    return max(kept, key=lambda one: one.offered, default=None)


def judge_slo(
    steps: Sequence[Step], slo: Sequence[Condition], present_per_s: float
) -> Literal["kept", "broken", "unclear"]:
    """Whether the SLO holds at the present traffic. unclear: the lowest step broke it and a higher
    one did not, so something else was in the way. Without an SLO it is kept."""
    knee = find_knee(steps, slo)
    if not slo:
        return "kept"
    if knee is None or knee.offered < present_per_s:
        return "broken"
    lowest = min(steps, key=lambda one: one.offered)
    return "unclear" if broken_by(lowest, slo) else "kept"


def machines_for(per_s: float, knee_per_s: float) -> int:
    """ceil(load / (knee x headroom)) + spare. Both rates positive."""
    exact = per_s / (knee_per_s * HEADROOM)
    return math.ceil(exact * (1 - 1e-12)) + SPARE  # a whole number stays one


def scale_knee(knee_per_s: float, cpu_ms_here: float, cpu_ms_there: float) -> float:
    """The knee on a machine with as many cores that needs `cpu_ms_there` for the calibration."""
    return knee_per_s * cpu_ms_here / cpu_ms_there


def parse_load(text: str, traffic: Traffic) -> tuple[float, str]:
    """`1000 users` or `50/s` -> (requests per second, the arithmetic). Raises: UsageError
    (`bad-load`)."""
    found = _LOAD.match(text)
    number = float(found[1].replace(",", "").replace("_", "")) if found else 0.0
    is_rate = found is not None and found[2] == "/s"
    per_s = number if is_rate else number * traffic.per_user / 60 * traffic.peak
    if not 0 < per_s < PER_S_MAX:
        raise UsageError("bad-load", f"{text[:60]!r} is no load; expected '1000 users' or '50/s'")
    if is_rate:
        return number, f"{number:,.6g}/s"
    asked = f"{number:,.0f} users x {traffic.per_user:g}/min / 60 x peak {traffic.peak:g}"
    return per_s, f"{asked} = {_rate(per_s)}/s"


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 1000 else f"{per_s:.4g}"


def size(text: str, knee_per_s: float | None, traffic: Traffic) -> Sizing:
    """The machines that a load needs, each like the one that the knee is of. Raises: UsageError."""
    per_s, said = parse_load(text, traffic)
    if not knee_per_s:
        said += "; no rate was held, so no number of machines follows"
        return Sizing(load=text, per_s=per_s, machines=None, cost_a_month=None, arithmetic=said)
    machines = machines_for(per_s, knee_per_s)
    said += f"; ceil({_rate(per_s)} / ({_rate(knee_per_s)} x {HEADROOM})) + {SPARE} spare = "
    said += f"{machines:,} machine{'s' * (machines != 1)}"
    cost = machines * traffic.price * HOURS_A_MONTH if traffic.price else None
    if cost is not None:
        said += f"; {machines:,} x {traffic.price:g} an hour x {HOURS_A_MONTH} h = {cost:,.2f}"
        said += " a month"
    return Sizing(load=text, per_s=per_s, machines=machines, cost_a_month=cost, arithmetic=said)
