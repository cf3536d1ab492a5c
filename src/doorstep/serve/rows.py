"""From a request's body to rows: one float64 string and the texts, without an object per number.

`RowReader` is made once per service and plan. It decodes straight into structs generated from the
contract; types, ranges and known categories are checked by msgspec in C. A body that does not pass
is read again by `fields.py`, which warns or says exactly what is wrong. Both ways give the same.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from doorstep.core.contract import Field
from doorstep.core.errors import InputError
from doorstep.core.instant import SECOND_US
from doorstep.core.plan import REST, ServicePlan
from doorstep.serve.bounds import Bounds
from doorstep.serve.fields import (
    NAN,
    Problems,
    Shape,
    chars_max,
    describe,
    read_id,
    read_object,
    shapes_of,
)
from doorstep.serve.limits import ID_CHARS_MAX, INT_MAX

_ENVELOPE = re.compile(rb'\s*\{\s*"(?:rows|context|keys)"\s*:\s*[\[{]')
_ENVELOPE_KEYS = ("rows", "context", "keys")
Values = tuple[Any, ...]
_values_of = msgspec.structs.astuple
_decode_any = msgspec.json.Decoder(float_hook=float).decode


class Parsed(msgspec.Struct):
    """The rows of one request. numbers: count x width float64, row by row: inputs, then context.
    texts: per row, likewise; [] if the service has none. keys, units, segments, warnings: per row,
    None if none has any. subjects: whose data each is, of a contract that seals."""

    count: int
    numbers: bytes
    texts: Sequence[Values] = ()
    keys: list[str] | None = None
    units: list[str] | None = None
    segments: list[str] | None = None
    warnings: list[tuple[str, ...]] | None = None
    subjects: list[str] | None = None


class RowReader:
    """Reads the bodies of one service."""

    def __init__(self, plan: ServicePlan) -> None:
        self._plan = plan
        self._rows_max = plan.rows_max
        self.row, self.context = shapes_of(plan.contract, (plan.key, plan.unit, plan.subject))
        row_type, context_type = _struct_of("Row", self.row), _struct_of("Context", self.context)
        self._decode_row = msgspec.json.Decoder(row_type).decode
        self._decode_envelope = msgspec.json.Decoder(
            _envelope_of(row_type, context_type, plan.rows_max)
        ).decode
        self._decode_context = msgspec.json.Decoder(context_type).decode
        self._row_type = row_type
        self._default: Values | None = self._default_context(context_type)
        self.width = len(self.row.numbers) + len(self.context.numbers)
        self._pack = struct.Struct(f"{self.width}d").pack
        self._times = any(one.type == "time" for one in (*self.row.numbers, *self.context.numbers))
        self._only_numbers = not (
            self.row.texts or self.row.ids or self.context.names or self._times or plan.segments
            or plan.key or plan.unit or plan.contract.seals
        )  # fmt: skip
        self.bounds = Bounds(self.row.numbers) if self._only_numbers else None
        self.row_names = frozenset(self.row.names)
        self.context_names = frozenset(self.context.names)
        self._key = _Getter(plan.key, self.row, self.context)
        self._unit = _Getter(plan.unit or plan.key, self.row, self.context)
        self._subject = _Getter(plan.subject, self.row, self.context)
        self._segment = _segment_finder(plan, self.context)

    def read(self, body: bytes, context: bytes = b"") -> Parsed:
        """The rows of a native body: `{"rows": [...], "context": ..., "keys": [...]}` or one bare
        row. context: the Doorstep-Context header, for a body that has none itself.

        Raises: InputError (`bad-json`, `no-rows`, `too-many-rows` and those of `read_object`).
        """
        try:
            if self._only_numbers and not context and body.startswith(b'{"rows":'):
                envelope: Any = self._decode_envelope(body)
                rows = envelope.rows
                if len(rows) == 1 and envelope.context is None and envelope.keys is None:
                    return Parsed(1, self._pack(*_values_of(rows[0])))
            return self._read_fast(body, context)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _Careful, struct.error):
            return self._read_carefully(body, context)

    def read_objects(self, rows: list[Any], context: Any, keys: list[Any] | None) -> Parsed:
        """As `read`, of values that another protocol has decoded."""
        self.check_count(len(rows))
        values, warnings, problems = [], [], Problems()
        for at, found in enumerate(rows):
            row, said = read_object(found, self.row, f"row {at}", problems)
            values.append(row)
            warnings.append(said)
        contexts = self._contexts(context, len(rows), warnings, problems)
        problems.raise_found()
        parsed = self._build(values, contexts, _keys(keys, len(rows)))
        if any(warnings):
            parsed.warnings = [tuple(said) for said in warnings]
        return parsed

    def read_plainly(self, rows: list[dict[str, Any]]) -> Parsed | None:
        """As `read_objects`, of rows without a context of their own that need no second look;
        None if one does."""
        try:
            found = [_values_of(msgspec.convert(row, self._row_type)) for row in rows]
            parsed = self._build(found, self._fast_contexts(None, len(rows)), None)
        except (msgspec.ValidationError, _Careful, struct.error, OverflowError):
            return None
        # What JSON cannot say (1e999, a tensor's NaN) is not looked for by msgspec here.
        return None if np.isinf(np.frombuffer(parsed.numbers)).any() else parsed

    def _read_fast(self, body: bytes, context: bytes) -> Parsed:
        if body.startswith(b'{"rows":') or _ENVELOPE.match(body):
            envelope: Any = self._decode_envelope(body)
            found, contexts, keys = envelope.rows, envelope.context, envelope.keys
        else:
            found, contexts, keys = [self._decode_row(body)], None, None
        if self._only_numbers and contexts is None and keys is None and not context:
            if len(found) == 1:
                return Parsed(1, self._pack(*_values_of(found[0])))
            packed = b"".join([self._pack(*_values_of(row)) for row in found])
            return Parsed(len(found), packed)
        if keys is not None:
            if len(keys) != len(found):
                raise _Careful
            keys = [str(key) for key in keys]
        if contexts is None and context:
            contexts = self._decode_context(context)
        rows = [_values_of(row) for row in found]
        return self._build(rows, self._fast_contexts(contexts, len(rows)), keys)

    def _fast_contexts(self, found: Any, count: int) -> list[Values]:
        if found is None:
            if self._default is None:
                raise _Careful
            return [self._default] * count
        if isinstance(found, list):
            if len(found) != count:
                raise _Careful
            return [_values_of(one) for one in found]
        return [_values_of(found)] * count

    def _read_carefully(self, body: bytes, context: bytes) -> Parsed:
        found = decode_json(body, "the body")
        given = read_header(context)
        if not isinstance(found, dict):
            raise InputError(
                "bad-body",
                f'the body is {describe(found)}; expected {{"rows": [...]}} or one row',
            )
        if not isinstance(found.get("rows"), list):
            if "rows" in found and "rows" not in self.row.names:
                raise InputError(
                    "bad-body", f"'rows' is {describe(found['rows'])}; expected a list of rows"
                )
            return self.read_objects([found], given, None)
        for name in found:
            if name not in _ENVELOPE_KEYS:
                raise InputError(
                    "extra-key", f"the body has {name[:60]!r}; expected rows, context, keys"
                )
        inner = found.get("context")
        return self.read_objects(
            found["rows"], given if inner is None else inner, _key_list(found.get("keys"))
        )

    def _contexts(
        self, found: Any, count: int, warnings: list[list[str]], problems: Problems
    ) -> list[Values]:
        if isinstance(found, list):
            if len(found) != count:
                raise InputError(
                    "bad-context", f"context has {len(found)} entries; expected one for each of "
                    f"{count} rows"
                )  # fmt: skip
            contexts = []
            for at, one in enumerate(found):
                values, said = read_object(one, self.context, f"context {at}", problems)
                warnings[at] += said
                contexts.append(values)
            return contexts
        values, said = read_object(
            {} if found is None else found, self.context, "context", problems
        )
        for one in warnings:
            one += said
        return [values] * count

    def _build(
        self, rows: Sequence[Values], contexts: list[Values], keys: list[str] | None
    ) -> Parsed:
        k, ck = len(self.row.numbers), len(self.context.numbers)
        t, ct = k + len(self.row.texts), ck + len(self.context.texts)
        if self._times:
            rows, contexts = self._instants(rows, self.row), self._instants(contexts, self.context)
        pairs = list(zip(rows, contexts, strict=True))
        packed = [self._pack_row(row[:k] + about[:ck]) for row, about in pairs]
        parsed = Parsed(len(rows), b"".join(packed))
        if t > k or ct > ck:
            parsed.texts = [row[k:t] + about[ck:ct] for row, about in pairs]
        parsed.keys = keys or self._key.all(pairs)
        parsed.units = self._unit.all(pairs) or (keys if not self._plan.unit else None)
        if self._plan.contract.seals:
            parsed.subjects = self._subject.all(pairs)
        if self._segment is not None:
            parsed.segments = [self._segment(about) for _, about in pairs]
        return parsed

    def _pack_row(self, numbers: Values) -> bytes:
        try:
            return self._pack(*numbers)
        except struct.error:
            return self._pack(*[NAN if one is None else one for one in numbers])

    def _instants(self, rows: Sequence[Values], shape: Shape) -> list[Values]:
        at = [number for number, one in enumerate(shape.numbers) if one.type == "time"]
        if not at:
            return list(rows)
        changed = []
        for row in rows:
            values = list(row)
            for place in at:
                values[place] = _microseconds(values[place], shape.numbers[place])
            changed.append(tuple(values))
        return changed

    def check_count(self, count: int) -> None:
        """Raises: InputError (`no-rows`, `too-many-rows`)."""
        if not count:
            raise InputError("no-rows", "the request has 0 rows; expected at least 1")
        if count > self._rows_max:
            raise InputError(
                "too-many-rows",
                f"the request has {count} rows; expected at most {self._rows_max}",
                "split it",
            )

    def _default_context(self, context_type: type[msgspec.Struct]) -> Values | None:
        try:
            return _values_of(context_type())
        except TypeError:
            return None


def read_header(context: bytes) -> Any:
    """What the header Doorstep-Context says; None if it is not there. Raises: InputError."""
    return decode_json(context, "the header Doorstep-Context") if context else None


def decode_json(data: bytes, what: str) -> Any:
    """Any JSON; a number that is too large for a float is infinite. Raises: InputError."""
    try:
        return _decode_any(data)
    except UnicodeDecodeError as error:
        raise InputError(
            "bad-json", f"{what} is not UTF-8: byte {error.start}: {error.reason}"
        ) from None
    except RecursionError:
        raise InputError("bad-json", f"{what} is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise InputError("bad-json", f"{what} is not JSON: {error}") from None


class _Careful(Exception):
    """Not for the fast way."""


class _Getter:
    """The text of a named field, looked for in the row and then in its context."""

    def __init__(self, name: str, row: Shape, context: Shape) -> None:
        self._in_row = row.names.index(name) if name in row.names else None
        self._in_context = context.names.index(name) if name in context.names else None
        fields = (*row.numbers, *context.numbers)
        self._type = next((one.type for one in fields if one.name == name), "text")

    def all(self, pairs: Sequence[tuple[Values, Values]]) -> list[str] | None:
        if self._in_row is None and self._in_context is None:
            return None
        return [self._one(row, about) for row, about in pairs]

    def _one(self, row: Values, about: Values) -> str:
        found = None if self._in_row is None else row[self._in_row]
        if (found is None or found != found) and self._in_context is not None:
            found = about[self._in_context]
        return "" if found is None or found != found else text_of(found, self._type)


def text_of(found: Any, kind: str) -> str:
    """A value as text: how segments and keys are compared."""
    if isinstance(found, str):
        return found
    if kind == "bool":
        return "true" if found else "false"
    return str(int(found)) if float(found).is_integer() else repr(float(found))


def _segment_finder(plan: ServicePlan, context: Shape) -> Callable[[Values], str] | None:
    if not plan.segments:
        return None
    names = context.names
    types = [one.type for one in (*context.numbers, *context.texts)]
    types += ["text"] * len(context.ids)
    rules = [
        (one.name, [(_index(names, name), frozenset(known)) for name, known in one.match.items()])
        for one in plan.segments
    ]

    def matches(about: Values, at: int, values: frozenset[str]) -> bool:
        found = about[at] if at >= 0 else None
        return found is not None and found == found and text_of(found, types[at]) in values

    def find(about: Values) -> str:
        for name, needs in rules:
            if all(matches(about, at, values) for at, values in needs):
                return name
        return REST

    return find


def _index(names: list[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _struct_of(name: str, shape: Shape) -> type[msgspec.Struct]:
    """A struct whose `astuple` is in the order of the shape; any field name will do."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    rename = {}
    for at, field in enumerate((*shape.numbers, *shape.texts)):
        kind = _type_of(field)
        rename[f"f{at}"] = field.name
        empty = NAN if field.is_number else None
        fields.append((f"f{at}", kind) if field.required else (f"f{at}", kind | None, empty))
    for at, one in enumerate(shape.ids):
        rename[f"i{at}"] = one
        kind = Annotated[str, Meta(max_length=ID_CHARS_MAX)] | _whole(-INT_MAX, INT_MAX, int)
        fields.append((f"i{at}", kind | None, None))
    return msgspec.defstruct(
        name, fields, rename=rename, kw_only=True, forbid_unknown_fields=True, gc=False
    )


def _envelope_of(row: type, context: type, rows_max: int) -> type[msgspec.Struct]:
    key = Annotated[str, Meta(max_length=ID_CHARS_MAX)] | _whole(-INT_MAX, INT_MAX, int)
    rows = Annotated[list[row], Meta(min_length=1, max_length=rows_max)]  # type: ignore[valid-type]
    return msgspec.defstruct(
        "Envelope",
        [("rows", rows), ("context", context | list[context] | None, None),  # type: ignore[valid-type]
         ("keys", list[key] | None, None)],  # type: ignore[valid-type]
        forbid_unknown_fields=True,
        kw_only=True,
    )  # fmt: skip


def _type_of(field: Field) -> Any:
    match field.type:
        case "bool":
            return bool
        case "time":
            return datetime | _whole(-INT_MAX, INT_MAX, int)
        case "int":
            return _whole(field.range_min, field.range_max, float)
        case "float":
            return _between(field.range_min, field.range_max)
        case "category" if field.values:
            return Literal[field.values]
        case _:
            return Annotated[str, Meta(max_length=chars_max(field))]


def _whole(low: float | None, high: float | None, kind: type) -> Any:
    low = -INT_MAX if low is None else max(low, -INT_MAX)
    high = INT_MAX if high is None else min(high, INT_MAX)
    if kind is int:
        return Annotated[int, Meta(ge=int(low), le=int(high))]
    # 2^53 + 1 becomes 2^53 as a float. So the bound itself goes the careful way, which reads it
    # as it was written.
    bounds: dict[str, Any] = {"gt" if low == -INT_MAX else "ge": float(low)}
    bounds["lt" if high == INT_MAX else "le"] = float(high)
    return Annotated[float, Meta(**bounds, multiple_of=1)]


def _between(low: float | None, high: float | None) -> Any:
    if low is None and high is None:
        return float
    return Annotated[float, Meta(ge=low, le=high)]


def _microseconds(found: Any, field: Field) -> float | None:
    """A time as it travels; out of its range it goes the careful way."""
    if found is None or isinstance(found, float):
        return found
    if isinstance(found, datetime):
        aware = found if found.tzinfo else found.replace(tzinfo=UTC)
        found = round(aware.timestamp() * SECOND_US)
    low, high = field.range_min, field.range_max
    if (low is not None and found < low) or (high is not None and found > high):
        raise _Careful
    return float(found)


def _key_list(found: Any) -> list[Any] | None:
    if found is not None and not isinstance(found, list):
        raise InputError("bad-keys", f"'keys' is {describe(found)}; expected a list, one per row")
    return found


def _keys(found: list[Any] | None, count: int) -> list[str] | None:
    if found is None:
        return None
    if len(found) != count:
        raise InputError(
            "bad-keys", f"'keys' has {len(found)} entries; expected one for each of {count} rows"
        )
    return [read_id(key, "keys", f"row {at}") or "" for at, key in enumerate(found)]
