"""Open Inference Protocol V2 over gRPC: the rows and answers of `oip.py` as protobuf messages.

A call is a request for `/inference.GRPCInferenceService/<call>[/<model>[/<version>]]` with a method
that no HTTP parser lets through, so these routes are reached by `rpc.py` alone. Tensors come typed
or raw, and are answered as they came; a float that is NaN is a missing value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import quote

from doorstep.core.errors import InputError
from doorstep.serve import oip
from doorstep.serve.call import Call
from doorstep.serve.protos import SERVICE, messages
from doorstep.serve.service import Service
from doorstep.serve.tensors import Tensor, without_nan, write_raw
from doorstep.serve.visit import Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site

METHOD = b"GRPC"
NAME_CHARS_MAX = 256
"""Of a model's name in a route; a service's name is shorter."""
SHAPE_MAX = 8
"""Dimensions that are looked at; more than two are refused."""
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
                values: list[Any] = one.data or []
                if one.datatype == "BYTES":
                    values = [value.encode() for value in values]
                getattr(output.contents, _CONTENTS[one.datatype]).extend(values)
        return cast(bytes, found.SerializeToString())

    def refusal(self, code: str, message: str, hint: str, _request: str, /) -> bytes:
        return (f"{code}: {message}" + (f" ({hint})" if hint else "")).encode()


def read_infer(message: Any, service: Service) -> tuple[oip.InferRequest, dict[int, bytes]]:
    """The request as REST would have sent it, and the raw bytes of its inputs by position.

    Raises: InputError (`bad-tensor`, `bad-output`).
    """
    inputs, raws = message.inputs, message.raw_input_contents
    most = max(len(inputs), len(message.outputs))
    if most > oip.INPUTS_MAX:
        raise InputError("bad-tensor", f"the request has {most} inputs or outputs")
    if raws and len(raws) != len(inputs):
        raise InputError(
            "bad-tensor",
            f"raw_input_contents has {len(raws)} entries; expected {len(inputs)}, one for each "
            "input, or none",
        )
    values_max = service.plan.rows_max * max(len(service.reader.row.numbers), 1)
    tensors = [_tensor(one, len(raws) > 0, values_max) for one in inputs]
    asked = oip.InferRequest(tensors, message.id, _parameters(message, service), _wanted(message))
    return asked, dict(enumerate(raws))


def _tensor(found: Any, is_raw: bool, values_max: int) -> Tensor:
    name, shape, datatype = found.name, list(found.shape[:SHAPE_MAX]), found.datatype
    if is_raw and found.HasField("contents"):
        raise _bad(name, "has raw and typed contents")
    if is_raw:
        return Tensor(name, shape, datatype)
    if datatype not in _CONTENTS:
        known = ", ".join(_CONTENTS)
        raise _bad(name, f"has datatype {datatype[:20]!r}, typed; expected {known}; FP16 comes raw")
    field = _CONTENTS[datatype]
    values = getattr(found.contents, field)
    if len(values) > values_max:
        raise _bad(name, f"has {len(values)} values in {field}; expected at most {values_max}")
    data = list(values)
    if datatype == "BYTES":
        data = [_text(name, one) for one in data]
    elif datatype.startswith("FP"):
        data = without_nan(data)
    return Tensor(name, shape, datatype, data)


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _bad(name, f"has text that is not UTF-8: {error.reason}") from None


def _bad(name: str, what: str) -> InputError:
    return InputError("bad-tensor", f"input {name[:60]!r} {what}")


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
    request, raws = read_infer(message, service)
    parsed = oip.read_request(request, raws, service, visit.context)
    outputs = tuple(one.name for one in request.outputs or ())
    wants = Wants(message.id, outputs, bool(raws))
    site.submit(visit, service, parsed, extra=wants, pinned=pinned)


def server_live(_site: Site, visit: Visit) -> None:
    _reply(visit, "ServerLive", live=True)


def server_ready(site: Site, visit: Visit) -> None:
    _reply(visit, "ServerReady", ready=site.serving)


def server_metadata(_site: Site, visit: Visit) -> None:
    _reply(visit, "ServerMetadata", name="doorstep", version="1")


def model_ready(site: Site, visit: Visit) -> None:
    _message(visit)
    _reply(visit, "ModelReady", ready=oip.is_model_ready(site, visit))


def model_metadata(site: Site, visit: Visit) -> None:
    _message(visit)
    _reply(visit, "ModelMetadata", **oip.metadata_of(site, visit))


def _message(visit: Visit) -> Any:
    """Raises: InputError (`bad-message`)."""
    found = cast(Asked, visit.exchange).message
    if found is None:
        raise InputError("bad-message", f"{len(visit.body)} bytes are no message of this call")
    return found


def _reply(visit: Visit, call: str, /, **fields: Any) -> None:
    visit.exchange.respond(200, messages()[f"{call}Response"](**fields).SerializeToString())


_HANDLERS = {
    "ServerLive": server_live, "ServerReady": server_ready, "ServerMetadata": server_metadata,
    "ModelReady": model_ready, "ModelMetadata": model_metadata, "ModelInfer": infer,
}  # fmt: skip
SKIN = Skin(
    codec=OipGrpcCodec(),
    prefixes=(f"/{SERVICE}".encode(),),
    routes={
        f"{SERVICE}/{call}{names}": {METHOD.decode(): handler}
        for call, handler in _HANDLERS.items()
        for names in (("", "/{service}", "/{service}/{version}") if CALLS[call].model else ("",))
    },
)
