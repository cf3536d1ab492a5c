"""The node that `doorstep up` runs beside the control plane: its supervisor as our child."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from doorstep.core.errors import RefusedError, WaitedError
from doorstep.kernel.files import write_atomic
from doorstep.kernel.home import Home
from doorstep.kernel.settings import LOOPBACK, Port
from doorstep.serve.children import Child
from doorstep.serve.nodeplan import SUPERVISOR_FILE
from doorstep.serve.orphan import orphans_ports, workers_live
from doorstep.serve.statelock import end_holder, holder_of_state

NODE = "local"
NODE_STATE = "node"
OPTIONS = {"data": "port", "health": "health-port", "grpc": "grpc-port"}
"""Of a node, for its ports."""
DRAIN_S = 15.0
END_S = 40.0
"""How long a node may take to answer what is under way when it is ended."""
_PAUSE_S = 0.05
_log = logging.getLogger("doorstep.up")


class NodePorts(msgspec.Struct, frozen=True):
    """grpc: None if it is not served."""

    data: int
    health: int
    grpc: int | None = None


def ports_of_orphans(home: Home) -> dict[str, int]:
    """Where workers of an earlier `up` over this home still serve, by the port's name.

    A control plane that was killed leaves its node serving. Its supervisor is ended here, and its
    workers go on until ours takes their sockets over: no request is dropped.
    """
    state = home.run / NODE_STATE
    end_holder(state)
    return dict(zip(("data", "grpc"), orphans_ports(state), strict=False))


def end_supervisor(home: Path) -> int | None:
    """End the node that an `up` over this home left behind when it was killed: asked to, so that
    it drains. Its pid; None if there is none. Raises: RefusedError (`not-yours`), WaitedError."""
    state = home / "run" / NODE_STATE
    log = home / "run" / "node.log"
    return end_process(lambda: holder_of_state(state), f"the node of {home}", log)


def end_process(holder: Callable[[], int | None], who: str, log: Path) -> int | None:
    """Ask the process that `holder` answers to end, and wait until it is another one or none: its
    pid; None if there is none. Raises: RefusedError (`not-yours`), WaitedError
    (`still-running`)."""
    pid = holder()
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return pid
    except PermissionError:
        raise RefusedError(
            "not-yours", f"process {pid} is {who} and belongs to somebody else"
        ) from None
    hint = f"look into {log}, or end it: kill -9 {pid}"
    _wait_gone(lambda: holder() == pid, f"process {pid}, {who},", hint)
    return pid


def end_orphans(home: Path) -> int | None:
    """End workers that lost their supervisor too, as the next one would: they drain once its file
    is another. The port they served; None if there are none. Raises: WaitedError."""
    state = home / "run" / NODE_STATE
    ports = orphans_ports(state)
    if not ports:
        return None
    write_atomic(state / SUPERVISOR_FILE, b"none")
    _wait_gone(lambda: workers_live(state), f"what serves at port {ports[0]}")
    return ports[0]


def _wait_gone(is_there: Callable[[], bool], what: str, hint: str = "") -> None:
    until_s = time.monotonic() + END_S
    while is_there():
        if time.monotonic() > until_s:
            raise WaitedError(
                "still-running", f"{what} was asked to end {END_S:g} s ago and has not", hint
            )
        time.sleep(_PAUSE_S)


def takes_over(wanted: Port, serving: int | None) -> bool:
    """Whether a node that wants this port goes on at the one where workers still serve."""
    return serving is not None and wanted.number in (0, serving)


class Node:
    """The supervisor as a child: started again, with growing pauses, if it dies."""

    def __init__(
        self, home: Home, ports: NodePorts, workers: int, more: Sequence[str] = ()
    ) -> None:
        argv = [
            *("-m", "doorstep.serve.node", "--home", str(home.path), "--host", LOOPBACK),
            *("--port", str(ports.data), "--health-port", str(ports.health)),
            *("--workers", str(workers), "--state", str(home.run / NODE_STATE), "--node", NODE),
            *(() if ports.grpc is None else ("--grpc-port", str(ports.grpc))),
            *more,
        ]
        self._child = Child("node", "node", argv, home.run)

    def start(self, bound: Mapping[str, socket.socket]) -> None:
        """bound: sockets at its ports, by name; they are its own from now on."""
        given = {OPTIONS[name]: one.fileno() for name, one in bound.items()}
        words = [word for name, fd in given.items() for word in ("--bound", f"{name}={fd}")]
        self._child.keep(tuple(given.values()), [*self._child.argv, *words])
        for one in bound.values():
            one.close()

    def revive(self) -> None:
        """Start it again if it has died and its pause is over; keep its log short."""
        code = self._child.reap()
        if code is not None:
            _log.error("the node ended with code %s", code)
        if self._child.starts:
            self._child.keep()

    def stop(self) -> None:
        """Drain it; end it if it takes too long."""
        self._child.end(DRAIN_S)
