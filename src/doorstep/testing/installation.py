"""A whole installation as real processes: `doorstep up` on free ports, over a home of its own.

    with RunningInstallation(tmp_path / "home") as here:
        here.register("loans")
        here.serve("loans@1")
        here.kill("node")

Also runs as `python -m doorstep.testing.installation --home H ...`: `up` with what tests need.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec
import numpy as np

from doorstep.client import Client, connect
from doorstep.compose.up import Ready, UpOptions, up
from doorstep.core.contract import Field
from doorstep.core.errors import DoorstepError
from doorstep.core.ids import digest_of
from doorstep.core.record import Kind
from doorstep.core.report import NodeReport
from doorstep.journal.reader import Group
from doorstep.journal.replica import VARIABLE
from doorstep.journal.rows import tail_parts
from doorstep.journal.snapshot import take_snapshots
from doorstep.kernel.nodes import read_report
from doorstep.kernel.settings import Flags, read_settings
from doorstep.register.surface import Version
from doorstep.release.surface import Release
from doorstep.serve.statelock import holder_of_state
from doorstep.testing.home import Behaviour, TestHome, linear_weights
from doorstep.testing.processes import WAIT_S, is_alive, kill_left, wait_for

NODE = "local"
Process = Literal["control", "node", "front", "engine", "shadow", "compactor"]
QUICK_RELEASE = "{shadow: {requests: 0}, steps: [20%, 50%], dwell: 1s, bake: 1s}"
"""Decides as a long release does, on as much evidence; only its waits are short."""


class RunningInstallation:
    """A context manager. database: a URL, "" for SQLite in the home. Needs the `onnx` package.
    DOORSTEP_REPLICA in its environment makes its journal a replicated one."""

    def __init__(
        self,
        home: Path,
        *,
        database: str = "",
        workers: int = 2,
        lease_s: float = 60.0,
        monitor_s: float = 3600.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.process: subprocess.Popen[str] | None = None
        self.ready: Ready | None = None
        self._arguments = ["--workers", str(workers), "--lease-s", str(lease_s)]
        self._arguments += ["--monitor-s", str(monitor_s)]
        self._environ = {**os.environ, "DOORSTEP_DATABASE": database, **(environ or {})}
        self._ports = {"data": 0, "health": 0, "control": 0}
        self._pids: set[int] = set()
        self._client: Client | None = None

    def __enter__(self) -> RunningInstallation:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # -- life

    def command(self, **ports: int) -> list[str]:
        """The command line that runs `up` over this home."""
        words = [f"--{name}-port={number}" for name, number in (self._ports | ports).items()]
        module = "doorstep.testing.installation"
        return [sys.executable, "-m", module, "--home", str(self.home), *self._arguments, *words]

    def start(self) -> Ready:
        """Start `up` and wait until it says that it is ready. Raises: RuntimeError if it ends."""
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self._environ, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, said = self.process.communicate()
            raise RuntimeError(f"up ended with code {self.process.returncode}: {said}")
        self.ready = msgspec.json.decode(line, type=Ready)
        # The next `up` over this home gets the same addresses, as it would from a settings file.
        for name in ("data", "health"):
            self._ports[name] = int(getattr(self.ready, f"{name}_url").rpartition(":")[2])
        self._forget_client()
        return self.ready

    def restart(self) -> Ready:
        """Start `up` again, after it was stopped or killed."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        return self.start()

    def stop(self) -> int:
        """SIGTERM to `up`; its exit code."""
        assert self.process is not None
        self._remember()
        self.process.terminate()
        code = self.process.wait(WAIT_S)
        self._close_pipes()
        return code

    def kill(self, what: Process) -> int:
        """kill -9 one process of this kind; the pid that it had."""
        self._remember()
        pid = self.pid(what)
        os.kill(pid, signal.SIGKILL)
        if what == "control":
            assert self.process is not None
            self.process.wait(WAIT_S)
            self._close_pipes()
        return pid

    def pid(self, what: Process) -> int:
        """The pid of the newest process of this kind. Raises: TimeoutError if none comes up."""
        if what == "control":
            assert self.process is not None
            return self.process.pid
        return self.wait(lambda: next(iter(self.pids(what)), None), f"a {what} process")

    def pids(self, what: Process) -> list[int]:
        """Of all live processes of this kind that the node reports, or of its supervisor."""
        if what == "node":
            holder = holder_of_state(self.home / "run" / "node")
            return [holder] if holder else []
        report = self.report()
        workers = report.workers if report else ()
        return [one.pid for one in workers if one.kind == what and is_alive(one.pid)]

    def end(self) -> None:
        """Stop it, and kill whatever of it is still there."""
        self._forget_client()
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        self._remember()
        kill_left(self._pids)

    def _remember(self) -> None:
        report = self.report()
        found = [one.pid for one in report.workers] if report else []
        if self.process is not None:
            found.append(self.process.pid)
        self._pids |= {pid for pid in (*found, *self.pids("node")) if is_alive(pid)}

    def _close_pipes(self) -> None:
        assert self.process is not None
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    # -- looking at it

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = connect(home=self.home)
        return self._client

    def _forget_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def data_url(self) -> str:
        assert self.ready is not None
        return self.ready.data_url

    @property
    def console_url(self) -> str:
        assert self.ready is not None
        return self.ready.console_url

    def report(self) -> NodeReport | None:
        """The node's report as it lies in the home now."""
        return read_report(self.home / "nodes" / f"{NODE}.json")

    def journaled(self) -> list[tuple[str, int]]:
        """(prediction id, answering version) of every live prediction, as often as it is there."""
        from doorstep.journal import duck

        found: list[tuple[str, int]] = []
        snapshots = take_snapshots(self.home)
        for one in tail_parts(snapshots):
            if isinstance(one.part, Group):
                rows = [row for row in one.part.rows if row.kind != Kind.SHADOW]
                found += [(f"{UUID(bytes=row.request)}.{row.row}", row.version) for row in rows]
        files = [
            snapshot.folder / file.path
            for snapshot in snapshots
            for file in snapshot.files
            if file.holds == "predictions"
        ]
        if files:
            query = f"SELECT id, version FROM {duck.parquet_of(files)} WHERE kind <> ?"  # noqa: S608
            with tempfile.TemporaryDirectory() as temp:
                connected = duck.connect(Path(temp))
                found += connected.execute(query, [int(Kind.SHADOW)]).fetchall()
                connected.close()
        return found

    # -- models

    def serve(self, version: str) -> Release:
        """Run its gates, release it, and wait until nodes serve it (a first version), or until its
        release is settled at its first step. Raises: what the operations raise."""
        self.client.run_gates(version)
        return self.settled(self.client.start_release(version).id)

    def settled(self, release: str) -> Release:
        """The release once every live node serves what it decided."""

        def look() -> Release | None:
            found = self.client.release(release)
            return found if found.settled else None

        return self.wait(look, f"{release} settled")

    def register(
        self,
        service: str,
        *,
        seed: int = 0,
        behaviour: Behaviour = "linear",
        release: str = QUICK_RELEASE,
        more: str = "",
        speed_ms_p99: float = 0.1,
        context: Sequence[Field] = (),
    ) -> Version:
        """Register a tiny ONNX model of three numbers (x0, x1, x2) with the labels bad and good.

        behaviour: "raises" fails on rows with a negative x0. more: further lines of its service
        file. speed_ms_p99: 0 is unmeasured, which an engine process serves. context: fields that
        come with a request, beside those.
        """
        with tempfile.TemporaryDirectory() as temp:
            maker = TestHome(Path(temp))
            contract = TestHome.contract(3, context=tuple(context))
            digest = maker.bundle(contract, seed=seed, behaviour=behaviour)
            rows = write_holdout(Path(temp) / "holdout.parquet", seed)
            self.client.upload(
                Path(temp) / "bundles" / digest, {rows: Path(temp) / "holdout.parquet"}
            )
        file = service_file(service, release, more)
        return self.client.register(file, digest, holdout=rows, speed_ms_p99=speed_ms_p99)

    wait = staticmethod(wait_for)


def write_holdout(path: Path, seed: int, rows: int = 400) -> str:
    """Rows that `bundle(contract(3), seed=seed)` answers rightly, none with a negative x0; the
    digest of the file."""
    from doorstep.journal import duck

    generator = np.random.default_rng(seed + 1)
    inputs = np.abs(generator.normal(size=(rows, 3)))
    weights, offsets = linear_weights(3, 2, seed)
    scores = inputs @ weights + offsets
    labels = np.where(scores[:, 0] >= scores[:, 1], "bad", "good")
    columns = {f"x{at}": inputs[:, at] for at in range(3)} | {"label": labels.astype(object)}
    connected = duck.connect(path.parent / "spill")
    connected.register("held", columns)
    duck.copy_to(connected, "held", "x0", path)
    connected.close()
    return digest_of(path.read_bytes())


def service_file(service: str, release: str = QUICK_RELEASE, more: str = "") -> str:
    """The service file of the tiny models. more: may say other ids."""
    ids = "" if "ids:" in more else "ids: {key: id}"
    return f"""doorstep: 1
service: {service}
{ids}
model: {{label: label, positive: bad}}
data: {{holdout: holdout.parquet}}
release: {release}
{more}
"""


def main() -> None:
    """`up` in the foreground; says on standard output when it is ready."""
    parser = argparse.ArgumentParser(prog="doorstep.testing.installation")
    parser.add_argument("--home", required=True)
    for name in ("data", "health", "control"):
        parser.add_argument(f"--{name}-port", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--lease-s", type=float, default=60.0)
    parser.add_argument("--monitor-s", type=float, default=3600.0)
    asked = parser.parse_args()
    flags = Flags(
        home=asked.home,
        data_port=asked.data_port,
        health_port=asked.health_port,
        control_port=asked.control_port,
    )
    options = UpOptions(
        settings=read_settings(flags, os.environ, Path.cwd()),
        workers=asked.workers,
        monitor_every_s=asked.monitor_s,
        challenger_lease_s=asked.lease_s,
        replica=os.environ.get(VARIABLE, ""),
        node_words=("--journal", "replicated") if os.environ.get(VARIABLE) else (),
    )
    try:
        up(options, lambda ready: print(msgspec.json.encode(ready).decode(), flush=True))
    except DoorstepError as error:
        sys.exit(f"{error.code}: {error.message}")


if __name__ == "__main__":
    main()
