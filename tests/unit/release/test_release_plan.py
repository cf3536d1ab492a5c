"""What the plan says of a service: who stands in, what may be given again, who is not asked."""

from __future__ import annotations

import pytest

from doorstep.core.contract import Contract
from doorstep.core.plan import FallbackStep, ServicePlan
from doorstep.core.servicefile import parse_service_file
from doorstep.register.store import VersionRow
from doorstep.release.plan import ServiceState, service_plan

FILE = """
service: loans
model: {label: default}
data: {holdout: test.csv}
contract: {inputs: {amount: float}}
serve:
  cache: 2m
  fallback: [champion, previous, {when: "amount > 10000", answer: refer}, {answer: 0}]
"""


def version(number: int) -> VersionRow:
    return VersionRow(
        service="loans", number=number, digest=f"{number}" * 64, form="onnx", placement="inline",
        trusted=False, holdout="", speed_ms_p99=0.1, registered_at=0, by="ana", findings=(),
    )  # fmt: skip


def planned(last: int | None, killed: tuple[int, ...] = ()) -> ServicePlan:
    return service_plan(
        ServiceState(
            service="loans",
            file=parse_service_file(FILE),
            contract=Contract(inputs=()),
            versions={1: version(1), 2: version(2)},
            champion=2,
            last_champion=last,
            release=None,
            killed=killed,
        )
    )


@pytest.mark.parametrize("last", [None, 1])
def test_the_chain_names_the_version_before_the_champion_if_there_is_one(last: int | None) -> None:
    found = planned(last)
    previous = [FallbackStep(kind="version", version=1)] if last else []
    assert found.fallback == (
        FallbackStep(kind="version"),
        *previous,
        FallbackStep(kind="answer", answer="refer", when="amount > 10000"),
        FallbackStep(kind="answer", answer=0),
    )
    assert found.cache_s == 120.0
    assert [one.number for one in found.versions] == ([1, 2] if last else [2])


def test_versions_that_must_not_be_asked_stay_in_the_plan_and_are_named() -> None:
    found = planned(1, killed=(2,))
    assert (found.killed, found.champion, len(found.versions)) == ((2,), 2, 2)
