"""TorchServe: rows in, the bare answers out.

POST, PUT /predictions/{m}[/{v}]        GET /ping is in `invocations.py`

The body is one row (its answer comes alone), a list of rows, or those under `instances` or `data`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorstep.serve.answers import Asked, Plain, add_notes, encode, fault_of, predictions, sentence
from doorstep.serve.call import Call
from doorstep.serve.instances import Instances
from doorstep.serve.rows import decode_json
from doorstep.serve.visit import Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site

ONE, MANY = "one", "many"
_KINDS = {
    "missing": (404, "ModelNotFoundException"),
    "input": (400, "BadRequestException"),
    "later": (503, "ServiceUnavailableException"),
    "ours": (500, "InternalServerException"),
}


class TorchServeCodec(Plain):
    """A call's `extra` is Asked; its form is ONE or MANY."""

    def answer(self, call: Call) -> bytes:
        add_notes(call)
        found = predictions(call)
        return encode(found[0] if call.extra.form == ONE else found)

    def refusal(self, code: str, message: str, hint: str, _request: str, /) -> bytes:
        status, kind = _KINDS[fault_of(code)]
        return encode({"code": status, "type": kind, "message": sentence(code, message, hint)})


def predict(site: Site, visit: Visit) -> None:
    service = site.service(visit.service)
    pinned = site.version(service, visit.version)
    found = decode_json(visit.body, "the body")
    reader, form, rows = Instances(service), MANY, found
    if isinstance(found, dict):
        key = next((one for one in ("instances", "data") if one in found), "")
        if key and not reader.is_field(key):
            rows = reader.columns(found[key], key)
        else:
            form, rows = ONE, [found]
    parsed = reader.parse(reader.rows(rows, "the body"), visit.context)
    site.submit(visit, service, parsed, extra=Asked(form), pinned=pinned)


_PREDICT = {"POST": predict, "PUT": predict}
SKIN = Skin(
    codec=TorchServeCodec(),
    prefixes=(b"/predictions",),
    routes={
        "predictions/{service}": _PREDICT,
        "predictions/{service}/{version}": _PREDICT,
    },
)
