"""The messages of the Open Inference Protocol over gRPC, made from a table when first asked for.

They live in a pool of their own, so that a client library with messages of the same names may be
loaded in the same process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from doorstep.core.errors import MissingExtraError

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
# Fields are numbered 1, 2, ... in the order that they have here.
# `*`: any number of them. `%`: a map from text. `|`: at most one of these is set.
_TENSOR = "name:string datatype:string shape:int64* parameters:InferParameter%"
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool",
    "ModelReadyRequest": "name:string version:string",
    "ModelReadyResponse": "ready:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string version:string extensions:string*",
    "ModelMetadataRequest": "name:string version:string",
    "ModelMetadataResponse": "name:string versions:string* platform:string "
    "inputs:TensorMetadata* outputs:TensorMetadata* properties:string%",
    "ModelInferRequest": "model_name:string model_version:string id:string "
    "parameters:InferParameter% inputs:InferInputTensor* outputs:InferRequestedOutputTensor* "
    "raw_input_contents:bytes*",
    "ModelInferResponse": "model_name:string model_version:string id:string "
    "parameters:InferParameter% outputs:InferOutputTensor* raw_output_contents:bytes*",
    "TensorMetadata": "name:string datatype:string shape:int64*",
    "InferInputTensor": f"{_TENSOR} contents:InferTensorContents",
    "InferOutputTensor": f"{_TENSOR} contents:InferTensorContents",
    "InferRequestedOutputTensor": "name:string parameters:InferParameter%",
    "InferParameter": "bool_param:bool| int64_param:int64| string_param:string| "
    "double_param:double| uint64_param:uint64|",
    "InferTensorContents": "bool_contents:bool* int_contents:int32* int64_contents:int64* "
    "uint_contents:uint32* uint64_contents:uint64* fp32_contents:float* fp64_contents:double* "
    "bytes_contents:bytes*",
}
_SCALARS = ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")


def require_grpc() -> None:
    """Raises: MissingExtraError if gRPC cannot be served here."""
    for package, module in (("grpcio", "grpc"), ("protobuf", "google.protobuf")):
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise MissingExtraError.of(package, "grpc", "serving gRPC")


@cache
def messages() -> Mapping[str, Any]:
    """The message classes by name. Needs the extra `grpc`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="doorstep/inference", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, written in enumerate(fields.split(), 1):
            _add_field(message, number, written)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def _add_field(message: Any, number: int, written: str) -> None:
    name, _, kind = written.partition(":")
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if kind[-1] in "*%" else field.LABEL_OPTIONAL
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="one")
        field.oneof_index = 0
    if kind.endswith("%"):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, 1, "key:string")
        _add_field(entry, 2, f"value:{kind[:-1]}")
        kind = f"{message.name}.{entry.name}"
    _set_type(field, kind.rstrip("*|"))


def _set_type(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = field.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
