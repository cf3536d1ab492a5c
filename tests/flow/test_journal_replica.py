"""The mode `replicated` over real servers: a machine is lost, its second place goes and comes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorstep.journal.reader import list_blocks
from doorstep.journal.replica import VARIABLE, rebuild
from doorstep.journal.surface import OutcomeGiven
from doorstep.testing.home import TestHome
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.node import RunningNode
from fakes.load import Load, Tally
from fakes.places import PASSWORD, Place, listed_ids

PATH = "/v1/services/loans/predict"
BODY = b'{"x0": 1, "x1": 0.5, "x2": -1}'


@pytest.fixture
def home(tmp_path: Path) -> TestHome:
    found = TestHome(tmp_path / "home")
    found.publish(found.service("loans", {1: found.bundle(found.contract(3))}))
    return found


@pytest.fixture
def node(
    home: TestHome, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningNode]:
    monkeypatch.setenv(VARIABLE, place.url)
    more = ["--journal", "replicated"]
    with RunningNode(home.path, tmp_path / "state", workers=2, more=more) as running:
        assert running.wait_plan(1).journal == "replicated"
        yield running


def load_of(node: RunningNode, connections: int = 8) -> Load:
    return Load(node.data_url, PATH, lambda _: BODY, connections=connections)


def kill_machine(node: RunningNode) -> None:
    """kill -9 of all its processes."""
    report = node.report()
    assert report is not None
    assert node.process is not None
    for pid in [node.process.pid, *(one.pid for one in report.workers)]:
        os.kill(pid, signal.SIGKILL)
    node.process.wait()


def test_what_a_lost_machine_answered_is_there_once_after_it_was_brought_back(
    home: TestHome, node: RunningNode, place: Place
) -> None:
    async def story() -> Tally:
        async with load_of(node) as load:
            await load.wait_answers(600)
            kill_machine(node)
            load._stopping.set()
            for one in load._tasks:
                one.cancel()
            await asyncio.gather(*load._tasks, return_exceptions=True)
            load._tasks = []
            return load.tally

    tally = asyncio.run(story())
    assert set(tally.statuses) == {200}
    shutil.rmtree(home.path / "journal" / "test")
    blocks, rows = place.bring_back(home.path)
    assert blocks >= 1
    assert rows >= len(tally.answered)
    assert place.bring_back(home.path) == (0, 0)
    times = listed_ids(home.path, "test")
    assert sum(times.values()) == rows
    assert {one: times[one] for one in tally.answered} == dict.fromkeys(tally.answered, 1)


@pytest.mark.parametrize("place", ["nats"], indirect=True)
def test_an_installation_whose_journal_is_lost_has_it_back_by_one_command_while_it_serves(
    tmp_path: Path, place: Place
) -> None:
    home = tmp_path / "home"
    with RunningInstallation(home, environ={VARIABLE: place.url}) as here:
        here.register("loans")
        here.serve("loans@1")

        async def story() -> Tally:
            async with Load(here.data_url, PATH, lambda _: BODY) as load:
                await load.wait_answers(200)
                return await load.stop()

        tally = asyncio.run(story())
        told = next(iter(tally.answered))
        here.client.record_outcomes("loans", [OutcomeGiven(prediction=told, label="good")])
        for what in ("control", "node", "compactor", "front", "front"):
            here.kill(what)
        shutil.rmtree(home / "journal")
        here.restart()
        command = [sys.executable, "-m", "doorstep.cli.main", "journal", "restore", "--json"]
        said = subprocess.run(
            [*command, "--from", place.url, "--home", str(home)], capture_output=True, check=True
        )
        brought = {one["node"]: one for one in json.loads(said.stdout)}
        assert brought["local"]["predictions"] >= len(tally.answered)
        assert brought["control"]["outcomes"] == 1
        times = Counter(name for name, _ in here.journaled())
        assert {one: times[one] for one in tally.answered} == dict.fromkeys(tally.answered, 1)
        assert here.client.prediction(told).outcome == "good"


@pytest.mark.parametrize("fault", ["cut", "hang"])
def test_without_its_second_place_a_node_refuses_and_says_so_and_goes_on_when_it_is_back(
    node: RunningNode, place: Place, fault: str
) -> None:
    async def story() -> Tally:
        async with load_of(node) as load:
            await load.wait_answers(200)
            getattr(place.way, fault)()
            said = await asyncio.to_thread(
                node.wait, lambda found: any("second place" in one for one in found.problems)
            )
            assert PASSWORD not in str(said.problems)
            refused = load.tally.statuses[503]
            while load.tally.statuses[503] < refused + 100:
                await load.wait_answers(1)
            place.way.mend()
            answered = load.tally.statuses[200]
            while load.tally.statuses[200] < answered + 200:
                await load.wait_answers(1)
            await asyncio.to_thread(node.wait, lambda found: not found.problems)
            return await load.stop()

    tally = asyncio.run(story())
    assert set(tally.statuses) == {200, 503}
    assert tally.dropped == 0
    times = Counter(name for name, _ in node.journaled())
    assert {one: times[one] for one in tally.answered} == dict.fromkeys(tally.answered, 1)
    # What was refused is not in the journal.
    assert sum(times.values()) == len(tally.answered)


def test_a_slow_second_place_makes_answers_wait_together(node: RunningNode, place: Place) -> None:
    place.way.delay_s = 0.1

    async def story() -> Tally:
        async with load_of(node, connections=32) as load:
            await load.wait_answers(320)
            return await load.stop()

    tally = asyncio.run(story())
    assert set(tally.statuses) == {200}
    place.way.delay_s = 0.0
    node.stop()
    segments = [one for found in place.blocks().values() for one in found]
    assert len(segments) < tally.answers / 2


def test_a_block_is_the_same_there_byte_by_byte_and_its_password_is_nobodys(
    node: RunningNode, place: Place
) -> None:
    async def story() -> None:
        async with load_of(node) as load:
            await load.wait_answers(200)
            await load.stop()

    asyncio.run(story())
    report = node.report()
    assert report is not None
    for one in report.workers:
        assert PASSWORD.encode() not in Path(f"/proc/{one.pid}/cmdline").read_bytes()
    node.stop()
    here = {
        path.stem: path.read_bytes() for path in list_blocks(node.home / "journal/test").values()
    }
    there = {name: rebuild(found) for (_, name), found in place.blocks().items()}
    assert there == here
