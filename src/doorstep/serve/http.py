"""HTTP/1.1 for the data plane: httptools callbacks, no coroutine per request, limits everywhere.

Requests of one connection may be pipelined; their answers keep the order. A request that is
refused before its end is answered at once, the connection closed, and what still arrives is thrown
away for a moment so that the caller gets to read why.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Protocol, cast

import httptools

from doorstep.serve.limits import (
    BODIES_BYTES_MAX,
    BODY_BYTES_MAX,
    BODY_S,
    CHUNKS_MAX,
    HEADER_BYTES_MAX,
    HEADER_S,
    HEADERS_MAX,
    IDLE_S,
    LINGER_S,
    PIPELINE_MAX,
)

FOREVER = float("inf")
RAW_BYTES_MAX = 2 * BODY_BYTES_MAX
"""Of one body with its chunk headers, extensions and trailers."""
_HEADS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n"
    "content-type: application/json\r\ncontent-length: ".encode()
    for status in HTTPStatus
}


class Gate(Protocol):
    """What a connection needs from its worker. now_s: a coarse monotonic clock."""

    now_s: float
    draining: bool
    bodies_bytes: int

    def opened(self, connection: HttpConnection) -> bool:
        """False: there are too many connections."""
        ...

    def closed(self, connection: HttpConnection) -> None: ...


class Answerer(Protocol):
    """Answers whole requests, and words the refusal of those that never became whole."""

    def handle(
        self, exchange: HttpExchange, method: bytes, url: bytes, body: bytes, context: bytes
    ) -> None: ...

    def refusal(self, url: bytes, code: str, message: str) -> bytes: ...


class _Refused(Exception):
    """Stops the parser inside one of its callbacks."""


class HttpExchange:
    """One request of a connection, and the place of its answer."""

    __slots__ = ("connection", "data", "is_head", "keep_alive", "said_keep_alive")

    def __init__(
        self, connection: HttpConnection, keep_alive: bool, said_keep_alive: bool, is_head: bool
    ) -> None:
        self.connection = connection
        self.keep_alive = keep_alive
        self.said_keep_alive = said_keep_alive
        self.is_head = is_head
        self.data: bytes | None = None

    def respond(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Answer. headers: whole lines, each with its line end."""
        if self.connection.gate.draining:
            self.keep_alive = False
        if not self.keep_alive:
            headers += b"connection: close\r\n"
        elif self.said_keep_alive:
            headers += b"connection: keep-alive\r\n"
        shown = b"" if self.is_head else body
        self.data = b"%b%d\r\n%b\r\n%b" % (_HEADS[status], len(body), headers, shown)
        self.connection.write_ready()


class HttpConnection(asyncio.Protocol):
    """One client connection of a worker."""

    def __init__(self, gate: Gate, answerer: Answerer) -> None:
        self.gate = gate
        self._answerer = answerer
        self.deadline_s = FOREVER
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[HttpExchange] = deque()
        self._in_body = False
        self._closing = False
        self._lingers = False
        self._paused = False
        self._head_bytes = 0
        self._clear()

    def _clear(self) -> None:
        self._url = b""
        self._pieces: list[bytes] = []
        self._counted = self._size = self._raw = 0
        self._chunks = self._headers = self._header_bytes = 0
        self._length = 0
        self._expect = self._context = b""
        self._said_keep_alive = False

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.deadline_s = self.gate.now_s + HEADER_S
        if not self.gate.opened(self):
            self._refuse(503, "too-many-connections", "this worker has all connections it takes")

    def connection_lost(self, _error: Exception | None) -> None:
        self._closing = True
        self._transport = None
        self.gate.bodies_bytes -= self._counted
        self._counted = 0
        self.gate.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._in_body:
            self._raw += len(data)
        else:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(501, "no-upgrade", "this server does not change protocols")
        except httptools.HttpParserError as error:
            if not self._closing:
                self._refuse(400, "bad-http", f"not a valid HTTP request: {error}")
        else:
            self._check_sizes()

    def eof_received(self) -> bool:
        """The client will send no more; it still wants the answers that it waits for."""
        if not self._queue:
            return False
        self._closing = True
        self._queue[-1].keep_alive = False
        return True

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._paused:
            self._transport.resume_reading()

    # -- the parser's side

    def on_url(self, url: bytes) -> None:
        if self._closing:
            raise _Refused
        self._url = self._url + url if self._url else url
        self.deadline_s = self.gate.now_s + HEADER_S

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._header_bytes += len(name) + len(value)
        if self._headers > HEADERS_MAX or self._header_bytes > HEADER_BYTES_MAX:
            self._stop(431, "headers-too-large", _headers_message())
        match name.lower():
            case b"content-length":
                self._length = int(value)
            case b"connection":
                self._said_keep_alive = value.lower() == b"keep-alive"
            case b"expect":
                self._expect = value.lower()
            case b"doorstep-context":
                self._context = value
            case b"content-encoding" if value.lower() != b"identity":
                self._stop(415, "bad-encoding", "bodies must come without a content-encoding")

    def on_headers_complete(self) -> None:
        self._in_body = True
        self.deadline_s = self.gate.now_s + BODY_S
        if self._length > BODY_BYTES_MAX:
            self._stop(413, "body-too-large", _body_message(self._length))
        if self._expect:
            self._answer_expectation()

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > CHUNKS_MAX:
            self._stop(413, "too-many-chunks", f"the body has more than {CHUNKS_MAX} chunks")

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > BODY_BYTES_MAX:
            self._stop(413, "body-too-large", _body_message(self._size))
        if self._pieces:
            self._counted += len(data)
            self.gate.bodies_bytes += len(data)
            if self.gate.bodies_bytes > BODIES_BYTES_MAX:
                self._stop(503, "overloaded", "too many large requests arrive at once")
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        pieces, parser = self._pieces, self._parser
        body = b"" if not pieces else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        method, url, context = parser.get_method(), self._url, self._context
        keep_alive = parser.should_keep_alive()
        exchange = HttpExchange(self, keep_alive, self._said_keep_alive, method == b"HEAD")
        if self._counted:
            self.gate.bodies_bytes -= self._counted
        self._in_body = False
        self._head_bytes = 0
        self._clear()
        self._queue.append(exchange)
        self.deadline_s = FOREVER
        if not keep_alive:
            self._closing = True
        if len(self._queue) >= PIPELINE_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._answerer.handle(exchange, method, url, body, context)

    # -- ours

    def write_ready(self) -> None:
        """Write every answer whose turn it is."""
        queue, transport = self._queue, self._transport
        if transport is None:
            queue.clear()
            return None
        while queue and queue[0].data is not None:
            exchange = queue.popleft()
            assert exchange.data is not None
            transport.write(exchange.data)
            if not exchange.keep_alive:
                return self._end(transport)
        if not queue and not self._in_body and not self._url:
            self.deadline_s = self.gate.now_s + IDLE_S
        if self._paused and len(queue) < PIPELINE_MAX // 2:
            self._paused = False
            transport.resume_reading()
        return None

    @property
    def idle(self) -> bool:
        """Whether no request is under way here."""
        return not self._queue and not self._in_body and not self._url

    def expire(self) -> None:
        """The deadline has passed."""
        transport = self._transport
        if transport is None:
            return
        if self._lingers or self.idle:
            self._closing = True
            transport.close()
        else:
            self._refuse(408, "too-slow", "the request did not arrive in time")

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _end(self, transport: asyncio.Transport) -> None:
        """After the last answer: close, or linger where the request has not been read."""
        self._queue.clear()
        self._closing = True
        if self._lingers and transport.can_write_eof():
            transport.write_eof()
            self.deadline_s = self.gate.now_s + LINGER_S
        else:
            transport.close()

    def _check_sizes(self) -> None:
        if self._closing:
            return
        if self._in_body and self._raw > RAW_BYTES_MAX:
            self._refuse(413, "body-too-large", _body_message(self._raw))
        elif not self._in_body and self._head_bytes > HEADER_BYTES_MAX:
            self._refuse(431, "headers-too-large", _headers_message())

    def _answer_expectation(self) -> None:
        if self._expect != b"100-continue":
            self._stop(417, "bad-expectation", "the only expectation known is 100-continue")
        if not self._queue and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _stop(self, status: int, code: str, message: str) -> None:
        self._refuse(status, code, message)
        raise _Refused

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer now, read no more."""
        if self._closing:
            return
        self._closing = self._lingers = True
        exchange = HttpExchange(self, False, False, False)
        self._queue.append(exchange)
        self._pieces = []
        self.deadline_s = FOREVER
        headers = b"retry-after: 1\r\n" if status == 503 else b""
        exchange.respond(status, self._answerer.refusal(self._url, code, message), headers)


def _body_message(size: int) -> str:
    return f"the body has {size} bytes or more; expected at most {BODY_BYTES_MAX}"


def _headers_message() -> str:
    return f"the headers are more than {HEADER_BYTES_MAX} bytes or {HEADERS_MAX} lines"
