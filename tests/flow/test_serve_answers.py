"""One node, many requests: answers equal to onnxruntime, and a clear refusal for each bad input."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from doorstep.core.contract import Contract, Field
from doorstep.serve.limits import BODY_BYTES_MAX
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

CONTRACT = Contract(
    inputs=(
        Field(name="age", type="int", range_min=18, range_max=100),
        Field(name="amount", type="float"),
        Field(name="owner", type="bool"),
        Field(name="score", type="float", required=False),
        Field(name="purpose", type="category", values=("car", "home")),
        Field(name="note", type="text", required=False),
    ),
    context=(Field(name="store", type="int", required=False),),
)
ROW = {"age": 30, "amount": 12.5, "owner": True, "score": 0.25, "purpose": "car"}


class Site:
    """The node under test, and what its model says without it."""

    def __init__(self, node: RunningNode, session: onnxruntime.InferenceSession) -> None:
        self.node = node
        self.session = session

    def expected(self, rows: list[dict[str, Any]]) -> np.ndarray:
        names = [one.name for one in CONTRACT.numbers]
        matrix = np.array([[float(row[name]) for name in names] for row in rows], np.float32)
        return self.session.run(["scores"], {"input": matrix})[0]

    def ask(
        self, path: str, body: object = None, *, method: str = "", headers: str = ""
    ) -> tuple[int, dict[str, str], Any]:
        data = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        verb = method or ("GET" if body is None else "POST")
        head = f"{verb} {path} HTTP/1.1\r\nhost: t\r\ncontent-length: {len(data)}\r\n{headers}\r\n"
        return self.raw(head.encode() + data)

    def raw(self, data: bytes) -> tuple[int, dict[str, str], Any]:
        with self.connect() as link:
            link.sendall(data)
            return read_answer(link)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.node.port), timeout=60)


def read_answer(link: socket.socket) -> tuple[int, dict[str, str], Any]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = link.recv(65536)
        if not piece:
            raise ConnectionError(f"closed after {data!r}")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    while len(body) < int(headers.get("content-length", 0)):
        body += link.recv(65536)
    return int(lines[0].split()[1]), headers, json.loads(body) if body else None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("serve")
    home = TestHome(folder / "home")
    contract = CONTRACT
    digest = home.bundle(contract)
    strict = msgspec.structs.replace(contract, enforce="reject")
    home.publish(
        home.service("loans", {1: digest}, rows_max=20),
        home.service("strict", {1: digest}, contract=strict),
        home.service("keyed", {1: digest}, key="application", unit="customer"),
        home.service("price", {1: home.bundle(contract, labels=())}),
        home.service("boxed", {1: digest}, placement="engine"),
    )
    with RunningNode(home.path, folder / "state") as node:
        node.wait_plan(1)
        yield Site(node, onnxruntime.InferenceSession(home.model_path(digest).read_bytes()))


PREDICT = "/v1/services/loans/predict"


@pytest.mark.parametrize("service", ["loans", "boxed"])
def test_native_answers_are_those_of_the_model(site: Site, service: str) -> None:
    rows = [{**ROW, "amount": amount} for amount in (-3, 0.0, 1e-3, 7)]
    status, headers, answer = site.ask(f"/v1/services/{service}/predict", {"rows": rows})
    assert status == 200
    found = [list(one["probabilities"].values()) for one in answer["predictions"]]
    np.testing.assert_allclose(found, site.expected(rows), rtol=1e-6)
    assert list(answer["predictions"][0]["probabilities"]) == ["bad", "good"]
    assert [one["answer"] for one in answer["predictions"]] == [
        "bad" if bad >= 0.5 else "good" for bad, _ in found
    ]
    assert headers["doorstep-request-id"] == answer["request_id"]
    assert headers["doorstep-version"] == "1"
    assert [one["id"] for one in answer["predictions"]] == [
        f"{answer['request_id']}.{at}" for at in range(4)
    ]


def test_a_bare_object_is_one_row_and_a_missing_optional_number_is_nan_for_the_model(
    site: Site,
) -> None:
    assert site.ask(PREDICT, ROW)[2]["predictions"][0]["probabilities"]
    status, _, answer = site.ask(PREDICT, {**ROW, "score": None})
    assert status == 500  # this model has no answer for NaN: not finite is not an answer
    assert answer["error"]["code"] == "model-failed"


def test_a_regression_answers_a_value(site: Site) -> None:
    _, _, answer = site.ask("/v1/services/price/predict", ROW)
    (one,) = answer["predictions"]
    assert one["value"] == one["answer"]
    assert "probabilities" not in one
    _, _, answer = site.ask("/v2/models/price/infer", {"inputs": tensors([ROW])})
    assert answer["outputs"][0]["name"] == "value"
    assert answer["outputs"][0]["data"] == [one["value"]]


def tensors(rows: list[dict[str, Any]], *, column: bool = False) -> list[dict[str, Any]]:
    kinds = {"age": "INT64", "amount": "FP64", "owner": "BOOL", "score": "FP32", "purpose": "BYTES"}
    shape = [len(rows), 1] if column else [len(rows)]
    return [
        {"name": name, "shape": shape, "datatype": kind, "data": [row[name] for row in rows]}
        for name, kind in kinds.items()
    ]


def matrix_tensors(rows: list[dict[str, Any]], *, nested: bool) -> list[dict[str, Any]]:
    names = [one.name for one in CONTRACT.numbers]
    data: list[Any] = [[float(row[name]) for name in names] for row in rows]
    flat = data if nested else [value for row in data for value in row]
    matrix = {"name": "matrix", "shape": [len(rows), 4], "datatype": "FP32", "data": flat}
    return [matrix, tensors(rows)[-1]]


@pytest.mark.parametrize(
    "make",
    [
        tensors,
        lambda rows: tensors(rows, column=True),
        lambda rows: matrix_tensors(rows, nested=True),
        lambda rows: matrix_tensors(rows, nested=False),
    ],
)
@pytest.mark.parametrize("path", ["/v2/models/loans/infer", "/v2/models/loans/versions/1/infer"])
def test_inference_protocol_answers_are_those_of_the_model(
    site: Site, make: Any, path: str
) -> None:
    rows = [{**ROW, "age": age} for age in (20, 50)]
    parameters = {"store": 3, "unknown": "x"}
    body = {"id": "mine", "inputs": make(rows), "parameters": parameters}
    status, headers, answer = site.ask(path, body)
    assert status == 200, answer
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("loans", "1", "mine")
    outputs = {one["name"]: one for one in answer["outputs"]}
    assert outputs["probabilities"]["shape"] == [2, 2]
    found = np.array(outputs["probabilities"]["data"]).reshape(2, 2)
    np.testing.assert_allclose(found, site.expected(rows), rtol=1e-6)
    assert outputs["answer"]["datatype"] == "BYTES"
    assert headers["doorstep-version"] == "1"


def test_requested_outputs_filter_the_reply(site: Site) -> None:
    body = {"inputs": tensors([ROW]), "outputs": [{"name": "answer"}]}
    answer = site.ask("/v2/models/loans/infer", body)[2]
    assert [one["name"] for one in answer["outputs"]] == ["answer"]


def test_inference_protocol_metadata_and_health(site: Site) -> None:
    assert site.ask("/v2")[2]["name"] == "doorstep"
    assert site.ask("/v2/health/live")[2] == {"live": True}
    assert site.ask("/v2/health/ready")[2] == {"ready": True, "live": True}
    assert site.ask("/v2/models/loans/ready")[2] == {"name": "loans", "ready": True}
    assert site.ask("/v2/models/loans/versions/1/ready")[0] == 200
    found = site.ask("/v2/models/loans")[2]
    assert found["versions"] == ["1"]
    assert {"name": "age", "datatype": "INT64", "shape": [-1]} in found["inputs"]
    assert found["outputs"][1] == {"name": "probabilities", "datatype": "FP64", "shape": [-1, 2]}


def tensor(**changes: Any) -> list[dict[str, Any]]:
    good = tensors([ROW])
    return [{**good[0], **changes}, *good[1:]]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"inputs": tensor(datatype="INT4")}, 400, "datatype 'INT4'"),
        ({"inputs": tensor(data=["a"])}, 400, "value 0 is text 'a'; expected INT64"),
        ({"inputs": tensor(data=[3.5])}, 400, "expected INT64"),
        ({"inputs": tensor(data=[300], datatype="UINT8")}, 400, "number 300; expected UINT8"),
        ({"inputs": tensor(data=[1, 2])}, 400, "2 values; shape [1] needs 1"),
        ({"inputs": tensor(shape=[2])}, 400, "1 values; shape [2] needs 2"),
        ({"inputs": tensor(shape=[0])}, 400, "0 rows"),
        ({"inputs": tensor(shape=[1, 2], data=[1, 2])}, 400, "expected [n] or [n, 1]"),
        ({"inputs": tensor(data=[[1], 2], shape=[2])}, 400, "nested unevenly"),
        ({"inputs": tensor(name="agee")}, 400, "as a matrix of all 4"),
        ({"inputs": tensors([ROW])[1:]}, 400, "field 'age' is missing"),
        ({"inputs": []}, 400, "0 inputs"),
        ({"inputs": tensors([ROW]), "outputs": [{"name": "x"}]}, 400, "output 'x'"),
        ({"inputs": tensors([ROW] * 21)}, 400, "21 rows; expected 1 to 20"),
        (b"{", 400, "no inference request"),
        (b'{"inputs": 3}', 400, "no inference request"),
    ],
)
def test_a_bad_inference_request_is_refused_with_a_sentence(
    site: Site, body: object, status: int, said: str
) -> None:
    found, _, answer = site.ask("/v2/models/loans/infer", body)
    assert found == status
    assert said in answer["error"]


def test_unknown_models_versions_and_routes_are_404(site: Site) -> None:
    for path in ("/v2/models/nope/infer", "/v2/models/loans/versions/9/infer"):
        status, _, answer = site.ask(path, {"inputs": tensors([ROW])})
        assert status == 404
        assert isinstance(answer["error"], str)
    status, _, answer = site.ask("/v1/services/nope/predict", ROW)
    assert (status, answer["error"]["code"]) == (404, "unknown-service")
    assert site.ask("/v1/nothing")[2]["error"]["code"] == "unknown-route"
    assert site.ask("/v1/services/../../etc/passwd")[0] == 404
    status, headers, _ = site.ask(PREDICT, method="DELETE", body=ROW)
    assert (status, headers["allow"]) == (405, "post")


BAD_ROWS = [
    ({**ROW, "age": "abc"}, "bad-field", "row 0: field 'age' is text 'abc'; expected int"),
    ({**ROW, "age": 3.5}, "bad-field", "number 3.5; expected int (a whole number)"),
    ({**ROW, "age": True}, "bad-field", "field 'age' is true; expected int"),
    ({**ROW, "age": None}, "bad-field", "field 'age' is null; expected int"),
    ({**ROW, "age": [1]}, "bad-field", "field 'age' is a list"),
    ({**ROW, "age": 10**30}, "bad-field", "between -2^53 and 2^53"),
    ({**ROW, "owner": 1}, "bad-field", "number 1; expected true or false"),
    ({**ROW, "purpose": 3}, "bad-field", "field 'purpose' is number 3; expected text"),
    ({**ROW, "purpose": "x" * 1001}, "bad-field", "has 1001 characters; expected at most 1000"),
    ({**ROW, "note": "x" * 100_001}, "bad-field", "expected at most 100000"),
    ({**ROW, "agee": 3}, "extra-field", "row 0: field 'agee' is not in the contract"),
    ({k: v for k, v in ROW.items() if k != "age"}, "missing-field", "field 'age' is missing"),
    ({"rows": []}, "no-rows", "0 rows"),
    ({"rows": [ROW] * 21}, "too-many-rows", "21 rows; expected at most 20"),
    ({"rows": [ROW, 3]}, "bad-row", "row 1 is number 3; expected an object"),
    ({"rows": [ROW, {**ROW, "age": "x"}]}, "bad-field", "row 1: field 'age'"),
    ({"rows": 3}, "bad-body", "'rows' is number 3"),
    ({"rows": [ROW], "more": 1}, "extra-key", "'more'"),
    ({"rows": [ROW], "context": {"store": "x"}}, "bad-field", "context: field 'store'"),
    ({"rows": [ROW], "context": [{}, {}]}, "bad-context", "context has 2 entries"),
    ({"rows": [ROW], "keys": ["a", "b"]}, "bad-keys", "'keys' has 2 entries"),
    ([ROW], "bad-body", "the body is a list"),
    (b"3", "bad-body", "the body is number 3"),
]


@pytest.mark.parametrize(("body", "code", "said"), BAD_ROWS)
def test_a_bad_row_is_refused_naming_field_found_and_expected(
    site: Site, body: object, code: str, said: str
) -> None:
    status, headers, answer = site.ask(PREDICT, body)
    assert (status, answer["error"]["code"]) == (422, code)
    assert said in answer["error"]["message"]
    assert headers["doorstep-request-id"] == answer["error"]["request_id"]


def literal(text: str) -> bytes:
    return json.dumps(ROW).replace("12.5", text).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"hello", "not JSON"),
        (literal("NaN"), "not JSON"),
        (literal("Infinity"), "not JSON"),
        (literal("-Infinity"), "not JSON"),
        (b'{"age": "\xff"}', "UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_a_400(site: Site, body: bytes, said: str) -> None:
    status, _, answer = site.ask(PREDICT, body)
    assert (status, answer["error"]["code"]) == (400, "bad-json")
    assert said in answer["error"]["message"]


@pytest.mark.parametrize("text", ["1e999", "-1e999", "1" + "0" * 400])
def test_a_number_that_no_float_holds_is_refused_with_its_field(site: Site, text: str) -> None:
    status, _, answer = site.ask(PREDICT, literal(text))
    assert status == 422
    assert "field 'amount'" in answer["error"]["message"]
    assert "a finite float" in answer["error"]["message"]


def test_a_whole_float_is_an_int(site: Site) -> None:
    whole = json.dumps(ROW).replace("30", "30.0").encode()
    assert site.ask(PREDICT, whole)[0] == 200


def test_unseen_and_out_of_range_warn_or_are_refused_as_the_contract_says(site: Site) -> None:
    odd = {**ROW, "age": 200, "purpose": "boat"}
    answer = site.ask(PREDICT, odd)[2]
    assert answer["predictions"][0]["warnings"] == ["range:age", "unseen:purpose"]
    name = answer["predictions"][0]["id"]
    record = dict(site.node.journaled())[name]
    assert record.warnings == ("range:age", "unseen:purpose")
    status, _, answer = site.ask("/v1/services/strict/predict", {**ROW, "age": 200})
    assert (status, answer["error"]["code"]) == (422, "out-of-range")
    assert "number 200; expected 18 to 100" in answer["error"]["message"]
    status, _, answer = site.ask("/v1/services/strict/predict", {**ROW, "purpose": "boat"})
    assert (status, answer["error"]["code"]) == (422, "unseen-category")


def test_keys_and_units_come_from_the_named_fields_and_context_from_body_or_header(
    site: Site,
) -> None:
    path = "/v1/services/keyed/predict"
    row = {**ROW, "application": "a-1", "customer": 77}
    name = site.ask(path, row)[2]["predictions"][0]["id"]
    record = dict(site.node.journaled())[name]
    assert (record.key, record.unit) == ("a-1", "77")
    body = {"rows": [ROW, ROW], "keys": ["k1", 2], "context": {"customer": "c"}}
    names = [one["id"] for one in site.ask(path, body)[2]["predictions"]]
    records = dict(site.node.journaled())
    assert [records[name].key for name in names] == ["k1", "2"]
    assert [records[name].unit for name in names] == ["c", "c"]
    assert site.ask(PREDICT, ROW, headers='doorstep-context: {"store": 4}\r\n')[0] == 200
    status, _, answer = site.ask(PREDICT, ROW, headers="doorstep-context: {x\r\n")
    assert (status, answer["error"]["code"]) == (400, "bad-json")


def test_outcomes_are_journaled_or_refused_whole(site: Site) -> None:
    path = "/v1/services/loans/outcomes"
    name = site.ask(PREDICT, ROW)[2]["predictions"][0]["id"]
    outcomes = [
        {"prediction": name.upper(), "label": "bad"},
        {"key": "a-1", "label": "good", "at": "2026-01-02T03:04:05Z"},
    ]
    assert site.ask(path, {"outcomes": outcomes})[2] == {"recorded": 2}
    found = [(one.prediction, one.key, one.label, one.value) for one in site.node.outcomes()]
    assert (name, "", "bad", None) in found
    assert ("", "a-1", "good", None) in found
    for bad, said in [
        ([], "0 outcomes"),
        ([{"label": "x"}], "names a prediction or a key"),
        ([{"key": "a"}], "has a label, a value or both"),
        ([{"prediction": "zzz", "label": "x"}], "is not a prediction id"),
        ([{"key": "a", "label": "x", "at": "yesterday"}], "is not a time"),
        ([{"key": "a", "label": "x", "more": 1}], "unknown field `more`"),
        ([{"key": "b", "label": "bad"}, {"key": "a", "label": "x"}], "outcome 1: found label 'x'"),
        ([{"key": "b", "label": "bad"}, {"key": "a", "value": 1}], "knows: 'bad', 'good'"),
    ]:
        status, _, answer = site.ask(path, {"outcomes": bad})
        assert status == 422
        assert answer["error"]["code"] in ("bad-outcomes", "bad-outcome")
        assert said in answer["error"]["message"]
    assert len(site.node.outcomes()) == len(found)


def test_a_service_that_predicts_numbers_takes_numbers_as_outcomes(site: Site) -> None:
    path, before = "/v1/services/price/outcomes", len(site.node.outcomes())
    good, bad = {"key": "a-1", "value": 3.5}, {"key": "a-2", "label": "3.5"}
    status, _, answer = site.ask(path, {"outcomes": [good, bad]})
    assert (status, answer["error"]["code"]) == (422, "bad-outcome")
    assert "price predicts a number" in answer["error"]["message"]
    assert len(site.node.outcomes()) == before
    assert site.ask(path, {"outcomes": [good]})[2] == {"recorded": 1}


def test_services_are_listed_and_described(site: Site) -> None:
    names = [one["service"] for one in site.ask("/v1/services")[2]["services"]]
    assert names == ["boxed", "keyed", "loans", "price", "strict"]
    found = site.ask("/v1/services/loans")[2]
    assert found["champion"] == 1
    assert found["contract"]["inputs"][0]["name"] == "age"
    assert site.ask("/healthz")[2] == {"status": "serving"}


def test_a_huge_body_is_refused_before_it_is_read(site: Site) -> None:
    with site.connect() as link:
        size = 200 * 1024 * 1024
        link.sendall(f"POST {PREDICT} HTTP/1.1\r\ncontent-length: {size}\r\n\r\n".encode())
        status, headers, answer = read_answer(link)
    assert (status, headers["connection"]) == (413, "close")
    assert f"expected at most {BODY_BYTES_MAX}" in answer["error"]["message"]


def test_a_huge_chunked_body_is_refused_at_the_limit(site: Site) -> None:
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with site.connect() as link:
        link.sendall(f"POST {PREDICT} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(BODY_BYTES_MAX // 0x100000 + 1):
            link.sendall(piece)
        assert read_answer(link)[0] == 413


def test_many_tiny_chunks_are_refused_and_a_few_are_fine(site: Site) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    data = json.dumps(ROW).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in data)
    assert site.raw(head + chunks + b"0\r\n\r\n")[0] == 200
    status, _, answer = site.raw(head + b"1\r\n \r\n" * 10_001)
    assert (status, answer["error"]["code"]) == (413, "too-many-chunks")


POST = b"POST /x HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"hello\r\n\r\n", 400, "bad-http"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000, 431, "headers-too-large"),
        (b"POST /x HTTP/1.1\r\nexpect: magic\r\ncontent-length: 5\r\n\r\n", 417, "bad-expectation"),
        (POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400, "bad-http"),
        (POST + b"content-length: -1\r\n\r\n", 400, "bad-http"),
        (POST + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", 415, "bad-encoding"),
    ],
)  # fmt: skip
def test_what_is_not_our_http_is_refused_and_closed(
    site: Site, data: bytes, status: int, code: str
) -> None:
    found, headers, answer = site.raw(data)
    assert (found, answer["error"]["code"]) == (status, code)
    assert headers["connection"] == "close"


def test_a_wish_to_upgrade_is_ignored(site: Site) -> None:
    wish = b"connection: upgrade\r\nupgrade: h2c\r\n"
    post = request_of(ROW).replace(b"\r\n", b"\r\n" + wish, 1)
    with site.connect() as link:
        for _ in range(2):
            link.sendall(b"GET /healthz HTTP/1.1\r\n" + wish + b"\r\n")
            assert read_answer(link)[0] == 200
            link.sendall(post)
            assert read_answer(link)[2]["version"] == 1
        link.sendall(post + request_of(ROW))
        assert len(read_many(link, 2)) == 2
        # The first answer says that the half behind it has come: what follows is another piece.
        link.sendall(b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\nconn")
        assert read_answer(link)[0] == 200
        link.sendall(b"ection: upgrade\r\nupgrade: h2c\r\n\r\n")
        assert read_answer(link)[0] == 501


def test_continue_is_said_before_a_body_that_is_waited_for(site: Site) -> None:
    data = json.dumps(ROW).encode()
    with site.connect() as link:
        head = f"POST {PREDICT} HTTP/1.1\r\nexpect: 100-continue\r\n"
        link.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode())
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(data)
        assert read_answer(link)[0] == 200


def request_of(row: dict[str, Any]) -> bytes:
    data = json.dumps(row).encode()
    return f"POST {PREDICT} HTTP/1.1\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


@pytest.mark.parametrize("cut", [1, 5, 60, 75, 90])
def test_a_kept_connection_answers_in_order_however_its_bytes_arrive(site: Site, cut: int) -> None:
    rows = [{**ROW, "amount": amount} for amount in range(7)]
    data = b"".join(map(request_of, rows))
    with site.connect() as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(request_of(rows[0]))
        assert read_answer(link)[0] == 200
        for at in range(0, len(data), 400):
            link.sendall(data[at : at + cut])
            time.sleep(0.002)
            link.sendall(data[at + cut : at + 400])
        answers = read_many(link, len(rows))
        link.sendall(request_of(rows[3]))
        assert read_answer(link)[0] == 200
    found = [list(one["predictions"][0]["probabilities"].values()) for one in answers]
    np.testing.assert_allclose(found, site.expected(rows), rtol=1e-6)


def read_many(link: socket.socket, count: int) -> list[Any]:
    data, found = b"", []
    while len(found) < count:
        data += link.recv(65536)
        while b"\r\n\r\n" in data:
            head, _, rest = data.partition(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(rest) < size:
                break
            found.append(json.loads(rest[:size]))
            data = rest[size:]
    return found


def test_more_pipelined_requests_than_the_limit_are_all_answered(site: Site) -> None:
    with site.connect() as link:
        link.sendall(request_of(ROW) * 100)
        assert len(read_many(link, 100)) == 100


def test_a_head_request_has_no_body_and_http_1_0_is_closed(site: Site) -> None:
    with site.connect() as link:
        link.sendall(b"HEAD /healthz HTTP/1.1\r\n\r\nHEAD /healthz HTTP/1.0\r\n\r\n")
        first, second, rest = b"".join(iter(lambda: link.recv(1000), b"")).split(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200") and second.startswith(b"HTTP/1.1 200")
        assert rest == b""
    status, headers, _ = site.raw(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (status, headers["connection"]) == (200, "close")


def test_a_bad_row_beside_good_ones_in_one_turn_fails_only_its_own_request(site: Site) -> None:
    good, bad = request_of(ROW), request_of({**ROW, "score": None})
    with site.connect() as link:
        link.sendall(good + bad + good)
        answers = read_many(link, 3)
    assert ["error" in one for one in answers] == [False, True, False]


def test_every_answer_is_in_the_journal_with_the_version_that_gave_it(site: Site) -> None:
    names = [site.ask(PREDICT, ROW)[2]["predictions"][0]["id"] for _ in range(5)]
    records = site.node.journaled()
    assert [sum(name == one for one, _ in records) for name in names] == [1] * 5
    assert all(one.version == 1 for name, one in records if name in names)


def test_a_front_worker_that_has_answered_has_loaded_nothing_heavy(site: Site) -> None:
    assert site.ask(PREDICT, ROW)[0] == 200
    heavy = (
        "sqlalchemy", "duckdb", "litestar", "jinja2", "plotly", "typer", "pandas", "sklearn",
        "cryptography", "scipy", "onnx", "prometheus_client", "pyarrow", "rich",
    )  # fmt: skip
    report = site.node.report()
    assert report is not None
    pid = next(one.pid for one in report.workers if one.kind == "front")
    mapped = Path(f"/proc/{pid}/maps").read_text()
    native = ("duckdb", "cryptography", "pandas", "sklearn", "scipy", "pyarrow", "sqlalchemy")
    assert [name for name in native if f"/site-packages/{name}" in mapped] == []
    code = (
        f"import sys, {', '.join(FRONT_MODULES)}; print([m for m in {heavy!r} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


FRONT_MODULES = (
    "doorstep.serve.front", "doorstep.formats.onnx", "onnxruntime", "doorstep.serve.engine_client",
)  # fmt: skip
