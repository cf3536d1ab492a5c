"""Whatever bytes come as a ModelInfer request: a status that blames the request, and no crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from doorstep.core.contract import Contract, Field
from doorstep.core.plan import FallbackStep
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

FINE = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
PEAK_MB_MAX = 500
TYPES = [
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16",
    "FP32", "FP64", "BYTES", "BF16", "",
]  # fmt: skip
TYPED = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}
NAMES = st.sampled_from(["x0", "x1", "flag", "word", "region", "customer", "rows", "", "ü"])


class Target:
    def __init__(self, node: RunningNode) -> None:
        self.node = node
        self.channel = grpc.insecure_channel(node.grpc_url)
        self._call = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def ask(self, data: bytes) -> grpc.StatusCode:
        try:
            self._call(data, timeout=60)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def front(self) -> tuple[int, int]:
        """pid of the worker, and the most memory that it ever had, MB."""
        report = self.node.report()
        assert report is not None
        pid = next(one.pid for one in report.workers if one.kind == "front")
        status = Path(f"/proc/{pid}/status").read_text()
        return pid, int(status.partition("VmHWM:")[2].split()[0]) // 1024


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    home = TestHome(folder / "home")
    contract = Contract(
        inputs=(
            Field(name="x0", type="float"),
            Field(name="x1", type="int", required=False),
            Field(name="flag", type="bool", required=False),
            Field(name="word", type="text", required=False),
        ),
        context=(Field(name="region", type="category", values=("north",), required=False),),
    )
    # A model that cannot score a row is no fault of the codec: then the constant answers.
    plan = home.service(
        "loans", {1: home.bundle(contract)}, key="customer",
        fallback=(FallbackStep(kind="answer", answer="bad"),),
    )  # fmt: skip
    home.publish(plan)
    with RunningNode(home.path, folder / "state", grpc_port=0) as node:
        node.wait_plan(1)
        target = Target(node)
        before, _ = target.front()
        yield target
        after, peak_mb = target.front()
        assert after == before, "the worker has died"
        assert peak_mb < PEAK_MB_MAX
        target.channel.close()


def parameter(kind: str, value: Any) -> service_pb2.InferParameter:
    return service_pb2.InferParameter(**{kind: value})


PARAMETERS = st.dictionaries(
    NAMES,
    st.one_of(
        st.booleans().map(lambda one: parameter("bool_param", one)),
        st.integers(-(2**63), 2**63 - 1).map(lambda one: parameter("int64_param", one)),
        st.text(max_size=5).map(lambda one: parameter("string_param", one)),
        st.floats().map(lambda one: parameter("double_param", one)),
        st.just(service_pb2.InferParameter()),
    ),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> service_pb2.ModelInferRequest:
    """Often nearly right: names of the contract, shapes that fit the number of values."""
    asked = service_pb2.ModelInferRequest(
        model_name=draw(st.sampled_from(["loans", "loans", "loans", "other", ""])),
        # A version that is named has no fallback, and its model may not score the row.
        model_version=draw(st.sampled_from(["", "9", "-1", "x"])),
        id=draw(st.text(max_size=5)),
    )
    for name, value in draw(PARAMETERS).items():
        asked.parameters[name].CopyFrom(value)
    rows = draw(st.integers(1, 3))
    for _ in range(draw(st.integers(0, 4))):
        one = asked.inputs.add(name=draw(NAMES), datatype=draw(st.sampled_from(TYPES)))
        one.shape.extend(draw(st.one_of(
            st.just([rows]), st.just([rows, 1]), st.lists(st.integers(-(2**63), 2**63 - 1)),
            st.lists(st.integers(0, 4), max_size=3),
        )))  # fmt: skip
        if draw(st.booleans()):
            field = draw(st.sampled_from(sorted(TYPED)))
            values = draw(st.lists(TYPED[field], min_size=0, max_size=4))
            getattr(one.contents, field).extend(values)
        else:
            size = rows * draw(st.sampled_from([1, 2, 4, 8]))
            asked.raw_input_contents.append(draw(st.binary(min_size=size, max_size=size)))
    for _ in range(draw(st.integers(0, 1))):
        asked.outputs.add(name=draw(st.sampled_from(["answer", "probabilities", "no"])))
    return asked


RUN = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@RUN
@given(asked=requests())
def test_any_message_is_answered_or_refused(
    target: Target, asked: service_pb2.ModelInferRequest
) -> None:
    assert target.ask(asked.SerializeToString()) in FINE


@RUN
@given(asked=requests(), at=st.integers(0, 200), put=st.binary(max_size=6), cut=st.booleans())
def test_a_message_that_was_damaged_is_answered_or_refused(
    target: Target, asked: service_pb2.ModelInferRequest, at: int, put: bytes, cut: bool
) -> None:
    data = asked.SerializeToString()
    rest = b"" if cut else data[at + len(put) :]
    assert target.ask(data[:at] + put + rest) in FINE


@RUN
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(target: Target, data: bytes) -> None:
    assert target.ask(data) in FINE - {grpc.StatusCode.OK}


def nested(*tags: int, data: bytes) -> bytes:
    for tag in reversed(tags):
        data = bytes([tag]) + length(len(data)) + data
    return data


def length(size: int) -> bytes:
    found = b""
    while size > 127:
        found, size = found + bytes([size & 127 | 128]), size >> 7
    return found + bytes([size])


LARGE = 4_000_000
HOSTILE = {
    "inputs": b"\x2a\x00" * (LARGE // 2),
    "outputs": b"\x32\x00" * (LARGE // 2),
    "raw contents": b"\x3a\x00" * (LARGE // 2),
    "parameters": b"\x22\x00" * (LARGE // 2),
    "unknown fields": b"\xf8\x07\x01" * (LARGE // 3),
    "dimensions": nested(0x2A, 0x1A, data=b"\x01" * LARGE),
    "booleans": nested(0x2A, 0x2A, 0x0A, data=b"\x01" * LARGE),
    "texts": nested(0x2A, 0x2A, data=b"\x42\x00" * (LARGE // 2)),
    "name": nested(0x2A, 0x0A, data=b"a" * LARGE),
    "model": nested(0x0A, data=b"/" * LARGE),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_millions_of_anything_are_refused_in_bounded_memory(target: Target, what: str) -> None:
    model = b"" if what == "model" else b"\x0a\x05loans"
    for _ in range(3):
        assert target.ask(model + HOSTILE[what]) in FINE - {grpc.StatusCode.OK}
    assert target.front()[1] < PEAK_MB_MAX
