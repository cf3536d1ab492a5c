"""The servers that are measured, each as processes of its own: started cold, watched, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from peers import Peer, Row

from doorstep.core.plan import ServicePlan
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

HERE = Path(__file__).parent
START_S_MAX = 120.0
STOP_S_MAX = 20.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PREDICT = "/v1/services/bench/predict"


class Server(Protocol):
    """A server that has given its first answer. root: of its process tree."""

    title: str
    port: int
    path: str
    root: int
    cold_start_s: float

    def ask(self, row: Row) -> Any: ...

    def read(self, said: Any) -> list[float]: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self) -> None: ...


class Program:
    """A server of one program, in a process group of its own that stands still while another is
    measured."""

    def __init__(
        self, title: str, command: list[str], port: int, path: str, row: Row,
        ask: Callable[[Row], Any], read: Callable[[Any], list[float]], log: Path,
    ) -> None:  # fmt: skip
        self.title, self.port, self.path, self.ask, self.read = title, port, path, ask, read
        paths = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
        began_s = time.perf_counter()
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True,
                env=os.environ | {"PATH": paths}, cwd=log.parent,
            )  # fmt: skip
        self.root = self.process.pid
        try:
            wait_answer(self, row, self.process)
        except BaseException:
            self.stop()
            raise
        self.cold_start_s = time.perf_counter() - began_s

    def pause(self) -> None:
        os.killpg(self.root, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.root, signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end; then end what is left of its group."""
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self.resume()
            self.process.terminate()
            self.process.wait(STOP_S_MAX)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.root, signal.SIGKILL)
        self.process.wait()


def start_bare(model: Path, row: Row) -> Program:
    port = free_port()
    command = [sys.executable, str(HERE / "bare.py"), str(model), json.dumps(list(row)), str(port)]
    return Program(
        "bare prototype", command, port, "/", row, lambda row: {"rows": [row]},
        lambda said: list(said["predictions"][0].values()), model.with_name("bare.log"),
    )  # fmt: skip


def start_peer(peer: Peer, models: Path, row: Row) -> Program:
    """Raises: ChildProcessError if it ends before its first answer; TimeoutError."""
    port = free_port()
    script = str(HERE / "peers" / peer.script)
    # -P: a server of ours must not be imported in place of a package of that name.
    command = [str(peer.folder / "bin/python"), "-P", script, str(port), str(models / peer.model)]
    log = models / f"{peer.key}.log"
    return Program(peer.title, command, port, peer.path, row, peer.ask, peer.read, log)


class Doorstep:
    """A node with one front worker and one plan. `home` is published with `plan` before it starts.

    Its idle processes do next to nothing, so they need not be stopped while others are measured
    (its supervisor would take a stopped worker for a hung one)."""

    path = PREDICT

    def __init__(self, title: str, home: TestHome, plan: ServicePlan, row: Row) -> None:
        self.title, self.home = title, home
        number = home.publish(plan, lease_s=3600)
        began_s = time.perf_counter()
        self.node = RunningNode(home.path, home.path.with_name(home.path.name + "-state"))
        self.node.start()
        assert self.node.process is not None
        self.port, self.root = self.node.port, self.node.process.pid
        try:
            wait_answer(self, row, self.node.process)
            self.cold_start_s = time.perf_counter() - began_s
            self.node.wait_plan(number)
        except BaseException:
            self.stop()
            raise

    @property
    def front(self) -> int:
        """The pid of its front worker."""
        report = self.node.wait(lambda one: any(w.kind == "front" for w in one.workers))
        return next(one.pid for one in report.workers if one.kind == "front")

    def ask(self, row: Row) -> Any:
        return {"rows": [row]}

    def read(self, said: Any) -> list[float]:
        return list(said["predictions"][0]["probabilities"].values())

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self) -> None:
        self.node.end()


def answer(server: Server, row: Row) -> list[float]:
    """The probabilities that a server answers. Raises: OSError."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{server.path}", data=json.dumps(server.ask(row)).encode(),
        headers={"content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=10) as found:
        return server.read(json.loads(found.read()))


def wait_answer(server: Server, row: Row, process: subprocess.Popen[Any]) -> None:
    until_s = time.monotonic() + START_S_MAX
    while time.monotonic() < until_s:
        try:
            answer(server, row)
            return
        except OSError:
            if process.poll() is not None:
                raise ChildProcessError(f"ended with code {process.returncode}") from None
            time.sleep(0.005)
    raise TimeoutError(f"gave no answer in {START_S_MAX:.0f} s")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def tree(root: int) -> list[int]:
    """The pids of a process and of all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_s(root: int) -> float:
    """CPU of the whole tree, with that of children that are gone."""
    total = 0
    for pid in tree(root):
        total += sum(map(int, _stat(pid)[11:15]))
    return total / TICKS_PER_S


def rss_mb(pids: list[int]) -> float:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * PAGE_BYTES / 1e6


def _stat(pid: int) -> list[str]:
    """The fields of a process from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
