"""What a call's exchange is told at its end: its answer, or why there is none."""

from __future__ import annotations

import traceback

from doorstep.core.record import Status
from doorstep.serve.call import Call
from doorstep.serve.plain import PlainBatch, answer_one_of
from doorstep.serve.version import Version

_STATUS_CODES = {
    Status.TIMED_OUT: (504, "timed-out", "the model did not answer in time"),
    Status.DIED: (503, "unavailable", "the model's process ended while it had the request"),
    Status.UNAVAILABLE: (503, "unavailable", "no version of the service can answer now"),
}
_FAILED = (500, "model-failed", "the model could not answer this request")
# An engine that died is back in one or two seconds; asked again sooner, a client fails twice.
_RETRY_LATER = b"retry-after: 3\r\n"


def answer(call: Call) -> None:
    failed = call.failed
    if failed is None:
        said = f"doorstep-request-id: {call.id}\r\ndoorstep-version: {call.versions}\r\n"
        body = call.codec.answer(call)
        call.is_answered = True
        return call.exchange.respond(200, body, said.encode() + call.headers, call.media)
    status, code, message = _STATUS_CODES.get(failed.status, _FAILED)
    call.status = status
    if call.is_shed:
        code, message = "overloaded", "too many wait: it could not be answered in time"
    body = call.codec.refusal(code, message, "", call.id)
    said = f"doorstep-request-id: {call.id}\r\ndoorstep-version: {failed.assigned}\r\n"
    call.is_answered = True
    return call.exchange.respond(
        status, body, said.encode() + (_RETRY_LATER if status == 503 else b"")
    )


def answer_batch(batch: PlainBatch, now: int) -> tuple[dict[str, list[int]], list[Call]]:
    """What it took to answer each, by protocol; and the calls that a mistake of ours has left
    without an answer."""
    latencies_us, left = dict[str, list[int]](), list[Call]()
    for call, scores, said in batch.each():
        try:
            _answer_plain(call, batch.version, scores, said)
        except Exception:  # noqa: BLE001  the next of them wants an answer too
            traceback.print_exc()
            left.append(call)
            continue
        call.is_over = True
        latencies_us.setdefault(call.codec.protocol, []).append((now - call.began_ns) // 1000)
    return latencies_us, left


def _answer_plain(call: Call, version: Version, scores: list[float], said: str | float) -> None:
    codec = call.codec
    body = answer_one_of(type(codec))(codec, call, version, scores, said)
    headers = f"doorstep-request-id: {call.id}{version.header}".encode()
    call.is_answered = True
    call.exchange.respond(200, body, headers + call.headers, call.media)


def refuse_unrecorded(call: Call) -> None:
    """Its record could not be written. Raises nothing."""
    headers = f"doorstep-request-id: {call.id}\r\n".encode() + _RETRY_LATER
    try:
        body = call.codec.refusal(
            "journal-unavailable", "the answer could not be recorded", "try again", call.id
        )
        call.is_answered, call.status = True, 503
        call.exchange.respond(503, body, headers)
    except Exception:  # noqa: BLE001  the next of them wants an answer too
        traceback.print_exc()
        excuse(call)


def excuse(call: Call) -> None:
    """A mistake of ours has left it without an answer. Raises nothing."""
    call.is_answered = True
    try:
        body = call.codec.refusal("internal", "this is our fault; it was logged", "", call.id)
        call.exchange.respond(500, body)
    except Exception:  # noqa: BLE001  the next of them wants an answer too
        traceback.print_exc()
