"""A node as a real process: started, watched by its report, stopped with all that it started."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from doorstep.core.record import OutcomeRecord, PredictionMeta
from doorstep.core.report import NodeReport
from doorstep.journal.reader import Group, list_blocks, read_block
from doorstep.kernel.nodes import read_report
from doorstep.testing.processes import POLL_S, WAIT_S, kill_left


class RunningNode:
    """`python -m doorstep.serve.node` on free ports; a context manager. more: further options."""

    def __init__(
        self,
        home: Path,
        state: Path,
        *,
        workers: int = 1,
        node: str = "test",
        port: int = 0,
        memory_mb: int = 0,
        grpc_port: int | None = None,
        more: Sequence[str] = (),
        compactor: bool = False,
    ) -> None:
        self.home = home
        self.state = state
        self.node = node
        self._arguments = ["--workers", str(workers), "--port", str(port), "--health-port", "0"]
        self._arguments += ["--memory", str(memory_mb)]
        if grpc_port is not None:
            self._arguments += ["--grpc-port", str(grpc_port)]
        self._arguments += more if compactor else ["--no-compactor", *more]
        self._pids: set[int] = set()
        self.process: subprocess.Popen[str] | None = None
        self.data_url = self.health_url = self.grpc_url = ""

    def __enter__(self) -> RunningNode:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def port(self) -> int:
        return int(self.data_url.rpartition(":")[2])

    def start(self) -> None:
        """Start the process and wait until it says where it listens."""
        command = [sys.executable, "-m", "doorstep.serve.node"]
        command += ["--home", str(self.home), "--state", str(self.state), "--node", self.node]
        self.process = subprocess.Popen(
            [*command, *self._arguments], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.data_url, self.health_url = said["data_url"], said["health_url"]
        self.grpc_url = said["grpc_url"]

    def report(self) -> NodeReport | None:
        """The node's report as it lies in the home now."""
        report = read_report(self.home / "nodes" / f"{self.node}.json")
        self._pids |= {one.pid for one in report.workers} if report else set()
        return report

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
        groups = [part for part in self._parts() if isinstance(part, Group)]
        rows = [one for group in groups for one in group.rows]
        return [(f"{UUID(bytes=one.request)}.{one.row}", one) for one in rows]

    def outcomes(self) -> list[OutcomeRecord]:
        """Every outcome in this node's blocks."""
        return [part for part in self._parts() if isinstance(part, OutcomeRecord)]

    def _parts(self) -> list[Group | OutcomeRecord]:
        blocks = list_blocks(self.home / "journal" / self.node).values()
        return [part for path in blocks for part in read_block(path.read_bytes()).parts()]

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
        kill_left(self._pids)
