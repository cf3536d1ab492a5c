"""kill -9 the control plane, the node's supervisor, and both: serving goes on, releases go on."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from control_cases import assert_exactly_once, assert_no_request_failed, path_of, traffic

from doorstep.core.outcome import OutcomeGiven
from doorstep.core.report import Cell, NodeReport
from doorstep.release.surface import Release
from doorstep.testing.installation import RunningInstallation
from fakes.load import Tally

RELEASE = "{shadow: {requests: 0}, steps: [20%, 50%], dwell: 3s, bake: 2s}"
LONG = "{shadow: {requests: 0}, steps: [50%], dwell: 10m, bake: 10m}"
Found = TypeVar("Found")


async def soon(here: RunningInstallation, look: Callable[[], Found | None], what: str) -> Found:
    found: Found = await asyncio.to_thread(here.wait, look, what)
    return found


def over(release: Release) -> Release | None:
    return release if release.state not in ("shadow", "step", "bake") else None


def test_a_control_plane_killed_in_a_release_drops_nothing_and_goes_on_where_it_was(
    tmp_path: Path,
):
    async def story(here: RunningInstallation) -> tuple[Release, Release, Release, Tally]:
        async with traffic(here, "loans") as load:
            await load.wait_answers(200)
            begun = await asyncio.to_thread(here.serve, "loans@2")
            before = await soon(
                here,
                lambda: _at_step(here.client.release(begun.id), 2),
                "the second step, with evidence",
            )
            told = next(iter(load.tally.answered))
            here.client.record_outcomes("loans", [OutcomeGiven(prediction=told, label="good")])
            here.kill("control")
            # Nobody is there to ask; requests are answered by both versions as before.
            await load.wait_answers(500)
            await asyncio.to_thread(here.restart)
            after = await asyncio.to_thread(here.client.release, begun.id)
            ended = await soon(here, lambda: over(here.client.release(begun.id)), "its end")
            await load.wait_answers(200)
            return before, after, ended, await load.stop()

    with RunningInstallation(tmp_path / "home") as here:
        here.register("loans", release=RELEASE)
        here.serve("loans@1")
        here.register("loans", seed=2, release=RELEASE)
        data_url = here.data_url
        before, after, ended, tally = asyncio.run(story(here))
        assert here.data_url == data_url
        assert_no_request_failed(tally)
        assert tally.refused_connections == 0
        assert_exactly_once(here, tally)
        assert after.step >= before.step
        assert after.requests_challenger >= before.requests_challenger > 0
        assert after.started_at == before.started_at
        assert ended.state == "done"
        # What was told to the killed control plane is compacted by the next one, and found.
        here.wait(lambda: list((here.home / "journal" / "control").rglob("*.parquet")), "a file")
        told = next(iter(tally.answered))
        assert here.client.prediction(told).outcome == "good"
        # No step was decided on twice.
        shares = [one.share for one in _advances(here)]
        assert shares == sorted(set(shares))
        assert here.client.history("loans").live == 2
        assert here.client.verify_ledger().intact


def _at_step(release: Release, step: int) -> Release | None:
    return release if release.step >= step and release.requests_challenger > 200 else None


class _Advance:
    def __init__(self, share: float) -> None:
        self.share = share


def _advances(here: RunningInstallation) -> list[_Advance]:
    events = here.client.events("loans", "release.advanced").events
    mine = [one for one in events if one.data["version"] == "loans@2"]
    return [_Advance(one.data["share"]) for one in reversed(mine)]


def test_a_challenger_that_nobody_watches_gives_its_share_back_until_somebody_does(
    tmp_path: Path,
):
    async def story(here: RunningInstallation) -> tuple[Tally, Tally]:
        async with traffic(here, "loans") as load:
            await load.wait_answers(200)
            here.kill("control")
            await soon(here, lambda: _lost(here.report()), "the lease to end")
            unwatched = await _answered_by(here, {1})
            before = here.report()
            assert before is not None
            await asyncio.to_thread(here.restart)
            # Of the term that watches now: the new supervisor begins with a lease of its own.
            term = before.plan_term
            await soon(here, lambda: _held(here.report(), term), "the lease to be back")
            watched = await _answered_by(here, {1, 2})
            assert_no_request_failed(await load.stop())
            return unwatched, watched

    with RunningInstallation(tmp_path / "home", lease_s=4.0) as here:
        here.register("loans", release=LONG)
        here.serve("loans@1")
        here.register("loans", seed=2, release=LONG)
        here.serve("loans@2")
        unwatched, watched = asyncio.run(story(here))
        assert set(unwatched.answered.values()) == {1}
        assert set(watched.answered.values()) == {1, 2}
        for tally in (unwatched, watched):
            assert_no_request_failed(tally)


async def _answered_by(here: RunningInstallation, versions: set[int]) -> Tally:
    """Of 400 answers, once they are those of these versions: the report says what the node tells
    its workers, and they hear it between two requests."""
    for _ in range(20):
        async with traffic(here, "loans") as load:
            await load.wait_answers(400)
            tally = await load.stop()
        if set(tally.answered.values()) == versions:
            break
    return tally


def _lost(report: NodeReport | None) -> bool:
    return report is not None and not report.lease_held


def _held(report: NodeReport | None, term: int) -> bool:
    return report is not None and report.lease_held and report.plan_term > term


def test_the_supervisor_and_then_everything_but_the_workers_may_be_killed(tmp_path: Path):
    async def story(here: RunningInstallation) -> Tally:
        async with traffic(here, "loans") as load:
            await load.wait_answers(200)
            fronts = set(here.pids("front"))
            supervisor = here.kill("node")
            await soon(here, lambda: _other(here, supervisor, fronts), "another supervisor")
            await soon(here, lambda: here.report().plan_number, "its workers to serve")
            await load.wait_answers(300)
            # Both: what a machine that runs out of memory may do. The workers serve alone.
            here.kill("node")
            here.kill("control")
            await load.wait_answers(300)
            await asyncio.to_thread(here.restart)
            await load.wait_answers(300)
            return await load.stop()

    with RunningInstallation(tmp_path / "home") as here:
        here.register("loans", release=LONG)
        here.serve("loans@1")
        here.register("loans", seed=2, release=LONG)
        release = here.serve("loans@2")
        data_url = here.data_url
        tally = asyncio.run(story(here))
        assert here.data_url == data_url
        assert_no_request_failed(tally)
        assert tally.refused_connections == 0
        assert_exactly_once(here, tally)
        assert here.settled(release.id).state == "step"
        # What a node answers before its lease is renewed is no evidence; the rest counts once.
        found = here.wait(lambda: _counted(here.client.release(release.id)), "evidence")
        assert found <= tally.answers


def _counted(release: Release) -> int:
    return release.requests_champion + release.requests_challenger


def _other(here: RunningInstallation, supervisor: int, fronts: set[int]) -> bool:
    """Another supervisor, whose own workers serve: one that is orphaned before it has a plan serves
    without the challenger, and what it answers is no evidence."""
    found, report = here.pids("node"), here.report()
    now = {one.pid for one in report.workers if one.kind == "front"} if report else set()
    return bool(found) and supervisor not in found and len(now) == 2 and not now & fronts


@pytest.mark.parametrize("lost", ["reboot", "state"])
def test_a_node_that_starts_anew_while_nobody_watches_does_not_wipe_out_the_errors(
    tmp_path: Path, lost: str
):
    """The counters of a boot of the machine end with it. What it had reported reaches a control
    plane that was down all the while, and decides."""
    eager = "{shadow: {requests: 0}, steps: [50%], dwell: 0s, bake: 10m}"
    with RunningInstallation(tmp_path / "home", workers=1) as here:
        here.register("loans", release=eager)
        here.serve("loans@1")
        here.register("loans", seed=2, behaviour="raises", release=eager)
        release = here.serve("loans@2")
        assert release.state == "step"
        here.kill("control")
        _send_what_raises(here, 200)
        wrong = here.wait(lambda: _settled_errors(here, release.id), "reported errors")
        _end_node(here)
        _forget_boot(here.home / "run" / "node", lost)
        alone = _start_node_alone(here)
        assert _bad(here.report(), release.id) == 0
        here.restart()
        alone.wait()
        ended = here.wait(lambda: over(here.client.release(release.id)), "the end of the release")
        assert ended.state == "rolled-back"
        # Nothing was asked since: it is the evidence of the boot that is gone.
        assert ended.requests_challenger == wrong > 50
        here.wait(lambda: not list((here.home / "nodes" / "past").iterdir()), "it to be kept")


def _send_what_raises(here: RunningInstallation, requests: int) -> None:
    with httpx.Client(trust_env=False) as http:
        for number in range(requests):
            row = {"x0": -1.0, "x1": 0.5, "x2": 1.0}
            body = {"rows": [row], "context": {"id": f"n{number}"}}
            assert http.post(here.data_url + path_of("loans"), json=body).status_code == 200


def _settled_errors(here: RunningInstallation, release: str) -> int:
    """The challenger's errors once all requests are in the report."""
    report = here.report()
    cells = [one for one in (report.cells if report else ()) if one.release == release]
    return _bad(report, release) if sum(one.requests for one in cells) == 200 else 0


def _bad(report: NodeReport | None, release: str) -> int:
    cells: tuple[Cell, ...] = report.cells if report else ()
    return sum(one.bad for one in cells if one.release == release and one.arm == "challenger")


def _end_node(here: RunningInstallation) -> None:
    """What a power cut does to the node's processes."""
    pids = [*here.pids("node"), *here.pids("front"), *here.pids("shadow"), *here.pids("compactor")]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    here.wait(lambda: not any(Path(f"/proc/{pid}/fd").exists() for pid in pids), "them to end")


def _start_node_alone(here: RunningInstallation) -> subprocess.Popen[bytes]:
    """As an init system does, long before anybody starts the control plane again."""
    boot = here.report().boot
    command = [sys.executable, "-m", "doorstep.serve.node", "--home", str(here.home)]
    command += ["--port", here.data_url.rpartition(":")[2], "--health-port", "0"]
    command += ["--state", str(here.home / "run" / "node"), "--node", "local"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    here.wait(lambda: (found := here.report()) and found.boot != boot, "a report of the new boot")
    return process


def _forget_boot(state: Path, lost: str) -> None:
    if lost == "state":
        shutil.rmtree(state)
    else:
        base = state / "cells" / "base"
        data = base.read_bytes()
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
        assert kernel in data
        base.write_bytes(data.replace(kernel, b"0" * len(kernel)))
