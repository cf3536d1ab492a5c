"""More services than the node has memory for: those that are asked run, the others wake."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import msgspec

from doorstep.core.plan import ServicePlan
from doorstep.serve.models import cost_bytes
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

ROW = json.dumps({"x0": 1, "x1": 0.5, "x2": -1}).encode()
WAIT_S = 60.0


def ask(node: RunningNode, service: str) -> httpx.Response:
    url = f"{node.data_url}/v1/services/{service}/predict"
    return httpx.post(url, content=ROW, timeout=WAIT_S)


def with_timeout(plan: ServicePlan, timeout_ms: int) -> ServicePlan:
    return msgspec.structs.replace(plan, timeout_ms=timeout_ms)


def engines_of(node: RunningNode) -> set[str]:
    report = node.report()
    assert report is not None
    return {one.serves for one in report.workers if one.kind == "engine" and one.pid}


def test_an_engine_that_sleeps_wakes_for_its_first_request(tmp_path: Path) -> None:
    home = TestHome(tmp_path / "home")
    contract = home.contract(3)
    plans = [
        with_timeout(
            home.service(name, {1: home.bundle(contract, seed=at)}, placement="engine"), limit_ms
        )
        for at, (name, limit_ms) in enumerate((("first", 5000), ("hasty", 20), ("patient", 60_000)))
    ]
    home.publish(*plans)
    # Room for one engine of those that have not run yet.
    with RunningNode(home.path, tmp_path / "state", memory_mb=260) as node:
        node.wait_plan(1)
        assert engines_of(node) == {"first@1"}
        assert ask(node, "first").status_code == 200

        answer = ask(node, "patient")
        assert (answer.status_code, answer.headers["doorstep-version"]) == (200, "1")

        hasty = ask(node, "hasty")
        assert hasty.status_code == 503
        assert int(hasty.headers["retry-after"]) >= 1
        until_s = time.monotonic() + WAIT_S
        while ask(node, "hasty").status_code != 200:
            assert time.monotonic() < until_s
        node.wait(lambda _: engines_of(node) == {"first@1", "hasty@1", "patient@1"})


def test_models_that_do_not_fit_are_loaded_when_they_are_asked(tmp_path: Path) -> None:
    home = TestHome(tmp_path / "home")
    contract = home.contract(3)
    names = [f"s{at}" for at in range(40)]
    plans = [
        with_timeout(home.service(name, {1: home.bundle(contract, seed=at)}), 60_000)
        for at, name in enumerate(names)
    ]
    home.publish(*plans)
    # A quarter is for the models that workers score themselves: room for about eight.
    memory_mb = 8
    costs = [cost_bytes(home.read_manifest(one.versions[0].bundle)) for one in plans]
    assert sum(costs) > 2 * (memory_mb << 20) / 4
    with RunningNode(home.path, tmp_path / "state", memory_mb=memory_mb) as node:
        node.wait_plan(1)
        for name in [*names, *names]:
            assert ask(node, name).status_code == 200
        report = node.report()
        assert report is not None
        assert report.problems == ()
