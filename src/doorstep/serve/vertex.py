"""Vertex AI: `{"instances": [...], "parameters": {...}}` at the paths that its variables name.

POST $AIP_PREDICT_ROUTE     GET $AIP_HEALTH_ROUTE

The path names no service: the node's only one, or the header Doorstep-Service. `parameters` may
have `predict_method`: predict_proba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorstep.core.errors import InputError
from doorstep.serve.answers import Asked, Plain, encode, notes, predictions, wants_probabilities
from doorstep.serve.call import Call
from doorstep.serve.instances import Instances
from doorstep.serve.invocations import ping
from doorstep.serve.rows import decode_json
from doorstep.serve.visit import Handler, Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site


class VertexCodec(Plain):
    """A call's `extra` is Asked."""

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


def predict(site: Site, visit: Visit) -> None:
    service = site.only_service(visit)
    found = decode_json(visit.body, "the body")
    if not isinstance(found, dict) or "instances" not in found:
        raise InputError("bad-instances", "the body has no 'instances'; expected a list of rows")
    probabilities = wants_probabilities(found.get("parameters"), service)
    reader = Instances(service)
    parsed = reader.parse(reader.rows(found["instances"], "instances"), visit.context)
    site.submit(visit, service, parsed, extra=Asked(probabilities=probabilities))


def skin_at(predict_route: str, health_route: str) -> Skin:
    """The skin for a node that was told its paths; empty ones are none."""
    routes: dict[str, dict[str, Handler]] = {}
    if predict_route:
        routes[predict_route] = {"POST": predict}
    if health_route:
        routes.setdefault(health_route, {})["GET"] = ping
    prefixes = tuple(path.encode() for path in routes)
    return Skin(VertexCodec(), prefixes, routes, frozenset({health_route} - {""}))
