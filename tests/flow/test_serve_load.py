"""What keeps a service answering, on a real node: answers given again, stand-ins, keys, limits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec

from doorstep.core.plan import FallbackStep
from doorstep.core.report import NodeReport
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode
from fakes.load import Load, Tally

MEDIA = {"Content-Type": "application/json"}
ROW = {"x0": 1.0, "x1": 0.5, "x2": -1}


def ask(
    node: RunningNode, service: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    url = f"{node.data_url}/v1/services/{service}/predict"
    request = urllib.request.Request(url, json.dumps(body).encode(), MEDIA | (headers or {}))
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
        timeout_ms=2000,
    )  # fmt: skip
    home.publish(plan)
    with RunningNode(home.path, tmp_path / "state") as node:
        report = node.wait_plan(1)
        assert ask(node, "loans", ROW)[2]["fallback"] is None
        (engine,) = [one.pid for one in report.workers if one.kind == "engine"]
        os.kill(engine, signal.SIGSTOP)
        # At once: failures open a breaker that come within its window.
        with ThreadPoolExecutor(5) as crowd:
            rows = [{**ROW, "x0": 99.0 + at} for at in range(5)]
            answers = [
                found for _, _, found in crowd.map(lambda row: ask(node, "loans", row), rows)
            ]
        assert [one["fallback"] for one in answers] == ["answer"] * 2 + ["rule"] * 3
        assert [one["predictions"][0]["answer"] for one in answers] == ["bad"] * 2 + ["good"] * 3
        node.wait(lambda one: "loans@1 failed too often" in str(one.problems), "an open breaker")
        with urllib.request.urlopen(f"{node.health_url}/metrics", timeout=30) as metrics:
            said = metrics.read().decode()
        assert 'doorstep_breaker_open{slot="front-0",version="loans@1"} 1.0' in said
        with suppress(ProcessLookupError):  # it may have been replaced by now
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
        states = httpx.get(f"{node.data_url}/v1/models/loans").json()["model_version_status"]
        assert [one["state"] for one in states] == ["UNLOADING"]
        now = node.report()
        assert loaded is not None and now is not None
        assert [one.pid for one in now.workers] == [one.pid for one in loaded.workers]
        node.wait_plan(home.publish(plan))
        assert ask(node, "loans", ROW)[2]["fallback"] is None
        records = [one for _, one in node.journaled()]
        assert {one.version for one in records if one.status} == {0}


def test_fifty_at_once_with_one_key_get_one_answer_and_it_outlives_workers_and_node(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    bundle = home.bundle(home.contract(3))
    home.publish(home.service("loans", {1: bundle}, placement="engine", timeout_ms=60_000))
    key = {"Idempotency-Key": "one"}
    with RunningNode(home.path, tmp_path / "state", workers=2) as node:
        node.wait_plan(1)
        with ThreadPoolExecutor(50) as crowd:
            found = list(crowd.map(lambda _: ask(node, "loans", ROW, key), range(50)))
        statuses = Counter(status for status, _, _ in found)
        # 503: another one was writing the keys.
        assert set(statuses) <= {200, 409, 503}
        assert all("retry-after" in headers for status, headers, _ in found if status != 200)
        answers = {json.dumps(answer) for status, _, answer in found if status == 200}
        assert len(answers) == 1
        replayed = sum("idempotent-replayed" in headers for _, headers, _ in found)
        assert replayed == statuses[200] - 1
        assert ask_patiently(node, "loans", {**ROW, "x0": 2}, key)[0] == 422
        assert len(node.journaled()) == 1
        for worker in node.wait_plan(1).workers:
            if worker.kind == "front":
                os.kill(worker.pid, signal.SIGKILL)
        status, headers, again = ask_patiently(node, "loans", ROW, key)
        assert (status, headers["idempotent-replayed"]) == (200, "true")
        assert json.dumps(again) in answers
    with RunningNode(home.path, tmp_path / "state") as node:
        node.wait_plan(1)
        assert json.dumps(ask(node, "loans", ROW, key)[2]) in answers
        assert len(node.journaled()) == 1


def test_a_worker_that_is_killed_before_its_reply_leaves_the_key_free_or_the_answer(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    plan = home.service("loans", {1: home.bundle(home.contract(3))}, placement="engine")
    home.publish(msgspec.structs.replace(plan, timeout_ms=60_000))
    with RunningNode(home.path, tmp_path / "state") as node:
        report = node.wait_plan(1)
        pids = {one.kind: one.pid for one in report.workers}
        os.kill(pids["engine"], signal.SIGSTOP)
        with send(node, ROW, "computed"):
            # Asked sooner, the question would claim the key, and wait for the engine.
            wait_for(lambda: keys_of(node) == 1)
            assert ask(node, "loans", ROW, {"Idempotency-Key": "computed"})[0] == 409
            os.kill(pids["front"], signal.SIGKILL)
            os.kill(pids["engine"], signal.SIGCONT)
        status, headers, first = ask_patiently(node, "loans", ROW, {"Idempotency-Key": "computed"})
        assert (status, "idempotent-replayed" in headers) == (200, False)
        assert ask(node, "loans", ROW, {"Idempotency-Key": "computed"})[2] == first
        before = len(node.journaled())
        with send(node, ROW, "lost"):
            wait_for(lambda: len(node.journaled()) == before + 1)
            os.kill(front_after(node, pids["front"]), signal.SIGKILL)
        status, headers, second = ask_patiently(node, "loans", ROW, {"Idempotency-Key": "lost"})
        assert (status, ask(node, "loans", ROW, {"Idempotency-Key": "lost"})[2]) == (200, second)
        ids = [name for name, _ in node.journaled()]
        assert second["predictions"][0]["id"] in ids
        assert len(ids) == len(set(ids))


def test_more_than_can_be_done_in_time_is_refused_and_nothing_answered_is_lost(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    bundle = home.bundle(home.contract(3))
    plan = home.service("loans", {1: bundle}, timeout_ms=60_000)
    home.publish(plan)
    body = {"rows": [ROW] * 1000}
    with RunningNode(home.path, tmp_path / "state") as node:
        node.wait_plan(1)
        data = json.dumps(body).encode()

        def lower(limit_ms: int) -> int:
            node.wait_plan(home.publish(msgspec.structs.replace(plan, timeout_ms=limit_ms)))
            return limit_ms

        async def story() -> Tally:
            path = "/v1/services/loans/predict"
            async with Load(node.data_url, path, lambda _: data, connections=48) as load:
                counted = load.tally.statuses
                limit_ms, since = 60_000, 0
                # However fast this machine is: less and less time, until it cannot keep up.
                while counted[503] < 20:
                    if counted[200] >= since + 48:
                        limit_ms = await asyncio.to_thread(lower, max(1, limit_ms // 2))
                        since = counted[200]
                    await asyncio.sleep(0.05)
                assert counted[200] >= 48
                return await load.stop()

        tally = asyncio.run(story())
        assert tally.dropped == 0
        assert ask_patiently(node, "loans", ROW, {})[0] == 200
        found = Counter(name for name, one in node.journaled() if one.version == 1)
        assert set(tally.answered) <= set(found)
        assert set(found.values()) == {1}


def keys_of(node: RunningNode) -> int:
    path = node.state / "idempotency.db"
    if not path.exists():
        return 0
    look = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)
    try:
        is_there = look.execute("SELECT * FROM sqlite_schema WHERE name = 'answer'").fetchone()
        return look.execute("SELECT count(*) FROM answer").fetchone()[0] if is_there else 0
    finally:
        look.close()


def front_after(node: RunningNode, dead: int) -> int:
    """The front worker that took the place of a dead one."""

    def found(report: NodeReport) -> list[int]:
        pids = [one.pid for one in report.workers if one.kind == "front" and one.pid]
        return [pid for pid in pids if pid != dead]

    return found(node.wait(lambda report: bool(found(report)), "a new front worker"))[0]


def send(node: RunningNode, body: Any, key: str) -> socket.socket:
    """A request whose answer nobody reads."""
    link = socket.create_connection(("127.0.0.1", node.port), timeout=30)
    data = json.dumps(body).encode()
    head = f"POST /v1/services/loans/predict HTTP/1.1\r\nhost: t\r\nidempotency-key: {key}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in MEDIA.items())
    link.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    return link


def ask_patiently(
    node: RunningNode, service: str, body: Any, headers: dict[str, str]
) -> tuple[int, dict[str, str], Any]:
    """As `ask`, again and again until somebody answers: workers were killed."""
    until = time.monotonic() + 60
    while True:
        try:
            found = ask(node, service, body, headers)
            if found[0] not in (409, 503) or time.monotonic() > until:
                return found
        except OSError:
            assert time.monotonic() < until
        time.sleep(0.05)


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)
