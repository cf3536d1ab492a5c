"""`doorstep up`: one control plane and one node over one home, in the foreground.

This process is the control plane; the node's supervisor is its child and serves on without us for
as long as it lives. Ports are bound before anything is announced; a port in use is an error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from doorstep.core.errors import RefusedError, WaitedError
from doorstep.core.instant import SystemClock
from doorstep.kernel.db import Database
from doorstep.kernel.home import Home, open_home
from doorstep.kernel.home_lock import HomeLock
from doorstep.kernel.keys import create_keys
from doorstep.kernel.server import Announcement, announce, withdraw
from doorstep.kernel.settings import LOOPBACK, Port, Settings
from doorstep.kernel.trust import trust_folder

READY_S = 60.0
DRAIN_S = 15.0
RESTART_S = 0.5
RESTART_S_MAX = 10.0
_log = logging.getLogger("doorstep.up")


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """settings: where and on which ports. workers: front workers of the node. monitor_every_s: how
    often the monitors look."""

    settings: Settings
    workers: int = 2
    monitor_every_s: float = 15.0


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Said once everything answers. invite: a link that signs one browser in."""

    console_url: str
    data_url: str
    health_url: str
    invite: str
    home: str
    pid: int


def up(options: UpOptions, say_ready: Callable[[Ready], None]) -> None:
    """Run until SIGTERM or SIGINT; then drain the node and give the lease back.

    Raises: RefusedError (`home-in-use`, `port-in-use`, `home-*`, `database-*`), WaitedError
    (`not-ready`).
    """
    settings = options.settings
    url = settings.database_url
    home = open_home(
        settings.home, create=True, environment=settings.environment, holds_database=not url
    )
    _log_to(home.run / "up.log")
    with HomeLock(home):
        create_keys(home.keys, home.id)
        ports = {name: _claim(name, port) for name, port in _wanted(settings)}
        with contextlib.ExitStack() as stack:
            for held in ports.values():
                stack.callback(held.close)
            _run(options, home, url or home.database_url, ports, say_ready)


def _wanted(settings: Settings) -> Iterator[tuple[str, Port]]:
    yield "data", settings.ports.data
    yield "health", settings.ports.health
    yield "control", settings.ports.control


def _claim(name: str, port: Port) -> socket.socket:
    """A bound socket. Raises: RefusedError (`port-in-use`)."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((LOOPBACK, port.number))
    except OSError as error:
        held.close()
        raise RefusedError(
            "port-in-use",
            f"the {name} port {port.number} on {LOOPBACK} cannot be taken ({error.strerror}); "
            "expected a free one",
            f"doorstep up --{name}-port 0 takes any free port; or stop what uses {port.number}",
        ) from None
    return held


def _run(
    options: UpOptions,
    home: Home,
    database_url: str,
    ports: dict[str, socket.socket],
    say_ready: Callable[[Ready], None],
) -> None:
    numbers = {name: held.getsockname()[1] for name, held in ports.items()}
    addresses = {
        "console": f"http://{LOOPBACK}:{numbers['control']}",
        "data": f"http://{LOOPBACK}:{numbers['data']}",
        "health": f"http://{LOOPBACK}:{numbers['health']}",
    }
    # The node binds its own ports; ours were held to know that they are free.
    ports["data"].close()
    ports["health"].close()
    # Not before the home is known to be ours: HTTP and the pages take a second to import.
    from doorstep.compose.serving import Serving

    database = Database(database_url, SystemClock())
    trust = trust_folder(os.environ, sys.platform)
    node = Node(options, home, numbers["data"], numbers["health"])
    serving = Serving(home, database, addresses, trust, options.monitor_every_s)
    try:
        serving.prepare()
        node.start()
        serving.start(ports["control"])
        _wait_ready(serving.is_ready, node)
        announce(
            home,
            Announcement(
                url=addresses["console"],
                data_url=addresses["data"],
                health_url=addresses["health"],
                pid=os.getpid(),
            ),
        )
        say_ready(
            Ready(
                console_url=addresses["console"],
                data_url=addresses["data"],
                health_url=addresses["health"],
                invite=f"{addresses['console']}/sign-in?code={serving.invite()}",
                home=str(home.path),
                pid=os.getpid(),
            )
        )
        _until_stopped(node)
    finally:
        withdraw(home)
        node.stop()
        serving.stop()
        database.close()


def _wait_ready(is_ready: Callable[[], bool], node: Node) -> None:
    deadline = time.monotonic() + READY_S
    while not is_ready():
        node.revive()
        if time.monotonic() > deadline:
            raise WaitedError(
                "not-ready",
                f"nothing answered within {READY_S:g} s",
                "look into run/up.log and run/node.log of the home",
            )
        time.sleep(0.05)


def _until_stopped(node: Node) -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    while not stopping.wait(0.2):
        node.revive()


class Node:
    """The node's supervisor as a child: started again, with growing pauses, if it dies."""

    def __init__(self, options: UpOptions, home: Home, port: int, health_port: int) -> None:
        state = home.run / "node"
        self._command = [
            *(sys.executable, "-m", "doorstep.serve.node", "--home", str(home.path)),
            *("--host", LOOPBACK, "--port", str(port), "--health-port", str(health_port)),
            *("--workers", str(options.workers), "--state", str(state), "--node", "local"),
        ]
        self._log = home.run / "node.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s = RESTART_S
        self._again_s = 0.0

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def revive(self) -> None:
        """Start it again if it has died and its pause is over."""
        if self._process is None or self._process.poll() is None:
            return
        now_s = time.monotonic()
        if self._again_s == 0.0:
            _log.error("the node ended with code %s", self._process.returncode)
            self._again_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, RESTART_S_MAX)
        elif now_s >= self._again_s:
            self._again_s = 0.0
            self.start()

    def stop(self) -> None:
        """Drain it; end it if it takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("doorstep")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    root.propagate = False
