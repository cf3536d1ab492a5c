"""Load for a data port: keep-alive connections that count what happened to every request.

A request that was written whole and got no answer is `dropped`; one refused or reset before it was
written is retried on a new connection and is none. Answered prediction ids are remembered, so that
they can be looked for in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

ANSWER_S = 60.0
CONNECT_S = 60.0
CONNECT_PAUSE_S = 0.02
RETRY_PAUSE_S = 0.1
RETRIES_MAX = 600
BodyOf = Callable[[int], bytes]


@dataclass
class Tally:
    """statuses: answers by HTTP status. dropped: requests without an answer. answered: prediction
    ids of answers with status 200, with the version that the answer named. requests: how many were
    made; failed_first: those whose first try was dropped or answered 502 to 504."""

    requests: int = 0
    failed_first: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    dropped: int = 0
    refused_connections: int = 0
    retried: int = 0
    gave_up: int = 0
    answered: dict[str, int] = field(default_factory=dict)

    @property
    def answers(self) -> int:
        return sum(self.statuses.values())


class Load:
    """`connections` clients that send one request after the other until `stop`.

    retry: a request that was dropped, or answered 502 to 504, is sent again every RETRY_PAUSE_S, up
    to RETRIES_MAX times; only if that does not help it counts in `gave_up`. once_more: it is sent
    again once, after what Retry-After says. pause_s: of a client between two requests. tls: whom it
    believes.
    """

    def __init__(
        self,
        url: str,
        path: str,
        body_of: BodyOf,
        *,
        connections: int = 8,
        retry: bool = False,
        once_more: bool = False,
        pause_s: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        host, _, port = url.partition("://")[2].rpartition(":")
        self._address = (host, int(port))
        self._tls = tls
        self._path = path
        self._body_of = body_of
        self._connections = connections
        self._tries = RETRIES_MAX if retry else 2 if once_more else 1
        self._obeys = once_more
        self._pause_s = pause_s
        self._stopping = asyncio.Event()
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.tally = Tally()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> Tally:
        """Let every client finish the request that it has sent."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        return self.tally

    async def wait_answers(self, more: int) -> None:
        """Until that many further answers have come. Raises: TimeoutError."""
        goal = self.tally.answers + more
        async with asyncio.timeout(60):
            while self.tally.answers < goal:
                await asyncio.sleep(0.01)

    async def _client(self) -> None:
        link: _Connection | None = None
        while not self._stopping.is_set():
            self._number += 1
            request = _request(self._path, self._body_of(self._number))
            self.tally.requests += 1
            for tried in range(self._tries):
                link = link or await self._connect()
                answer = await link.exchange(request)
                if answer is None or answer.closes:
                    await link.close()
                    link = None
                if not self._note(answer):
                    break
                self.tally.failed_first += tried == 0
                if self._tries > 1:
                    self.tally.retried += 1
                    told_s = answer.retry_after_s if answer else 0.0
                    await asyncio.sleep(told_s if self._obeys else RETRY_PAUSE_S)
            else:
                self.tally.gave_up += self._tries > 1
            await asyncio.sleep(self._pause_s)
        if link is not None:
            await link.close()

    def _note(self, answer: _Answer | None) -> bool:
        """Count an answer. Whether the request should be sent again."""
        if answer is None:
            self.tally.dropped += 1
            return True
        self.tally.statuses[answer.status] += 1
        if answer.status == 200:
            found = json.loads(answer.body)
            for one in found.get("predictions", ()):
                self.tally.answered[one["id"]] = one.get("version", found["version"])
        return answer.status in (502, 503, 504)

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(CONNECT_S):
            while True:
                try:
                    reader, writer = await asyncio.open_connection(*self._address, ssl=self._tls)
                except OSError:
                    self.tally.refused_connections += 1
                    await asyncio.sleep(CONNECT_PAUSE_S)
                else:
                    return _Connection(reader, writer)


class _Answer(NamedTuple):
    status: int
    body: bytes
    closes: bool
    retry_after_s: float


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def exchange(self, request: bytes) -> _Answer | None:
        """None if no answer came."""
        try:
            async with asyncio.timeout(ANSWER_S):
                self._writer.write(request)
                head = await self._reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").lower().split("\r\n")
                fields = dict(one.split(": ", 1) for one in lines[1:] if ": " in one)
                body = await self._reader.readexactly(int(fields["content-length"]))
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return None
        closes = fields.get("connection") == "close"
        after_s = float(fields.get("retry-after", 0))
        return _Answer(int(lines[0].split(" ")[1]), body, closes, after_s)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
