"""The control plane's threads: HTTP and the two loops, started and stopped together."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar, Request

from doorstep.api.app import build_app
from doorstep.api.sessions import Sessions
from doorstep.compose.control import ControlPlane
from doorstep.compose.loops import QUICK_S, SLOW_S, Loop, Quick, Slow
from doorstep.compose.upkeep import ControlJournal, Uploads
from doorstep.console.asking import Visit
from doorstep.console.routes import console_refusals, console_routes
from doorstep.core.ids import new_id
from doorstep.core.instant import SystemClock
from doorstep.core.structs import prepare_structs
from doorstep.journal.ledgering import record_closed, record_dropped
from doorstep.journal.personal import finish_erasures
from doorstep.journal.spool import take_spools
from doorstep.kernel.child import allow_children, end_children
from doorstep.kernel.db import Database
from doorstep.kernel.home import Home
from doorstep.kernel.keys import load_token
from doorstep.kernel.leadership import Leadership
from doorstep.kernel.settings import LOOPBACK
from doorstep.migrations.upgrade import upgrade
from doorstep.monitor.loop import Monitors
from doorstep.operations import table
from doorstep.release.actions import running_releases
from doorstep.release.outcomes import Losses

STOP_S = 5
HOSTS = frozenset({LOOPBACK, "localhost", "[::1]"})


class _Server(uvicorn.Server):
    """uvicorn in a thread: the process's signals belong to `up`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """Everything of the control plane that runs. `prepare`, `start`, then `stop`."""

    def __init__(
        self,
        home: Home,
        database: Database,
        addresses: dict[str, str],
        trust: Path,
        monitor_every_s: float,
        challenger_lease_s: float,
        replica: str = "",
    ) -> None:
        clock = SystemClock()
        self.control = ControlPlane(home, database, clock, table(), addresses, trust)
        self.control.challenger_lease_s = challenger_lease_s
        self.sessions = Sessions(load_token(home.keys), clock, home.id, self.control.find_person)
        self._monitor_every_s = monitor_every_s
        self._journal = ControlJournal(self.control, replica)
        self._loops: list[Loop] = []
        owner = f"{socket.gethostname()}-{os.getpid()}-{new_id().hex}"
        # The home's lock is ours: with the database in it, nobody else can be leading.
        self._leader = Leadership(database, clock, owner, alone=database.kind == "sqlite")
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def prepare(self) -> None:
        """Bring the database to this release's schema. Raises: RefusedError
        (`database-too-new`)."""
        upgrade(self.control.database)
        allow_children()

    def start(self, bound: socket.socket) -> None:
        """Answer on the bound socket, and begin to look."""
        prepare_structs()
        quick = Quick(self.control, self._leader)
        monitors = Monitors(self.control.leading, self._monitor_every_s)
        slow = Slow(
            self.control,
            [
                self._journal.tick,
                lambda: take_spools(self.control.leading()),
                lambda: record_closed(self.control.leading()),
                lambda: record_dropped(self.control.leading()),
                lambda: finish_erasures(self.control.leading()),
                Uploads(self.control).tick,
            ],
        )
        self._loops = [
            Loop("quick", quick.tick, QUICK_S, self.control.changed),
            Loop("slow", slow.tick, SLOW_S, threading.Event()),
            Loop("monitors", monitors.tick, SLOW_S, threading.Event()),
            Loop("outcomes", self._look_at_outcomes, SLOW_S, threading.Event()),
        ]
        for loop in self._loops:
            loop.start()
        config = uvicorn.Config(
            self.app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=STOP_S,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [bound]}, name="http", daemon=True
        )
        self._thread.start()

    def _look_at_outcomes(self) -> None:
        """In a thread of its own: of many millions it takes minutes."""
        if self.control.term == 0:
            return
        app = self.control.leading()
        releases = [row.release for row in running_releases(app)]
        app.kept.get(Losses, Losses).look(app, releases)

    def app(self) -> Litestar:
        """REST and console as one ASGI application."""

        def sign_in(request: Request[Any, Any, Any]) -> Visit:
            cookie = request.cookies.get(self.sessions.cookie, "")
            who = self.sessions.require_session(cookie)

            def ask(name: str, asked: Any) -> msgspec.Struct:
                return self.control.ask(name, asked, by=who)

            return Visit(who.name, self.sessions.csrf(cookie), ask)

        environment = self.control.home.environment
        pages = console_routes(sign_in, environment=environment)
        shown = console_refusals(environment)
        return build_app(self.control, self.sessions, HOSTS, pages, shown)

    def is_ready(self) -> bool:
        started = self._server is not None and self._server.started
        return started and self.control.is_ready()

    def invite(self) -> str:
        return self.sessions.invite()

    def stop(self) -> None:
        """End what runs in children, stop answering, stop the loops, give the lease back."""
        # First: a request or a loop that waits for a gate would keep this process for minutes.
        end_children()
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(STOP_S + 2)
        for loop in self._loops:
            loop.stop()
        self._journal.stop()
        with contextlib.suppress(Exception):
            self._leader.step_down()
