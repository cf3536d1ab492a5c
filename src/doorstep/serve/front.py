"""A front worker: takes requests from the shared listening socket, answers, and writes the journal.

    python -m doorstep.serve.front START        (`nodeplan.FrontStart` as JSON)

It is told what to do over the link (`nodeplan.py`). When its supervisor dies it serves on without
challengers, hands the listening socket to the next supervisor, and leaves once that one is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec
import uvloop

from doorstep.core.errors import DoorstepError, UnreachableError
from doorstep.journal.commit import commits_of
from doorstep.journal.erasedlist import ErasedList
from doorstep.journal.options import shortage
from doorstep.journal.replica import VARIABLE, replica_of
from doorstep.journal.writer import BlockWriter
from doorstep.serve import limits, nodeplan
from doorstep.serve.cells import CellKey, CellWriter
from doorstep.serve.counters import CONNECTIONS, IN_FLIGHT
from doorstep.serve.http import Head, HttpConnection
from doorstep.serve.idempotency import IdempotencyKeys
from doorstep.serve.link import Link
from doorstep.serve.models import Models
from doorstep.serve.observe import observers_of
from doorstep.serve.orphan import offer_listeners, short_folder
from doorstep.serve.path import Path as PredictPath
from doorstep.serve.record import Recorder
from doorstep.serve.residents import FAILURES, Residents
from doorstep.serve.site import Site
from doorstep.serve.tls import server_context

if TYPE_CHECKING:
    from doorstep.serve.rpc import RpcConnection, RpcServer

BACKLOG = 2048
JOURNAL_TICK_S = 1.0
GC_THRESHOLD = 50_000
ACCEPTED_S = 0.1
"""Until then a client that was accepted before the listeners closed has been heard of."""
WHY_CHARS_MAX = 200
"""Of each version that cannot be loaded: thousands of them go in one message to the supervisor."""


class Connection(Protocol):
    """A caller's, of any protocol."""

    deadline_s: float

    def leave(self, until_s: float, /) -> None: ...

    def expire(self) -> None: ...


Client: TypeAlias = "HttpConnection | RpcConnection"


class Front:
    """One worker's parts and its life: started, serving, draining, gone."""

    def __init__(self, start: nodeplan.FrontStart, loop: asyncio.AbstractEventLoop) -> None:
        options = start.options
        self._loop = loop
        self._state = Path(options.state)
        shared = [one for one in (options.listen, options.rpc) if one is not None]
        self._listeners = [socket.socket(fileno=one) for one in shared]
        self._link_socket = socket.socket(fileno=start.link)
        self.link = Link(nodeplan.Order, self.obey, self.lose_supervisor)
        self._cells = CellWriter(Path(start.cells), (start.place, options.workers))
        writer = BlockWriter(
            Path(options.journal), node=options.node, boot=options.run, slot=start.slot,
            durable=options.keep.mode == "durable",
            replica=replica_of(os.environ[VARIABLE]) if options.keep.mode == "replicated" else None,
        )  # fmt: skip
        self._journal, self._keep = Path(options.journal), options.keep
        self._recorder = Recorder(writer, commits_of(options.keep.mode, writer, loop))
        models = Models(loop, options.models_bytes)
        self._path = PredictPath(loop, self._recorder, self._cells, self.link, models)
        self._path.observers = observers_of(options.observe)
        self._site = Site(self._path, self._recorder, self._cells, guarded=options.guarded)
        self._residents = Residents(loop, writer.declare, self._slot, models, self.link.say)
        self._site.listen_at(options.predict_route, options.health_route)
        self._site.erased = ErasedList(Path(options.journal))
        self._site.keys = IdempotencyKeys(self._state, Path(start.cells), self.link)
        self._workers = options.workers
        self._contexts = (
            {one: server_context(options.tls, one) for one in ("http/1.1", "h2")}
            if options.tls
            else {}
        )
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._rpc: RpcServer | None = None
        self._rpc_path = short_folder(self._state) / f"rpc-{os.getpid()}.sock"
        self._plan: nodeplan.NodePlan | None = None
        self._lease_held = False
        self._lease_until_s = 0.0
        self._queue: list[int] = []
        self._asked = -1
        self._applying: asyncio.Task[None] | None = None
        self._finished = asyncio.Event()
        self._drain_until_s = 0.0
        self._full = False
        self.now_s = time.monotonic()
        self.draining = False
        self.bodies_bytes = 0
        self.heads: dict[bytes, Head] = {}

    # -- what a connection needs (http.Gate, rpc.RpcGate)

    def opened(self, connection: Connection) -> bool:
        self._connections.add(connection)
        if self.draining:
            connection.leave(self._drain_until_s)
        return len(self._connections) <= limits.CONNECTIONS_MAX

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self.draining:
            # Not now: who was accepted meanwhile is heard of in the next turn of the loop.
            self._loop.call_soon(self._finish_if_empty)

    # -- life

    async def run(self) -> None:
        """Serve until told to drain, or orphaned for good."""
        if len(self._listeners) > 1:
            self._rpc = await self._start_rpc()
        await self._loop.create_connection(lambda: self.link, sock=self._link_socket)
        ticks = [self._loop.create_task(self._sweep()), self._loop.create_task(self._roll_blocks())]
        await self._finished.wait()
        for task in ticks:
            task.cancel()
        self._recorder.close()
        self._rpc_path.unlink(missing_ok=True)
        for one in self._path.observers:
            with contextlib.suppress(OSError):
                one.close()

    def obey(self, order: nodeplan.Order) -> None:
        match order:
            case nodeplan.Apply(generation):
                self._asked = generation
                self._queue.append(generation)
                if self._applying is None:
                    self._applying = self._loop.create_task(self._apply())
            case nodeplan.Lease(held, left_s):
                self._lease_until_s = time.monotonic() + left_s
                self._set_lease(held)
            case nodeplan.Drain(grace_s):
                self.drain(grace_s)
            case nodeplan.Sleep(sockets):
                self._residents.sleep(sockets)

    def drain(self, grace_s: float) -> None:
        """Accept nothing more; every answer from now on closes its connection; idle connections
        get `grace_s` to send a last request."""
        if self.draining:
            return
        self.draining = self._site.draining = True
        self._drain_until_s = time.monotonic() + grace_s
        for server in self._servers:
            server.close()
        # Of a node that ends these are the last: who comes now is refused, and does not wait in a
        # backlog that nobody takes from.
        for listener in self._listeners:
            listener.close()
        for connection in self._connections:
            connection.leave(self._drain_until_s)
        if self._rpc is not None:
            self._loop.call_later(grace_s, self._stop_rpc, self._rpc)
        self._loop.call_later(ACCEPTED_S, self._finish_if_empty)

    def _stop_rpc(self, rpc: RpcServer) -> None:
        self._loop.create_task(rpc.stop())

    def _finish_if_empty(self) -> None:
        greeting = any(one.handshakes for one in self._contexts.values())
        if not self._connections and not greeting:
            self._finished.set()

    def lose_supervisor(self) -> None:
        if not self.draining:
            self._loop.create_task(self._live_orphaned())

    async def _live_orphaned(self) -> None:
        """Serve on; without anybody who watches, challengers get what is left of their lease."""
        left_s = max(self._lease_until_s - time.monotonic(), 0.0)
        self._loop.call_later(left_s, self._set_lease, False)
        mine = _read_text(self._state / nodeplan.SUPERVISOR_FILE)
        offer = self._loop.create_task(offer_listeners(self._state, self._listeners))
        until = time.monotonic() + limits.ORPHAN_S
        while (
            time.monotonic() < until and _read_text(self._state / nodeplan.SUPERVISOR_FILE) == mine
        ):
            await asyncio.sleep(limits.SWEEP_S)
        offer.cancel()
        self.drain(limits.DRAIN_S)

    # -- plans

    async def _apply(self) -> None:
        """Load what was asked for last; before anything is loaded, all that was asked for in turn,
        so that a plan which is refused leaves the one before it serving."""
        while self._queue:
            if self._plan is not None:
                del self._queue[:-1]
            generation = self._queue.pop(0)
            try:
                data = nodeplan.plan_file(self._state, generation).read_bytes()
                await self._load(msgspec.json.decode(data, type=nodeplan.NodePlan))
            except FAILURES as error:
                self.link.say(nodeplan.Refuses(generation, _said(error)))
        self._applying = None

    async def _load(self, plan: nodeplan.NodePlan) -> None:
        failed = await self._residents.load(plan)
        why = "; ".join(f"{name}: {_said(error)}" for name, error in failed.items())
        refusal = nodeplan.Refuses(
            plan.generation, why[: nodeplan.MESSAGE_CHARS_MAX], tuple(failed)
        )
        if failed and len(failed) == len(plan.services):
            are_late = all(isinstance(error, UnreachableError) for error in failed.values())
            if self._plan is None and are_late:
                # Connections wait in the backlog, or orphans answer them, until engines are warm.
                refusal = msgspec.structs.replace(refusal, services=())
                self._queue = self._queue or [plan.generation]
            else:
                self._loop.call_later(limits.RETRY_S, self._retry, plan.generation)
            return self.link.say(refusal)
        self._swap(_mend(plan, set(failed), self._plan))
        held_back = tuple(sorted({*plan.held_back, *failed}))
        unloaded = {
            name: "" if error is None else _said(error)[:WHY_CHARS_MAX]
            for name, error in self._residents.unloaded.items()
        }
        self.link.say(nodeplan.Serves(plan.generation, plan.number, held_back, unloaded))
        if failed or any(unloaded.values()):
            self._loop.call_later(limits.RETRY_S, self._retry, plan.generation)
        if failed:
            self.link.say(refusal)
        return None

    def _retry(self, generation: int) -> None:
        """Load again what could not be, unless another plan was asked for since."""
        if generation == self._asked:
            self.obey(nodeplan.Apply(generation))

    def _swap(self, plan: nodeplan.NodePlan) -> None:
        loaded = self._plan is not None
        self._site.environment = plan.environment
        self._plan = plan
        self._serve(plan)
        self._residents.keep_only(plan)
        if not loaded:
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
        if not loaded and not self.draining:
            self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        makers: list[tuple[str, Callable[[], Client]]] = [
            ("http/1.1", lambda: HttpConnection(self, self._site))
        ]
        if self._rpc is not None:
            makers.append(("h2", self._rpc.make_connection))
        for (protocol, make), listener in zip(makers, self._listeners, strict=True):
            if not self.draining:
                self._servers.append(await self._listen_at(listener, protocol, make))
        if self.draining:
            for server in self._servers:
                server.close()

    async def _listen_at(
        self, listener: socket.socket, protocol: str, make: Callable[[], Client]
    ) -> asyncio.Server:
        context = self._contexts.get(protocol)
        return await self._loop.create_server(
            make, sock=listener.dup(), backlog=BACKLOG, ssl=context,
            ssl_handshake_timeout=limits.HANDSHAKE_S if context else None,
            ssl_shutdown_timeout=limits.TLS_CLOSE_S if context else None,
        )  # fmt: skip

    async def _start_rpc(self) -> RpcServer:
        # Not above: grpcio is an extra, and takes a quarter of a second to load.
        from doorstep.serve.rpc import RpcServer

        rpc = RpcServer(self._site, self, self._rpc_path)
        await rpc.start()
        return rpc

    def _set_lease(self, held: bool) -> None:
        if held == self._lease_held:
            return
        self._lease_held = held
        if self._plan is not None:
            self._serve(self._plan)

    def _serve(self, plan: nodeplan.NodePlan) -> None:
        services = self._residents.services(plan, lease_held=self._lease_held)
        self._site.swap(services, plan.keys, plan.node_share / self._workers)

    def _slot(self, key: CellKey) -> int | None:
        found = self._cells.slot(key)
        if found is None and not self._full:
            self._full = True
            self.link.say(nodeplan.Full())
        return found

    # -- clocks

    async def _sweep(self) -> None:
        """Move the coarse clock and end connections whose time is over."""
        while True:
            now = self.now_s = time.monotonic()
            for connection in [one for one in self._connections if one.deadline_s <= now]:
                connection.expire()
            self._cells.counters.set(IN_FLIGHT, self._path.in_flight)
            self._cells.counters.set(CONNECTIONS, len(self._connections))
            self._flush_observers()
            await asyncio.sleep(limits.SWEEP_S / 5 if self.draining else limits.SWEEP_S)
            if self.draining:
                # Of a handshake that came to nothing we hear no more.
                self._loop.call_later(ACCEPTED_S, self._finish_if_empty)

    def _flush_observers(self) -> None:
        for one in self._path.observers:
            try:
                one.flush()
                self.link.tell("access-log", "")
            except OSError as error:
                self.link.tell("access-log", f"the access log is not written: {error.strerror}")

    async def _roll_blocks(self) -> None:
        """Close blocks that are old, also when nothing arrives."""
        while True:
            self._look_at_disk()
            self._recorder.commit(self._tell_journal)
            await asyncio.sleep(JOURNAL_TICK_S)

    def _look_at_disk(self) -> None:
        """Do as was declared for a disk that is nearly full, before it is full for everybody."""
        recorder, keep = self._recorder, self._keep
        try:
            found = shortage(self._journal, keep.reserve_mb)
        except OSError:
            return  # Nothing can be written there either: that is told when something should be.
        refuses = keep.disk_low == "refuse"
        if recorder.refusal and not found:
            self.link.tell("journal", "")
        recorder.refusal, recorder.is_short = found if refuses else "", bool(found)
        what = "requests are refused with 503" if refuses else "inputs are not recorded"
        self.link.tell("disk", f"{found}: {what}" if found else "")

    def _tell_journal(self, error: Exception | None) -> None:
        if error is not None:
            self.link.tell("journal", f"the journal cannot be written ({error})")
        elif self._keep.mode == "replicated":
            self.link.tell("journal", "")  # the second place was asked, and is there


def _mend(
    plan: nodeplan.NodePlan, failed: set[str], last: nodeplan.NodePlan | None
) -> nodeplan.NodePlan:
    """`plan`, but services that failed are as the last plan had them, or left out."""
    if not failed:
        return plan
    old = {one.service: one for one in last.services} if last else {}
    kept = [old.get(one.service) if one.service in failed else one for one in plan.services]
    services = tuple(one for one in kept if one is not None)
    engines = (last.engines if last else {}) | plan.engines
    return msgspec.structs.replace(plan, services=services, engines=engines)


def _said(error: Exception) -> str:
    said = error.message if isinstance(error, DoorstepError) else str(error) or repr(error)
    return said[: nodeplan.MESSAGE_CHARS_MAX]


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def main() -> None:
    start = msgspec.json.decode(sys.argv[1], type=nodeplan.FrontStart)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    front = Front(start, loop)
    loop.add_signal_handler(signal.SIGTERM, front.drain, limits.DRAIN_S)
    loop.run_until_complete(front.run())
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
