"""What a disk, a clock or a missing part does to a node that serves: it serves on, and says so."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorstep.core.plan import ReleasePlan
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode
from fakes.faults import Clock, Missing, fill, small_disk
from fakes.load import Load, Tally

PATH = "/v1/services/loans/predict"


def body_of(number: int) -> bytes:
    return json.dumps({"x0": number % 7, "x1": 0.5, "x2": -1}).encode()


@pytest.fixture(name="small_disk")
def mounted_disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "small") as disk:
            yield disk
    except Missing as missing:
        pytest.skip(str(missing))


def test_a_full_state_disk_ends_nobody_and_is_over_when_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    home = TestHome(tmp_path / "home")
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    with RunningNode(home.path, small_disk / "state", workers=2) as node:
        fronts = node.wait_plan(1).workers
        supervisor = node.process

        async def story() -> Tally:
            async with Load(node.data_url, PATH, body_of, connections=8, retry=True) as load:
                await load.wait_answers(300)
                filler = fill(small_disk)
                os.kill(fronts[0].pid, signal.SIGKILL)
                await asyncio.to_thread(
                    node.wait,
                    lambda report: any(
                        "state folder cannot be used" in one for one in report.problems
                    ),
                    "a problem of the state folder",
                )
                await load.wait_answers(300)
                filler.unlink()
                await asyncio.to_thread(
                    node.wait,
                    lambda report: (
                        not report.problems
                        and fronts[0].pid not in {one.pid for one in report.workers}
                        and sum(one.kind == "front" and one.pid > 0 for one in report.workers) == 2
                    ),
                    "two workers and no problem",
                )
                await load.wait_answers(300)
                return await load.stop()

        tally = asyncio.run(story())
        assert supervisor is not None
        assert supervisor.poll() is None
    assert tally.gave_up == 0
    assert set(tally.statuses) == {200}


def test_a_full_journal_disk_refuses_with_503_and_loses_no_answer(
    tmp_path: Path, small_disk: Path
) -> None:
    home = TestHome(tmp_path / "home")
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    (home.path / "journal").rmdir()
    (small_disk / "journal").mkdir()
    (home.path / "journal").symlink_to(small_disk / "journal")
    with RunningNode(home.path, tmp_path / "state", workers=2) as node:
        node.wait_plan(1)

        async def story() -> Tally:
            async with Load(node.data_url, PATH, body_of, connections=8) as load:
                await load.wait_answers(300)
                filler = fill(small_disk)
                while not load.tally.statuses[503]:
                    await load.wait_answers(50)
                await asyncio.to_thread(
                    node.wait,
                    lambda report: any(
                        "journal" in one and "refused with 503" in one for one in report.problems
                    ),
                    "a problem of the journal",
                )
                filler.unlink()
                answered = load.tally.statuses[200]
                while load.tally.statuses[200] < answered + 300:
                    await load.wait_answers(50)
                await asyncio.to_thread(node.wait, lambda report: not report.problems)
                return await load.stop()

        tally = asyncio.run(story())
        times = Counter(name for name, _ in node.journaled())
    assert tally.dropped == 0
    assert set(tally.statuses) == {200, 503}
    assert {name: times[name] for name in tally.answered} == dict.fromkeys(tally.answered, 1)


JUMPS = ("+365d", "-365d", "+0")


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    try:
        found = Clock(tmp_path)
    except Missing as missing:
        pytest.skip(str(missing))
    for name, value in found.environ.items():
        monkeypatch.setenv(name, value)
    return found


def test_a_clock_that_jumps_by_a_year_and_back_changes_no_answer_and_no_lease(
    tmp_path: Path, clock: Clock
) -> None:
    home = TestHome(tmp_path / "home")
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    release = ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": 0.5})
    service = home.service("loans", bundles, release=release)
    # Far shorter than a jump, and far longer than the test takes on any machine.
    home.publish(service, lease_s=3600)
    with RunningNode(home.path, tmp_path / "state", workers=2) as node:
        node.wait_plan(1)
        home.renew()
        began = node.wait(lambda report: report.lease_held)

        async def story() -> Tally:
            async with Load(node.data_url, PATH, body_of, connections=8) as load:
                await load.wait_answers(300)
                for jump in JUMPS:
                    clock.set(jump)
                    await load.wait_answers(600)
                return await load.stop()

        tally = asyncio.run(story())
        ended = node.wait(
            lambda report: sum(cell.requests for cell in report.cells) >= len(tally.answered)
        )
        records = node.journaled()
    assert set(tally.statuses) == {200}
    assert tally.dropped == 0
    assert ended.lease_held
    assert {one.pid for one in ended.workers} == {one.pid for one in began.workers}
    years = {(meta.at - records[0][1].at) // (300 * 86_400_000_000) for _, meta in records}
    assert {0, 1} <= years
    times = Counter(name for name, _ in records)
    assert {name: times[name] for name in tally.answered} == dict.fromkeys(tally.answered, 1)
