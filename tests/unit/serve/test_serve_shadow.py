"""Which records a shadow scores."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from doorstep.core.contract import Contract, Field
from doorstep.core.plan import ReleasePlan
from doorstep.core.record import Kind, PredictionMeta, layout_of
from doorstep.serve.nodeplan import PLAN_FILE, NodePlan
from doorstep.serve.shadow import Shadow, Target, has_inputs
from doorstep.testing.home import TestHome

REQUESTS = 2000


def record(request: bytes, **changes: Any) -> PredictionMeta:
    said: dict[str, Any] = {
        "request": request, "row": 0, "at": 0, "version": 1, "assigned": 1, "status": 0,
        "kind": int(Kind.LIVE), "release": "r", "epoch": 1, "share": 0.0, "segment": "", "key": "",
        "unit": "u", "latency_us": 1, "warnings": (), "texts": (),
    }  # fmt: skip
    return PredictionMeta(**(said | changes))


def wanted(sample: float, rows: list[PredictionMeta]) -> int:
    release = ReleasePlan(id="r", challenger=2, state="shadow", epoch=1, sample=sample)
    target = cast(Target, SimpleNamespace(release=release))
    return sum(Target.wants(target, row) for row in rows)


@pytest.mark.parametrize("sample", [0.1, 0.25, 0.5, 0.9])
def test_the_sample_is_the_share_of_requests_that_was_asked_for(sample: float) -> None:
    rows = [record(at.to_bytes(16, "big")) for at in range(REQUESTS)]
    assert abs(wanted(sample, rows) / REQUESTS - sample) < 0.05
    assert (wanted(0.0, rows), wanted(1.0, rows)) == (0, REQUESTS)


def test_other_releases_and_other_kinds_are_not_scored() -> None:
    request = bytes(16)
    assert wanted(1.0, [record(request)]) == 1
    assert wanted(1.0, [record(request, release="other")]) == 0
    assert wanted(1.0, [record(request, kind=int(Kind.SHADOW))]) == 0


def test_a_record_whose_inputs_were_not_kept_cannot_be_scored() -> None:
    contract = Contract(inputs=(Field(name="a", type="float"),))
    assert has_inputs(layout_of("s", contract, ("yes",)))
    assert not has_inputs(layout_of("s", Contract(inputs=()), ("yes",)))


def test_a_challenger_that_must_not_be_loaded_is_scored_by_nobody(tmp_path: Path) -> None:
    home, state = TestHome(tmp_path / "home"), tmp_path / "state"
    state.mkdir()
    contract = home.contract(1)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    release = ReleasePlan(id="r1", challenger=2, state="shadow", epoch=1, sample=1.0)
    plan = NodePlan(
        format=1, generation=1, term=1, number=1, environment="t",
        bundles=str(home.path / "bundles"), lease_s=60.0, engines={},
        services=(home.service("loans", bundles, release=release),), unloaded=("loans@2",),
    )  # fmt: skip
    shadow = Shadow(home.path, "n", state)
    for one, expected in ((plan, set()), (msgspec.structs.replace(plan, unloaded=()), {"loans"})):
        (state / PLAN_FILE).write_bytes(msgspec.json.encode(one))
        shadow.tick()
        assert set(shadow._targets) == expected
    shadow.close()
