"""A disk that is nearly full: what was declared for it happens before it is full for everybody."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorstep.core.report import NodeReport
from doorstep.journal.reader import Group, list_blocks, read_block
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

DISK_MB = 48


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def ask(node: RunningNode) -> tuple[int, str]:
    """Status and error code."""
    body = json.dumps({"x0": 1.0, "x1": 0.5, "x2": -1}).encode()
    url = f"{node.data_url}/v1/services/loans/predict"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["code"]


def is_low(report: NodeReport) -> bool:
    return any("less than the reserve" in one for one in report.problems)


@pytest.mark.parametrize("policy", ["refuse", "no-inputs"])
def test_below_the_reserve_the_declared_policy_holds_until_there_is_room_again(
    disk: Path, tmp_path: Path, policy: str
) -> None:
    home = TestHome(disk / "home")
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    more = ["--disk-reserve", "2", "--disk-low", policy]
    with RunningNode(home.path, tmp_path / "state", more=more) as node:
        node.wait_plan(1)
        assert ask(node) == (200, "")
        filler = disk / "filler"
        with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 1_000_000)
                file.flush()
        filler.write_bytes(b"x" * (filler.stat().st_size - 1_000_000))
        report = node.wait(is_low, "low disk")
        what = {"refuse": "refused with 503", "no-inputs": "inputs are not recorded"}[policy]
        assert any(what in one for one in report.problems)
        expected = {"refuse": (503, "journal-unavailable"), "no-inputs": (200, "")}[policy]
        assert ask(node) == expected
        filler.unlink()
        node.wait(lambda report: not report.problems, "room again")
        assert ask(node) == (200, "")
        blocks = list_blocks(home.path / "journal" / "test").values()
        parts = [part for path in blocks for part in read_block(path.read_bytes()).parts()]
        kept = [
            any(column.name.startswith("in.") for column in part.layout.numbers)
            for part in parts
            if isinstance(part, Group)
        ]
        assert kept == ([True, True] if policy == "refuse" else [True, False, True])
