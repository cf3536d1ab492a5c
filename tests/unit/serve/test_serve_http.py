"""A connection and a client that does not do its part: what it may hold, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from doorstep.serve.http import FOREVER, Head, HttpConnection, HttpExchange
from doorstep.serve.limits import HEADER_BYTES_MAX, HEADER_S, IDLE_S, PIPELINE_MAX, SEND_S

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Gate:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.heads: dict[bytes, Head] = {}
        self.draining = False
        self.bodies_bytes = 0

    def opened(self, _connection: HttpConnection) -> bool:
        return True

    def closed(self, _connection: HttpConnection) -> None: ...


class Answerer:
    """Keeps what it was asked until the test answers it."""

    def __init__(self) -> None:
        self.asked: list[HttpExchange] = []
        self.urls: list[bytes] = []

    def handle(self, exchange: HttpExchange, *_: Any) -> None:
        self.asked.append(exchange)

    def refusal(self, url: bytes, _code: str, _message: str) -> bytes:
        self.urls.append(url)
        return b"{}"


class Transport:
    """A socket whose client reads nothing: what is written stays in the buffer."""

    def __init__(self) -> None:
        self.reading = True
        self.buffer = 0
        self.written = b""
        self.ended = ""

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        self.buffer += len(data)
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.buffer

    def is_closing(self) -> bool:
        return bool(self.ended)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


@pytest.fixture
def made() -> tuple[HttpConnection, Transport, Answerer, Gate]:
    gate, answerer, transport = Gate(), Answerer(), Transport()
    connection = HttpConnection(gate, answerer)
    connection.connection_made(cast(asyncio.Transport, transport))
    return connection, transport, answerer, gate


Made = tuple[HttpConnection, Transport, Answerer, Gate]


def test_answers_that_are_not_read_keep_a_connection_from_being_read(made: Made) -> None:
    connection, transport, answerer, _ = made
    connection.data_received(GET * PIPELINE_MAX)
    connection.pause_writing()
    for exchange in answerer.asked:
        exchange.respond(200, b"{}")
    assert not transport.reading
    connection.resume_writing()
    assert transport.reading


def test_too_many_waiting_requests_keep_it_from_being_read_when_answers_are(made: Made) -> None:
    connection, transport, answerer, _ = made
    connection.data_received(GET * PIPELINE_MAX)
    connection.pause_writing()
    connection.resume_writing()
    assert not transport.reading
    for exchange in answerer.asked:
        exchange.respond(200, b"{}")
    assert transport.reading


def test_a_client_that_does_not_read_is_cut_off_whatever_else_it_waits_for(made: Made) -> None:
    connection, transport, answerer, gate = made
    connection.data_received(GET * 2)
    connection.pause_writing()
    assert connection.deadline_s == SEND_S
    gate.now_s = 1.0
    for exchange in answerer.asked:
        exchange.respond(200, b"{}")
    assert connection.deadline_s == SEND_S
    connection.expire()
    assert transport.ended == "aborted"


def test_a_client_that_reads_again_has_the_usual_time(made: Made) -> None:
    connection, _, answerer, gate = made
    connection.data_received(GET)
    connection.pause_writing()
    connection.resume_writing()
    assert connection.deadline_s == FOREVER
    answerer.asked[0].respond(200, b"{}")
    connection.pause_writing()
    gate.now_s = 5.0
    connection.resume_writing()
    assert connection.deadline_s == 5.0 + IDLE_S


CHUNKED = b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


@pytest.mark.parametrize("name", [b"x-api-key", b"doorstep-service", b"idempotency-key"])
def test_a_trailer_is_no_header_of_this_request_or_the_next(made: Made, name: bytes) -> None:
    connection, _, answerer, _ = made
    connection.data_received(CHUNKED + name + b": evil\r\n" + name + b": more\r\n\r\n" + GET)
    assert [one.head.fields for one in answerer.asked] == [{}, {}]


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 7\r\n\r\n",
        b"POST /\r\n\r\n",
    ],
)
def test_what_others_might_frame_otherwise_is_refused(made: Made, head: bytes) -> None:
    connection, transport, answerer, _ = made
    connection.data_received(head + b"2\r\n{}\r\n0\r\n\r\n")
    assert not answerer.asked
    assert transport.buffer, "it is told why"


UPGRADE = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
WISH = b"POST /a HTTP/1.1\r\nx-api-key: k\r\n" + UPGRADE + b"content-length: 2\r\n\r\n{}"


@pytest.mark.parametrize("at", range(WISH.index(b"x-api"), len(WISH)))
def test_a_wish_to_upgrade_is_passed_over_wherever_its_head_is_cut(made: Made, at: int) -> None:
    connection, transport, answerer, _ = made
    for _ in range(2):
        connection.data_received(WISH[:at])
        assert not connection.idle
        connection.data_received(WISH[at:])
    found = [(one.head.url, one.head.fields, one.head.length) for one in answerer.asked]
    assert found == [(b"/a", {b"x-api-key": b"k"}, 2)] * 2
    assert not transport.written


def test_a_head_that_comes_in_pieces_has_its_time_and_its_size(made: Made) -> None:
    connection, transport, answerer, gate = made
    for now_s, piece in enumerate((b"GET /a HTTP/1.1\r\n", b"a: b\r\n", b"c: d\r\n")):
        gate.now_s = float(now_s)
        connection.data_received(piece)
        assert connection.deadline_s == HEADER_S
    connection.expire()
    assert transport.written.startswith(b"HTTP/1.1 408 ")
    assert answerer.urls == [b"/a"]


def test_a_head_that_never_ends_is_refused(made: Made) -> None:
    connection, transport, _, _ = made
    connection.data_received(b"GET /a HTTP/1.1\r\n")
    for _ in range(HEADER_BYTES_MAX // 1000 + 2):
        connection.data_received(b"a" * 990 + b": b\r\n")
    assert transport.written.startswith(b"HTTP/1.1 431 ")


def test_a_refusal_of_head_has_no_body(made: Made) -> None:
    connection, transport, _, _ = made
    connection.data_received(b"HEAD / HTTP/1.1\r\nexpect: x\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 417 ")
    assert transport.written.endswith(b"\r\n\r\n")


WHOLE = b"POST /a HTTP/1.1\r\nx-api-key: k\r\ncontent-length: 4\r\n\r\n\r\n\r\n" + CHUNKED
WHOLE += b"expect: x\r\n\r\n" + GET


@pytest.mark.parametrize("at", range(1, len(WHOLE)))
def test_requests_mean_the_same_wherever_they_are_cut(made: Made, at: int) -> None:
    connection, transport, answerer, _ = made
    connection.data_received(WHOLE[:at])
    connection.data_received(WHOLE[at:])
    found = [(one.head.url, one.head.fields, one.head.length) for one in answerer.asked]
    assert found == [(b"/a", {b"x-api-key": b"k"}, 4), (b"/a", {}, 0), (b"/", {}, 0)]
    assert not transport.written


@pytest.mark.parametrize(("unread", "ended"), [(0, "closed"), (1, "aborted")])
def test_an_idle_connection_is_closed_unless_that_would_wait_for_its_client(
    made: Made, unread: int, ended: str
) -> None:
    connection, transport, answerer, _ = made
    connection.data_received(GET)
    answerer.asked[0].respond(200, b"{}")
    transport.buffer = unread
    connection.expire()
    assert transport.ended == ended


def test_a_last_answer_that_is_not_read_ends_too(made: Made) -> None:
    connection, transport, answerer, gate = made
    gate.draining = True
    connection.data_received(GET)
    answerer.asked[0].respond(200, b"{}")
    assert (transport.ended, connection.deadline_s) == ("closed", SEND_S)
    connection.expire()
    assert transport.ended == "aborted"


def test_a_url_that_comes_in_pieces_has_the_time_of_one(made: Made) -> None:
    connection, transport, _, gate = made
    connection.data_received(b"GET /")
    for piece in range(5):
        gate.now_s = piece * HEADER_S / 4
        connection.data_received(b"a")
    assert connection.deadline_s == HEADER_S
    connection.expire()
    assert transport.buffer > 0
