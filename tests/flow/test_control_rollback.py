"""A rollback fails nobody, whatever dies meanwhile; a release goes on exactly where it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest
from control_cases import assert_exactly_once, assert_no_request_failed, traffic

from doorstep.core.errors import DoorstepError
from doorstep.release.surface import Release
from doorstep.testing.installation import RunningInstallation
from fakes.load import Tally

STEP = "{shadow: {requests: 0}, steps: [50%], dwell: 10m, bake: 10m, deadline: {after: 2h}}"
SHADOW = "{shadow: {requests: 1000000}, steps: [50%], dwell: 10m, deadline: {after: 2h}}"
CONNECTIONS = 4


def released(here: RunningInstallation, release: str = STEP, speed_ms_p99: float = 0.1) -> Release:
    """loans@2 is on its way, loans@1 is the champion."""
    here.register("loans", release=release, speed_ms_p99=speed_ms_p99)
    here.serve("loans@1")
    here.register("loans", seed=2, release=release, speed_ms_p99=speed_ms_p99)
    return here.serve("loans@2")


async def back(here: RunningInstallation, release: str) -> Tally:
    """Roll back; what is answered to requests that are sent once every node has confirmed it."""
    await asyncio.to_thread(here.client.rollback, "loans", "it is bad")
    await asyncio.to_thread(here.settled, release)
    return await answers(here)


async def answers(here: RunningInstallation) -> Tally:
    async with traffic(here, "loans") as load:
        await load.wait_answers(200)
        return await load.stop()


def assert_taken_back(here: RunningInstallation, release: str, late: Tally) -> None:
    assert set(late.answered.values()) == {1}
    assert_no_request_failed(late)
    ended = here.client.release(release)
    assert (ended.state, ended.share) == ("rolled-back", 0.0)
    assert [one.action for one in ended.decisions if one.action != "hold"] == ["rollback"]
    assert here.client.history("loans").live == 1
    assert here.client.verify_ledger().intact


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_rollback_while_a_worker_is_dying_fails_nobody(tmp_path: Path, how: signal.Signals):
    async def story(here: RunningInstallation, release: str) -> tuple[Tally, Tally]:
        # What was on its way to a process that is shot has no answer; its client asks again.
        async with traffic(here, "loans", retry=how is signal.SIGKILL) as load:
            await load.wait_answers(200)
            os.kill(here.pids("front")[0], how)
            late = await back(here, release)
            await load.wait_answers(200)
            return await load.stop(), late

    with RunningInstallation(tmp_path / "home") as here:
        release = released(here)
        tally, late = asyncio.run(story(here, release.id))
        assert set(tally.statuses) == {200}
        assert tally.gave_up == 0
        assert tally.dropped <= (CONNECTIONS if how is signal.SIGKILL else 0)
        assert 2 in tally.answered.values()
        assert_exactly_once(here, tally)
        assert_taken_back(here, release.id, late)


def test_a_rollback_while_the_challengers_engine_is_dying_fails_nobody(tmp_path: Path):
    async def story(here: RunningInstallation, release: str) -> tuple[Tally, Tally]:
        async with traffic(here, "loans") as load:
            await load.wait_answers(200)
            os.kill(engine_of(here, "loans@2"), signal.SIGKILL)
            late = await back(here, release)
            await load.wait_answers(200)
            return await load.stop(), late

    with RunningInstallation(tmp_path / "home", workers=1) as here:
        release = released(here, speed_ms_p99=0.0)
        tally, late = asyncio.run(story(here, release.id))
        assert_no_request_failed(tally)
        assert_exactly_once(here, tally)
        assert_taken_back(here, release.id, late)


def engine_of(here: RunningInstallation, version: str) -> int:
    report = here.report()
    assert report is not None
    return next(one.pid for one in report.workers if one.serves == version)


@pytest.mark.parametrize("when", ["said", "asked"])
def test_a_rollback_in_whose_middle_the_control_plane_is_killed_is_whole_or_not_at_all(
    tmp_path: Path, when: str
):
    async def story(here: RunningInstallation, release: str) -> tuple[Tally, Tally]:
        async with traffic(here, "loans") as load:
            await load.wait_answers(200)
            asked = asyncio.create_task(
                asyncio.to_thread(here.client.rollback, "loans", "it is bad")
            )
            if when == "said":
                await asked
            here.kill("control")
            with contextlib.suppress(DoorstepError):
                await asked
            # Both versions, or the champion alone: nobody is there to decide, and nobody fails.
            await load.wait_answers(200)
            await asyncio.to_thread(here.restart)
            state = (await asyncio.to_thread(here.client.release, release)).state
            assert state in (("rolled-back",) if when == "said" else ("rolled-back", "step"))
            if state == "step":
                await asyncio.to_thread(here.client.rollback, "loans", "it is bad")
            await asyncio.to_thread(here.settled, release)
            late = await answers(here)
            return await load.stop(), late

    with RunningInstallation(tmp_path / "home") as here:
        release = released(here)
        tally, late = asyncio.run(story(here, release.id))
        assert_no_request_failed(tally)
        assert tally.refused_connections == 0
        assert_exactly_once(here, tally)
        assert_taken_back(here, release.id, late)


@pytest.mark.parametrize("state", ["shadow", "step", "paused"])
def test_after_a_crash_a_release_goes_on_exactly_where_it_was(tmp_path: Path, state: str):
    async def story(here: RunningInstallation, release: str) -> tuple[Release, Release, Tally]:
        async with traffic(here, "loans") as load:
            await load.wait_answers(200)
            if state == "paused":
                await asyncio.to_thread(here.client.pause, release, "let us see")
            before = await asyncio.to_thread(here.client.release, release)
            here.kill("control")
            await load.wait_answers(200)
            await asyncio.to_thread(here.restart)
            after = await asyncio.to_thread(here.client.release, release)
            await load.wait_answers(200)
            return before, after, await load.stop()

    with RunningInstallation(tmp_path / "home") as here:
        begun = released(here, SHADOW if state == "shadow" else STEP)
        before, after, tally = asyncio.run(story(here, begun.id))
        assert before.state == after.state == state
        for name in ("step", "share", "split", "started_at", "by", "waves"):
            assert getattr(after, name) == getattr(before, name), name
        assert after.decisions[: len(before.decisions)] == before.decisions
        new = {one.action for one in after.decisions[len(before.decisions) :]}
        assert new <= {"hold"}
        assert after.requests_challenger >= before.requests_challenger
        assert_no_request_failed(tally)
        assert_exactly_once(here, tally)
        expected = {"shadow": {1}, "step": {1, 2}, "paused": {1, 2}}[state]
        assert set(tally.answered.values()) == expected
        assert here.client.verify_ledger().intact
