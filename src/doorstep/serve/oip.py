"""Open Inference Protocol V2 over REST: the same rows and answers as tensors.

Inputs: one tensor per field, shape [n] or [n, 1], named as in the contract (or in the context), or
one matrix [n, columns] with all number inputs in contract order under any other name. Context and
ids may also be request parameters. Outputs: `answer` (BYTES [n]) and `probabilities`
(FP64 [n, labels]); for a regression `value` (FP64 [n]). Tensors come, and are answered where that
is wanted, as raw bytes after the JSON: the extension `binary_tensor_data`.

GET  /v2  /v2/health/live  /v2/health/ready  /v2/models/{m}[/versions/{v}][/ready]
POST /v2/models/{m}[/versions/{v}]/infer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from doorstep.core.errors import InputError
from doorstep.serve.answers import sentence
from doorstep.serve.call import Call
from doorstep.serve.instances import read_pieces
from doorstep.serve.rows import Parsed
from doorstep.serve.service import Service
from doorstep.serve.tensors import Tensor, cut_raw, pieces_of, write_raw
from doorstep.serve.version import Version
from doorstep.serve.visit import Handler, Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site

INPUTS_MAX = 8192
_OF_FIELD = {
    "int": "INT64", "float": "FP64", "bool": "BOOL", "time": "INT64", "category": "BYTES",
    "text": "BYTES",
}  # fmt: skip


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

    protocol = "oip"
    bad_input = 400

    def answer(self, call: Call) -> bytes:
        request: InferRequest = call.extra
        outputs = outputs_of(call)
        wanted = {one.name: one.parameters or {} for one in request.outputs or ()}
        if wanted:
            outputs = [one for one in outputs if one.name in wanted]
        binary = (request.parameters or {}).get("binary_data_output") is True
        raws = [
            write_raw(one)
            for one in outputs
            if wanted.get(one.name, {}).get("binary_data", binary) is True
        ]
        found = InferResponse(
            call.service.name, call.versions, outputs, request.id, parameters_of(call)
        )
        head = _encode(found)
        if not raws:
            return head
        call.media = b"application/octet-stream"
        call.headers += b"inference-header-content-length: %d\r\n" % len(head)
        return head + b"".join(raws)

    def refusal(self, code: str, message: str, hint: str, _request: str, /) -> bytes:
        return _encode({"error": sentence(code, message, hint)})


def parameters_of(call: Call) -> dict[str, str | int | float | bool]:
    """What an answer says beside its outputs."""
    found: dict[str, str | int | float | bool] = {"request_id": call.id}
    if call.fallback:
        found["fallback"] = call.fallback
    if cached := sum(part.count for part in call.parts if part.cached):
        found["cached"] = cached
    if call.parsed.warnings:
        said = sorted({one for row in call.parsed.warnings for one in row})
        found["warnings"] = ",".join(said)
    return found


def read_infer(
    body: bytes, service: Service, json_size: bytes = b"", header: bytes = b""
) -> tuple[InferRequest, Parsed]:
    """json_size: of the part before the raw tensors, as the header gives it. header:
    Doorstep-Context. Raises: InputError (`bad-json`, `bad-tensor`, `bad-output` and those of the
    rows)."""
    size = _size_of(json_size, len(body))
    try:
        request = _decode(body[:size])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError("bad-json", f"the body is no inference request: {error}") from None
    raws = cut_raw(request.inputs, body[size:])
    return request, read_request(request, raws, service, header)


def read_request(
    request: InferRequest, raws: Mapping[int, bytes], service: Service, header: bytes
) -> Parsed:
    """The rows of a request. raws: the bytes of inputs without data, by position. Raises:
    InputError (`bad-tensor`, `bad-output` and those of the rows)."""
    _check_outputs(request, service)
    if not 0 < len(request.inputs) <= INPUTS_MAX:
        raise InputError("bad-tensor", f"the request has {len(request.inputs)} inputs")
    rows = request.inputs[0].shape[0] if request.inputs[0].shape else 0
    if not 0 < rows <= service.plan.rows_max:
        raise InputError(
            "bad-tensor", f"the inputs have {rows} rows; expected 1 to {service.plan.rows_max}"
        )
    reader = service.reader
    pieces = pieces_of(request.inputs, raws, rows, reader)
    given = {name for names, _ in pieces for name in names}
    defaults = {
        name: value
        for name, value in (request.parameters or {}).items()
        if name not in given and (name in reader.row_names or name in reader.context_names)
    }
    return read_pieces(pieces, rows, reader, header, defaults)


def _size_of(given: bytes, length: int) -> int:
    if not given:
        return length
    if not given.isdigit() or len(given) > 9 or int(given) > length:
        raise InputError(
            "bad-tensor",
            f"Inference-Header-Content-Length is {given[:20].decode('latin-1')!r}; the body has "
            f"{length} bytes",
        )
    return int(given)


def _check_outputs(request: InferRequest, service: Service) -> None:
    known = ["answer", "probabilities"] if service.has_labels else []
    if not (known and service.versions):
        known.append("value")
    for one in request.outputs or ():
        if one.name not in known:
            expected = " or ".join(known)
            raise InputError(
                "bad-output", f"output {one.name[:60]!r} is not known; expected {expected}"
            )
        if "classification" in (one.parameters or {}):
            raise InputError(
                "bad-output", "the parameter 'classification' is not known; ask for 'probabilities'"
            )


def outputs_of(call: Call) -> list[Tensor]:
    """The answers, and the probabilities in the order of the service's labels, where every row was
    answered by a version that has those."""
    rows, labels = call.by_row(), call.service.default_outputs
    answers: list[Any] = []
    scores: list[list[float] | None] = []
    for part, at in rows:
        if part.scores is None or part.answers is None:
            answers.append(part.constant)
            scores.append(None)
            continue
        answers.append(part.answers[at])
        scores.append(call.service.versions[part.answered].arranged(part.scores[at]))
    if all(isinstance(one, float | int) for one in answers):
        return [Tensor("value", [len(rows)], "FP64", answers)]
    found = [Tensor("answer", [len(rows)], "BYTES", [str(one) for one in answers])]
    known = [row for row in scores if row is not None]
    if len(known) == len(rows):
        flat = [value for row in known for value in row]
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
    size = visit.head.fields.get(b"inference-header-content-length", b"")
    asked, parsed = read_infer(visit.body, service, size, visit.context)
    site.submit(visit, service, parsed, extra=asked, pinned=pinned)


def _saying(find: Callable[[Site, Visit], dict[str, Any]]) -> Handler:
    """The handler that answers what `find` does; what is not ready is unavailable."""

    def say(site: Site, visit: Visit) -> None:
        found = find(site, visit)
        site.reply(visit, found, 200 if found.get("ready", True) else 503)

    return say


def server(_site: Site, _visit: Visit) -> dict[str, Any]:
    return {"name": "doorstep", "version": "1", "extensions": ["binary_tensor_data"]}


def metadata_of(site: Site, visit: Visit) -> dict[str, Any]:
    service = site.service(visit.service)
    version = site.version(service, visit.version)
    numbers = [version.number] if version else sorted(service.versions)
    return describe_model(service, list(map(str, numbers)))


def is_model_ready(site: Site, visit: Visit) -> bool:
    service = site.service(visit.service)
    version = site.version(service, visit.version)
    return service.ready if version is None else version.ready


def model_ready(site: Site, visit: Visit) -> dict[str, Any]:
    return {"name": visit.service, "ready": is_model_ready(site, visit)}


_MODEL: dict[str, dict[str, Handler]] = {
    "": {"GET": _saying(metadata_of)},
    "/ready": {"GET": _saying(model_ready)},
    "/infer": {"POST": infer},
}
SKIN = Skin(
    codec=OipCodec(),
    prefixes=(b"/v2",),
    probes=frozenset({"v2/health/live", "v2/health/ready"}),
    routes={
        "v2": {"GET": _saying(server)},
        "v2/health/live": {"GET": _saying(lambda *_: {"live": True})},
        "v2/health/ready": {"GET": _saying(lambda site, _: {"ready": site.serving, "live": True})},
    }
    | {
        f"v2/models/{{service}}{version}{what}": handlers
        for version in ("", "/versions/{version}")
        for what, handlers in _MODEL.items()
    },
)
