"""When a service may be served without versions that cannot be loaded."""

from __future__ import annotations

import msgspec
import pytest

from doorstep.core.contract import Contract
from doorstep.core.plan import FallbackStep, ReleasePlan, ServicePlan, VersionPlan

CHAMPION = FallbackStep(kind="version")
PREVIOUS = FallbackStep(kind="version", version=1)
REFER = FallbackStep(kind="answer", answer="refer")
RELEASE = ReleasePlan(id="r1", challenger=3, state="step", epoch=1, shares={"": 0.1})
VERSIONS = tuple(
    VersionPlan(number=number, bundle=f"{number}" * 64, form="onnx", placement="inline")
    for number in (1, 2, 3)
)
PLAN = ServicePlan(
    format=1, service="loans", contract=Contract(inputs=()), versions=VERSIONS, champion=2,
    release=RELEASE,
)  # fmt: skip
BEFORE = msgspec.structs.replace(PLAN, champion=1)


@pytest.mark.parametrize(
    ("unloaded", "fallback", "killed", "alone", "changed"),
    [
        ({1}, (CHAMPION,), (), True, True),  # nobody is assigned to it
        ({3}, (CHAMPION,), (), True, True),
        ({3}, (), (), False, False),
        ({3}, (CHAMPION,), (2,), False, False),
        ({2, 3}, (CHAMPION,), (), False, False),
        ({2}, (CHAMPION, PREVIOUS), (), True, True),
        ({2}, (CHAMPION, PREVIOUS), (1,), False, False),
        ({1, 2}, (CHAMPION, PREVIOUS), (), False, False),
        ({2}, (CHAMPION, REFER), (), True, False),
        ({2}, (CHAMPION, REFER), (1,), True, True),  # what served before was killed
        ({1, 2, 3}, (CHAMPION, REFER), (), True, False),
    ],
)
def test_a_model_of_the_chain_stands_in_and_a_declared_answer_only_where_nothing_serves_well(
    unloaded: set[int],
    fallback: tuple[FallbackStep, ...],
    killed: tuple[int, ...],
    alone: bool,
    changed: bool,
) -> None:
    plan = msgspec.structs.replace(PLAN, fallback=fallback, killed=killed)
    assert plan.can_do_without(unloaded, None) is alone
    assert plan.can_do_without(unloaded, BEFORE) is changed
