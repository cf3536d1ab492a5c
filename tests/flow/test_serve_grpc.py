"""Open Inference Protocol over gRPC with the client that others use, unmodified, on a real node."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from doorstep.core.contract import Contract, Field
from doorstep.core.plan import FallbackStep, ReleasePlan
from doorstep.core.report import NodeReport
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

KINDS = Contract(
    inputs=(
        Field(name="whole", type="int"),
        Field(name="part", type="float", required=False),
        Field(name="flag", type="bool"),
        Field(name="word", type="text", required=False),
    ),
    context=(Field(name="region", type="category", values=("north", "süd"), required=False),),
)
ENGINE_MS = 1500
PATIENT_MS = 120_000


class Site:
    def __init__(self, node: RunningNode) -> None:
        self.node = node
        self.client = triton.InferenceServerClient(node.grpc_url)
        self.channel = grpc.insecure_channel(node.grpc_url)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("grpc")
    home = TestHome(folder / "home")
    plain = home.contract(3)
    both = {1: home.bundle(plain), 2: home.bundle(plain, seed=2)}
    services = (
        home.service("loans", {1: both[1]}),
        home.service("kinds", {1: home.bundle(KINDS)}, key="customer"),
        home.service("price", {1: home.bundle(plain, labels=())}),
        home.service(
            "split", both, release=ReleasePlan(
                id="r1", challenger=2, state="step", epoch=1, shares={"": 0.5}
            ),
        ),
        home.service(
            "constant", {1: home.bundle(plain, behaviour="raises")},
            fallback=(FallbackStep(kind="answer", answer="bad"),),
        ),
        home.service(
            "slow", {1: home.bundle(plain, seed=3)}, placement="engine", timeout_ms=ENGINE_MS
        ),
        home.service(
            "patient", {1: home.bundle(plain, seed=4)}, placement="engine", timeout_ms=PATIENT_MS
        ),
    )  # fmt: skip
    with RunningNode(home.path, folder / "state", workers=1, grpc_port=0) as node:
        node.wait_plan(home.publish(*services, lease_s=3600))
        site = Site(node)
        yield site
        site.client.close()
        site.channel.close()


def tensor(name: str, values: Any, datatype: str = "") -> triton.InferInput:
    array = np.asarray(values)
    found = triton.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    found.set_data_from_numpy(array)
    return found


def matrix(rows: int = 2, dtype: Any = np.float32) -> triton.InferInput:
    return tensor("rows", np.arange(rows * 3, dtype=dtype).reshape(rows, 3))


def by_rest(site: Site, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(site.node.data_url + path, data=json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def test_the_server_and_its_models_say_who_they_are(site: Site) -> None:
    client = site.client
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("loans") and client.is_model_ready("loans", "1")
    assert client.get_server_metadata().name == "doorstep"
    found = client.get_model_metadata("kinds", as_json=True)
    assert (found["name"], found["versions"], found["platform"]) == (
        "kinds", ["1"], "doorstep_onnx",
    )  # fmt: skip
    assert [(one["name"], one["datatype"]) for one in found["inputs"]] == [
        ("whole", "INT64"), ("part", "FP64"), ("flag", "BOOL"), ("word", "BYTES"),
        ("region", "BYTES"),
    ]  # fmt: skip
    assert found["outputs"][1] == {
        "name": "probabilities", "datatype": "FP64", "shape": ["-1", "2"],
    }  # fmt: skip


def test_an_answer_is_that_of_http_and_names_request_and_version(site: Site) -> None:
    answer = site.client.infer("loans", [matrix()], request_id="my-id")
    rows = {"name": "rows", "shape": [2, 3], "datatype": "FP32", "data": list(range(6))}
    other = {one["name"]: one for one in by_rest(
        site, "/v2/models/loans/infer", {"inputs": [rows]}
    )["outputs"]}  # fmt: skip
    found = answer.get_response()
    assert (found.model_name, found.model_version, found.id) == ("loans", "1", "my-id")
    assert answer.as_numpy("probabilities").ravel().tolist() == other["probabilities"]["data"]
    assert [one.decode() for one in answer.as_numpy("answer")] == other["answer"]["data"]
    journaled = dict(site.node.journaled())
    name = found.parameters["request_id"].string_param
    assert {f"{name}.0", f"{name}.1"} <= set(journaled)


def test_a_regression_answers_values(site: Site) -> None:
    found = site.client.infer("price", [matrix()], model_version="1")
    assert found.as_numpy("value").shape == (2,)


@pytest.mark.parametrize(
    "dtype",
    [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
     np.float16, np.float32, np.float64],
)  # fmt: skip
def test_every_number_type_means_the_same_raw_and_typed(site: Site, dtype: Any) -> None:
    expected = site.client.infer("loans", [matrix(dtype=np.float64)]).as_numpy("probabilities")
    raw = site.client.infer("loans", [matrix(dtype=dtype)])
    assert raw.as_numpy("probabilities").tolist() == expected.tolist()
    assert raw.get_response().raw_output_contents
    if dtype is np.float16:
        return
    name = np_to_triton_dtype(np.dtype(dtype))
    fields = {
        "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
        "FP64": "fp64_contents",
    }  # fmt: skip
    field = fields.get(name, "uint_contents" if name.startswith("U") else "int_contents")
    asked = service_pb2.ModelInferRequest(model_name="loans")
    one = asked.inputs.add(name="rows", datatype=name, shape=[2, 3])
    getattr(one.contents, field).extend(range(6))
    answer = site.stub.ModelInfer(asked)
    assert not answer.raw_output_contents
    assert list(answer.outputs[1].contents.fp64_contents) == expected.ravel().tolist()
    assert set(answer.outputs[0].contents.bytes_contents) <= {b"bad", b"good"}


def kinds(**changes: Any) -> list[triton.InferInput]:
    values = {
        "whole": np.array([1, 2]), "part": np.array([0.5, 2.0]),
        "flag": np.array([True, False]), "word": np.array([b"", "ü".encode()], dtype=object),
    } | changes  # fmt: skip
    return [tensor(name, value) for name, value in values.items() if value is not None]


def test_a_tensor_for_each_field_with_texts_and_flags(site: Site) -> None:
    tensors = site.client.infer("kinds", kinds()).as_numpy("probabilities")
    rows = [
        {"whole": 1, "part": 0.5, "flag": True, "word": ""},
        {"whole": 2, "part": 2.0, "flag": False, "word": "ü"},
    ]
    found = by_rest(site, "/v1/services/kinds/predict", {"rows": rows})
    assert [[row["probabilities"][label] for label in ("bad", "good")]
            for row in found["predictions"]] == tensors.tolist()  # fmt: skip


def test_nan_is_a_value_that_is_missing(site: Site) -> None:
    nan = tensor("rows", np.array([[1, np.nan, 3]], np.float32))
    with pytest.raises(InferenceServerException, match="bad-field: row 0: field 'x1' is null"):
        site.client.infer("loans", [nan])


@pytest.mark.parametrize("way", ["parameters", "metadata", "tensor"])
def test_context_and_keys_come_as_parameters_metadata_or_tensors(site: Site, way: str) -> None:
    inputs, headers, parameters = kinds(), {}, {}
    if way == "tensor":
        inputs += [tensor("region", np.array(["süd".encode()] * 2, dtype=object))]
        inputs += [tensor("customer", np.array([b"c1", b"c2"], dtype=object))]
    elif way == "metadata":
        said = {"region": "süd", "customer": "c1"}
        headers = {"doorstep-context": json.dumps(said)}
    else:
        parameters = {"region": "süd", "customer": "c1"}
    answer = site.client.infer("kinds", inputs, headers=headers, parameters=parameters)
    name = answer.get_response().parameters["request_id"].string_param
    written = dict(site.node.journaled())
    assert written[f"{name}.0"].key == "c1"


def test_wanted_outputs_only_and_an_output_that_is_not_there(site: Site) -> None:
    wanted = [triton.InferRequestedOutput("probabilities")]
    found = site.client.infer("loans", [matrix()], outputs=wanted)
    assert found.as_numpy("answer") is None
    assert found.as_numpy("probabilities").shape == (2, 2)
    for odd in (
        triton.InferRequestedOutput("nope"),
        triton.InferRequestedOutput("answer", class_count=2),
    ):
        with pytest.raises(InferenceServerException, match="bad-output"):
            site.client.infer("loans", [matrix()], outputs=[odd])


def test_a_declared_answer_says_that_it_stood_in(site: Site) -> None:
    negative = tensor("rows", np.array([[-1, 0, 0]], np.float32))
    found = site.client.infer("constant", [negative])
    assert found.as_numpy("answer").tolist() == [b"bad"]
    assert found.get_response().parameters["fallback"].string_param == "answer"


def infer_request(**changes: Any) -> service_pb2.ModelInferRequest:
    asked = service_pb2.ModelInferRequest(model_name="loans")
    asked.inputs.add(name="rows", datatype="FP32", shape=[1, 3])
    asked.raw_input_contents.append(np.zeros(3, np.float32).tobytes())
    for name, value in changes.items():
        setattr(asked, name, value)
    return asked


def refused(site: Site, asked: service_pb2.ModelInferRequest, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        site.stub.ModelInfer(asked, **options)
    return caught.value


def spoil(case: str) -> service_pb2.ModelInferRequest:
    asked = infer_request()
    one = asked.inputs[0]
    match case:
        case "short":
            asked.raw_input_contents[0] = b"\x00"
        case "more-raw":
            asked.raw_input_contents.append(b"")
        case "both":
            one.contents.fp32_contents.append(1.0)
        case "typed-fp16":
            del asked.raw_input_contents[:]
            one.datatype = "FP16"
        case "typed-short":
            del asked.raw_input_contents[:]
            one.contents.fp32_contents.append(1.0)
        case "unknown-type":
            one.datatype = "BF16"
        case "huge":
            one.shape[:] = [2**62, 2**62]
        case "negative":
            one.shape[:] = [-1, -3]
        case "text":
            one.datatype, asked.raw_input_contents[0] = "BYTES", b"\xff\xff\xff\xff"
        case "nothing":
            del asked.inputs[:], asked.raw_input_contents[:]
    return asked


@pytest.mark.parametrize(
    "case",
    ["short", "more-raw", "both", "typed-fp16", "typed-short", "unknown-type", "huge", "negative",
     "text", "nothing"],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_invalid_arguments(site: Site, case: str) -> None:
    error = refused(site, spoil(case))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("bad-tensor: ")
    assert dict(error.trailing_metadata())["doorstep-request-id"]


def test_who_is_not_there_is_not_found(site: Site) -> None:
    for changes in ({"model_name": "a/b"}, {"model_name": ""}, {"model_version": "9"}):
        assert refused(site, infer_request(**changes)).code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        site.client.is_model_ready("nope")


def test_an_answer_carries_its_headers_as_trailing_metadata(site: Site) -> None:
    _, call = site.stub.ModelInfer.with_call(infer_request())
    said = dict(call.trailing_metadata())
    assert said["doorstep-version"] == "1"
    assert said["doorstep-request-id"]


def test_bytes_that_are_no_message_are_an_invalid_argument(site: Site) -> None:
    call = site.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("bad-message: ")


def test_what_is_compressed_or_too_large_or_unknown_is_refused(site: Site) -> None:
    error = refused(site, infer_request(id="a" * 1000), compression=grpc.Compression.Gzip)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    large = infer_request(id="a" * (5 * 1024 * 1024))
    assert refused(site, large).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    call = site.channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_http_reaches_no_route_of_grpc(site: Site) -> None:
    path = "/inference.GRPCInferenceService/ModelInfer/loans"
    for method in ("POST", "GET"):
        request = urllib.request.Request(site.node.data_url + path, data=b"", method=method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == 405


def test_evidence_and_metrics_count_grpc_calls(site: Site) -> None:
    for at in range(40):
        site.client.infer("split", [matrix(1)], parameters={"at": at})

    def counted(report: NodeReport) -> bool:
        cells = [one for one in report.cells if one.release == "r1"]
        return sum(one.ok for one in cells) == 40 and len({one.arm for one in cells}) == 2

    site.node.wait(counted, "40 answers of both arms")
    with urllib.request.urlopen(f"{site.node.health_url}/metrics") as answer:
        said = answer.read().decode()
    labels = 'code="2xx",protocol="oip_grpc",service="split"'
    lines = [one for one in said.splitlines() if f"doorstep_requests_total{{{labels}" in one]
    assert [one.partition("version=")[2][:3] for one in lines] == ['"1"', '"2"']
    assert sum(float(one.rpartition(" ")[2]) for one in lines) == 40


def engine_pid(node: RunningNode, version: str) -> int:
    report = node.wait(lambda one: any(w.serves == version and w.pid for w in one.workers), version)
    return next(one.pid for one in report.workers if one.serves == version)


def test_a_deadline_ends_the_wait_and_a_model_that_is_late_is_a_deadline_too(site: Site) -> None:
    engine = engine_pid(site.node, "slow@1")
    assert site.stub.ModelInfer(infer_request(model_name="slow")).model_version == "1"
    os.kill(engine, signal.SIGSTOP)
    try:
        error = refused(site, infer_request(model_name="slow"), timeout=0.2)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        error = refused(site, infer_request(model_name="slow"), timeout=30)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details().startswith("timed-out: ")
        # Others are answered meanwhile.
        assert site.stub.ModelInfer(infer_request(), timeout=30).model_version == "1"
    finally:
        os.kill(engine, signal.SIGCONT)


def test_more_calls_at_once_than_a_worker_takes_are_refused_and_none_is_lost(site: Site) -> None:
    engine = engine_pid(site.node, "patient@1")
    os.kill(engine, signal.SIGSTOP)
    channels = [
        grpc.insecure_channel(site.node.grpc_url, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(4)
    ]
    try:
        stubs = [service_pb2_grpc.GRPCInferenceServiceStub(one) for one in channels]
        calls = [
            stubs[at % 4].ModelInfer.future(infer_request(model_name="patient"), timeout=120)
            for at in range(400)
        ]
        until_s = time.monotonic() + 60
        while sum(one.done() for one in calls) < 100:
            assert time.monotonic() < until_s
            time.sleep(0.02)
        os.kill(engine, signal.SIGCONT)
        codes = Counter(one.code() for one in calls)
    finally:
        os.kill(engine, signal.SIGCONT)
        for one in channels:
            one.close()
    refused = codes[grpc.StatusCode.RESOURCE_EXHAUSTED] + codes[grpc.StatusCode.UNAVAILABLE]
    assert refused >= 100, codes
    assert codes[grpc.StatusCode.OK] == 400 - refused > 0, codes
