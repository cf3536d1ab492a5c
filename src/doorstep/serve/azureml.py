"""Azure Machine Learning: a frame or rows in, the bare list of answers out.

GET  /          POST /score

The body has `input_data` (`{"columns", "index", "data"}`, or rows) or `data` (rows or columns), and
maybe `params` with `predict_method`. The path names no service: the node's only one, or the header
Doorstep-Service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorstep.core.errors import InputError
from doorstep.serve.answers import Asked, Plain, add_notes, encode, predictions, wants_probabilities
from doorstep.serve.call import Call
from doorstep.serve.instances import Instances
from doorstep.serve.rows import decode_json
from doorstep.serve.visit import Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site


class AzureCodec(Plain):
    """A call's `extra` is Asked."""

    def answer(self, call: Call) -> bytes:
        add_notes(call)
        return encode(predictions(call))


def score(site: Site, visit: Visit) -> None:
    service = site.only_service(visit)
    found = decode_json(visit.body, "the body")
    reader, rows = Instances(service, lenient=True), None
    if isinstance(found, dict) and isinstance(found.get("input_data"), dict | list):
        frame = found["input_data"]
        has_data = isinstance(frame, dict) and "data" in frame
        form = reader.split if has_data else reader.columns
        rows = form(frame, "input_data")
    elif isinstance(found, dict) and "data" in found:
        rows = reader.columns(found["data"], "data")
    if rows is None:
        raise InputError("bad-instances", "the body has neither 'input_data' nor 'data'")
    probabilities = wants_probabilities(found.get("params"), service)
    parsed = reader.parse(rows, visit.context)
    asked = Asked(probabilities=probabilities, spare=tuple(sorted(reader.spare)))
    site.submit(visit, service, parsed, extra=asked)


def alive(site: Site, visit: Visit) -> None:
    """This worker lives, whatever it can serve."""
    site.reply(visit, {"status": "Healthy"})


SKIN = Skin(
    codec=AzureCodec(),
    prefixes=(b"/score",),
    probes=frozenset({""}),
    routes={"": {"GET": alive}, "score": {"POST": score}},
)
