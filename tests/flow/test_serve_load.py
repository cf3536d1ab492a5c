"""What keeps a service answering, on a real node: answers given again, stand-ins, keys, limits."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

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
