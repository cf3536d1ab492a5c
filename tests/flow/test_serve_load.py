"""What keeps a service answering, on a real node: answers given again, stand-ins, keys, limits."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from doorstep.core.plan import FallbackStep
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

ROW = {"x0": 1.0, "x1": 0.5, "x2": -1}


def ask(
    node: RunningNode, service: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    url = f"{node.data_url}/v1/services/{service}/predict"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            return found.status, dict(found.headers), json.load(found)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.load(error)


def test_a_row_is_answered_again_from_the_cache_with_a_record_of_its_own(tmp_path: Path) -> None:
    home = TestHome(tmp_path / "home")
    bundle = home.bundle(home.contract(3))
    home.publish(
        home.service("loans", {1: bundle}, cache_s=600.0),
        home.service("boxed", {1: bundle}, cache_s=600.0, placement="engine"),
    )
    with RunningNode(home.path, tmp_path / "state") as node:
        node.wait_plan(1)
        for service in ("loans", "boxed"):
            answers = [ask(node, service, {"rows": [ROW]}) for _ in range(3)]
            rows = [answer["predictions"][0] for _, _, answer in answers]
            assert [row.get("cached", False) for row in rows] == [False, True, True]
            assert len({row["id"] for row in rows}) == 3
            assert len({json.dumps(row["probabilities"]) for row in rows}) == 1
        found = {name: one.cached for name, one in node.journaled()}
        assert sorted(found.values()) == [False] * 2 + [True] * 4
        report = node.wait(lambda one: sum(s.requests for s in one.services) == 6, "six requests")
        assert {one.requests for one in report.services} == {3}


def test_a_version_that_hangs_is_stood_in_for_left_alone_and_asked_again_when_it_is_well(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    chain = (
        FallbackStep(kind="version"),
        FallbackStep(kind="answer", answer="good", when="x0 > 100"),
        FallbackStep(kind="answer", answer="bad"),
    )
    plan = home.service(
        "loans", {1: home.bundle(home.contract(3))}, placement="engine", fallback=chain,
        timeout_ms=100,
    )  # fmt: skip
    home.publish(plan)
    with RunningNode(home.path, tmp_path / "state") as node:
        report = node.wait_plan(1)
        assert ask(node, "loans", ROW)[2]["fallback"] is None
        (engine,) = [one.pid for one in report.workers if one.kind == "engine"]
        os.kill(engine, signal.SIGSTOP)
        answers = [ask(node, "loans", {**ROW, "x0": 99.0 + at})[2] for at in range(5)]
        assert [one["fallback"] for one in answers] == ["answer"] * 2 + ["rule"] * 3
        assert [one["predictions"][0]["answer"] for one in answers] == ["bad"] * 2 + ["good"] * 3
        node.wait(lambda one: "loans@1 failed too often" in str(one.problems), "an open breaker")
        with urllib.request.urlopen(f"{node.health_url}/metrics", timeout=30) as metrics:
            said = metrics.read().decode()
        assert 'doorstep_breaker_open{slot="front-0",version="loans@1"} 1.0' in said
        os.kill(engine, signal.SIGCONT)
        until = time.monotonic() + 60
        while ask(node, "loans", ROW)[2]["fallback"] is not None:
            assert time.monotonic() < until
            time.sleep(0.05)
        node.wait(lambda one: not one.problems, "no problem")
        loaded = node.report()
        node.wait_plan(home.publish(msgspec.structs.replace(plan, killed=(1,))))
        status, headers, killed = ask(node, "loans", ROW)
        assert (status, killed["version"], killed["fallback"]) == (200, 0, "answer")
        assert headers["doorstep-version"] == "0"
        now = node.report()
        assert loaded is not None and now is not None
        assert [one.pid for one in now.workers] == [one.pid for one in loaded.workers]
        node.wait_plan(home.publish(plan))
        assert ask(node, "loans", ROW)[2]["fallback"] is None
        records = [one for _, one in node.journaled()]
        assert {one.version for one in records if one.status} == {0}
