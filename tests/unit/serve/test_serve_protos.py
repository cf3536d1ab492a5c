"""Our gRPC messages are those of existing clients, and frames are found wherever bytes are cut."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from doorstep.core.errors import MissingExtraError
from doorstep.core.extras import install_line
from doorstep.serve.protos import messages, require_grpc

NESTED = {
    "InferInputTensor": "ModelInferRequest",
    "InferRequestedOutputTensor": "ModelInferRequest",
    "InferOutputTensor": "ModelInferResponse",
    "TensorMetadata": "ModelMetadataResponse",
}


def theirs(name: str) -> Any:
    if name in NESTED:
        return getattr(service_pb2, NESTED[name]).DESCRIPTOR.nested_types_by_name[name]
    return getattr(service_pb2, name).DESCRIPTOR


def shape_of(field: Any) -> tuple[object, ...]:
    oneof = field.containing_oneof is not None
    return field.number, field.type, field.is_repeated, oneof


@pytest.mark.parametrize("name", sorted(messages()))
def test_every_field_has_the_number_and_the_type_that_a_client_gives_it(name: str) -> None:
    ours = {one.name: shape_of(one) for one in messages()[name].DESCRIPTOR.fields}
    known = {one.name: shape_of(one) for one in theirs(name).fields}
    assert {field: shape for field, shape in ours.items() if field in known} == {
        field: known[field] for field in ours if field in known
    }
    # Triton's messages have no properties, and are otherwise all there.
    assert set(ours) - set(known) <= {"properties"}
    assert set(known) <= set(ours)


def test_a_client_reads_what_we_write() -> None:
    ours = messages()["ModelInferResponse"](
        model_name="loans", id="7", raw_output_contents=[b"\x00\x01"]
    )
    ours.parameters["fallback"].string_param = "champion"
    ours.outputs.add(name="answer", datatype="BYTES", shape=[2]).contents.bytes_contents.append(
        b"a"
    )
    found = service_pb2.ModelInferResponse.FromString(ours.SerializeToString())
    assert found.parameters["fallback"].string_param == "champion"
    assert list(found.outputs[0].contents.bytes_contents) == [b"a"]
    assert (found.id, list(found.outputs[0].shape)) == ("7", [2])


def test_a_missing_extra_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingExtraError) as caught:
        require_grpc()
    assert caught.value.hint == install_line("grpc")
    assert "grpcio" in caught.value.hint


@given(
    frames=st.lists(st.binary(max_size=40), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 30), max_size=60),
)
def test_a_goodbye_goes_between_two_frames_wherever_the_bytes_are_cut(
    frames: list[bytes], cuts: list[int]
) -> None:
    from doorstep.serve.rpc import Frames

    whole = [len(one).to_bytes(3, "big") + bytes(6) + one for one in frames]
    data, begins = b"".join(whole), {0}
    for one in whole:
        begins.add(max(begins) + len(one))
    found, at = Frames(), 0
    for cut in [*cuts, len(data)]:
        piece = data[at : at + cut]
        at += len(piece)
        found.feed(piece)
        if found.rest is not None:
            assert at + found.rest in begins
    assert (found.rest, found.count) == (0, len(frames))
