"""From a row that another service answered to a record of the journal, or why not. Pure."""

from __future__ import annotations

import hashlib
import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.core.instant import SECOND_US, Instant, parse_instant
from doorstep.core.manifest import Manifest
from doorstep.core.outcome import AT_MAX, KEY_CHARS_MAX
from doorstep.core.plural import plural
from doorstep.core.record import (
    Kind,
    Layout,
    OutcomeRecord,
    PredictionMeta,
    Status,
    layout_of,
)
from doorstep.core.servicefile import ServiceFile
from doorstep.core.servicefile_types import IdsSpec
from doorstep.core.servicefile_watch import WatchSpec
from doorstep.formats.columns import value_text
from doorstep.formats.fromrows import is_missing
from doorstep.journal.masking import Mask, Row, Texts
from doorstep.journal.sealing import Sealer
from doorstep.journal.surface import ImportedRow

TEXT_CHARS_MAX = 10_000
AHEAD_US = 300 * SECOND_US
"""Clocks differ; what is further in the future is no time at which anything was answered."""
DEFAULT_VERSION = "current"
LATENCY_MS_MAX = 3_600_000.0
_BOOLS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
_EPOCH_UNITS = ((1e11, 1e6), (1e14, 1e3), (math.inf, 1.0))
"""Below 1e11 a number is in seconds, below 1e14 in milliseconds, else in microseconds."""


class Shape(msgspec.Struct, frozen=True):
    """What a record of one watched version looks like. key: the field that is the key, or "";
    subject: that says whose data it is."""

    number: int
    contract: Contract
    labels: tuple[str, ...]
    positive: str
    layout: Layout
    key: str
    subject: str
    mask: Mask


class Prepared(msgspec.Struct, frozen=True):
    """One record. numbers: in the order of the layout. outcome_id: names this outcome of it. seal:
    of its sealed fields. index: of the row among those that were sent."""

    meta: PredictionMeta
    numbers: tuple[float, ...]
    outcome: OutcomeRecord | None = None
    outcome_id: bytes = b""
    seal: bytes = b""
    index: int = 0


def shape_of(
    service: str, number: int, manifest: Manifest, ids: IdsSpec, sealer: Sealer | None
) -> Shape:
    """sealer: None where the home has no key of personal fields."""
    outputs = manifest.labels or ("value",)
    contract = manifest.contract
    return Shape(
        number,
        contract,
        manifest.labels,
        manifest.positive,
        layout_of(service, contract, outputs),
        ids.key,
        ids.subject,
        Mask(service, contract, (ids.key, "", ids.subject), sealer),
    )


def mapped(row: Mapping[str, Any], file: ServiceFile, given_id: str = "") -> ImportedRow:
    """The row of a file or a query, its columns told apart as the service file says.

    given_id: names the row where it has no key. Raises: ValueError (why not)."""
    watch = file.watch or WatchSpec()
    named = {column: field for field, column in watch.columns.items()}
    key = row.get(file.ids.key) if file.ids.key else None
    if is_missing(key) and not given_id:
        raise ValueError(f"no key in column {file.ids.key or '(ids.key is not set)'}")
    score = row.get(watch.score) if watch.score else None
    by_label = {label: row.get(column) for label, column in watch.scores.items()}
    scores = {name: one for name, one in by_label.items() if not is_missing(one)}
    if watch.score and not is_missing(score):
        scores[""] = score
    return ImportedRow(
        id=given_id if is_missing(key) else "",
        at=instant_of(row.get(watch.time), watch.time),
        version=_version(row, watch.version),
        key=_text_of(key),
        answer=_scalar(row.get(watch.prediction)),
        scores={name: number_of(one, f"score {name}".strip()) for name, one in scores.items()},
        fields={named.get(name, name): _scalar(value) for name, value in row.items()},
        outcome=_scalar(row.get(watch.outcome or file.model.label)),
        latency_ms=_latency(row.get(watch.latency_ms)) if watch.latency_ms else 0.0,
    )


def _version(row: Mapping[str, Any], column: str | None) -> str:
    found = _text_of(row.get(column)) if column else DEFAULT_VERSION
    if not found:
        raise ValueError(f"no version in column {column}")
    return found


def _scalar(value: Any) -> Any:
    """JSON's own, or the text of it: a database gives dates and decimals too."""
    if is_missing(value):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _text_of(value: Any) -> str:
    return "" if is_missing(value) else value_text(value).strip()


def _latency(value: Any) -> float:
    return 0.0 if is_missing(value) else number_of(value, "latency")


def instant_of(value: Any, column: str) -> Instant:
    """Raises: ValueError."""
    if is_missing(value):
        raise ValueError(f"no time in column {column}")
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        try:
            return parse_instant(value if isinstance(value, str) else str(value))
        except (InputError, OverflowError):
            raise ValueError(f"{str(value)[:40]!r} in column {column} is no time") from None
    if not 0 < number <= AT_MAX:
        raise ValueError(f"{str(value)[:40]!r} in column {column} is no time")
    return round(number * next(unit for below, unit in _EPOCH_UNITS if number < below))


def prepared(row: ImportedRow, shape: Shape, service: str, now: Instant) -> Prepared:
    """The record that this row is. Raises: ValueError (why it is none)."""
    key = row.key or _key_in(row, shape)
    request = _request_id(row, key, service)
    if not 0 < row.at <= min(now + AHEAD_US, AT_MAX):
        raise ValueError("its time is in the future" if row.at > 0 else "it has no time")
    if len(key) > KEY_CHARS_MAX:
        raise ValueError(f"a key of {len(key)} characters; at most {KEY_CHARS_MAX}")
    if not 0.0 <= row.latency_ms <= LATENCY_MS_MAX:
        raise ValueError(f"latency of {row.latency_ms:g} ms")
    answer, scores = _answered(row, shape)
    numbers, texts, seal = _recorded(row, shape, request, key)
    is_failed = bool(row.error)
    meta = PredictionMeta(
        request=request,
        row=0,
        at=row.at,
        version=-1 if is_failed else shape.number,
        assigned=shape.number,
        status=int(Status.FAILED if is_failed else Status.OK),
        kind=int(Kind.WATCHED),
        release="",
        epoch=0,
        share=1.0,
        segment="",
        key=shape.mask.key(key),
        unit="",
        latency_us=round(row.latency_ms * 1000),
        warnings=(),
        texts=(*texts, answer),
        error=row.error[:200],
        # A latency of which nothing is known is none of the version's.
        cached=row.latency_ms == 0.0,
    )
    outcome = _outcome(row, shape, service, request, now)
    said = f"{outcome.label} {outcome.value}" if outcome else ""
    return Prepared(
        meta,
        (*numbers, *scores),
        outcome,
        _hash(b"outcome", request, said) if outcome else b"",
        seal,
    )


def _key_in(row: ImportedRow, shape: Shape) -> str:
    return _text_of(row.fields.get(shape.key)) if shape.key else ""


def _request_id(row: ImportedRow, key: str, service: str) -> bytes:
    """The same row always has the same id: a uuid7 of its time, and of a hash for the rest."""
    if not row.id and not key:
        raise ValueError("it has neither a key nor an id, so it would be imported twice")
    named = row.id or f"{key}\0{row.at}\0{row.version}"
    value = int.from_bytes(_hash(b"row", service.encode(), named))
    value = (row.at // 1000 & (1 << 48) - 1) << 80 | value & (1 << 80) - 1
    value = value & ~(0xF << 76) | (0x7 << 76)
    return (value & ~(0x3 << 62) | (0x2 << 62)).to_bytes(16)


def _hash(what: bytes, of: bytes, text: str) -> bytes:
    data = of + b"\0" + text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16, person=what).digest()


def _answered(row: ImportedRow, shape: Shape) -> tuple[str | None, tuple[float, ...]]:
    """(the answer as text, the scores in the order of the layout). A failed row has neither."""
    if row.error:
        return None, (math.nan,) * (len(shape.labels) or 1)
    if not shape.labels:
        value = row.scores.get("", row.answer)
        return None, (number_of(value, "the prediction"),)
    answer = None if is_missing(row.answer) else label_of(row.answer, shape.labels)
    if row.answer is not None and answer is None:
        raise ValueError(f"answer {str(row.answer)[:40]!r} is none of {_some(shape.labels)}")
    scores = _scores(row, shape, answer)
    if answer is None:
        best = max(range(len(scores)), key=scores.__getitem__)
        answer = shape.labels[best]
    return answer, scores


def _scores(row: ImportedRow, shape: Shape, answer: str | None) -> tuple[float, ...]:
    found = {label_of(name, shape.labels) if name else "": one for name, one in row.scores.items()}
    if None in found:
        raise ValueError(f"a score is of none of {_some(shape.labels)}")
    if not all(0.0 <= one <= 1.0 for one in found.values()):
        raise ValueError("a score is not from 0 to 1")
    if len(shape.labels) == 2 and len(found) == 1:
        ((of, one),) = found.items()
        of = of or shape.positive or shape.labels[1]
        return tuple(one if label == of else 1.0 - one for label in shape.labels)
    if found:
        if set(found) != set(shape.labels):
            raise ValueError(
                f"scores of {plural(len(found), 'label')}, expected {_some(shape.labels)}"
            )
        return tuple(found[label] for label in shape.labels)
    if answer is None:
        raise ValueError("it has neither an answer nor a score")
    return tuple(float(label == answer) for label in shape.labels)


def label_of(value: Any, labels: Sequence[str]) -> str | None:
    """The label that a value means: `1`, `1.0` and true are told apart only where labels do."""
    text = value_text(value).strip()
    if text in labels:
        return text
    if text.lower() in labels:
        return text.lower()
    try:
        whole = value_text(float(text))
    except (ValueError, OverflowError):
        return None
    return whole if whole in labels else None


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")


def _recorded(
    row: ImportedRow, shape: Shape, request: bytes, key: str
) -> tuple[tuple[float, ...], Texts, bytes]:
    """Numbers, texts and the seal of the record: personal fields as if Doorstep served it."""
    numbers, texts = _values(row, shape)
    if not shape.mask.is_needed:
        return numbers, texts, b""
    packed = struct.pack(f"<{len(numbers)}d", *numbers)
    subject = _text_of(row.fields.get(shape.subject)) if shape.subject else ""
    data, kept = shape.mask.inputs(packed, texts)
    seal = b""
    if shape.mask.seals and shape.mask.sealer is not None:
        session = shape.mask.sealer.session()
        came = Row(0, packed, texts, subject, key, "")
        kept, seal = (*kept, shape.mask.sealed(session, request, came)), session.seal
    return struct.unpack(f"<{len(numbers)}d", data), kept, seal


def _values(row: ImportedRow, shape: Shape) -> tuple[tuple[float, ...], tuple[str | None, ...]]:
    fields = (*shape.contract.inputs, *shape.contract.context)
    numbers, texts = [], []
    for field in fields:
        value = row.fields.get(field.name)
        if is_missing(value):
            if field.required and not row.error:
                raise ValueError(f"{field.name} is missing")
            value = None
        if field.is_number:
            numbers.append(_field_number(value, field))
        else:
            texts.append(_field_text(value, field))
    return tuple(numbers), tuple(texts)


def _field_number(value: Any, field: Field) -> float:
    if value is None:
        return math.nan
    if field.type == "time":
        return float(instant_of(value, field.name))
    if field.type == "bool":
        found = _BOOLS.get(value_text(value).strip().lower())
        if found is None:
            raise ValueError(f"{field.name}: {str(value)[:40]!r} is neither true nor false")
        return found
    number = number_of(value, field.name)
    if field.type == "int" and not number.is_integer():
        raise ValueError(f"{field.name}: {number:g} is no whole number")
    return number


def _field_text(value: Any, field: Field) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | int | float | bool):
        raise ValueError(f"{field.name} is a {type(value).__name__}, expected text")
    text = value if isinstance(value, str) else value_text(value)
    if len(text) > TEXT_CHARS_MAX:
        raise ValueError(f"{field.name} has {len(text)} characters; at most {TEXT_CHARS_MAX}")
    return text


def number_of(value: Any, what: str) -> float:
    if isinstance(value, bool):
        return float(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what}: {str(value)[:40]!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{what}: {number} is not finite")
    return number


def _outcome(
    row: ImportedRow, shape: Shape, service: str, request: bytes, now: Instant
) -> OutcomeRecord | None:
    if is_missing(row.outcome):
        return None
    label: str | None = None
    value: float | None = None
    if shape.labels:
        label = label_of(row.outcome, shape.labels)
        if label is None:
            said = f"outcome {str(row.outcome)[:40]!r}"
            raise ValueError(f"{said} is none of {_some(shape.labels)}")
    else:
        value = number_of(row.outcome, "the outcome")
    about = f"{request[:4].hex()}-{request[4:6].hex()}-{request[6:8].hex()}-{request[8:10].hex()}"
    return OutcomeRecord(
        service=service,
        at=row.at,
        received_at=now,
        prediction=f"{about}-{request[10:].hex()}.0",
        label=label,
        value=value,
        source="file",
    )


def matrix_of(rows: Sequence[Prepared]) -> bytes:
    """float64, row by row, as the journal takes it."""
    return array("d", (one for row in rows for one in row.numbers)).tobytes()
