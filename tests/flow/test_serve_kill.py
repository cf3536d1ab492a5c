"""Kill any process of a node under load: nothing answered is lost, nothing waits forever."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from doorstep.core.plan import ReleasePlan
from doorstep.core.record import Status
from doorstep.core.report import JournalMode, NodeReport
from doorstep.journal.options import JournalOptions
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode
from fakes.load import Load, Tally

PATH = "/v1/services/loans/predict"


def body_of(number: int) -> bytes:
    return json.dumps({"x0": number % 7, "x1": 0.5, "x2": -1}).encode()


@pytest.fixture
def home(tmp_path: Path) -> TestHome:
    return TestHome(tmp_path / "home")


@pytest.fixture
def mode() -> JournalMode:
    return "default"


@pytest.fixture
def node(home: TestHome, tmp_path: Path, mode: JournalMode) -> Iterator[RunningNode]:
    more = JournalOptions(mode=mode).words
    with RunningNode(home.path, tmp_path / "state", workers=2, more=more) as running:
        yield running


def assert_answered_are_journaled(node: RunningNode, tally: Tally) -> None:
    times = Counter(name for name, _ in node.journaled())
    assert {name: times[name] for name in tally.answered} == dict.fromkeys(tally.answered, 1)


def pids_of(node: RunningNode, kind: str) -> list[int]:
    """Processes of a kind that are alive; the report may still name one that just died."""

    def alive(report: NodeReport) -> list[int]:
        pids = [one.pid for one in report.workers if one.kind == kind and one.pid]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    return alive(node.wait(lambda report: bool(alive(report))))


@pytest.mark.parametrize("mode", ["default", "durable"])
def test_kill_of_a_front_worker_drops_at_most_its_own_connections(
    home: TestHome, node: RunningNode, mode: JournalMode
) -> None:
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    assert node.wait_plan(1).journal == mode

    async def story() -> Tally:
        async with Load(node.data_url, PATH, body_of, connections=8, retry=True) as load:
            for _ in range(3):
                await load.wait_answers(300)
                pids = await asyncio.to_thread(pids_of, node, "front")
                os.kill(pids[0], signal.SIGKILL)
                await load.wait_answers(300)
                await asyncio.to_thread(node.wait_plan, 1)
            return await load.stop()

    tally = asyncio.run(story())
    assert tally.gave_up == 0
    assert set(tally.statuses) == {200}
    assert tally.dropped <= 3 * 8
    assert_answered_are_journaled(node, tally)


def test_kill_of_a_champions_engine_is_answered_503_until_it_is_back(
    home: TestHome, node: RunningNode
) -> None:
    digest = home.bundle(home.contract(3))
    home.publish(home.service("loans", {1: digest}, placement="engine"))
    node.wait_plan(1)

    async def story() -> Tally:
        async with Load(node.data_url, PATH, body_of, connections=8, retry=True) as load:
            await load.wait_answers(300)
            os.kill(pids_of(node, "engine")[0], signal.SIGKILL)
            answered = load.tally.statuses[200]
            async with asyncio.timeout(60):
                while load.tally.statuses[200] < answered + 300:
                    await asyncio.sleep(0.02)
            return await load.stop()

    tally = asyncio.run(story())
    assert tally.dropped == 0
    assert tally.gave_up == 0
    assert set(tally.statuses) <= {200, 503}
    assert_answered_are_journaled(node, tally)
    statuses = {meta.status for _, meta in node.journaled() if meta.version < 0}
    assert statuses <= {Status.DIED, Status.UNAVAILABLE}


def test_kill_of_a_challengers_engine_lets_the_champion_answer(
    home: TestHome, node: RunningNode
) -> None:
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    release = ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": 0.5})
    home.publish(home.service("loans", bundles, placement="engine", release=release))
    node.wait_plan(1)

    async def story() -> Tally:
        async with Load(node.data_url, PATH, body_of, connections=8) as load:
            await load.wait_answers(300)
            os.kill(challenger_engine(node), signal.SIGKILL)
            await load.wait_answers(1500)
            return await load.stop()

    tally = asyncio.run(story())
    assert tally.dropped == 0
    assert set(tally.statuses) == {200}
    assert_answered_are_journaled(node, tally)
    failed = [meta for _, meta in node.journaled() if meta.status != Status.OK]
    assert failed
    assert all((meta.assigned, meta.version) == (2, 1) for meta in failed)
    report = node.wait(
        lambda found: sum(cell.requests for cell in found.cells) == len(tally.answered)
    )
    cells = {cell.arm: cell for cell in report.cells}
    assert cells["challenger"].bad == len(failed)
    assert cells["champion"].bad == 0


def challenger_engine(node: RunningNode) -> int:
    """The engines are started in the order of the versions."""
    report = node.report()
    assert report is not None
    return next(one.pid for one in report.workers if one.slot == "engine-2")


def test_kill_of_the_supervisor_drops_nothing_and_the_next_one_takes_over(
    home: TestHome, node: RunningNode
) -> None:
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    node.wait_plan(1)

    async def story() -> Tally:
        async with Load(node.data_url, PATH, body_of, connections=8) as load:
            await load.wait_answers(300)
            before = set(pids_of(node, "front"))
            node.kill_supervisor()
            await load.wait_answers(500)
            url = node.data_url
            await asyncio.to_thread(node.start)
            assert node.data_url == url
            await asyncio.to_thread(
                node.wait,
                lambda report: (
                    report.plan_number == 1
                    and not before & {one.pid for one in report.workers if one.kind == "front"}
                ),
            )
            await load.wait_answers(1000)
            return await load.stop()

    tally = asyncio.run(story())
    assert tally.dropped == 0
    assert tally.refused_connections == 0
    assert set(tally.statuses) == {200}
    assert_answered_are_journaled(node, tally)
    node.wait(
        lambda report: (
            sum(one.requests for one in report.services) == tally.answers and not report.problems
        ),
        "every request counted, and no problem",
    )


def test_requests_in_flight_in_a_killed_worker_are_errors_of_their_arm(
    home: TestHome, tmp_path: Path
) -> None:
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    release = ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": 1.0})
    plan = home.service("loans", bundles, placement="engine", release=release)
    home.publish(plan)
    with RunningNode(home.path, tmp_path / "state", workers=1) as node:
        node.wait_plan(1)
        os.kill(challenger_engine(node), signal.SIGSTOP)

        async def story() -> None:
            load = Load(node.data_url, PATH, body_of, connections=3)
            async with load:
                await asyncio.to_thread(
                    node.wait, lambda found: sum(cell.in_flight for cell in found.cells) == 3
                )
                os.kill(pids_of(node, "front")[0], signal.SIGKILL)
                load._stopping.set()

        home.publish(_patient(plan))
        node.wait_plan(2)
        asyncio.run(story())
        report = node.wait(
            lambda found: sum(cell.bad for cell in found.cells if cell.arm == "challenger") == 3
        )
        os.kill(challenger_engine(node), signal.SIGCONT)
    (cell,) = [one for one in report.cells if one.arm == "challenger"]
    assert (cell.requests, cell.ok, cell.in_flight) == (3, 0, 0)
    assert len(cell.bad_units) == 8  # one death is one bad unit


def _patient(plan):
    import msgspec

    return msgspec.structs.replace(plan, timeout_ms=60_000)


def test_an_engine_that_hangs_is_timed_out_and_the_champion_answers_in_time(
    home: TestHome, node: RunningNode
) -> None:
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    release = ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": 1.0})
    plan = home.service("loans", bundles, placement="engine", release=release, timeout_ms=1000)
    home.publish(plan)
    node.wait_plan(1)
    hung = challenger_engine(node)
    os.kill(hung, signal.SIGSTOP)
    try:

        async def story() -> Tally:
            async with Load(node.data_url, PATH, body_of, connections=4) as load:
                await load.wait_answers(12)
                return await load.stop()

        tally = asyncio.run(story())
    finally:
        with suppress(ProcessLookupError):  # it may have been replaced by now
            os.kill(hung, signal.SIGCONT)
    assert set(tally.statuses) == {200}
    assert set(tally.answered.values()) == {1}
    statuses = [meta.status for _, meta in node.journaled()]
    assert Status.TIMED_OUT in statuses
    # Once enough have waited for nothing it is not asked for a while.
    assert set(statuses) <= {Status.TIMED_OUT, Status.UNAVAILABLE}
