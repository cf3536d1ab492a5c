"""Open Inference Protocol V2 over REST: the same rows and answers as tensors.

Inputs: one tensor per field, shape [n] or [n, 1], named as in the contract (or in the context), or
one matrix [n, columns] with all number inputs in contract order under any other name. Context and
ids may also be request parameters. Outputs: `answer` (BYTES [n]) and `probabilities`
(FP64 [n, labels]); for a regression `value` (FP64 [n]).

GET  /v2  /v2/health/live  /v2/health/ready  /v2/models/{m}[/versions/{v}][/ready]
POST /v2/models/{m}[/versions/{v}]/infer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from doorstep.core.contract import Field
from doorstep.core.errors import InputError
from doorstep.serve.call import Call
from doorstep.serve.fields import describe
from doorstep.serve.rows import Parsed, RowReader
from doorstep.serve.service import Service
from doorstep.serve.version import Version
from doorstep.serve.visit import Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site

INPUTS_MAX = 8192
DEPTH_MAX = 8
_WHOLE = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
_REAL = ("FP16", "FP32", "FP64")
DATATYPES = ("BOOL", *_WHOLE, *_REAL, "BYTES")
_OF_FIELD = {
    "int": "INT64", "float": "FP64", "bool": "BOOL", "time": "INT64", "category": "BYTES",
    "text": "BYTES",
}  # fmt: skip


class Tensor(msgspec.Struct, omit_defaults=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class Wanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct):
    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, str | float | bool] | None = None
    outputs: list[Wanted] | None = None


class InferResponse(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, str | int | float | bool] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(InferRequest).decode


class OipCodec:
    """A call's `extra` is its InferRequest."""

    bad_input = 400

    def answer(self, call: Call) -> bytes:
        request: InferRequest = call.extra
        outputs = _outputs(call)
        if request.outputs:
            names = [one.name for one in request.outputs]
            outputs = [one for one in outputs if one.name in names]
        parameters: dict[str, str | int | float | bool] = {"request_id": call.id}
        if call.fallback:
            parameters["fallback"] = call.fallback
        if call.parsed.warnings:
            said = sorted({one for row in call.parsed.warnings for one in row})
            parameters["warnings"] = ",".join(said)
        return _encode(
            InferResponse(call.service.name, call.versions, outputs, request.id, parameters)
        )

    def refusal(self, code: str, message: str, hint: str, _request: str, /) -> bytes:
        said = f"{code}: {message}" + (f" ({hint})" if hint else "")
        return _encode({"error": said})


def read_infer(body: bytes, service: Service) -> tuple[InferRequest, Parsed]:
    """Raises: InputError (`bad-json`, `bad-tensor`, `bad-output` and those of the rows)."""
    try:
        request = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError("bad-json", f"the body is no inference request: {error}") from None
    _check_outputs(request, service)
    if not 0 < len(request.inputs) <= INPUTS_MAX:
        raise InputError("bad-tensor", f"the request has {len(request.inputs)} inputs")
    rows = request.inputs[0].shape[0] if request.inputs[0].shape else 0
    if not 0 < rows <= service.plan.rows_max:
        raise InputError(
            "bad-tensor", f"the inputs have {rows} rows; expected 1 to {service.plan.rows_max}"
        )
    return request, _read_tensors(request, rows, service.reader)


def _read_tensors(request: InferRequest, rows: int, reader: RowReader) -> Parsed:
    row_names, context_names = set(reader.row.names), set(reader.context.names)
    inputs: list[dict[str, Any]] = [{} for _ in range(rows)]
    about: list[dict[str, Any]] = [{} for _ in range(rows)]
    for tensor in request.inputs:
        values = _values(tensor, rows)
        if tensor.name in row_names or tensor.name in context_names:
            fields = _fields_of(reader, tensor.name)
            target = inputs if tensor.name in row_names else about
        else:
            fields, target = list(reader.row.numbers), inputs
        if len(values) != rows * len(fields):
            raise _unfit(tensor, fields, reader)
        _spread(values, fields, target, tensor)
    _add_parameters(request, row_names, context_names, inputs, about)
    return reader.read_objects(inputs, about, None)


def _add_parameters(
    request: InferRequest, row_names: set[str], context_names: set[str],
    inputs: list[dict[str, Any]], about: list[dict[str, Any]],
) -> None:  # fmt: skip
    """Request parameters that are context fields or ids; others are not ours and are ignored."""
    for name, value in (request.parameters or {}).items():
        target = about if name in context_names else inputs if name in row_names else []
        found = int(value) if isinstance(value, float) and value.is_integer() else value
        for one in target:
            one.setdefault(name, found)


def _fields_of(reader: RowReader, name: str) -> list[Field]:
    shapes = (reader.row, reader.context)
    fields = [one for shape in shapes for one in (*shape.numbers, *shape.texts)]
    found = [one for one in fields if one.name == name]
    return found[:1] or [Field(name=name, type="text", required=False)]


def _spread(
    values: list[Any], fields: list[Field], target: list[dict[str, Any]], tensor: Tensor
) -> None:
    width = len(fields)
    for column, field in enumerate(fields):
        column_values = values[column::width]
        if field.type == "bool" and tensor.datatype != "BOOL":
            column_values = [bool(one) if one in (0, 1) else one for one in column_values]
        for one, value in zip(target, column_values, strict=True):
            one[field.name] = value


def _values(tensor: Tensor, rows: int) -> list[Any]:
    """The tensor's values, flat, checked against its shape and datatype."""
    if tensor.datatype not in DATATYPES:
        raise InputError(
            "bad-tensor",
            f"input {tensor.name!r} has datatype {tensor.datatype!r}",
            f"expected one of {', '.join(DATATYPES)}",
        )
    if not 1 <= len(tensor.shape) <= 2 or tensor.shape[0] != rows or min(tensor.shape) < 1:
        raise InputError(
            "bad-tensor",
            f"input {tensor.name!r} has shape {tensor.shape[:8]}; expected [{rows}] or "
            f"[{rows}, columns]",
        )
    size = tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) == 2 else 1)
    values = _flat(tensor.data)
    if len(values) != size:
        raise InputError(
            "bad-tensor",
            f"input {tensor.name!r} has {len(values)} values; shape {tensor.shape} needs {size}",
        )
    for at, value in enumerate(values):
        if value is not None and not _is(value, tensor.datatype):
            raise InputError(
                "bad-tensor",
                f"input {tensor.name!r}: value {at} is {describe(value)}; expected "
                f"{tensor.datatype}",
            )
    return values


def _flat(data: list[Any]) -> list[Any]:
    for _ in range(DEPTH_MAX):
        if not any(isinstance(one, list) for one in data):
            return data
        if not all(isinstance(one, list) for one in data):
            break
        data = [value for one in data for value in one]
    raise InputError("bad-tensor", "'data' is nested unevenly or too deeply; expected rows or flat")


def _is(value: Any, datatype: str) -> bool:
    if datatype == "BOOL":
        return isinstance(value, bool)
    if datatype == "BYTES":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if datatype in _REAL:
        return True
    low, high = _WHOLE[datatype]
    return isinstance(value, int) and low <= value <= high


def _unfit(tensor: Tensor, fields: list[Field], reader: RowReader) -> InputError:
    if len(fields) == 1:
        return InputError(
            "bad-tensor", f"input {tensor.name!r} has shape {tensor.shape}; expected [n] or [n, 1]"
        )
    return InputError(
        "bad-tensor",
        f"input {tensor.name!r} is no field of the contract, and as a matrix of all "
        f"{len(fields)} number inputs its shape {tensor.shape} does not fit",
        f"fields: {', '.join(reader.row.names[:40])}",
    )


def _check_outputs(request: InferRequest, service: Service) -> None:
    labels = any(version.labels for version in service.versions.values())
    known = ("answer", "probabilities") if labels else ("value",)
    for one in request.outputs or ():
        if one.name not in known:
            raise InputError(
                "bad-output", f"output {one.name[:60]!r} is not known; expected {known}"
            )


def _outputs(call: Call) -> list[Tensor]:
    rows = call.by_row()
    answers: list[Any] = []
    scores: list[list[float]] = []
    labels: tuple[str, ...] = ()
    for part, at in rows:
        if part.scores is None or part.answers is None:
            answers.append(part.constant)
            continue
        labels = call.service.versions[part.answered].labels
        answers.append(part.answers[at])
        scores.append(part.scores[at])
    if not labels and all(isinstance(one, float | int) for one in answers):
        return [Tensor("value", [len(rows)], "FP64", answers)]
    found = [Tensor("answer", [len(rows)], "BYTES", [str(one) for one in answers])]
    if len(scores) == len(rows):
        flat = [value for row in scores for value in row]
        found.append(Tensor("probabilities", [len(rows), len(labels)], "FP64", flat))
    return found


def describe_model(service: Service, versions: list[str]) -> dict[str, Any]:
    """Model metadata: one input per field of the contract, and the outputs."""
    version = service.champion or next(iter(service.versions.values()), None)
    contract = service.plan.contract
    return {
        "name": service.name,
        "versions": versions,
        "platform": "doorstep_onnx" if _is_onnx(service, version) else "doorstep_python",
        "inputs": [
            {"name": one.name, "datatype": _OF_FIELD[one.type], "shape": [-1]}
            for one in (*contract.inputs, *contract.context)
        ],
        "outputs": _output_metadata(version),
    }


def _is_onnx(service: Service, version: Version | None) -> bool:
    plan = service.plan.version(version.number) if version else None
    return plan is not None and plan.form == "onnx"


def _output_metadata(version: Version | None) -> list[dict[str, Any]]:
    if version is not None and not version.labels:
        return [{"name": "value", "datatype": "FP64", "shape": [-1]}]
    width = len(version.labels) if version else -1
    return [
        {"name": "answer", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, width]},
    ]


# -- routes


def infer(site: Site, visit: Visit) -> None:
    service = site.service(visit.service)
    pinned = site.version(service, visit.version)
    asked, parsed = read_infer(visit.body, service)
    site.submit(visit, service, parsed, extra=asked, pinned=pinned)


def server(site: Site, visit: Visit) -> None:
    site.reply(visit, {"name": "doorstep", "version": "1", "extensions": []})


def server_live(site: Site, visit: Visit) -> None:
    site.reply(visit, {"live": True})


def server_ready(site: Site, visit: Visit) -> None:
    fine = site.serving
    site.reply(visit, {"ready": fine, "live": True}, 200 if fine else 503)


def model(site: Site, visit: Visit) -> None:
    service = site.service(visit.service)
    version = site.version(service, visit.version)
    numbers = [version.number] if version else sorted(service.versions)
    site.reply(visit, describe_model(service, list(map(str, numbers))))


def model_ready(site: Site, visit: Visit) -> None:
    service = site.service(visit.service)
    version = site.version(service, visit.version)
    fine = service.ready
    if version is not None:
        fine = version.engine is None or version.engine.connected
    site.reply(visit, {"name": service.name, "ready": fine}, 200 if fine else 503)


_MODEL = {
    "": {"GET": model},
    "/ready": {"GET": model_ready},
    "/infer": {"POST": infer},
}
SKIN = Skin(
    codec=OipCodec(),
    prefixes=(b"/v2",),
    probes=frozenset({"v2/health/live", "v2/health/ready"}),
    routes={
        "v2": {"GET": server},
        "v2/health/live": {"GET": server_live},
        "v2/health/ready": {"GET": server_ready},
    }
    | {
        f"v2/models/{{service}}{version}{what}": handlers
        for version in ("", "/versions/{version}")
        for what, handlers in _MODEL.items()
    },
)
