"""gRPC in a front worker: grpcio's server, whose calls go the way of every request.

grpcio can neither take over a listening socket nor announce that it will leave before it refuses
calls. So it listens on a Unix socket of this worker, and what comes from callers goes through
`RpcConnection`: the listening socket is shared and outlives each worker, and one that drains says
so to its callers (`GOAWAY`) and serves on until they have gone.

Needs the extra `grpc`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Protocol, cast

import grpc
import grpc.aio
import msgspec

from doorstep.serve import limits, oip_grpc
from doorstep.serve.http import FOREVER, JSON, KEPT, Head
from doorstep.serve.protos import SERVICE, messages
from doorstep.serve.site import Site

DETAILS_CHARS_MAX = 1000
"""Of the sentence in a status: it travels as a header, percent-encoded."""
BUFFER_BYTES_MAX = 256 * 1024
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", limits.RPC_BYTES_MAX),
    ("grpc.max_metadata_size", limits.HEADER_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", limits.HEADER_BYTES_MAX),
    ("grpc.max_concurrent_streams", limits.RPC_CONNECTION_CALLS_MAX),
    # Only uncompressed: nothing bounds what a compressed message becomes.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.server_handshake_timeout_ms", int(limits.HEADER_S * 1000)),
    ("grpc.max_connection_idle_ms", int(limits.IDLE_S * 1000)),
    # Callers that stay are spread over the workers again, and a call that never ends is ended.
    ("grpc.max_connection_age_ms", int(limits.RPC_AGE_S * 1000)),
    ("grpc.max_connection_age_grace_ms", int(limits.RPC_AGE_GRACE_S * 1000)),
)
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_KEPT = {name.decode(): name for name in KEPT}
# Of an answer's headers; the others are HTTP's.
_SAID = ("doorstep-", "retry-after")


def code_of(status: int) -> grpc.StatusCode:
    """The code for an HTTP status that is no success."""
    other = grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL
    return _CODES.get(status, other)


Answer = tuple[int, bytes, bytes]
"""Status, body, headers."""


class RpcExchange(msgspec.Struct):
    """One call, and the place of its answer. message: None once it was read."""

    message: Any
    answer: asyncio.Future[Answer]

    def respond(self, status: int, body: bytes, headers: bytes = b"", _media: bytes = JSON) -> None:
        # Done before: the caller has gone, or its deadline has passed.
        if not self.answer.done():
            self.answer.set_result((status, body, headers))


async def serve_call(site: Site, call: str, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """Read the request, have the site answer it, and end the call as it was answered."""
    # What `abort` raises and the context keep each other and this frame until the garbage is
    # collected, so the request must not be here.
    status, body, headers = await _answer(site, call, context)
    said = _metadata_of(headers)
    if status != 200:
        await context.abort(code_of(status), body.decode()[:DETAILS_CHARS_MAX], said)
    context.set_trailing_metadata(said)
    return body


async def _answer(site: Site, call: str, context: grpc.aio.ServicerContext[Any, Any]) -> Answer:
    try:
        async with asyncio.timeout(limits.BODY_S):
            data = await context.read()
    except TimeoutError:
        return 504, b"too-slow: the request did not arrive in time", b""
    left_s = context.time_remaining()
    if left_s is not None and left_s <= 0:
        return 504, b"timed-out: the call's deadline had passed when it came", b""
    exchange = _hand_over(site, call, b"" if data is grpc.aio.EOF else data, _fields_of(context))
    del data
    return await exchange.answer


def _hand_over(site: Site, call: str, data: bytes, fields: dict[bytes, bytes]) -> RpcExchange:
    """A call in flight without what it brought: its rows were read from that."""
    message = oip_grpc.decode(call, data)
    exchange = RpcExchange(message, asyncio.get_running_loop().create_future())
    url = oip_grpc.url_of(call, message)
    site.handle(exchange, Head(oip_grpc.METHOD, url, len(data), True, False, fields), data)
    exchange.message = None
    return exchange


def _fields_of(context: grpc.aio.ServicerContext[Any, Any]) -> dict[bytes, bytes]:
    """The metadata that an answerer reads, as HTTP headers are."""
    return {
        _KEPT[name]: value.encode() if isinstance(value, str) else value
        for name, value in context.invocation_metadata() or ()
        if name in _KEPT
    }


def _metadata_of(headers: bytes) -> tuple[tuple[str, str], ...]:
    lines = [line.partition(": ") for line in headers.decode("latin-1").split("\r\n")]
    return tuple((name, value) for name, _, value in lines if name.startswith(_SAID))


class RpcServer:
    """The calls of one worker. make_connection: for the listening socket that callers reach."""

    def __init__(self, site: Site, gate: RpcGate, path: Path) -> None:
        self._site = site
        self._gate = gate
        self._path = str(path)
        self._server = grpc.aio.server(
            options=OPTIONS, maximum_concurrent_rpcs=limits.RPC_CALLS_MAX
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, self._handlers()),)
        )

    def _handlers(self) -> dict[str, Any]:
        def handler(call: str) -> Any:
            async def serve(_requests: object, context: Any) -> bytes:
                return await serve_call(self._site, call, context)

            # The same on the wire as one request, but we read it: who is slow is cut off.
            return grpc.stream_unary_rpc_method_handler(cast(Any, serve))

        return {call: handler(call) for call in oip_grpc.CALLS}

    async def start(self) -> None:
        messages()
        old = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        finally:
            os.umask(old)
        await self._server.start()

    def make_connection(self) -> RpcConnection:
        return RpcConnection(self._gate, self._path)

    async def stop(self) -> None:
        """End what callers left open though they were told that we leave."""
        await self._server.stop(limits.RPC_STOP_S)


class RpcGate(Protocol):
    """What a connection needs from its worker. now_s: a coarse monotonic clock."""

    now_s: float

    def opened(self, connection: RpcConnection, /) -> bool:
        """False: there are too many connections."""
        ...

    def closed(self, connection: RpcConnection, /) -> None: ...


class Frames:
    """Where the frames of one direction of HTTP/2 begin. count: those that have begun. rest: how
    many bytes of the next piece belong to a frame that began before it; None inside a header."""

    HEADER_BYTES = 9

    def __init__(self) -> None:
        self.count = 0
        self.rest: int | None = 0
        self._header = b""

    def feed(self, data: bytes) -> None:
        if self.rest is None:
            data, self._header, self.rest = self._header + data, b"", 0
        at, end = self.rest, len(data)
        while at + self.HEADER_BYTES <= end:
            at += self.HEADER_BYTES + int.from_bytes(data[at : at + 3], "big")
            self.count += 1
        self.rest = at - end if at >= end else None
        self._header = data[at:]


GOAWAY = (8).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + b"\x7f\xff\xff\xff" + bytes(4)
"""No stream is refused: what was sent is answered, but open the next one elsewhere."""


class RpcConnection(asyncio.Protocol):
    """A caller's connection: its bytes go to grpcio and back; what `leave` says goes between two
    frames."""

    def __init__(self, gate: RpcGate, path: str) -> None:
        self.deadline_s = FOREVER
        self._gate = gate
        self._path = path
        self._frames = Frames()
        self._leaving = False
        self._early = b""
        self._caller: asyncio.Transport | None = None
        self._inner: asyncio.Transport | None = None

    # -- the caller's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._caller = cast(asyncio.Transport, transport)
        self._caller.set_write_buffer_limits(BUFFER_BYTES_MAX)
        if not self._gate.opened(self):
            return self._caller.abort()
        asyncio.get_running_loop().create_task(self._connect())
        return None

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: _Inner(self), self._path)
        except OSError:
            self.expire()

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.write(data)
        elif self._caller is not None:
            self._early += data
            self._caller.pause_reading()

    def pause_writing(self) -> None:
        """The caller does not read its answers."""
        self.deadline_s = self._gate.now_s + limits.SEND_S
        if self._inner is not None:
            self._inner.pause_reading()

    def resume_writing(self) -> None:
        self.deadline_s = FOREVER
        if self._inner is not None and not self._inner.is_closing():
            self._inner.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self._caller = None
        if self._inner is not None:
            self._inner.close()
        self._gate.closed(self)

    # -- grpcio's side

    def inner_made(self, inner: asyncio.Transport) -> None:
        self._inner = inner
        inner.set_write_buffer_limits(BUFFER_BYTES_MAX)
        if self._caller is None:
            inner.close()
        elif self._early:
            inner.write(self._early)
            self._early = b""
            self._caller.resume_reading()

    def inner_received(self, data: bytes) -> None:
        if self._caller is None:
            return
        # The first frame of a connection is not ours to send.
        cut = self._frames.rest if self._leaving and self._frames.count else None
        if cut is not None and cut <= len(data):
            self._leaving = False
            self._frames.feed(data[:cut])
            self._caller.write(data[:cut] + GOAWAY)
            data = data[cut:]
        self._frames.feed(data)
        self._caller.write(data)
        if self._leaving and self._frames.count and self._frames.rest == 0:
            self.inner_received(b"")

    def inner_paused(self, paused: bool) -> None:
        if self._caller is not None and not self._caller.is_closing():
            (self._caller.pause_reading if paused else self._caller.resume_reading)()

    def inner_lost(self) -> None:
        self._inner = None
        if self._caller is not None:
            self._caller.close()

    # -- the worker's side

    def leave(self, _until_s: float) -> None:
        """Tell the caller to send its next call elsewhere; what is under way is answered here."""
        self._leaving = True
        self.inner_received(b"")

    def expire(self) -> None:
        if self._caller is not None:
            self._caller.abort()


class _Inner(asyncio.Protocol):
    """The end of the Unix socket to grpcio that belongs to a caller's connection."""

    def __init__(self, owner: RpcConnection) -> None:
        self._owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._owner.inner_made(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._owner.inner_received(data)

    def pause_writing(self) -> None:
        self._owner.inner_paused(True)

    def resume_writing(self) -> None:
        self._owner.inner_paused(False)

    def connection_lost(self, _error: Exception | None) -> None:
        self._owner.inner_lost()
