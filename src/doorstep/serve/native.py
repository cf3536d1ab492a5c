"""The native JSON protocol: rows in, answers out.

GET  /healthz  /v1/services  /v1/services/{service}
POST /v1/services/{service}/predict  /rehearse  /outcomes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from doorstep.core.errors import InputError, OverloadedError, RefusedError
from doorstep.core.instant import Instant
from doorstep.core.outcome import OutcomeGiven, require_all, sort_out
from doorstep.core.record import Kind, OutcomeRecord, outcome_refused
from doorstep.serve.call import Call, Part
from doorstep.serve.http import RETRY
from doorstep.serve.limits import OUTCOMES_MAX
from doorstep.serve.service import Service
from doorstep.serve.version import Version
from doorstep.serve.visit import CONTEXT, Skin, Visit

if TYPE_CHECKING:
    from doorstep.serve.site import Site


class Prediction(msgspec.Struct, omit_defaults=True, gc=False):
    """One row's answer. version: only where it is not the answer's own. warnings: of the row.
    probabilities: made by its version, encodes as {label: score}. cached: it was computed for an
    earlier request."""

    id: str
    answer: str | float | None
    warnings: tuple[str, ...]
    probabilities: Any = None
    value: float | None = None
    version: int | None = None
    cached: bool = False


class Answer(msgspec.Struct, gc=False):
    """version: who answered the first row; 0 is a declared constant. fallback: who stood in."""

    service: str
    version: int
    request_id: str
    predictions: list[Prediction]
    fallback: str | None


class Refusal(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    hint: str = ""
    request_id: str = ""


class OutcomesGiven(msgspec.Struct, forbid_unknown_fields=True):
    outcomes: list[OutcomeGiven]


_encode = msgspec.json.Encoder().encode
_decode_outcomes = msgspec.json.Decoder(OutcomesGiven).decode


class NativeCodec:
    protocol = "native"
    bad_input = 422

    def answer(self, call: Call) -> bytes:
        part = call.parts[0]
        if part.count == 1 and len(call.parts) == 1:
            predictions = [_prediction(call, part, 0, 0, part.answered)]
            fallback = None if part.answered == part.assigned else call.fallback
            name = call.service.name
            return _encode(Answer(name, part.answered, call.id, predictions, fallback))
        rows = call.by_row()
        first = rows[0][0].answered
        predictions = [
            _prediction(call, part, at, row, first) for row, (part, at) in enumerate(rows)
        ]
        return _encode(Answer(call.service.name, first, call.id, predictions, call.fallback))

    def answer_one(
        self, call: Call, version: Version, scores: list[float], said: str | float
    ) -> bytes:
        """As `answer`, of a plain call."""
        warnings = call.parsed.warnings[0] if call.parsed.warnings else ()
        one = Prediction(f"{call.id}.0", said, warnings)
        if version.labels:
            one.probabilities = version.probabilities(*scores)
        else:
            one.value = scores[0]
        return _encode(Answer(call.service.name, version.number, call.id, [one], None))

    def refusal(self, code: str, message: str, hint: str, request: str, /) -> bytes:
        return _encode({"error": Refusal(code, message, hint, request)})


def _prediction(call: Call, part: Part, at: int, row: int, first: int) -> Prediction:
    warnings = call.parsed.warnings[row] if call.parsed.warnings else ()
    name = f"{call.id}.{row}"
    if part.scores is None or part.answers is None:
        found = Prediction(name, part.constant, warnings)
    else:
        scores = part.scores[at]
        version = call.service.versions[part.answered]
        if version.labels:
            shares = version.probabilities(*scores)
            found = Prediction(name, part.answers[at], warnings, shares)
        else:
            found = Prediction(name, scores[0], warnings, None, scores[0])
    if part.answered != first:
        found.version = part.answered
    if part.cached:
        found.cached = True
    return found


def describe_service(service: Service) -> dict[str, Any]:
    """What GET /v1/services/{service} says: versions, and the contract a caller must keep to."""
    plan = service.plan
    return {
        "service": service.name,
        "ready": service.ready,
        "champion": plan.champion,
        "challenger": plan.release.challenger if plan.release else None,
        "versions": sorted(service.versions),
        "unloaded": sorted({one.number for one in plan.versions} - set(service.versions)),
        "rows_max": plan.rows_max,
        "timeout_ms": plan.timeout_ms,
        "contract": plan.contract,
    }


def read_outcomes(
    body: bytes,
    service: str,
    known: Collection[tuple[str, ...]],
    now: Instant,
    recorded: Callable[[str], str] = str,
) -> list[OutcomeRecord]:
    """The outcomes of a body: `{"outcomes": [{"prediction" or "key", "label" or "value", "at"}]}`.

    known: as `outcome_fault` wants it, of the versions that are resident here. recorded: what
    the journal has for a key.

    Raises: InputError (`bad-outcomes`, `bad-outcome`), naming the first that is wrong; then none
    is taken.
    """
    try:
        given = _decode_outcomes(body).outcomes
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError("bad-outcomes", f"the outcomes cannot be read: {error}") from None
    if not 0 < len(given) <= OUTCOMES_MAX:
        raise InputError(
            "bad-outcomes", f"the request has {len(given)} outcomes; expected 1 to {OUTCOMES_MAX}"
        )
    found, refused = sort_out(service, given, known, now)
    require_all(refused)
    return [replace(one, key=recorded(one.key)) if one.key else one for one in found]


# -- routes


def predict(site: Site, visit: Visit) -> None:
    service = site.services.get(visit.service) or site.service(visit.service)
    context = visit.head.fields.get(CONTEXT, b"")
    site.submit(visit, service, service.reader.read(visit.body, context))


def rehearse(site: Site, visit: Visit) -> None:
    if site.environment == "production":
        raise RefusedError(
            "rehearsal-in-production", "this environment is production: rows here are real"
        )
    service = site.service(visit.service)
    parsed = service.reader.read(visit.body, visit.context)
    site.submit(visit, service, parsed, kind=Kind.REHEARSAL)


def take_outcomes(site: Site, visit: Visit) -> None:
    service = site.service(visit.service)
    now, recorded = time.time_ns() // 1000, service.mask.key if service.mask else str
    records = read_outcomes(visit.body, service.name, service.labels, now, recorded)
    gone = next((at for at, one in enumerate(records) if one.prediction in site.erased), None)
    if gone is not None:
        raise outcome_refused(gone)
    name = site.new_id()
    headers = f"doorstep-request-id: {name}\r\n".encode()

    def answer(error: Exception | None) -> None:
        if error is None:
            return site.reply(visit, {"recorded": len(records)}, 200, headers)
        body = visit.codec.refusal(
            "journal-unavailable", "the outcomes could not be recorded", "try again", name
        )
        return visit.exchange.respond(503, body, headers + RETRY)

    try:
        for record in records:
            site.recorder.writer.outcome(record)
    except OverloadedError as error:
        site.recorder.drop()
        return answer(error)
    return site.recorder.commit(answer)


def healthz(site: Site, visit: Visit) -> None:
    state = "serving" if site.serving else "draining" if site.draining else "starting"
    site.reply(visit, {"status": state}, 200 if site.serving else 503)


def list_services(site: Site, visit: Visit) -> None:
    found = [describe_service(one) for one in site.visible(visit)]
    for one in found:
        del one["contract"]
    site.reply(visit, {"services": found})


def show_service(site: Site, visit: Visit) -> None:
    site.reply(visit, describe_service(site.service(visit.service)))


SKIN = Skin(
    codec=NativeCodec(),
    prefixes=(b"/v1/services",),
    probes=frozenset({"healthz"}),
    routes={
        "healthz": {"GET": healthz},
        "v1/services": {"GET": list_services},
        "v1/services/{service}": {"GET": show_service},
        "v1/services/{service}/predict": {"POST": predict},
        "v1/services/{service}/rehearse": {"POST": rehearse},
        "v1/services/{service}/outcomes": {"POST": take_outcomes},
    },
)
