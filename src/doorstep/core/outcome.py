"""From what somebody tells to the outcome that is kept, or why it is none: one rule for every way
in (both planes, files, databases, streams). Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Literal, TypeAlias

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.ids import plain_prediction_id
from doorstep.core.instant import SECOND_US, Instant, parse_instant, to_text
from doorstep.core.record import OutcomeRecord

KEY_CHARS_MAX = 256
LABEL_CHARS_MAX = 1_000
AT_MAX = 2**53
"""In the year 2255: what is later is no time that anybody meant."""
AHEAD_US = 86_400 * SECOND_US
"""A day: a time without an offset may be that of anywhere."""
WHOLE_MAX = 2**63 - 1
REASON_CHARS_MAX = 1_000
LABELS_SAID_MAX = 12
LABEL_SAID_CHARS_MAX = 80
Known: TypeAlias = Collection[tuple[str, ...]]
"""The labels of each version of a service; () for one that predicts a number, and where the service
file says that cases have a value. Empty where there is no version."""
Source: TypeAlias = Literal["api", "file", "person"]


class OutcomeGiven(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became true, by prediction id or by key. label: of a class; value: a number. at: ISO
    8601 or microseconds UTC; 0 or none is now."""

    prediction: str = ""
    key: str | int = ""
    label: str | bool | int | None = None
    value: float | None = None
    at: str | int | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """index: of the outcome in what was given."""

    index: int
    reason: str


def sort_out(
    service: str,
    given: Iterable[OutcomeGiven],
    known: Known,
    now: Instant,
    source: Source = "api",
) -> tuple[list[OutcomeRecord], list[Refused]]:
    """(what is kept, what is refused). Each was received a microsecond after the one before it, so
    that of two at the same time the later line counts."""
    records, refused = [], []
    for index, one in enumerate(given):
        try:
            records.append(_record(service, one, known, now + index, source))
        except InputError as error:
            refused.append(Refused(index=index, reason=error.message[:REASON_CHARS_MAX]))
        except ValueError as error:
            refused.append(Refused(index=index, reason=str(error)[:REASON_CHARS_MAX]))
    return records, refused


def require_all(refused: Iterable[Refused]) -> None:
    """Raises: InputError (`bad-outcome`), naming the first that is refused."""
    for one in refused:
        hint = "correct it and send all of them again; none was recorded"
        raise InputError("bad-outcome", f"outcome {one.index}: {one.reason}", hint)


def _record(
    service: str, given: OutcomeGiven, known: Known, now: Instant, source: Source
) -> OutcomeRecord:
    """Raises: ValueError, InputError. One that nobody can store would spoil its block."""
    require_storable(given)
    key = str(given.key)
    if len(key) > KEY_CHARS_MAX:
        raise ValueError(f"a key of {len(key)} characters; at most {KEY_CHARS_MAX}")
    label = None if given.label is None else str(given.label)
    label = label.lower() if isinstance(given.label, bool) and label else label
    if len(label or "") > LABEL_CHARS_MAX:
        raise ValueError(f"a label of {len(label or '')} characters; at most {LABEL_CHARS_MAX}")
    if given.value is not None and not math.isfinite(given.value):
        raise ValueError(f"value {given.value} is not finite")
    record = OutcomeRecord(
        service=service,
        at=_instant(given.at, now),
        received_at=now,
        prediction=plain_prediction_id(given.prediction) if given.prediction else "",
        key=key,
        label=label,
        value=given.value,
        source=source,
    )
    if fault := outcome_fault(label, given.value, service, known):
        raise ValueError(fault)
    return record


def require_storable(given: OutcomeGiven) -> None:
    """JSON can say what no request may (`api.bodies`): one outcome must not take those beside it
    along. Raises: ValueError."""
    for one in (given.prediction, given.key, given.label, given.at):
        if isinstance(one, str) and "\0" in one:
            raise ValueError("a text holds the character NUL")
        if isinstance(one, int) and abs(one) > WHOLE_MAX:
            raise ValueError("a whole number is larger than 64 bits can hold")


def _instant(found: str | int | None, now: Instant) -> Instant:
    if isinstance(found, str):
        found = parse_instant(found)
    if not 0 <= (found or 0) <= AT_MAX:
        raise ValueError(f"'at' is {found}; expected microseconds since 1970")
    if (found or 0) > now + AHEAD_US:
        # The last by its own time counts: this one could not be corrected until then.
        raise ValueError(f"'at' is {to_text(found or 0)[:19]}Z, in the future")
    return found or now


def outcome_fault(label: str | None, value: float | None, service: str, known: Known) -> str:
    """Why this can be the outcome of no prediction of the service; "" if it can.

    Nothing is known of a service without versions, so there nothing is wrong."""
    labels = sorted({one for version in known for one in version})
    is_value_known = value is None or () in known
    if not known or (is_value_known and (label is None or label in labels)):
        return ""
    if not labels:
        return f'found label {label!r}, but {service} predicts a number; expected "value"'
    said = ", ".join(repr(one[:LABEL_SAID_CHARS_MAX]) for one in labels[:LABELS_SAID_MAX])
    more = f" and {len(labels) - LABELS_SAID_MAX} more" if len(labels) > LABELS_SAID_MAX else ""
    if is_value_known and label is not None:
        found = f"found label {label[:LABEL_SAID_CHARS_MAX]!r}"
        return f'{found}; expected "label" with one that {service} knows: {said}{more}'
    return (
        f'found value {value:g}; expected "label" with one that {service} knows: {said}{more}, '
        "or monitor.outcomes.unit in the service file"
    )
