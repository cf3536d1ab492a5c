"""Protocols that take rows as JSON and answer with a list: one way for all, and the words of each.

Vertex AI    POST $AIP_PREDICT_ROUTE    GET $AIP_HEALTH_ROUTE
Azure ML     POST /score                GET /
TorchServe   POST, PUT /predictions/{m}[/{v}]        GET /ping is in `invocations.py`

A path that names no service is the node's only one, or that of the header Doorstep-Service.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from doorstep.core.errors import InputError
from doorstep.serve.answers import (
    Asked,
    Plain,
    add_notes,
    encode,
    fault_of,
    notes,
    predictions,
    sentence,
    wants_probabilities,
)
from doorstep.serve.call import Call
from doorstep.serve.instances import Instances
from doorstep.serve.invocations import ping
from doorstep.serve.rows import decode_json
from doorstep.serve.visit import Handler, Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site

Read = Callable[[Any, Instances], tuple[list[Any], Asked]]
"""What a body's JSON says: rows, made by a form of the reader, and how they are to be answered."""
ONE, MANY = "one", "many"
_KINDS = {
    "missing": (404, "ModelNotFoundException"),
    "input": (400, "BadRequestException"),
    "later": (503, "ServiceUnavailableException"),
    "ours": (500, "InternalServerException"),
}


def predicting(read: Read, *, lenient: bool = False) -> Handler:
    """The handler of a prediction. lenient: see `Instances`."""

    def predict(site: Site, visit: Visit) -> None:
        service = site.service(visit.service) if visit.service else site.only_service(visit)
        pinned = site.version(service, visit.version)
        reader = Instances(service, lenient=lenient)
        rows, asked = read(decode_json(visit.body, "the body"), reader)
        parsed = reader.parse(rows, visit.context)
        asked = msgspec.structs.replace(asked, spare=tuple(sorted(reader.spare)))
        site.submit(visit, service, parsed, extra=asked, pinned=pinned)

    return predict


class VertexCodec(Plain):
    """A call's `extra` is Asked, as with all of these."""

    protocol = "vertex"

    def answer(self, call: Call) -> bytes:
        name, version = call.service.name, call.versions
        found = {
            "predictions": predictions(call),
            "deployedModelId": f"{name}@{version}",
            "model": name,
            "modelVersionId": version,
            "metadata": {"request_id": call.id, **notes(call)},
        }
        return encode(found)


def _read_vertex(found: Any, reader: Instances) -> tuple[list[Any], Asked]:
    """`{"instances": [...], "parameters": {...}}`, which may have `predict_method`."""
    if not isinstance(found, dict) or "instances" not in found:
        raise InputError("bad-instances", "the body has no 'instances'; expected a list of rows")
    probabilities = wants_probabilities(found.get("parameters"), reader.service)
    return reader.rows(found["instances"], "instances"), Asked(probabilities=probabilities)


def vertex_at(predict_route: str, health_route: str) -> Skin:
    """The skin for a node that was told its paths; empty ones are none."""
    routes: dict[str, dict[str, Handler]] = {}
    if predict_route:
        routes[predict_route] = {"POST": predicting(_read_vertex)}
    if health_route:
        routes.setdefault(health_route, {})["GET"] = ping
    prefixes = tuple(path.encode() for path in routes)
    return Skin(VertexCodec(), prefixes, routes, frozenset({health_route} - {""}))


class AzureCodec(Plain):
    protocol = "azureml"

    def answer(self, call: Call) -> bytes:
        add_notes(call)
        return encode(predictions(call))


def _read_azure(found: Any, reader: Instances) -> tuple[list[Any], Asked]:
    """`input_data` (`{"columns", "index", "data"}`, or rows) or `data` (rows or columns), and maybe
    `params` with `predict_method`."""
    rows = None
    if isinstance(found, dict) and isinstance(found.get("input_data"), dict | list):
        frame = found["input_data"]
        has_data = isinstance(frame, dict) and "data" in frame
        rows = (reader.split if has_data else reader.columns)(frame, "input_data")
    elif isinstance(found, dict) and "data" in found:
        rows = reader.columns(found["data"], "data")
    if rows is None:
        raise InputError("bad-instances", "the body has neither 'input_data' nor 'data'")
    probabilities = wants_probabilities(found.get("params"), reader.service)
    return rows, Asked(probabilities=probabilities)


def alive(site: Site, visit: Visit) -> None:
    """This worker lives, whatever it can serve."""
    site.reply(visit, {"status": "Healthy"})


AZURE = Skin(
    codec=AzureCodec(),
    prefixes=(b"/score",),
    probes=frozenset({""}),
    routes={"": {"GET": alive}, "score": {"POST": predicting(_read_azure, lenient=True)}},
)


class TorchServeCodec(Plain):
    """The form that is asked for is ONE or MANY."""

    protocol = "torchserve"

    def answer(self, call: Call) -> bytes:
        add_notes(call)
        found = predictions(call)
        return encode(found[0] if call.extra.form == ONE else found)

    def refusal(self, code: str, message: str, hint: str, _request: str, /) -> bytes:
        status, kind = _KINDS[fault_of(code)]
        return encode({"code": status, "type": kind, "message": sentence(code, message, hint)})


def _read_torchserve(found: Any, reader: Instances) -> tuple[list[Any], Asked]:
    """One row (its answer comes alone), a list of rows, or those under `instances` or `data`."""
    form, rows = MANY, found
    if isinstance(found, dict):
        key = next((one for one in ("instances", "data") if one in found), "")
        if key and not reader.is_field(key):
            rows = reader.columns(found[key], key)
        else:
            form, rows = ONE, [found]
    return reader.rows(rows, "the body"), Asked(form)


_TORCHSERVE = dict.fromkeys(("POST", "PUT"), predicting(_read_torchserve))
TORCHSERVE = Skin(
    codec=TorchServeCodec(),
    prefixes=(b"/predictions",),
    routes={
        "predictions/{service}": _TORCHSERVE,
        "predictions/{service}/{version}": _TORCHSERVE,
    },
)
