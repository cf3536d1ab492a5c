"""The listening sockets outlive their supervisor: workers hand them to the next one.

An orphaned worker listens on `<state>/listener.sock` (first come; 0600) and passes the descriptors
to whoever connects, so that no connection that waits to be accepted is lost. Locks, which end with
their holders, say what a name in a folder cannot: `workers-<run>.lock`, that workers of this
supervisor live here, so that the next one waits for their offer, and does not report its plan as
served while they answer by an older one; `listener.lock`, that one of them offers, so that the
others leave its name alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from doorstep.serve.nodeplan import LISTENER_SOCKET

PATH_BYTES_MAX = 100
LISTENERS_MAX = 2
WORKERS_LOCKS = "workers*.lock"
OFFER_LOCK = "listener.lock"
TAKE_S = 10.0
"""How long workers that live may take to notice their supervisor's death and offer the socket."""
ANSWER_S = 2.0
RETRY_S = 0.5
TAKE_RETRY_S = 0.05
T = TypeVar("T")


def short_folder(state: Path) -> Path:
    """A folder for Unix sockets: `state`, or one with a short name that it points to, because the
    path of a Unix socket is limited to about 100 bytes."""
    if len(os.fsencode(state)) <= PATH_BYTES_MAX - 40:
        return state
    pointer = state / "sockets"
    if pointer.is_symlink() and not pointer.is_dir():
        pointer.unlink(missing_ok=True)
    if not pointer.is_symlink():
        made = Path(tempfile.mkdtemp(prefix="doorstep-"))
        try:
            pointer.symlink_to(made)
        except FileExistsError:
            made.rmdir()  # another process was first
    return pointer.readlink()


def hold_alive(state: Path, run: str) -> int:
    """A descriptor that says that workers of this run of a supervisor live here, for as long as any
    of them has it."""
    return _lock(_workers_lock(state, run), fcntl.LOCK_SH)


def _workers_lock(state: Path, run: str) -> Path:
    return state / f"workers-{run}.lock"


async def offer_listeners(state: Path, listeners: Sequence[socket.socket]) -> None:
    """Hand `listeners` to whoever asks, until cancelled; while another worker does, wait."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as held:
        lock = await _until_done(lambda: _lock(state / OFFER_LOCK, fcntl.LOCK_EX))
        held.callback(os.close, lock)
        server = await _until_done(lambda: _listen_at(short_folder(state) / LISTENER_SOCKET))
        held.enter_context(server)
        while True:
            peer, _ = await loop.sock_accept(server)
            # One that asked and did not wait for the answer is no reason to end the offer.
            with peer, contextlib.suppress(OSError):
                peer.setblocking(True)
                socket.send_fds(peer, [b"listeners"], [one.fileno() for one in listeners])


async def _until_done(do: Callable[[], T]) -> T:
    while True:
        try:
            return do()
        except OSError:
            await asyncio.sleep(RETRY_S)


def take_listeners(state: Path) -> list[socket.socket]:
    """The listening sockets of a supervisor that died here, from one of its workers, once they
    offer them; none if none of them lives, or none offers them in time."""
    # The name stays: if we die before our workers are up, the next one takes it from there again.
    path = short_folder(state) / LISTENER_SOCKET
    until_s = time.monotonic() + TAKE_S
    while not (found := _receive(path)) and time.monotonic() < until_s:
        if not workers_live(state):
            return []
        time.sleep(TAKE_RETRY_S)
    return found


def orphans_ports(state: Path) -> list[int]:
    """The ports on which workers that lost their supervisor still serve: HTTP, then gRPC. They
    keep their sockets, and hand them to the next supervisor as if nobody had looked."""
    ports = []
    for one in take_listeners(state) if state.is_dir() else ():
        with one:
            ports.append(int(one.getsockname()[1]))
    return ports


def _receive(path: Path) -> list[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_S)
        try:
            client.connect(str(path))
            _, found, _, _ = socket.recv_fds(client, 64, LISTENERS_MAX)
        except OSError:
            return []
    return [socket.socket(fileno=one) for one in found]


def workers_live(state: Path) -> bool:
    """Whether some process holds what `hold_alive` answered to any supervisor here."""
    return any(_is_held(one) for one in state.glob(WORKERS_LOCKS))


class Orphans:
    """Workers of supervisors before this one, which answer on until they have seen it. number: of
    the plan that they serve, 0 if that is not known."""

    def __init__(self, state: Path, run: str) -> None:
        self._state, self._mine = state, _workers_lock(state, run)
        self._are_gone = False
        self.number = 0

    def numbers(self) -> list[int]:
        """The number, as long as any of them lives; what those that are gone left is removed."""
        if not self._are_gone:
            others = set(self._state.glob(WORKERS_LOCKS)) - {self._mine}
            gone = {one for one in others if not _is_held(one)}
            for path in gone:
                path.unlink(missing_ok=True)
            self._are_gone = gone == others
        return [] if self._are_gone else [self.number]


def _is_held(path: Path) -> bool:
    try:
        os.close(_lock(path, fcntl.LOCK_EX))
    except OSError:
        return True
    return False


def _lock(path: Path, kind: int) -> int:
    """Raises: OSError if somebody holds it the other way."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _listen_at(path: Path) -> socket.socket:
    """A socket at `path`, whatever lay there: it appears only once it can be connected to."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        server.bind(str(temporary))
        server.listen(4)
        server.setblocking(False)
        temporary.replace(path)
    except OSError:
        server.close()
        raise
    finally:
        os.umask(old)
    return server
