"""HTTP/1.1 for the data plane: httptools callbacks, no coroutine per request, limits everywhere.

Requests of one connection may be pipelined; their answers keep the order. A request that is
refused before its end is answered at once, the connection closed, and what still arrives is thrown
away for a moment so that the caller gets to read why.

A client on a kept connection sends the same header bytes again and again. Heads that the parser has
read whole are remembered by their exact bytes; when a request comes in one piece and begins with
one of them, it means what it meant before, and the parser is not asked again.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections import deque
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools
import msgspec

from doorstep.serve import limits

FOREVER = float("inf")
RAW_BYTES_MAX = 2 * limits.BODY_BYTES_MAX
"""Of one body with its chunk headers, extensions and trailers."""
KNOWN_HEADS_MAX = 1024
KNOWN_HEAD_BYTES_MAX = 1024
_END = b"\r\n\r\n"
_END_BYTES = len(_END)
_REQUEST = re.compile(rb"[A-Z]+ ([!-~]+) HTTP/1\.[01]\r\n")
_UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)
VERSIONS = ("1.1", "1.0")
JSON = b"application/json"
RETRY = b"retry-after: 1\r\n"
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n"
    "content-type: application/json\r\ncontent-length: ".encode()
    for status in HTTPStatus
}
KEPT_ALIKE = frozenset(
    (b"accept", b"authorization", b"content-type", b"doorstep-service", b"x-api-key")
)
"""Headers that an answerer reads, and that a client sends alike with each of its requests."""
KEPT = KEPT_ALIKE | {
    b"doorstep-context", b"idempotency-key", b"inference-header-content-length", b"traceparent",
}  # fmt: skip
"""All headers that an answerer reads; a head with one of the others is not remembered."""


class Head(msgspec.Struct):
    """What a request's head says. length: of the body, from Content-Length. fields: the headers
    of KEPT that it has, by their names in lower case. place: where it leads, once its answerer has
    found that out."""

    method: bytes
    url: bytes
    length: int
    keep_alive: bool
    said_keep_alive: bool
    fields: dict[bytes, bytes]
    place: Any = None


class Gate(Protocol):
    """What a connection needs from its worker. now_s: a coarse monotonic clock. heads: those that
    were read before, by their bytes."""

    now_s: float
    heads: dict[bytes, Head]
    draining: bool
    bodies_bytes: int

    def opened(self, connection: HttpConnection) -> bool:
        """False: there are too many connections."""
        ...

    def closed(self, connection: HttpConnection) -> None: ...


class Answerer(Protocol):
    """Answers whole requests, and words the refusal of those that never became whole."""

    def handle(self, exchange: HttpExchange, head: Head, body: bytes) -> None: ...

    def refusal(self, url: bytes, code: str, message: str) -> bytes: ...


class _Refused(Exception):
    """Stops the parser inside one of its callbacks."""


class HttpExchange(msgspec.Struct):
    """One request of a connection, and the place of its answer."""

    connection: HttpConnection
    head: Head
    keep_alive: bool
    data: bytes | None = None

    def respond(self, status: int, body: bytes, headers: bytes = b"", media: bytes = JSON) -> None:
        """Answer. headers: whole lines, each with its line end. media: the body's content type."""
        connection, head = self.connection, self.head
        if connection.gate.draining:
            self.keep_alive = False
        if not self.keep_alive:
            headers += b"connection: close\r\n"
        elif head.said_keep_alive:
            headers += b"connection: keep-alive\r\n"
        line = _STATUS_LINES[status]
        if media is not JSON:
            line = line.replace(JSON, media)
        shown = b"" if head.method == b"HEAD" else body
        self.data = b"%b%d\r\n%b\r\n%b" % (line, len(body), headers, shown)
        connection.write_ready()


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
        # Two reasons not to read: too many requests wait here, and too many answers are not read.
        self._paused = False
        self._write_paused = False
        self._head_bytes = 0
        # Where messages begin and end in what arrives, as long as that is certain.
        self._at_start = True
        self._first = self._held = b""
        self._fed = self._completed = 0
        self._done: Head | None = None
        self._clear()

    def _clear(self) -> None:
        self._url = b""
        self._pieces: list[bytes] = []
        self._counted = self._size = self._raw = 0
        self._chunks = self._headers = self._header_bytes = 0
        self._length = 0
        self._expect = b""
        self._fields: dict[bytes, bytes] = {}
        self._said_keep_alive = False
        self._is_common = True

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.deadline_s = self.gate.now_s + limits.HEADER_S
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
            return None
        if self._at_start:
            held = self._held
            if held:
                data, self._held, self._url = held + data, b"", b""
            end = data.find(_END) + _END_BYTES
            head = data[:end]
            known = self.gate.heads.get(head)
            if known is not None and len(data) == end + known.length:
                return self._take(known, data[end:])
            line = (
                _REQUEST.match(data)
                if end < _END_BYTES <= len(data) <= limits.HEADER_BYTES_MAX
                else None
            )
            if line is not None:
                # A head in pieces: it means the same when it is whole, also a wish to upgrade.
                self._held, self._url = data, line[1]
                return None if held else self._wait(limits.HEADER_S)
            self._at_start = False
            self._first = head if end >= _END_BYTES else b""
            if _UPGRADE.search(head):
                # A wish that we do not grant (Java's client has it by default). The parser would
                # take the body for another protocol, so it must not see it.
                data = _UPGRADE.sub(b"\nx-grade:", head) + data[end:]
            self._fed = self._completed = 0
        self._feed(data)
        if self._completed == 1:
            self._find_start()
        return None

    def _feed(self, data: bytes) -> None:
        self._fed += len(data)
        if self._in_body:
            self._raw += len(data)
        else:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if not self._closing:
                traceback.print_exception(error)
                self._refuse(500, "internal", "this is our fault; it was logged")
        except httptools.HttpParserError as error:
            if not self._closing:
                self._refuse(400, "bad-http", f"not a valid HTTP request: {error}")
        else:
            self._check_sizes()

    def _find_start(self) -> None:
        """Exactly one message was read and not a byte more: the next one begins with what comes."""
        head, first = self._done, self._first
        if head is None or not first or self._fed != len(first) + head.length:
            self._completed = 2
            return
        self._at_start = True
        heads = self.gate.heads
        if len(first) <= KNOWN_HEAD_BYTES_MAX:
            if len(heads) >= KNOWN_HEADS_MAX:
                heads.clear()
            heads[first] = head

    def eof_received(self) -> bool:
        """The client will send no more; it still wants the answers that it waits for."""
        if not self._queue:
            return False
        self._closing = True
        self._queue[-1].keep_alive = False
        return self._transport is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        """The client does not read its answers: it may ask for no more, and not wait forever."""
        self._write_paused = True
        self.deadline_s = min(self.deadline_s, self.gate.now_s + limits.SEND_S)
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self._lingers:
            self._wait(
                limits.IDLE_S if self.idle else limits.BODY_S if not self._queue else FOREVER
            )
        if not self._paused:
            transport.resume_reading()

    # -- the parser's side

    def on_url(self, url: bytes) -> None:
        if self._closing:
            raise _Refused
        if not self._url:
            self._wait(limits.HEADER_S)
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._header_bytes += len(name) + len(value)
        if self._headers > limits.HEADERS_MAX or self._header_bytes > limits.HEADER_BYTES_MAX:
            self._stop(431, "headers-too-large", _headers_message())
        if self._in_body:
            return  # a trailer, which a proxy may not have looked at: it must not act as a header
        match name.lower():
            case b"content-length":
                self._length = int(value)
            case b"connection":
                self._said_keep_alive = value.lower() == b"keep-alive"
            case b"expect":
                self._is_common = False
                self._expect = value.lower()
            case kept if kept in KEPT:
                self._fields[kept] = value
                if kept not in KEPT_ALIKE:
                    self._is_common = False
            case b"transfer-encoding":
                self._is_common = False
                if value.lower() != b"chunked" or self._parser.get_http_version() != "1.1":
                    self._stop(501, "bad-encoding", "the only transfer-encoding is chunked of 1.1")
            case b"upgrade":
                self._is_common = False
            case b"content-encoding" if value.lower() != b"identity":
                self._stop(415, "bad-encoding", "bodies must come without a content-encoding")

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._wait(limits.BODY_S)
        if self._parser.get_http_version() not in VERSIONS:
            self._stop(505, "bad-http", "the protocol must be HTTP/1.1 or 1.0")
        if self._parser.should_upgrade():
            self._stop(501, "no-upgrade", "this server does not change protocols")
        if self._length > limits.BODY_BYTES_MAX:
            self._stop(413, "body-too-large", _body_message(self._length))
        if self._expect:
            self._answer_expectation()

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > limits.CHUNKS_MAX:
            self._stop(413, "too-many-chunks", f"the body has more than {limits.CHUNKS_MAX} chunks")

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > limits.BODY_BYTES_MAX:
            self._stop(413, "body-too-large", _body_message(self._size))
        if self._pieces:
            self._counted += len(data)
            self.gate.bodies_bytes += len(data)
            if self.gate.bodies_bytes > limits.BODIES_BYTES_MAX:
                self._stop(503, "overloaded", "too many large requests arrive at once")
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        pieces, method = self._pieces, self._parser.get_method()
        body = b"" if not pieces else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        keep_alive = self._parser.should_keep_alive()
        head = Head(
            method, self._url, self._length, keep_alive, self._said_keep_alive, self._fields
        )
        if self._counted:
            self.gate.bodies_bytes -= self._counted
        self._completed += 1
        self._done = head if self._is_common else None
        self._in_body = False
        self._head_bytes = 0
        self._clear()
        self._take(head, body)

    # -- ours

    def _take(self, head: Head, body: bytes) -> None:
        """A whole request."""
        keep_alive, queue = head.keep_alive, self._queue
        exchange = HttpExchange(self, head, keep_alive)
        queue.append(exchange)
        if not self._write_paused:
            self.deadline_s = FOREVER
        if not keep_alive:
            self._closing = True
        if len(queue) >= limits.PIPELINE_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._answerer.handle(exchange, head, body)

    def write_ready(self) -> None:
        """Write every answer whose turn it is."""
        queue, transport = self._queue, self._transport
        if transport is None:
            queue.clear()
            return None
        while queue:
            data = queue[0].data
            if data is None:
                break
            transport.write(data)
            if not queue.popleft().keep_alive:
                return self._end(transport)
        if not (queue or self._in_body or self._url or self._write_paused):
            self.deadline_s = self.gate.now_s + limits.IDLE_S
        if self._paused and len(queue) < limits.PIPELINE_MAX // 2:
            self._paused = False
            if not self._write_paused:
                transport.resume_reading()
        return None

    def _wait(self, seconds: float) -> None:
        """What is awaited now must come in this time; but answers that are not read come first."""
        if not self._write_paused:
            self.deadline_s = self.gate.now_s + seconds

    @property
    def idle(self) -> bool:
        """Whether no request is under way here."""
        return not self._queue and not self._in_body and not self._url

    def leave(self, until_s: float) -> None:
        """The worker drains: a caller that is idle may send a last request until then."""
        if self.idle:
            self.deadline_s = until_s

    def expire(self) -> None:
        """The deadline has passed."""
        transport = self._transport
        if transport is None:
            return
        if self._write_paused or transport.get_write_buffer_size():
            transport.abort()
        elif self._lingers or self.idle:
            self._closing = True
            transport.close()
        else:
            self._refuse(408, "too-slow", "the request did not arrive in time")

    def _end(self, transport: asyncio.Transport) -> None:
        """After the last answer: close, or linger where the request has not been read."""
        self._queue.clear()
        self._closing = True
        unread = transport.get_write_buffer_size() > 0
        self.deadline_s = self.gate.now_s + (limits.SEND_S if unread else limits.LINGER_S)
        if not self._lingers:
            transport.close()
        elif transport.can_write_eof():
            transport.write_eof()
        # TLS ends both ways at once: there the deadline closes it.

    def _check_sizes(self) -> None:
        if self._closing:
            return
        if self._in_body and self._raw > RAW_BYTES_MAX:
            self._refuse(413, "body-too-large", _body_message(self._raw))
        elif not self._in_body and self._head_bytes > limits.HEADER_BYTES_MAX:
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
        method = self._parser.get_method() if self._url and not self._held else b""
        exchange = HttpExchange(self, Head(method, b"", 0, False, False, {}), False)
        self._queue.append(exchange)
        self._pieces = []
        self._wait(FOREVER)
        headers = RETRY if status == 503 else b""
        exchange.respond(status, self._answerer.refusal(self._url, code, message), headers)


def _body_message(size: int) -> str:
    return f"the body has {size} bytes or more; expected at most {limits.BODY_BYTES_MAX}"


def _headers_message() -> str:
    return (
        f"the headers are more than {limits.HEADER_BYTES_MAX} bytes or {limits.HEADERS_MAX} lines"
    )
