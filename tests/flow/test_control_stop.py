"""`up -d` and `down`: in a hostile folder, while a gate hangs, and when `up` was killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

from doorstep.core.errors import DoorstepError
from doorstep.kernel.home_lock import holder_of
from doorstep.serve.statelock import holder_of_state
from doorstep.testing.installation import RunningInstallation

TIMEOUT_S = 120
HOSTILE = ("queue", "resource", "json", "selectors", "logging", "socket", "doorstep")


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As the installed `doorstep` would: its own folder first, never the working folder."""
    command = [sys.executable, "-P", "-m", "doorstep.cli.main", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)


def children_of(pid: int, word: str) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            line = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and word.encode() in line:
            found.append(int(stat.parent.name))
    return found


def is_gone(pid: int) -> bool:
    """Ended, whether or not somebody has looked at how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_up_imports_nothing_that_lies_in_the_working_folder_and_down_ends_it(tmp_path: Path):
    mark = tmp_path / "mark"
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write(__name__)\n")
    home = tmp_path / ".doorstep"
    ports = [word for name in ("data", "health", "control") for word in (f"--{name}-port", "0")]
    said = cli(tmp_path, "up", "-d", "--json", "--home", str(home), *ports)
    assert said.returncode == 0, said.stderr
    ready = json.loads(said.stdout)
    pid = ready["pid"]
    assert (ready["home"], ready["home_is_new"]) == (str(home), True)
    node = holder_of_state(home / "run" / "node")
    assert holder_of(home) == pid
    assert node is not None
    # A question to the journal is answered by a child.
    assert cli(tmp_path, "journal", "list", "nothing", "--home", str(home)).returncode in (0, 1, 2)
    stopped = cli(tmp_path, "down", "--home", str(home))
    assert stopped.returncode == 0, stopped.stderr
    assert is_gone(pid)
    assert is_gone(node)
    assert not mark.exists(), mark.read_text()


def test_down_returns_when_all_is_gone_and_waits_for_no_hanging_gate(tmp_path: Path):
    found: list[DoorstepError] = []

    def judge() -> None:
        try:
            here.client.run_gates("loans@1")
        except DoorstepError as error:
            found.append(error)

    with RunningInstallation(tmp_path / "home", workers=1) as here:
        here.register("loans")
        judging = threading.Thread(target=judge)
        judging.start()
        up = here.pid("control")
        gate = here.wait(lambda: children_of(up, "doorstep.gate.child"), "a gate")[0]
        # It hangs from now on: it cannot end itself.
        os.kill(gate, signal.SIGSTOP)
        said = cli(tmp_path, "down", "--home", str(here.home))
        assert said.returncode == 0, said.stderr
        assert f"stopped (process {up})" in said.stderr + said.stdout
        assert is_gone(up)
        assert is_gone(gate)
        judging.join(TIMEOUT_S)
        assert len(found) == 1


def test_down_ends_the_node_that_serves_on_when_up_was_killed(tmp_path: Path):
    with RunningInstallation(tmp_path / "home", workers=1) as here:
        here.register("loans")
        here.serve("loans@1")
        node, front = here.pid("node"), here.pid("front")
        here.kill("control")
        assert not is_gone(node)
        said = cli(tmp_path, "down", "--home", str(here.home))
        assert said.returncode == 0, said.stderr
        assert f"process {node}, a node that served on without its `up`" in said.stderr
        assert is_gone(node)
        assert is_gone(front)
        again = cli(tmp_path, "down", "--home", str(here.home))
        assert "nothing is running" in again.stderr
        verify = ("ledger", "verify", "--home", str(here.home))
        whole = cli(tmp_path, *verify)
        assert (whole.returncode, "none changed" in whole.stderr) == (0, True), whole.stderr
        with sqlite3.connect(here.home / "doorstep.db") as database:
            database.execute("UPDATE ledger SET kind = 'release.done' WHERE seq = 1")
        database.close()
        broken = cli(tmp_path, *verify)
        assert broken.returncode == 1
        assert "event 1: " in broken.stdout


def test_down_ends_workers_that_lost_their_node_too(tmp_path: Path):
    with RunningInstallation(tmp_path / "home", workers=2) as here:
        here.register("loans")
        here.serve("loans@1")
        fronts = here.pids("front")
        port = here.data_url.rpartition(":")[2]
        here.kill("control")
        here.kill("node")
        said = cli(tmp_path, "down", "--home", str(here.home), "--json")
        assert said.returncode == 0, said.stderr
        assert f"workers that served on at port {port} without their node" in said.stderr
        assert json.loads(said.stdout) == {"stopped": None, "node": None, "port": int(port)}
        here.wait(lambda: all(map(is_gone, fronts)), "the workers to be gone")
