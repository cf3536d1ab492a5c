"""What the rows of a call were answered, for protocols that have one value per row."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from doorstep.core.errors import InputError
from doorstep.serve.call import Call
from doorstep.serve.fields import describe
from doorstep.serve.service import Service

HEADER_CHARS_MAX = 1000
DIGITS_MAX = 15
"""Of a label that is a number: JSON's readers take no more for exact."""
METHODS = ("predict", "predict_proba")
encode = msgspec.json.Encoder().encode


class Asked(msgspec.Struct, frozen=True, gc=False):
    """How the caller wants its answer; a call's `extra`. form: a word of the protocol. spare: names
    that were left out of its rows."""

    form: str = ""
    probabilities: bool = False
    spare: tuple[str, ...] = ()


class Plain:
    """What most of these protocols say: a list, and errors as one sentence."""

    protocol: str
    bad_input = 400

    def answer(self, call: Call) -> bytes:
        add_notes(call)
        return encode({"predictions": predictions(call)})

    def refusal(self, code: str, message: str, hint: str, _request: str, /) -> bytes:
        return encode({"error": sentence(code, message, hint)})


def predictions(call: Call) -> list[Any]:
    """Per row: the label or the value, or where the caller asked for them the probabilities, in the
    order of the service's labels (None: a declared constant has none, nor has a version of other
    labels). Labels that are all whole numbers are
    numbers, as they were for the model."""
    probabilities = call.extra.probabilities
    whole: dict[int, bool] = {}
    found: list[Any] = []
    for part, at in call.by_row():
        version = call.service.versions.get(part.answered)
        labels = version.labels if version else call.service.default_outputs
        if part.scores is None or part.answers is None:
            said: Any = None if probabilities else part.constant
        elif probabilities:
            found.append(version.arranged(part.scores[at]) if version else None)
            continue
        else:
            said = part.answers[at]
        if isinstance(said, str):
            if part.answered not in whole:
                whole[part.answered] = all(map(_is_whole, labels))
            said = int(said) if whole[part.answered] and _is_whole(said) else said
        found.append(said)
    return found


def wants_probabilities(parameters: object, service: Service) -> bool:
    """What `predict_method` says, where there is one. Raises: InputError (`bad-output`)."""
    method: object = METHODS[0]
    if isinstance(parameters, dict):
        method = parameters.get("predict_method", method)
    if method not in METHODS:
        raise InputError(
            "bad-output",
            f"'predict_method' is {describe(method)}; expected {' or '.join(METHODS)}",
        )
    return method == METHODS[1] and check_probabilities(service)


def check_probabilities(service: Service) -> bool:
    """Raises: InputError (`bad-output`) where the service has values, not labels."""
    if not service.has_labels:
        raise InputError("bad-output", f"{service.name} answers values; it has no probabilities")
    return True


def notes(call: Call) -> dict[str, Any]:
    """What else is to be said of the answer: who stood in, and what was odd about the rows."""
    found: dict[str, Any] = {}
    if call.fallback:
        found["fallback"] = call.fallback
    warnings = {one for row in call.parsed.warnings or () for one in row}
    warnings |= {f"extra:{name}" for name in call.extra.spare}
    if warnings:
        found["warnings"] = sorted(warnings)
    return found


def add_notes(call: Call) -> None:
    """Put the notes into headers, for a protocol whose body has no place for them."""
    for name, value in notes(call).items():
        text = value if isinstance(value, str) else ",".join(value)
        said = quote(text, safe=" ,:;@=+/()[]'")[:HEADER_CHARS_MAX]
        call.headers += f"doorstep-{name}: {said}\r\n".encode()


def sentence(code: str, message: str, hint: str) -> str:
    return f"{code}: {message}" + (f" ({hint})" if hint else "")


def fault_of(code: str) -> str:
    """Whose fault an error is: `missing` or `input` (the caller's), `later`, `ours`."""
    if code in ("unknown-service", "unknown-version", "unknown-route"):
        return "missing"
    if code in ("unavailable", "overloaded", "timed-out", "journal-unavailable",
                "too-many-connections"):  # fmt: skip
        return "later"
    return "ours" if code in ("internal", "model-failed") else "input"


def _is_whole(label: str) -> bool:
    digits = label.removeprefix("-")
    return (
        len(label) <= DIGITS_MAX
        and digits.isascii()
        and digits.isdigit()
        and (str(int(label)) == label)
    )
