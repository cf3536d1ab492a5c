"""`doorstep up`: one control plane and one node over one home, in the foreground.

This process is the control plane; the node's supervisor is its child and serves on without us for
as long as it lives. Ports are bound before anything is announced; a port in use is an error.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from doorstep.compose.node import Node, NodePorts, ports_of_orphans, takes_over
from doorstep.core.errors import RefusedError, WaitedError
from doorstep.core.instant import SystemClock
from doorstep.journal.away import declare
from doorstep.kernel.db import Database
from doorstep.kernel.home import Home, is_home, open_home
from doorstep.kernel.home_lock import HomeLock
from doorstep.kernel.keys import create_keys
from doorstep.kernel.server import Announcement, announce, withdraw
from doorstep.kernel.settings import LOOPBACK, Port, Settings
from doorstep.kernel.trust import trust_folder
from doorstep.migrations.upgrade import require_usable
from doorstep.serve.protos import require_grpc
from doorstep.serve.tls import TlsFiles, server_context

READY_S = 60.0
WATCH_S = 0.2
LOG_BYTES_MAX = 10 * 1024 * 1024
_log = logging.getLogger("doorstep.up")


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """settings: where and on which ports. workers: front workers of the node. monitor_every_s: how
    often the monitors look. challenger_lease_s: how long a node lets a challenger serve when it
    hears nothing from us. tls: of the data port. node_words: further options of the node. replica:
    URL of the journal's second place, "" for none. store: a URL to be declared as the store of the
    journal, "" leaves that as it is."""

    settings: Settings
    workers: int = 2
    monitor_every_s: float = 15.0
    challenger_lease_s: float = 60.0
    tls: TlsFiles | None = None
    node_words: tuple[str, ...] = ()
    replica: str = ""
    store: str = ""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Said once everything answers. invite: a link that signs one browser in. home_is_new: it was
    made by this start. grpc_url: "" if gRPC is not served."""

    console_url: str
    data_url: str
    health_url: str
    invite: str
    home: str
    pid: int
    home_is_new: bool = False
    grpc_url: str = ""


def up(options: UpOptions, say_ready: Callable[[Ready], None]) -> None:
    """Run until SIGTERM or SIGINT; then drain the node and give the lease back.

    Raises: RefusedError (`home-in-use`, `port-in-use`, `bad-tls`, `home-*`, `database-*`),
    WaitedError (`not-ready`), MissingExtraError. The home stays locked until this process ends.
    """
    settings = options.settings
    url = settings.database_url
    require_startable(settings, options.tls)
    is_new = not is_home(settings.home)
    home = open_home(
        settings.home, create=True, environment=settings.environment, holds_database=not url
    )
    _log_to(home.run / "up.log")
    # Never left: the lock is free when this process is gone, threads and all, and not before.
    HomeLock(home).__enter__()
    with contextlib.ExitStack() as stack:
        stopping = _stop_on_signals()
        create_keys(home.keys, home.id)
        if options.store:
            declare(home.path, options.store)
        serving = ports_of_orphans(home)
        claimed = {
            name: stack.enter_context(_claim(name, port))
            for name, port in _wanted(settings).items()
            if not takes_over(port, serving.get(name))
        }
        if "data" not in claimed:
            _log.info("a node of an earlier run serves on at %s; it is taken over", serving)
        ports = {name: port for name, port in serving.items() if name in _wanted(settings)}
        ports |= {name: held.getsockname()[1] for name, held in claimed.items()}
        _run(
            Run(options, home, is_new, claimed, ports, stopping),
            url or home.database_url,
            say_ready,
        )


def require_startable(settings: Settings, tls: TlsFiles | None) -> None:
    """Refuse what cannot start before anything is made: a home that is left by it would have to be
    explained. The ports of a home that is there may be those of its own workers.

    Raises: RefusedError (`port-in-use`, `bad-tls`, `database-too-new`), InputError
    (`not-a-database`), UnreachableError (`database-unreachable`), MissingExtraError.
    """
    if settings.ports.grpc.named:
        require_grpc()
    if tls:
        server_context(tls)
    if not is_home(settings.home):
        with contextlib.ExitStack() as stack:
            for name, port in _wanted(settings).items():
                stack.enter_context(_claim(name, port))
        if settings.database_url:
            require_usable(settings.database_url)


def _wanted(settings: Settings) -> Mapping[str, Port]:
    """gRPC is served if its port was asked for."""
    ports = settings.ports
    wanted = {"data": ports.data, "health": ports.health, "control": ports.control}
    return wanted | ({"grpc": ports.grpc} if ports.grpc.named else {})


def _stop_on_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT, from now on: one that comes while we start must not leave a node
    behind."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


class Run(NamedTuple):
    """claimed: bound sockets by name; without those that the node takes over. ports: all."""

    options: UpOptions
    home: Home
    home_is_new: bool
    claimed: Mapping[str, socket.socket]
    ports: Mapping[str, int]
    stopping: threading.Event


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


def _run(run: Run, database_url: str, say_ready: Callable[[Ready], None]) -> None:
    options, home = run.options, run.home
    # Not before the home is known to be ours: HTTP and the pages take a second to import.
    from doorstep.compose.serving import Serving

    database = Database(database_url, SystemClock())
    ports = NodePorts(run.ports["data"], run.ports["health"], run.ports.get("grpc"))
    words = [*(options.tls.words if options.tls else ()), *options.node_words]
    node = Node(home, ports, options.workers, words)
    serving = Serving(
        home,
        database,
        _addresses(run),
        trust_folder(os.environ, sys.platform),
        options.monitor_every_s,
        options.challenger_lease_s,
        options.replica,
    )
    try:
        serving.prepare()
        node.start({name: one for name, one in run.claimed.items() if name != "control"})
        serving.start(run.claimed["control"])
        if _wait_ready(serving.is_ready, node, run.stopping):
            _say(run, serving.invite(), say_ready)
            while not run.stopping.wait(WATCH_S):
                node.revive()
    finally:
        withdraw(home)
        node.stop()
        serving.stop()
        database.close()


def _addresses(run: Run) -> dict[str, str]:
    names = {"console": "control", "data": "data", "health": "health"}
    found = {said: f"http://{LOOPBACK}:{run.ports[name]}" for said, name in names.items()}
    if run.options.tls:
        found["data"] = found["data"].replace("http:", "https:")
    return found


def _say(run: Run, invitation: str, say_ready: Callable[[Ready], None]) -> None:
    """Announce it in the home, then to whoever started us."""
    at = _addresses(run)
    announce(
        run.home,
        Announcement(
            url=at["console"], data_url=at["data"], health_url=at["health"], pid=os.getpid()
        ),
    )
    say_ready(
        Ready(
            console_url=at["console"],
            data_url=at["data"],
            health_url=at["health"],
            invite=f"{at['console']}/sign-in?code={invitation}",
            home=str(run.home.path),
            home_is_new=run.home_is_new,
            pid=os.getpid(),
            grpc_url=f"{LOOPBACK}:{run.ports['grpc']}" if "grpc" in run.ports else "",
        )
    )


def _wait_ready(is_ready: Callable[[], bool], node: Node, stopping: threading.Event) -> bool:
    """False if we were told to stop before. Raises: WaitedError (`not-ready`)."""
    deadline = time.monotonic() + READY_S
    while not is_ready():
        node.revive()
        if time.monotonic() > deadline:
            raise WaitedError(
                "not-ready",
                f"nothing answered within {READY_S:g} s",
                "look into run/up.log and run/node.log of the home",
            )
        if stopping.wait(0.05):
            return False
    return True


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("doorstep")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    root.propagate = False
