"""The sockets that a node listens on: taken over from a supervisor that died, or new."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from doorstep.core.errors import RefusedError
from doorstep.serve.orphan import take_listeners

BACKLOG = 2048


def take_listeners_at(
    state: Path, host: str, ports: Mapping[str, int], bound: Mapping[str, int]
) -> list[socket.socket]:
    """The listening sockets, one for each of `ports` by its option: from the workers of a
    supervisor that died here, else those of `bound`, else new ones. Raises: RefusedError
    (`port-in-use`)."""
    found = take_listeners(state)
    taken = []
    for option, port in ports.items():
        old = found.pop(0) if found else None
        if old is not None and old.getsockname()[:2] == (host, port or old.getsockname()[1]):
            taken.append(old)
            continue
        if old is not None:
            old.close()
        taken.append(open_listener(host, port, option, bound.get(option)))
    for one in found:
        one.close()
    return taken


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{host}:{port}"


def open_listener(host: str, port: int, option: str, bound: int | None) -> socket.socket:
    """The one that is bound, if there is one. Raises: RefusedError (`port-in-use`)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, fileno=bound)
    listener.set_inheritable(False)
    try:
        if bound is None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise RefusedError(
            "port-in-use",
            f"{host}:{port} cannot be listened on: {error.strerror}",
            f"stop what uses it, or choose another with --{option}",
        ) from None
    listener.setblocking(False)
    return listener
