"""The listening socket outlives its supervisor: workers hand it to the next one.

An orphaned worker listens on `<state>/listener.sock` (first come; 0600) and passes the descriptor
to whoever connects, so that no connection that waits to be accepted is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from pathlib import Path

from doorstep.serve.nodeplan import LISTENER_SOCKET

PATH_BYTES_MAX = 100
TAKE_TIMEOUT_S = 2.0
RETRY_S = 0.5


def short_folder(state: Path) -> Path:
    """A folder for Unix sockets: `state`, or one with a short name that it points to, because the
    path of a Unix socket is limited to about 100 bytes."""
    if len(os.fsencode(state)) <= PATH_BYTES_MAX - 40:
        return state
    pointer = state / "sockets"
    if pointer.is_symlink() and pointer.is_dir():
        return pointer.readlink()
    made = Path(tempfile.mkdtemp(prefix="doorstep-"))
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(made)
    return made


async def offer_listener(state: Path, listener: socket.socket) -> None:
    """Hand `listener` to whoever asks, until cancelled."""
    loop = asyncio.get_running_loop()
    path = short_folder(state) / LISTENER_SOCKET
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.setblocking(False)
    try:
        while True:
            try:
                _bind(server, path)
                break
            except OSError:
                await asyncio.sleep(RETRY_S)
        while True:
            peer, _ = await loop.sock_accept(server)
            with peer:
                peer.setblocking(True)
                socket.send_fds(peer, [b"listener"], [listener.fileno()])
    finally:
        server.close()


def take_listener(state: Path) -> socket.socket | None:
    """The listening socket of a supervisor that died here, from one of its workers; None if there
    is none."""
    # The name stays: if we die before our workers are up, the next one takes it from there again.
    return _receive(short_folder(state) / LISTENER_SOCKET)


def orphans_port(state: Path) -> int | None:
    """The port on which workers that lost their supervisor still serve; None if there are none.
    They keep their socket, and hand it to the next supervisor as if nobody had looked."""
    if not state.is_dir():
        return None
    found = _receive(short_folder(state) / LISTENER_SOCKET)
    if found is None:
        return None
    with found:
        return int(found.getsockname()[1])


def _receive(path: Path) -> socket.socket | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TAKE_TIMEOUT_S)
        try:
            client.connect(str(path))
            _, found, _, _ = socket.recv_fds(client, 64, 1)
        except ConnectionRefusedError:
            # Whoever offered it is gone, and its name is in the way of the next one.
            path.unlink(missing_ok=True)
            return None
        except OSError:
            return None
    return socket.socket(fileno=found[0]) if found else None


def _bind(server: socket.socket, path: Path) -> None:
    _remove_stale(path)
    old = os.umask(0o177)
    try:
        server.bind(str(path))
    finally:
        os.umask(old)
    server.listen(4)


def _remove_stale(path: Path) -> None:
    """A worker that offered its socket and is gone has left the name behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        with contextlib.suppress(OSError):
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
