"""KServe V1 and TensorFlow Serving: rows or columns in, one prediction per row out.

GET  /v1/models  /v1/models/{m}[/versions/{v}|/labels/{champion|challenger}][/metadata]
POST /v1/models/{m}[/versions/{v}|/labels/{l}]:predict

`instances` has rows and is answered with `predictions`; `inputs` has columns and is answered with
`outputs`. `signature_name` "probabilities" asks for those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from doorstep.core.errors import InputError
from doorstep.serve.answers import (
    Asked,
    Plain,
    add_notes,
    check_probabilities,
    encode,
    predictions,
)
from doorstep.serve.call import Call
from doorstep.serve.fields import describe
from doorstep.serve.instances import Instances
from doorstep.serve.jsonrows import predicting
from doorstep.serve.visit import Handler, Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site

SIGNATURES = ("serving_default", "predict", "probabilities")
_DTYPES = {
    "int": "DT_INT64", "float": "DT_DOUBLE", "bool": "DT_BOOL", "time": "DT_INT64",
    "category": "DT_STRING", "text": "DT_STRING",
}  # fmt: skip


class V1Codec(Plain):
    """A call's `extra` is Asked; its form is the key of the answer."""

    protocol = "v1models"

    def answer(self, call: Call) -> bytes:
        add_notes(call)
        return encode({call.extra.form: predictions(call)})


def _read(found: Any, reader: Instances) -> tuple[list[Any], Asked]:
    given = [key for key in ("instances", "inputs") if isinstance(found, dict) and key in found]
    if len(given) != 1:
        said = "both" if given else "neither"
        raise InputError(
            "bad-instances", f"the body has {said} of 'instances' (rows) and 'inputs' (columns); "
            "expected one"
        )  # fmt: skip
    signature = found.get("signature_name") or SIGNATURES[0]
    if signature not in SIGNATURES:
        raise InputError(
            "bad-output",
            f"'signature_name' is {describe(signature)}; expected one of {', '.join(SIGNATURES)}",
        )
    probabilities = signature == SIGNATURES[2] and check_probabilities(reader.service)
    if given == ["inputs"]:
        return reader.columns(found["inputs"], "inputs"), Asked("outputs", probabilities)
    return reader.rows(found["instances"], "instances"), Asked("predictions", probabilities)


def models(site: Site, visit: Visit) -> None:
    site.reply(visit, {"models": [one.name for one in site.visible(visit)]})


def model(site: Site, visit: Visit) -> None:
    """What both ask for in one answer: KServe's `ready`, and TensorFlow Serving's states."""
    service = site.service(visit.service)
    version = site.version(service, visit.version)
    versions = [version] if version else [one for _, one in sorted(service.versions.items())]
    states = [
        {
            "version": str(one.number),
            "state": "UNLOADING" if one.killed else "AVAILABLE" if one.ready else "LOADING",
            "status": {"error_code": "OK", "error_message": ""},
        }
        for one in versions
    ]
    fine = version.ready if version else service.ready
    body = {"name": service.name, "ready": fine, "model_version_status": states}
    site.reply(visit, body, 200 if fine else 503)


def metadata(site: Site, visit: Visit) -> None:
    service = site.service(visit.service)
    version = site.version(service, visit.version) or service.champion
    contract = service.plan.contract
    inputs = {
        one.name: _tensor(one.name, _DTYPES[one.type])
        for one in (*contract.inputs, *contract.context)
    }
    labels = version.labels if version else ()
    answer = _tensor("answer", "DT_STRING" if labels else "DT_DOUBLE")
    found = {"serving_default": _signature(inputs, {"answer": answer})}
    if labels:
        shares = _tensor("probabilities", "DT_DOUBLE", len(labels))
        found["probabilities"] = _signature(inputs, {"probabilities": shares})
    spec = {
        "name": service.name, "signature_name": "", "version": str(version.number if version else 0)
    }  # fmt: skip
    signatures = {"signature_def": {"signature_def": found}}
    site.reply(visit, {"model_spec": spec, "metadata": signatures})


def _signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    name = "tensorflow/serving/predict"
    return {"inputs": inputs, "outputs": outputs, "method_name": name}


def _tensor(name: str, dtype: str, *sizes: int) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in (-1, *sizes)]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": name}


_MODEL: dict[str, dict[str, Handler]] = {
    "": {"GET": model},
    "/metadata": {"GET": metadata},
    ":predict": {"POST": predicting(_read)},
}
SKIN = Skin(
    codec=V1Codec(),
    prefixes=(b"/v1/models",),
    routes={"v1/models": {"GET": models}}
    | {
        f"v1/models/{{service}}{version}{what}": handlers
        for version in ("", "/versions/{version}", "/labels/{version}")
        for what, handlers in _MODEL.items()
    },
)
