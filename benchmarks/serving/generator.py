"""A load generator in a process of its own: keep-alive connections, one request at a time on each.

python generator.py PORT PATH CONNECTIONS SECONDS [RATE] < BODY

Without a rate every connection sends its next request when it has its answer: for CPU per request
and capacity. With a rate (requests per second) requests are due at fixed times, whatever becomes of
those before, and a latency counts from when its request was due, not from when a connection was
free for it: so a server that stalls is not asked less while it does (coordinated omission).

Prints JSON: good, bad (another status than 200), dropped (a connection that ended without an
answer), s, and with a rate the latencies in ms of all answers, in order. It sleeps in `select`,
whose time-outs are not rounded to milliseconds as those of epoll and of uvloop are.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from time import perf_counter

LAST_ANSWERS_S = 60.0
RECEIVE_BYTES = 65536


class Connection:
    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.size = 0
        self.due_s = 0.0
        self.waits = False

    def send(self, request: bytes, due_s: float) -> None:
        self.due_s = due_s
        self.waits = True
        try:
            self.socket.sendall(request)
        except OSError:
            return  # the next `receive` finds that it has ended

    def receive(self) -> bytes | None:
        """A whole answer; b"" if the connection has ended; None if there is more to come."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
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


class Load:
    def __init__(self, port: int, request: bytes, connections: int) -> None:
        self.request = request
        self.known = {one.socket.fileno(): one for one in map(Connection, [port] * connections)}
        self.free = list(self.known.values())
        self.good = self.bad = self.dropped = 0
        self.latencies_ms: list[float] = []

    def run(self, seconds: float, rate: float) -> float:
        """Answers how long it took, the last answers included."""
        began_s = due_s = perf_counter()
        end_s = began_s + seconds
        while True:
            now_s = perf_counter()
            while self.free and due_s <= now_s < end_s:
                self.free.pop().send(self.request, due_s if rate else now_s)
                due_s = due_s + 1 / rate if rate else due_s
            if now_s >= end_s and (
                len(self.free) == len(self.known) or due_s > end_s + LAST_ANSWERS_S
            ):
                return now_s - began_s
            wakes_s = due_s if rate and self.free and due_s < end_s else end_s
            timeout_s = max(wakes_s - now_s, 0.0) if now_s < end_s else LAST_ANSWERS_S
            ready = select.select(list(self.known), [], [], timeout_s)[0]
            if not ready and now_s >= end_s:
                self.dropped += len(self.known) - len(self.free)
                return perf_counter() - began_s
            for fd in ready:
                self.take(fd)

    def take(self, fd: int) -> None:
        connection = self.known[fd]
        answer = connection.receive()
        if answer is None:
            return
        if answer:
            ok = answer.startswith(b"HTTP/1.1 200")
            self.good, self.bad = self.good + ok, self.bad + (not ok)
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


def main() -> None:
    port, path, connections, seconds = sys.argv[1:5]
    rate = float(sys.argv[5]) if len(sys.argv) > 5 else 0.0
    body = sys.stdin.buffer.read()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: bench\r\naccept: */*\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    load = Load(int(port), head.encode() + body, int(connections))
    took_s = load.run(float(seconds), rate)
    found = {"good": load.good, "bad": load.bad, "dropped": load.dropped, "s": took_s}
    print(json.dumps(found | {"latencies_ms": load.latencies_ms if rate else []}))


if __name__ == "__main__":
    main()
