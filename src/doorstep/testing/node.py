"""A node as a real process: started, watched by its report, stopped with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from uuid import UUID

import msgspec

from doorstep.core.record import OutcomeRecord, PredictionMeta
from doorstep.core.report import NodeReport
from doorstep.journal.reader import Group, list_blocks, read_block

WAIT_S = 60.0
POLL_S = 0.02


class RunningNode:
    """`python -m doorstep.serve.node` on free ports; a context manager. more: further options."""

    def __init__(
        self, home: Path, state: Path, *, workers: int = 1, node: str = "test", port: int = 0,
        more: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.home = home
        self.state = state
        self.node = node
        self._arguments = ["--workers", str(workers), "--port", str(port), "--health-port", "0"]
        self._arguments += more
        self._pids: set[int] = set()
        self.process: subprocess.Popen[str] | None = None
        self.data_url = self.health_url = ""

    def __enter__(self) -> RunningNode:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def port(self) -> int:
        return int(self.data_url.rpartition(":")[2])

    def start(self) -> None:
        """Start the process and wait until it says where it listens."""
        command = [sys.executable, "-m", "doorstep.serve.node", "--no-compactor"]
        command += ["--home", str(self.home), "--state", str(self.state), "--node", self.node]
        self.process = subprocess.Popen(
            [*command, *self._arguments], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.data_url, self.health_url = said["data_url"], said["health_url"]

    def report(self) -> NodeReport | None:
        """The node's report as it lies in the home now."""
        path = self.home / "nodes" / f"{self.node}.json"
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            report = msgspec.json.decode(path.read_bytes(), type=NodeReport)
            self._pids |= {one.pid for one in report.workers}
            return report
        return None

    def wait(self, holds: Callable[[NodeReport], bool], what: str = "") -> NodeReport:
        """The first report of this process's life for which `holds`. Raises: TimeoutError."""
        until = time.monotonic() + WAIT_S
        report = None
        while time.monotonic() < until:
            report = self.report()
            if report is not None and report.data_url == self.data_url and holds(report):
                return report
            time.sleep(POLL_S)
        raise TimeoutError(f"the node did not come to: {what or holds}; its report: {report}")

    def wait_plan(self, number: int) -> NodeReport:
        """Until every service is as plan `number` has it."""
        return self.wait(
            lambda report: report.plan_number == number and not report.held_back, f"plan {number}"
        )

    def journaled(self) -> list[tuple[str, PredictionMeta]]:
        """Every prediction in this node's blocks, by prediction id, as often as it is there."""
        found = []
        for path in list_blocks(self.home / "journal" / self.node).values():
            for part in read_block(path.read_bytes()).parts():
                if isinstance(part, Group):
                    found += [(f"{UUID(bytes=one.request)}.{one.row}", one) for one in part.rows]
        return found

    def outcomes(self) -> list[OutcomeRecord]:
        """Every outcome in this node's blocks."""
        blocks = list_blocks(self.home / "journal" / self.node).values()
        parts = [part for path in blocks for part in read_block(path.read_bytes()).parts()]
        return [part for part in parts if isinstance(part, OutcomeRecord)]

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill_supervisor(self) -> None:
        """kill -9; its workers go on."""
        self.report()
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.report()
        self.process.terminate()
        return self.process.wait(WAIT_S)

    def end(self) -> None:
        """Stop it, and kill what it started and did not take with it."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        for pid in self._pids:
            if _is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _is_ours(pid: int) -> bool:
    """Whether this pid is (still) one of our processes: pids are used again."""
    try:
        return b"doorstep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
