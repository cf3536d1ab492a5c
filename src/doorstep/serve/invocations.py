"""MLflow and SageMaker, which share a path: frames, rows, CSV and JSON lines in; JSON, CSV or JSON
lines out.

GET  /ping  /health  /version  /execution-parameters
POST /invocations

The path names no service: the node's only one, or the header Doorstep-Service.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

from doorstep.core.errors import InputError
from doorstep.serve.answers import (
    Asked,
    Plain,
    add_notes,
    encode,
    fault_of,
    predictions,
    sentence,
    wants_probabilities,
)
from doorstep.serve.call import Call
from doorstep.serve.fields import describe
from doorstep.serve.instances import NAMES_MAX, Instances
from doorstep.serve.limits import BODY_BYTES_MAX, FOUND_CHARS_MAX
from doorstep.serve.rows import decode_json
from doorstep.serve.visit import Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site

JSON, CSV, LINES = "application/json", "text/csv", "application/jsonlines"
_MEDIA = {
    "": JSON, "*/*": JSON, "application/*": JSON, JSON: JSON,
    "application/x-www-form-urlencoded": JSON,
    CSV: CSV, "application/csv": CSV, "text/*": CSV,
    LINES: LINES, "application/x-jsonlines": LINES, "application/jsonl": LINES,
}  # fmt: skip
"""What we take a media type for; a form is what curl calls any body."""
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_MISSING = frozenset(("", "nan", "na", "null", "none", "<na>"))
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_FAULTS = {
    "missing": "RESOURCE_DOES_NOT_EXIST", "input": "BAD_REQUEST",
    "later": "TEMPORARILY_UNAVAILABLE", "ours": "INTERNAL_ERROR",
}  # fmt: skip


class InvocationCodec(Plain):
    """A call's `extra` is Asked; its form is a media type. Errors are MLflow's."""

    protocol = "invocations"

    def answer(self, call: Call) -> bytes:
        form = call.extra.form
        if form == JSON:
            return super().answer(call)
        add_notes(call)
        call.media = form.encode()
        found = predictions(call)
        if form == CSV:
            text = io.StringIO()
            rows = (one if isinstance(one, list) else [one] for one in found)
            csv.writer(text, lineterminator="\n").writerows(rows)
            return text.getvalue().encode()
        return b"".join(encode(one) + b"\n" for one in _scored(call, found))

    def refusal(self, code: str, message: str, hint: str, _request: str, /) -> bytes:
        said = {"error_code": _FAULTS[fault_of(code)], "message": sentence(code, message, hint)}
        return encode(said)


def _scored(call: Call, found: list[Any]) -> list[dict[str, Any]]:
    """Lines as SageMaker's own algorithms write them."""
    lines: list[dict[str, Any]] = []
    for (part, at), one in zip(call.by_row(), found, strict=True):
        version = call.service.versions.get(part.answered)
        if version is None or part.scores is None:
            lines.append({"predicted_label": part.constant})
        elif version.labels:
            lines.append({"predicted_label": one, "score": part.scores[at]})
        else:
            lines.append({"score": one})
    return lines


def invoke(site: Site, visit: Visit) -> None:
    service = site.only_service(visit)
    fields = visit.head.fields
    media = _media(fields.get(b"content-type", b""))
    if media is None:
        said = fields[b"content-type"].decode("latin-1")[:FOUND_CHARS_MAX]
        raise InputError(
            "bad-media", f"content-type is {said!r}; expected {JSON}, {CSV} or {LINES}"
        )
    reader = Instances(service, lenient=True)
    found, params = _READERS[media](visit.body, reader)
    parsed = reader.parse(found, visit.context)
    form = _accepted(fields.get(b"accept", b""))
    # A line has the label beside the scores, so there is nothing to choose.
    probabilities = form != LINES and wants_probabilities(params, service)
    spare = tuple(sorted(reader.spare))
    site.submit(visit, service, parsed, extra=Asked(form, probabilities, spare))


def _media(header: bytes) -> str | None:
    return _MEDIA.get(header.partition(b";")[0].strip().lower().decode("latin-1"))


def _accepted(header: bytes) -> str:
    """The first that we can write. Raises: InputError (`bad-accept`)."""
    found = next(filter(None, map(_media, header.split(b","))), None)
    if found is None:
        said = header.decode("latin-1")[:FOUND_CHARS_MAX]
        raise InputError("bad-accept", f"accept is {said!r}; expected {JSON}, {CSV} or {LINES}")
    return found


# -- bodies: rows, and parameters


def _read_json(body: bytes, reader: Instances) -> tuple[list[Any], object]:
    found = decode_json(body, "the body")
    if isinstance(found, list):
        return found, None
    keys = [key for key in FORMS if key in found] if isinstance(found, dict) else []
    if isinstance(found, dict) and not keys and any(map(reader.is_field, found)):
        return [found], None
    if len(keys) != 1:
        size = f"has {len(keys)} of" if isinstance(found, dict) else f"is {describe(found)}, not"
        raise InputError(
            "bad-instances", f"the body {size} {', '.join(FORMS)}; expected one of them"
        )
    forms: dict[str, Callable[[Any, str], list[Any]]] = {
        "dataframe_split": reader.split, "inputs": reader.columns,
    }  # fmt: skip
    rows = forms.get(keys[0], reader.rows)(found[keys[0]], keys[0])
    params = found.get("params") or {}
    if not isinstance(params, dict):
        raise InputError("bad-instances", f"'params' is {describe(params)}; expected an object")
    return rows, params


def _read_lines(body: bytes, reader: Instances) -> tuple[list[Any], object]:
    lines = [line for line in body.split(b"\n", reader.rows_max + 1) if line.strip()]
    return [decode_json(line, f"line {at}") for at, line in enumerate(lines, 1)], None


def _read_csv(body: bytes, reader: Instances) -> tuple[list[Any], object]:
    """Names are a first line in which most cells are fields; without it, contract order."""
    try:
        text = io.StringIO(body.decode("utf-8-sig"), newline="")
        lines: list[list[str]] = []
        for at, line in enumerate(csv.reader(text, strict=True)):
            lines += [line] if line else []
            if at > 4 * reader.rows_max or len(lines) > reader.rows_max + 1:
                reader.service.reader.check_count(at)  # empty lines cost time too
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError("bad-csv", f"the body is no CSV in UTF-8: {error}") from None
    first = lines[0] if lines else []
    contract = reader.service.plan.contract
    cells = {one.name: _CELLS[one.type] for one in (*contract.context, *contract.inputs)}
    has_names = 2 * sum(map(reader.is_field, first[:NAMES_MAX])) > len(first)
    names, rows = (first, lines[1:]) if has_names else (reader.inputs, lines)
    return reader.named(names, rows, cells), None


def _whole(cell: str) -> int | float | str | None:
    try:
        found = int(cell)
    except ValueError:
        return _real(cell)
    return cell if "_" in cell else found


def _real(cell: str) -> float | str | None:
    """What is no number stays text, and is refused as such."""
    try:
        found = float(cell)
    except ValueError:
        return None if cell.strip().lower() in _MISSING else cell
    return None if found != found else cell if "_" in cell else found


def _truth(cell: str) -> bool | str | None:
    bare = cell.strip().lower()
    return None if bare in _MISSING else _TRUTHS.get(bare, cell)


def _text(cell: str) -> str | None:
    return cell or None


_CELLS: dict[str, Callable[[Any], Any]] = {
    "int": _whole, "float": _real, "bool": _truth, "time": _whole, "category": _text, "text": _text,
}  # fmt: skip
_READERS = {JSON: _read_json, CSV: _read_csv, LINES: _read_lines}


# -- health


def ping(site: Site, visit: Visit) -> None:
    """TorchServe's clients read the word, the others the status."""
    fine = site.serving
    site.reply(visit, {"status": "Healthy" if fine else "Unhealthy"}, 200 if fine else 503)


def version(_site: Site, visit: Visit) -> None:
    visit.exchange.respond(200, installed("doorstep").encode(), media=b"text/plain")


def execution_parameters(site: Site, visit: Visit) -> None:
    """How SageMaker's batch transform should call: it fills a request by its bytes, and we limit
    its rows, so it is to send one record each unless the job says otherwise."""
    found = {
        "MaxConcurrentTransforms": os.cpu_count() or 1,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": BODY_BYTES_MAX // 2**20,
    }
    site.reply(visit, found)


SKIN = Skin(
    codec=InvocationCodec(),
    probes=frozenset({"ping", "health"}),
    prefixes=(b"/invocations", b"/ping", b"/health", b"/version", b"/execution-parameters"),
    routes={
        "invocations": {"POST": invoke},
        "ping": {"GET": ping},
        "health": {"GET": ping},
        "version": {"GET": version},
        "execution-parameters": {"GET": execution_parameters},
    },
)
