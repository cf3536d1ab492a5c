"""A compactor ends with its supervisor, also if that died before the compactor had begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WAIT_S = 60


def start(home: Path, **how) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "doorstep.journal.compactor", "--home", str(home)]
    return subprocess.Popen([*command, "--node", "n", "--every", "600"], **how)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compactor_ends_when_its_supervisor_is_gone(tmp_path: Path, when: str):
    process = start(tmp_path, stdin=subprocess.PIPE)
    lock = tmp_path / "journal" / "n" / ".compacting"
    if when == "after":
        while not lock.exists():
            assert process.poll() is None
    process.stdin.close()
    assert process.wait(WAIT_S) == 0
