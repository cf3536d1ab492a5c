"""A load generator in a process of its own: keep-alive connections, one request at a time on each.

    python -m doorstep.serve.generator < LOAD       a `Load` as JSON; prints `Answered` as JSON

Without a rate every connection sends its next request when it has its answer: for CPU per request
and capacity. With a rate (requests per second) requests are due at fixed times, whatever becomes of
those before, and a latency counts from when its request was due, not from when a connection was
free for it: so a server that stalls is not asked less while it does (coordinated omission).

It sleeps in `select`, whose time-outs are not rounded to milliseconds as those of epoll and of
uvloop are. It ends by itself, at most `patience_s` after `seconds`.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from time import perf_counter
from urllib.parse import urlsplit

import msgspec

from doorstep.core.errors import UnreachableError

RECEIVE_BYTES = 65536
SEND_S_MAX = 10.0
START_S_MAX = 30.0
"""For Python to start and to connect, on a machine that is busy."""
TICK_S = 0.2


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """bodies: JSON, sent in turn. rate: requests per second, 0 for a closed loop. ca: PEM file of
    certificates to believe, "" for the system's. patience_s: for the last answers."""

    url: str
    path: str
    bodies: tuple[bytes, ...]
    seconds: float
    rate: float = 0.0
    connections: int = 16
    headers: dict[str, str] = {}
    ca: str = ""
    patience_s: float = 60.0


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """good: answers of 200. bad: others, by status in `statuses`. dropped: connections that ended
    without an answer. unsent: due, but no connection was free for them until the end. s: how long
    it took, the last answers included. cpu_s: of the generator itself. latencies_ms: with a rate,
    of the good answers in order, and how long the others had waited when they were given up."""

    good: int
    bad: int
    statuses: dict[int, int]
    dropped: int
    unsent: int
    s: float
    cpu_s: float
    latencies_ms: list[float]


def start(load: Load) -> subprocess.Popen[bytes]:
    """A generator that has its load; `finish` it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "doorstep.serve.generator"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(load))
    process.stdin.close()
    process.stdin = None  # else `communicate` would flush it
    return process


def finish(
    process: subprocess.Popen[bytes], load: Load, tick: Callable[[], None] = lambda: None
) -> Answered:
    """What it found. tick: called about five times a second until then.
    Raises: UnreachableError (`no-answer`)."""
    until_s = time.monotonic() + load.seconds + load.patience_s + START_S_MAX
    try:
        while True:
            try:
                found, said = process.communicate(timeout=TICK_S)
                break
            except subprocess.TimeoutExpired:
                tick()
                if time.monotonic() > until_s:
                    found, said = b"", b"it gave no answer in time"
                    break
    finally:
        process.kill()
        process.wait()
    if not found:
        why = said.decode(errors="replace").strip().rpartition("\n")[2]
        hint = "doorstep status"
        raise UnreachableError("no-answer", f"{load.url} cannot be asked: {why}", hint)
    return msgspec.json.decode(found, type=Answered)


def ask(load: Load, tick: Callable[[], None] = lambda: None) -> Answered:
    """Start one and wait for it. Raises: UnreachableError (`no-answer`)."""
    return finish(start(load), load, tick)


class Connection:
    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        self.host, self.tls = parts.hostname or "", tls
        self.port = parts.port or (443 if tls else 80)
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection((self.host, self.port), SEND_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            self.socket = self.tls.wrap_socket(self.socket, server_hostname=self.host)
        else:
            self.socket.settimeout(None)  # one system call less for each request
        self.buffer = b""
        self.size = 0
        self.due_s = 0.0
        self.waits = False

    def send(self, request: bytes, due_s: float) -> None:
        self.due_s = due_s
        self.waits = True
        try:
            if self.tls is not None:
                self.socket.settimeout(SEND_S_MAX)
            self.socket.sendall(request)
        except OSError:
            return  # the next `receive` finds that it has ended

    def receive(self) -> bytes | None:
        """A whole answer; b"" if the connection has ended; None if there is more to come."""
        try:
            if self.tls is not None:
                self.socket.settimeout(0.0)  # what is ready may be a ticket, and no answer
            data = self.socket.recv(RECEIVE_BYTES)
        except ssl.SSLWantReadError:
            return None
        except OSError:
            return b""
        if not data:
            return data
        self.buffer += data
        if not self.size:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = self.buffer[:end].lower() + b"\r"
            at = head.index(b"content-length: ") + 16
            self.size = end + 4 + int(head[at : head.index(b"\r", at)])
        if len(self.buffer) < self.size:
            return None
        answer, self.buffer, self.size, self.waits = self.buffer, b"", 0, False
        return answer


class Generator:
    def __init__(self, load: Load) -> None:
        self.load = load
        is_tls = load.url.startswith("https:")
        tls = ssl.create_default_context(cafile=load.ca or None) if is_tls else None
        self.requests = cycle(_requests(load))
        made = [Connection(load.url, tls) for _ in range(load.connections)]
        self.known = {one.socket.fileno(): one for one in made}
        self.free = made
        self.statuses: dict[int, int] = {}
        self.dropped = 0
        self.latencies_ms: list[float] = []

    def run(self) -> Answered:
        rate, began_s = self.load.rate, perf_counter()
        due_s = self._send(began_s)
        end_s = began_s + self.load.seconds
        waited = [end_s - due_s - k / rate for k in range(math.ceil((end_s - due_s) * rate))]
        good = self.statuses.get(200, 0)
        return Answered(
            good=good,
            bad=sum(self.statuses.values()) - good,
            statuses=self.statuses,
            dropped=self.dropped,
            unsent=len(waited),
            s=perf_counter() - began_s,
            cpu_s=time.process_time(),
            latencies_ms=self.latencies_ms + [1000 * one for one in waited] if rate else [],
        )

    def _send(self, began_s: float) -> float:
        """Until the last answer. Answers when the first request that was never sent was due."""
        rate, due_s, end_s = self.load.rate, began_s, began_s + self.load.seconds
        last_s = end_s + self.load.patience_s
        while True:
            now_s = perf_counter()
            while self.free and due_s <= now_s < end_s:
                self.free.pop().send(next(self.requests), due_s if rate else now_s)
                due_s = due_s + 1 / rate if rate else due_s
            if now_s >= end_s and len(self.free) == len(self.known):
                return due_s
            wakes_s = due_s if rate and self.free and due_s < end_s else end_s
            timeout_s = max((wakes_s if now_s < end_s else last_s) - now_s, 0.0)
            ready = select.select(list(self.known), [], [], timeout_s)[0]
            if perf_counter() > last_s:
                self._give_up()
                return due_s
            for fd in ready:
                self._take(fd)

    def _give_up(self) -> None:
        """Who hangs until now has waited at least so long: left out, the slowest would be missed
        in the quantiles."""
        waiting, now_s = [one for one in self.known.values() if one.waits], perf_counter()
        self.dropped += len(waiting)
        if self.load.rate:
            self.latencies_ms += [1000 * (now_s - one.due_s) for one in waiting]

    def _take(self, fd: int) -> None:
        connection = self.known[fd]
        answer = connection.receive()
        if answer is None:
            return
        if answer:
            status = int(answer[9:12])
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == 200 and self.load.rate:
                self.latencies_ms.append(1000 * (perf_counter() - connection.due_s))
        if not answer or b"connection: close" in answer[:400].lower():
            self.dropped += connection.waits
            waited = connection.waits or bool(answer)
            del self.known[fd]
            connection.socket.close()
            connection.connect()
            self.known[connection.socket.fileno()] = connection
            if not waited:
                return  # it was free before, and is again
        self.free.append(connection)


def _requests(load: Load) -> list[bytes]:
    headers = {"host": urlsplit(load.url).netloc, "user-agent": "doorstep-bench", "accept": "*/*"}
    headers |= {"content-type": "application/json"} | load.headers
    head = f"POST {load.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    return [f"{head}content-length: {len(one)}\r\n\r\n".encode() + one for one in load.bodies]


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    try:
        sys.stdout.buffer.write(msgspec.json.encode(Generator(load).run()))
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
