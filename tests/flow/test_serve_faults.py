"""What a disk, a clock or a missing part does to a node that serves: it serves on, and says so."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorstep.testing.home import TestHome
from doorstep.testing.load import Load, Tally
from doorstep.testing.node import RunningNode

PATH = "/v1/services/loans/predict"
STATE_BYTES = 16 * 1024 * 1024


def body_of(number: int) -> bytes:
    return json.dumps({"x0": number % 7, "x1": 0.5, "x2": -1}).encode()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for little."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={STATE_BYTES}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system of its own can only be mounted by root with the right to mount")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left of the disk."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(65_536))
    with path.open("ab", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"\0")
    return path


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
