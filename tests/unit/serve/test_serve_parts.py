"""Small parts: frames, links, request ids, masks, contracts of versions, connection deadlines."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.core.plan import ServicePlan
from doorstep.journal.masking import Mask
from doorstep.journal.sealing import Sealer
from doorstep.serve.http import HttpConnection, HttpExchange
from doorstep.serve.limits import BODY_S, HEADER_S, IDLE_S, LINGER_S
from doorstep.serve.link import Link
from doorstep.serve.nodeplan import Order, Serves, Trouble, Word
from doorstep.serve.requestid import RequestIds
from doorstep.serve.service import keeps_of
from doorstep.serve.version import columns_of, probabilities_of
from doorstep.serve.wire import Ask, Frames, Reply, encode_frame


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 7))
def test_frames_come_out_as_they_went_in_however_they_are_cut(parts: list[bytes], cut: int) -> None:
    stream = b"".join(encode_frame(Reply(at, 1, part)) for at, part in enumerate(parts))
    frames = Frames()
    found = [one for at in range(0, len(stream), cut) for one in frames.feed(stream[at : at + cut])]
    import msgspec

    assert [msgspec.msgpack.decode(one, type=Reply).scores for one in found] == parts


def test_a_frame_that_says_it_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Frames().feed(struct.pack("<I", 2**31))


def test_an_ask_is_numbers_text_and_bytes() -> None:
    ask = Ask(1, 2, 1, struct.pack("d", 1.5), [["a", None]][:1])
    import msgspec

    assert msgspec.msgpack.decode(encode_frame(ask)[4:], type=Ask) == ask


def test_what_is_said_before_a_link_is_connected_comes_first_and_a_problem_is_told_once() -> None:
    async def talk() -> list[Word]:
        loop, heard, over = asyncio.get_running_loop(), list[Word](), asyncio.Event()
        ours, theirs = Link(Word, heard.append, over.set), Link(Order, heard.append)
        theirs.say(Serves(3, 9))
        for at, one in zip(socket.socketpair(), (ours, theirs), strict=True):
            at.setblocking(False)
            transport, _ = await loop.create_connection(lambda one=one: one, sock=at)
        for what in ("it burns", "it burns", "", ""):
            theirs.tell("roof", what)
        transport.close()
        await over.wait()
        return heard

    told = [Trouble("roof", "it burns"), Trouble("roof", "")]
    assert asyncio.run(talk()) == [Serves(3, 9), *told]


def test_request_ids_are_uuid7_and_all_different() -> None:
    ids = RequestIds()
    made = [ids.next() for _ in range(2000)]
    assert len(set(made)) == 2000
    for one, text in made[:600]:
        found = UUID(bytes=one)
        assert (found.version, found.variant) == (7, "specified in RFC 4122")
        assert text == str(found)


def plan(**changes: Any) -> ServicePlan:
    return ServicePlan(
        format=1, service="s", contract=Contract(inputs=()), versions=(), champion=None, **changes
    )


def mask_of(*fields: Field) -> Mask:
    return Mask("s", Contract(inputs=fields), ("", "", ""), Sealer(bytes(range(64))))


def test_personal_fields_are_dropped_or_kept_as_a_hash() -> None:
    numbers = [Field(name="a", type="int"), Field(name="b", type="int", personal="pseudonymise")]
    texts = [
        Field(name="c", type="text"),
        Field(name="d", type="text", personal="drop"),
        Field(name="e", type="text", personal="pseudonymise"),
    ]
    mask = mask_of(*numbers, *texts)
    data, row = mask.inputs(struct.pack("2d", 1, 2), ("x", "secret", "secret"))
    one, two = struct.unpack("2d", data)
    assert (one, two != two) == (1.0, True)
    assert row[:2] == ("x", None)
    assert row[2] is not None and "secret" not in row[2] and len(row[2]) == 32
    assert not mask_of(numbers[0], texts[0]).is_needed


def test_a_unit_that_is_personal_is_counted_as_its_pseudonym() -> None:
    named = Contract(inputs=(Field(name="person", type="text", personal="drop"),))
    sealer = Sealer(bytes(range(64)))
    mask = Mask("s", named, ("person", "", "person"), sealer)
    assert mask.unit("anna") == sealer.pseudonym("anna") == mask.ids("anna", "anna")[1]
    assert Mask("s", named, ("person", "", "person"), None).unit("anna") == "anna"
    assert mask_of(Field(name="a", type="int", personal="drop")).unit("anna") == "anna"


def test_whose_inputs_are_kept_is_decided_by_the_request_alone() -> None:
    keeps = keeps_of(plan(record="sample", record_share=0.25))
    assert keeps is not None
    ids = [text for _, text in (RequestIds().next() for _ in range(4000))]
    chosen = [one for one in ids if keeps(one)]
    assert abs(len(chosen) / len(ids) - 0.25) < 0.04
    again = keeps_of(plan(record="sample", record_share=0.25))
    assert again is not None
    assert [one for one in ids if again(one)] == chosen
    more = keeps_of(plan(record="sample", record_share=0.5))
    assert more is not None
    assert all(more(one) for one in chosen)


def contract(*names: str, **changes: Any) -> Contract:
    return Contract(inputs=tuple(Field(name=name, type="float", **changes) for name in names))


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=5, unique=True))
def test_probabilities_encode_as_the_object_that_they_are_whatever_the_labels(
    labels: list[str],
) -> None:
    scores = [at / 8 for at in range(len(labels))]
    found = msgspec.json.encode(probabilities_of(tuple(labels))(*scores))
    assert json.loads(found) == dict(zip(labels, scores, strict=True))


def test_a_version_reads_its_own_columns_out_of_the_services() -> None:
    assert columns_of(contract("a", "b"), contract("a", "b")).numbers is None
    assert columns_of(contract("a", "b", "c"), contract("c", "a")).numbers == (2, 0)
    assert columns_of(contract("a"), contract("a", "z", required=False)).numbers == (0, -1)
    with pytest.raises(InputError, match="reads 'z'"):
        columns_of(contract("a"), contract("a", "z"))


class Transport:
    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def __init__(self) -> None:
        self.sent = b""
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = "eof"

    def close(self) -> None:
        self.ended = "closed"


class Worker:
    """A gate and an answerer in one."""

    def __init__(self) -> None:
        self.now_s, self.draining, self.bodies_bytes = 100.0, False, 0
        self.heads: dict[bytes, Any] = {}
        self.asked: list[tuple[HttpExchange, bytes]] = []

    def opened(self, connection: HttpConnection) -> bool:
        return True

    def closed(self, connection: HttpConnection) -> None: ...

    def handle(self, exchange: Any, _head: Any, body: bytes) -> None:
        self.asked.append((exchange, body))

    def refusal(self, url: bytes, code: str, message: str) -> bytes:
        return code.encode()


@pytest.fixture
def connected() -> tuple[Worker, HttpConnection, Transport]:
    worker, transport = Worker(), Transport()
    connection = HttpConnection(worker, worker)
    connection.connection_made(transport)  # type: ignore[arg-type]
    return worker, connection, transport


def test_every_state_of_a_connection_has_its_deadline(
    connected: tuple[Worker, HttpConnection, Transport],
) -> None:
    worker, connection, transport = connected
    assert connection.deadline_s == 100 + HEADER_S
    connection.data_received(b"POST /x HTTP/1.1\r\ncontent-le")
    assert connection.deadline_s == 100 + HEADER_S
    connection.data_received(b"ngth: 2\r\n\r\n{")
    assert connection.deadline_s == 100 + BODY_S
    connection.data_received(b"}")
    assert connection.deadline_s == float("inf")
    worker.asked[0][0].respond(200, b"{}")
    assert connection.deadline_s == 100 + IDLE_S
    connection.expire()
    assert transport.ended == "closed"


def test_a_request_that_trickles_in_is_refused_408_then_lingers_then_is_closed(
    connected: tuple[Worker, HttpConnection, Transport],
) -> None:
    _, connection, transport = connected
    connection.data_received(b"POST /x HTTP/1.1\r\ncontent-length: 2\r\n\r\n{")
    connection.expire()
    assert transport.sent.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in transport.sent
    assert (transport.ended, connection.deadline_s) == ("eof", 100 + LINGER_S)
    connection.data_received(b"}" * 1000)
    connection.expire()
    assert transport.ended == "closed"


def test_while_draining_every_answer_closes_its_connection(
    connected: tuple[Worker, HttpConnection, Transport],
) -> None:
    worker, connection, transport = connected
    worker.draining = True
    connection.data_received(b"GET /x HTTP/1.1\r\n\r\n")
    worker.asked[0][0].respond(200, b"{}")
    assert b"connection: close" in transport.sent
    assert transport.ended == "closed"


REQUEST = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"


@given(st.lists(st.integers(1, 2 * len(REQUEST)), max_size=12))
def test_the_same_requests_are_read_however_their_bytes_are_cut(cuts: list[int]) -> None:
    worker, transport = Worker(), Transport()
    connection = HttpConnection(worker, worker)
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.data_received(REQUEST)
    worker.asked.pop()[0].respond(200, b"")
    stream, at = REQUEST * 8, 0
    for cut in [*cuts, len(stream)]:
        if at < len(stream):
            connection.data_received(stream[at : at + cut])
            at += cut
    assert [body for _, body in worker.asked] == [b"abc"] * 8
    for exchange, _ in reversed(worker.asked):
        exchange.respond(200, b"{}")
    assert transport.sent.count(b"HTTP/1.1 200") == 9


def test_answers_keep_the_order_of_their_requests(
    connected: tuple[Worker, HttpConnection, Transport],
) -> None:
    worker, connection, transport = connected
    connection.data_received(REQUEST * 3)
    for number in (2, 0, 1):
        worker.asked[number][0].respond(200, str(number).encode())
    bodies = [part.partition(b"\r\n\r\n")[2][:1] for part in transport.sent.split(b"HTTP/1.1")[1:]]
    assert bodies == [b"0", b"1", b"2"]
