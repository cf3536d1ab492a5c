"""A short run of benchmarks/fuzz over real processes, and that its judges would notice."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "fuzz"))

import run
from fuzz_data import Judge
from fuzz_surfaces import NATIVE_ERROR, V2_ANSWER
from fuzz_wire import Answer, Gone, Malformed, Wire

SEED = 7
JSON = {"content-type": "application/json"}
RAW = {"content-type": "application/octet-stream", "inference-header-content-length": "14"}


def test_every_protocol_of_the_data_port_withstands_what_it_is_sent(tmp_path: Path) -> None:
    found = list(run.fuzz_data(tmp_path, 40, SEED))
    assert [fault for one in found for fault in one.faults] == []
    assert sum(one.classes["2xx"] for one in found) > sum(one.sent for one in found) / 6
    assert {"native", "V2 binary", "SageMaker", "bytes", "smuggling"} <= {one.name for one in found}


def test_the_control_api_withstands_what_its_own_document_says(tmp_path: Path) -> None:
    (found,) = run.fuzz_control_api(tmp_path, 120, SEED)
    assert found.faults == []
    assert found.classes["2xx"] > 10


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(500, JSON, b'{"error":{"code":"internal","message":"x"}}'), "500: "),
        (Answer(503, JSON, b'{"error":{"code":"other","message":"x"}}'), "503: "),
        (Answer(400, JSON, b'{"error":"a sentence"}'), "is not valid"),
        (Answer(400, JSON, b'{"error":{"code":"a","message":NaN}}'), "NaN is no JSON"),
        (Answer(200, JSON, b'{"outputs":[]}'), "'model_name' is a required property"),
        (Answer(200, RAW, b'{"outputs":[]}raw'), "are not 17"),
        (Answer(400, JSON, b'{"error":{"code":"a","message":"b"}}'), ""),
        (Answer(503, JSON, b'{"error":{"code":"overloaded","message":"b"}}'), ""),
    ],
)
def test_an_answer_that_breaks_its_promise_is_noticed(answer: Answer, fault: str) -> None:
    found = Judge(V2_ANSWER, NATIVE_ERROR).fault(answer, "POST")
    assert fault in found
    assert bool(found) == bool(fault)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na", Malformed),
        (b"HTTP/1.1 200 OK\r\na\r\ncontent-length: 0\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", Malformed),
        (b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na", Gone),
        (b"", Gone),
    ],
)
def test_what_is_no_http_is_noticed(said: bytes, error: type[Exception]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(listener.getsockname()[1])
        wire.open()
        with listener.accept()[0] as there:
            there.sendall(said)
            there.shutdown(socket.SHUT_WR)
            with pytest.raises(error):
                wire.ask(b"GET / HTTP/1.1\r\n\r\n")
