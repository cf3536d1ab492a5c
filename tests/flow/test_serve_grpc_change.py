"""gRPC callers while workers are replaced, drained and orphaned: no call fails."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from doorstep.core.plan import ReleasePlan
from doorstep.core.report import NodeReport
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

WAIT_S = 60.0
OWN = [("grpc.use_local_subchannel_pool", 1)]
"""A connection for each client, as if each were a process."""


@pytest.fixture
def home(tmp_path: Path) -> TestHome:
    return TestHome(tmp_path / "home")


@pytest.fixture
def node(home: TestHome, tmp_path: Path) -> Iterator[RunningNode]:
    with RunningNode(home.path, tmp_path / "state", workers=2, grpc_port=0) as running:
        home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
        running.wait_plan(1)
        yield running


class Callers:
    """Some that keep a connection, with several calls on it at once, and some that make one for
    each call. answered: ids of requests. failed: how often, by what was said."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answered: list[str] = []
        self.versions: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.stopping = False

    def client(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(self.address, channel_args=OWN)

    async def ask(self, client: triton.InferenceServerClient) -> None:
        rows = InferInput("rows", [2, 3], "FP32")
        rows.set_data_from_numpy(np.ones((2, 3), np.float32))
        try:
            answer = (await client.infer("loans", [rows])).get_response()
        except InferenceServerException as error:
            self.failed[str(error)[:200]] += 1
        else:
            self.answered.append(answer.parameters["request_id"].string_param)
            self.versions[answer.model_version] += 1

    async def keep(self) -> None:
        async with self.client() as client:

            async def one() -> None:
                while not self.stopping:
                    await self.ask(client)

            await asyncio.gather(*[one() for _ in range(3)])

    async def come_and_go(self) -> None:
        while not self.stopping:
            async with self.client() as client:
                await self.ask(client)

    async def wait_answers(self, count: int) -> None:
        """Until so many more are answered."""
        wanted, until = len(self.answered) + count, time.monotonic() + WAIT_S
        while len(self.answered) < wanted:
            assert time.monotonic() < until, f"{len(self.answered)} answers, {self.failed}"
            await asyncio.sleep(0.01)


@asynccontextmanager
async def calling(address: str, passing: int = 3) -> AsyncIterator[Callers]:
    """passing: how many make a connection for each call."""
    callers = Callers(address)
    tasks = [asyncio.create_task(callers.keep()) for _ in range(4)]
    tasks += [asyncio.create_task(callers.come_and_go()) for _ in range(passing)]
    try:
        yield callers
    finally:
        callers.stopping = True
        await asyncio.gather(*tasks)


def replaced(before: NodeReport) -> Callable[[NodeReport], bool]:
    """Whether every front worker is another than before, and nobody is leaving."""
    old = {one.pid for one in before.workers if one.kind == "front"}

    def holds(now: NodeReport) -> bool:
        fronts = {one.pid for one in now.workers if one.kind == "front"}
        return len(fronts) == 2 and not old & fronts

    return holds


def test_workers_that_are_replaced_and_shares_that_change_fail_no_call(
    home: TestHome, node: RunningNode
) -> None:
    bundles = {1: home.bundle(home.contract(3)), 2: home.bundle(home.contract(3), seed=2)}

    async def story() -> Callers:
        async with calling(node.grpc_url) as callers:
            await callers.wait_answers(50)
            for share in (0.5, 1.0):
                release = ReleasePlan(
                    id="r1", challenger=2, state="step", epoch=1, shares={"": share}
                )
                number = home.publish(home.service("loans", bundles, release=release))
                await asyncio.to_thread(node.wait_plan, number)
                await callers.wait_answers(50)
            for _ in range(3):
                before = await asyncio.to_thread(node.wait_plan, number)
                node.signal(signal.SIGHUP)
                await asyncio.to_thread(node.wait, replaced(before), "all workers replaced")
                await callers.wait_answers(50)
        return callers

    callers = asyncio.run(story())
    assert not callers.failed
    assert {"1", "2"} == set(callers.versions)
    assert len(set(callers.answered)) == len(callers.answered)
    rows = Counter(name.partition(".")[0] for name, _ in node.journaled())
    assert all(rows[name] == 2 for name in callers.answered)


def test_a_supervisor_that_is_killed_hands_the_grpc_port_on(
    home: TestHome, node: RunningNode
) -> None:
    port = node.grpc_url.rpartition(":")[2]

    async def story() -> Callers:
        async with calling(node.grpc_url) as callers:
            await callers.wait_answers(50)
            before = await asyncio.to_thread(node.wait_plan, 1)
            await asyncio.to_thread(node.kill_supervisor)
            await callers.wait_answers(50)
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(node.wait, replaced(before), "new workers only")
            await callers.wait_answers(50)
        return callers

    callers = asyncio.run(story())
    assert node.grpc_url.rpartition(":")[2] == port
    assert not callers.failed


def test_a_term_signal_answers_what_was_sent_and_exits_zero(node: RunningNode) -> None:
    async def story() -> tuple[Callers, int]:
        # Whoever comes anew while the last listener closes finds nobody.
        async with calling(node.grpc_url, passing=0) as callers:
            await callers.wait_answers(50)
            callers.stopping = True
            code = await asyncio.to_thread(node.stop)
        return callers, code

    callers, code = asyncio.run(story())
    assert code == 0
    # A call whose connection was still being made then was never sent.
    assert [what for what in callers.failed if "failed to connect" not in what] == []


def test_an_idle_channel_does_not_hold_a_drain_up(node: RunningNode) -> None:
    with grpc.insecure_channel(node.grpc_url) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"") == b"\x08\x01"
        assert node.stop() == 0
