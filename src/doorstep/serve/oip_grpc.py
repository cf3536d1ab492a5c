"""Open Inference Protocol V2 over gRPC: the rows and answers of `oip.py` as protobuf messages.

A call is a request for `/inference.GRPCInferenceService/<call>[/<model>[/<version>]]` with a method
that no HTTP parser lets through, so these routes are reached by `rpc.py` alone. Tensors come typed
or raw, and are answered as they came; a float that is NaN is a missing value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import quote

from doorstep.core.errors import InputError
from doorstep.serve import oip
from doorstep.serve.answers import sentence
from doorstep.serve.call import Call
from doorstep.serve.protos import SERVICE, messages
from doorstep.serve.rows import Parsed
from doorstep.serve.service import Service
from doorstep.serve.tensors import Tensor, to_raw, write_raw
from doorstep.serve.visit import Handler, Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site

METHOD = b"GRPC"
NAME_CHARS_MAX = 256
"""Of a model's name in a route; a service's name is shorter."""
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_NOT_HERE = ("classification", "shared_memory_region")
"""Parameters of a wanted output that would change where or as what its values are read."""


class Names(NamedTuple):
    """The fields of a request that name its model and version."""

    model: str = ""
    version: str = ""


CALLS = {
    "ServerLive": Names(),
    "ServerReady": Names(),
    "ServerMetadata": Names(),
    "ModelReady": Names("name", "version"),
    "ModelMetadata": Names("name", "version"),
    "ModelInfer": Names("model_name", "model_version"),
}


class Asked(Protocol):
    """The exchange of a gRPC call. message: its request, None if that could not be decoded."""

    message: Any


class Wants(NamedTuple):
    """A call's `extra`: the request's id, the outputs that it wants, and whether raw."""

    id: str
    outputs: tuple[str, ...]
    raw: bool


def decode(call: str, data: bytes) -> Any:
    """The request message of a call; None if these bytes are none."""
    from google.protobuf.message import DecodeError

    try:
        return messages()[f"{call}Request"].FromString(data)
    except DecodeError:
        return None


def url_of(call: str, message: Any) -> bytes:
    names, url = CALLS[call], f"/{SERVICE}/{call}"
    for name in names:
        if message is not None and name and (found := getattr(message, name)[:NAME_CHARS_MAX]):
            url += "/" + quote(found, safe="")
    return url.encode()


class OipGrpcCodec:
    """A call's `extra` is its Wants. A refusal is the text of a status."""

    protocol = "oip_grpc"
    bad_input = 400

    def answer(self, call: Call) -> bytes:
        wants: Wants = call.extra
        found = messages()["ModelInferResponse"](
            model_name=call.service.name, model_version=call.versions, id=wants.id
        )
        for name, value in oip.parameters_of(call).items():
            found.parameters[name].string_param = str(value)
        for one in oip.outputs_of(call):
            if wants.outputs and one.name not in wants.outputs:
                continue
            output = found.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
            if wants.raw:
                found.raw_output_contents.append(write_raw(one))
            else:
                data = one.data or []
                values = [value.encode() for value in data] if one.datatype == "BYTES" else data
                getattr(output.contents, _CONTENTS[one.datatype]).extend(values)
        return cast(bytes, found.SerializeToString())

    def refusal(self, code: str, message: str, hint: str, _request: str, /) -> bytes:
        return sentence(code, message, hint).encode()


def read_infer(message: Any, service: Service, header: bytes) -> tuple[oip.InferRequest, Parsed]:
    """As REST would have sent it with raw tensors. header: the metadata `doorstep-context`.

    Raises: InputError (`bad-tensor`, `bad-output`, and those of the rows).
    """
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise InputError(
            "bad-tensor",
            f"raw_input_contents has {len(raws)} entries; expected {len(message.inputs)}, one for "
            "each input, or none",
        )
    most = max(len(message.inputs), len(message.outputs))
    if most > oip.INPUTS_MAX:
        raise InputError("bad-tensor", f"the request has {most} inputs or outputs")
    tensors = [Tensor(one.name, list(one.shape), one.datatype) for one in message.inputs]
    values = {
        at: _typed(one) if not raws else _raw(one, raws[at])
        for at, one in enumerate(message.inputs)
    }
    parameters = _parameters(message, service)
    request = oip.InferRequest(tensors, message.id, parameters, _wanted(message))
    return request, oip.read_request(request, values, service, header)


def _raw(tensor: Any, raw: bytes) -> bytes:
    if tensor.HasField("contents"):
        raise InputError("bad-tensor", f"input {tensor.name[:60]!r} has raw and typed contents")
    return raw


def _typed(tensor: Any) -> bytes:
    """Typed contents as the raw bytes that say the same."""
    name, datatype = tensor.name[:60], tensor.datatype
    if datatype not in _CONTENTS:
        raise InputError(
            "bad-tensor",
            f"input {name!r} has no raw contents and datatype {datatype[:20]!r}",
            f"typed contents are {', '.join(_CONTENTS)}; FP16 must come raw",
        )
    try:
        return to_raw(datatype, getattr(tensor.contents, _CONTENTS[datatype]))
    except OverflowError:
        raise InputError(
            "bad-tensor", f"input {name!r} has a value that is out of the range of {datatype}"
        ) from None


def _parameters(message: Any, service: Service) -> dict[str, Any]:
    """Those that are fields or ids of the service."""
    reader = service.reader
    found: dict[str, Any] = {}
    if not message.parameters:
        return found
    for name in (*reader.row.names, *reader.context.names):
        if name in message.parameters:
            one = message.parameters[name]
            kind = one.WhichOneof("one")
            if kind is not None:
                found[name] = getattr(one, kind)
    return found


def _wanted(message: Any) -> list[oip.Wanted]:
    for one in message.outputs:
        for name in _NOT_HERE:
            if name in one.parameters:
                raise InputError(
                    "bad-output",
                    f"output {one.name[:60]!r} has the parameter {name!r}, which is not served",
                )
    return [oip.Wanted(one.name) for one in message.outputs]


# -- routes


def infer(site: Site, visit: Visit) -> None:
    message = _message(visit)
    service = site.service(visit.service)
    pinned = site.version(service, visit.version)
    request, parsed = read_infer(message, service, visit.context)
    outputs = tuple(one.name for one in request.outputs or ())
    wants = Wants(message.id, outputs, len(message.raw_input_contents) > 0)
    site.submit(visit, service, parsed, extra=wants, pinned=pinned)


def _message(visit: Visit) -> Any:
    """Raises: InputError (`bad-message`)."""
    found = cast(Asked, visit.exchange).message
    if found is None:
        raise InputError("bad-message", f"{len(visit.body)} bytes are no message of this call")
    return found


_SAID: dict[str, Callable[[Site, Visit], dict[str, Any]]] = {
    "ServerLive": lambda _site, _visit: {"live": True},
    "ServerReady": lambda site, _visit: {"ready": site.serving},
    "ServerMetadata": lambda _site, _visit: {"name": "doorstep", "version": "1"},
    "ModelReady": lambda site, visit: {"ready": oip.is_model_ready(site, visit)},
    "ModelMetadata": oip.metadata_of,
}


def _saying(call: str) -> Handler:
    """The handler of a call that asks about the server or about a model."""

    def say(site: Site, visit: Visit) -> None:
        if CALLS[call].model:
            _message(visit)
        found = messages()[f"{call}Response"](**_SAID[call](site, visit))
        visit.exchange.respond(200, found.SerializeToString())

    return say


_HANDLERS = {"ModelInfer": infer, **{call: _saying(call) for call in _SAID}}
SKIN = Skin(
    codec=OipGrpcCodec(),
    prefixes=(f"/{SERVICE}".encode(),),
    probes=frozenset({f"{SERVICE}/ServerLive", f"{SERVICE}/ServerReady"}),
    routes={
        f"{SERVICE}/{call}{names}": {METHOD.decode(): handler}
        for call, handler in _HANDLERS.items()
        for names in (("", "/{service}", "/{service}/{version}") if CALLS[call].model else ("",))
    },
)
