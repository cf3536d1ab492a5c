"""Whatever arrives, no protocol answers that it is our fault, and nothing grows without bound."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doorstep.serve.limits import BODY_BYTES_MAX
from doorstep.serve.tensors import DATATYPES
from serve_case import CONTRACT, PLAIN, OneSite

LIMIT = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PATHS = (
    "/v1/models/loans:predict", "/v1/models/loans/labels/champion:predict", "/invocations",
    "/predictions/loans", "/predictions/loans/1", "/score", "/vertex", "/v2/models/loans/infer",
    "/v2/models/plain/infer", "/v1/models/plain:predict", "/v1/models/price:predict",
    "/v1/services/loans/predict",
)  # fmt: skip
ROW = {"age": 30, "amount": 12.5, "purpose": "car", "since": "2024-01-01T00:00:00Z", "owner": True}
NAMES = (*ROW, "store", "instances", "inputs", "data", "columns", "dataframe_split", "input_data",
         "dataframe_records", "params", "parameters", "predict_method", "signature_name", "b64",
         "outputs", "name", "shape", "datatype", "id", "binary_data_size", "index")  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSite]:
    found = OneSite(
        tmp_path_factory.mktemp("site"),
        {
            "loans": (CONTRACT, ("bad", "good")),
            "plain": (PLAIN, ("1", "0")),
            "price": (CONTRACT, ()),
        },
    )
    yield found
    found.close()


def check(site: OneSite, path: str, body: bytes, **headers: bytes) -> int:
    answer = site.ask("POST", path, body, **{"doorstep_service": b"loans", **headers})
    assert answer.status < 500, (path, body[:500], headers, answer.body)
    assert b"\r\n\r\n" not in answer.headers
    assert b"doorstep-request-id: " in answer.headers
    if answer.status != 200 or answer.media == b"application/json":
        assert json.loads(answer.body) is not None
    return answer.status


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 120),
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1e308, -0.0, 2**53]),
    st.text(max_size=8), st.sampled_from(["car", "2024-01-01", "probabilities", "predict_proba"]),
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


@LIMIT
@given(path=st.sampled_from(PATHS), found=TREES)
def test_any_json_is_answered(site: OneSite, path: str, found: Any) -> None:
    check(site, path, json.dumps(found).encode())


LIST = [30, 12.5, "car", 0, True]
ROWS = {"instances": [ROW, {**ROW, "store": 3}]}
COLUMNS = {name: [value, value] for name, value in ROW.items()}
SPLIT = {"columns": [*ROW, "other"], "index": [0], "data": [[*ROW.values(), 1]]}
TENSORS = {
    "id": "x",
    "parameters": {"store": 3, "binary_data_output": True},
    "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}],
    "inputs": [
        {"name": name, "datatype": kind, "shape": [2, 1], "data": [[ROW[name]], [ROW[name]]]}
        for name, kind in (("age", "INT8"), ("amount", "FP16"), ("purpose", "BYTES"))
    ],
}
RIGHT: list[tuple[str, Any]] = [
    ("/v1/models/loans:predict", {**ROWS, "signature_name": "probabilities"}),
    ("/v1/models/price:predict", {"instances": [LIST, {"features": LIST}]}),
    ("/v1/models/loans/labels/champion:predict", {"inputs": COLUMNS}),
    ("/v1/models/plain:predict", {"instances": [[3, 3], {"age": [9], "amount": {"b64": "YQ=="}}]}),
    ("/invocations", {"dataframe_split": SPLIT, "params": {"predict_method": "predict_proba"}}),
    ("/invocations", {"dataframe_records": [{**ROW, "more": 3}]}),
    ("/invocations", [LIST]),
    ("/predictions/loans/1", ROW),
    ("/predictions/loans", {"data": [LIST]}),
    ("/score", {"input_data": SPLIT}),
    ("/score", {"data": COLUMNS, "params": {}}),
    ("/vertex", {**ROWS, "parameters": {"predict_method": "predict"}}),
    ("/v2/models/loans/infer", TENSORS),
    ("/v2/models/plain/infer", {"inputs": [
        {"name": "m", "datatype": "FP32", "shape": [2, 2], "data": [30, 1, 40.0, 2]}]}),
]  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, Any]:
    """A body that is right, in which up to two places are changed."""
    path, body = draw(st.sampled_from(RIGHT))
    body = json.loads(json.dumps(body))
    for _ in range(draw(st.integers(0, 2))):
        body = change(draw, body)
    return path, body


def change(draw: st.DrawFn, found: Any) -> Any:
    """Go down to some place; there something else, nothing, or the same twice."""
    if not isinstance(found, list | dict) or not found or draw(st.integers(0, 5)) == 0:
        return draw(TREES)
    places = list(range(len(found))) if isinstance(found, list) else list(found)
    place = draw(st.sampled_from(places))
    match draw(st.sampled_from(["down", "down", "down", "drop", "twice"])):
        case "down":
            found[place] = change(draw, found[place])
        case "drop":
            del found[place]
        case _ if isinstance(found, list):
            found.append(found[place])
        case _:
            found[draw(st.sampled_from(NAMES) | st.text(max_size=3))] = found[place]
    return found


@settings(LIMIT, max_examples=400)
@given(found=bodies(), accept=st.sampled_from([
    b"", b"*/*", b"text/csv", b"application/jsonlines", b"image/png", b";,;", b"\xff",
]))  # fmt: skip
def test_bodies_that_are_nearly_right_are_answered(
    site: OneSite, found: tuple[str, Any], accept: bytes
) -> None:
    check(site, found[0], json.dumps(found[1]).encode(), accept=accept)


@pytest.mark.parametrize(("path", "body"), RIGHT)
def test_bodies_that_are_right_are_answered(site: OneSite, path: str, body: Any) -> None:
    found = check(site, path, json.dumps(body).encode())
    assert found == (400 if "b64" in json.dumps(body) else 200)


@LIMIT
@given(
    path=st.sampled_from(PATHS), body=st.binary(max_size=200),
    media=st.sampled_from([b"text/csv", b"application/jsonlines", b"application/json", b"x"]),
    context=st.binary(max_size=20), size=st.sampled_from([b"", b"0", b"7", b"-1", b"99999", b"x"]),
)  # fmt: skip
def test_any_bytes_are_answered(
    site: OneSite, path: str, body: bytes, media: bytes, context: bytes, size: bytes
) -> None:
    check(
        site, path, body, content_type=media, doorstep_context=context,
        inference_header_content_length=size,
    )  # fmt: skip


CELLS = st.sampled_from(
    ["30", "12.5", "car", "True", "", "nan", "1e999", "9" * 5000, "-0", "1_0", "٣", '"', "\0",
     "2024-01-01", "age", "amount", '"a,b"', "\n"]
) | st.text(max_size=5)  # fmt: skip


@LIMIT
@given(
    changes=st.dictionaries(st.integers(0, 9), CELLS, max_size=2), named=st.booleans(),
    more=st.lists(CELLS, max_size=2), accept=st.sampled_from([b"text/csv", b""]),
)  # fmt: skip
def test_any_csv_is_answered(
    site: OneSite, changes: dict[int, str], named: bool, more: list[str], accept: bytes
) -> None:
    cells = ["30", "12.5", "car", "", "True"] * 2
    for at, cell in changes.items():
        cells[at] = cell
    lines = [",".join(ROW)] if named else []
    lines += [",".join(cells[:5]), ",".join(cells[5:]), ",".join(more)]
    body = "\n".join(lines).encode()
    check(site, "/invocations", body, content_type=b"text/csv", accept=accept)


KINDS = {"age": "INT64", "amount": "FP64", "purpose": "BYTES", "owner": "BOOL"}
RAW = {"INT64": struct.pack("<q", 30), "FP64": struct.pack("<d", 12.5),
       "BYTES": b"\3\0\0\0car", "BOOL": b"\1"}  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An inference request with raw tensors, and the size of its JSON; some places are changed."""
    inputs, raws = [], []
    for name, kind in KINDS.items():
        raw = RAW[kind] * 2
        if draw(st.integers(0, 9)) == 0:
            raw = draw(st.binary(max_size=24))
        raws.append(raw)
        sizes = {"binary_data_size": len(raw)}
        inputs.append({"name": name, "datatype": kind, "shape": [2], "parameters": sizes})
    change_it = draw(st.sampled_from(["", "", "shape", "datatype", "size", "json"]))
    one = draw(st.sampled_from(inputs))
    match change_it:
        case "shape":
            one["shape"] = draw(st.lists(st.integers(-2, 3) | st.just(2**70), max_size=3))
        case "datatype":
            one["datatype"] = draw(st.sampled_from(DATATYPES))
        case "size":
            one["parameters"] = {"binary_data_size": draw(LEAVES)}
        case "json":
            inputs = change(draw, inputs)
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(raws), str(len(head)).encode()


@settings(LIMIT, max_examples=300)
@given(found=tensors())
def test_any_tensors_are_answered(site: OneSite, found: tuple[bytes, bytes]) -> None:
    path = "/v2/models/loans/infer"
    check(site, path, found[0], inference_header_content_length=found[1])


@settings(LIMIT, max_examples=100)
@given(
    ages=st.lists(st.integers(-5, 120) | st.just(2**53) | st.just(2**53 + 1), min_size=1),
    kind=st.sampled_from(["INT64", "FP64", "FP32", "UINT64"]), data=st.data(),
)  # fmt: skip
def test_raw_tensors_and_json_rows_are_one(
    site: OneSite, ages: list[int], kind: str, data: Any
) -> None:
    """The same verdict, the same warnings and the same answers, by numpy and by msgspec."""
    amount = st.floats(width=32, allow_nan=False, allow_infinity=False)
    amounts = data.draw(st.lists(amount, min_size=len(ages), max_size=len(ages)))
    dtype = np.dtype(kind.lower().replace("fp", "float"))
    exact = [age % 2**64 if kind == "UINT64" else age for age in ages]
    raw = np.array(exact, dtype=object).astype(dtype)
    head = {"inputs": [
        {"name": name, "shape": [len(ages)], "datatype": form,
         "parameters": {"binary_data_size": size}}
        for name, form, size in (("age", kind, raw.nbytes), ("amount", "FP64", 8 * len(ages)))
    ]}  # fmt: skip
    text = json.dumps(head).encode()
    body = text + raw.tobytes() + np.array(amounts, "<f8").tobytes()
    size = str(len(text)).encode()
    mine = site.ask("POST", "/v2/models/plain/infer", body, inference_header_content_length=size)
    given_rows = [
        {"age": age, "amount": amount} for age, amount in zip(raw.tolist(), amounts, strict=True)
    ]
    native = json.dumps({"rows": given_rows}).encode()
    other = site.ask("POST", "/v1/services/plain/predict", native)
    assert (mine.status == 200) == (other.status == 200), (mine.body, other.body)
    if mine.status != 200:
        said = json.loads(other.body)["error"]
        assert json.loads(mine.body)["error"].startswith(f"{said['code']}: {said['message']}")
        return
    outputs = {one["name"]: one["data"] for one in json.loads(mine.body)["outputs"]}
    predictions = json.loads(other.body)["predictions"]
    assert outputs["answer"] == [one["answer"] for one in predictions]
    warnings = sorted({said for one in predictions for said in one["warnings"]})
    said = json.loads(mine.body)["parameters"].get("warnings", "")
    assert said == ",".join(warnings)


def tensor_body(**changes: Any) -> bytes:
    one = {"name": "age", "datatype": "INT64", "shape": [1], "data": [1], **changes}
    return json.dumps({"inputs": [one]}).encode()


BIG = BODY_BYTES_MAX - 100
HUGE = {
    "a shape of many elements": ("/v2/models/loans/infer", tensor_body(shape=[2**40]), {}),
    "a matrix of many elements": ("/v2/models/loans/infer", tensor_body(shape=[1, 2**60]), {}),
    "a text that says it is long": (
        "/v2/models/loans/infer",
        tensor_body(
            name="purpose", datatype="BYTES", data=None, parameters={"binary_data_size": 4}
        ) + struct.pack("<I", 2**32 - 1),
        {"inference_header_content_length": str(len(tensor_body(
            name="purpose", datatype="BYTES", data=None, parameters={"binary_data_size": 4}
        ))).encode()},
    ),
    "nested lists": ("/v1/models/loans:predict", b'{"instances": ' + b"[" * BIG, {}),
    "many rows": ("/v1/models/loans:predict",
                  b'{"instances": [' + b"0," * (BIG // 2 - 10) + b"0]}", {}),
    "many columns": ("/invocations", b'{"dataframe_split": {"columns": [' + b'"",' * (BIG // 3 - 30)
                     + b'""], "data": [[]]}}', {}),
    "many keys": ("/v1/models/loans:predict", b'{"inputs": {' + b",".join(
        b'"%d":[0]' % at for at in range(BIG // 40)) + b"}}", {}),
    "many cells": ("/invocations", b"," * BIG, {"content_type": b"text/csv"}),
    "many lines": ("/invocations", b"1,\n" * (BIG // 3), {"content_type": b"text/csv"}),
    "many json lines": ("/invocations", b"1\n" * (BIG // 2),
                        {"content_type": b"application/jsonlines"}),
}  # fmt: skip


@pytest.mark.parametrize("what", HUGE)
def test_what_is_huge_is_refused_in_bounded_memory(site: OneSite, what: str) -> None:
    path, body, headers = HUGE[what]
    tracemalloc.start()
    try:
        assert 400 <= check(site, path, body, **headers) < 500
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # JSON's smallest values are a byte and a half of text and eight bytes of list each; keys more.
    assert peak < 20 * BODY_BYTES_MAX


def test_empty_lines_and_fields_that_cannot_be_are_not_all_looked_at(site: OneSite) -> None:
    kinds = {"doorstep_service": b"loans", "content_type": b"text/csv"}
    lines = site.ask("POST", "/invocations", b"\n" * BIG, **kinds)
    assert b"too-many-rows: the request has 4001 rows" in lines.body
    row = json.dumps(dict.fromkeys(map(str, range(100_000)), 0)).encode()
    fields = site.ask("POST", "/predictions/loans", row)
    assert b"row 0 has 100000 fields; expected at most" in fields.body
    few = b"\n\nage,amount,purpose\n\n\n30,1,car\n\n"
    assert site.ask("POST", "/invocations", few, **kinds).status == 200
    # The words of a path are those of its protocol, whose paths only begin alike.
    assert json.loads(site.ask("PUT", "/healthz").body)["error"]["code"] == "bad-method"
    assert "error_code" in json.loads(site.ask("PUT", "/health").body)
