"""One value of a request against one field of the contract: the careful check, with exact words.

The fast way (`rows.py`) lets msgspec check whole bodies in C. What it does not let through comes
here, to be let through with a warning or refused with a sentence.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.core.instant import parse_instant
from doorstep.serve import limits

NAN = float("nan")
_EXPECTED = {
    "int": "int", "float": "float", "bool": "true or false",
    "time": "an ISO 8601 time or whole microseconds since 1970", "category": "text", "text": "text",
}  # fmt: skip


class Shape(NamedTuple):
    """Fields of one object (a row, or its context) in the order of the tuple that it becomes:
    numbers, then texts, then ids (fields that only identify: they are not in the contract)."""

    numbers: tuple[Field, ...]
    texts: tuple[Field, ...]
    ids: tuple[str, ...]
    reject: bool

    @property
    def names(self) -> list[str]:
        return [one.name for one in (*self.numbers, *self.texts)] + list(self.ids)


def shapes_of(contract: Contract, ids: tuple[str, ...]) -> tuple[Shape, Shape]:
    """The shapes of a row and of a context. ids: names of identifying fields, in any place."""
    known = {one.name for one in (*contract.inputs, *contract.context)}
    extra = tuple(name for name in dict.fromkeys(ids) if name and name not in known)
    reject = contract.enforce == "reject"
    row = Shape(contract.numbers, contract.texts, extra, reject)
    numbers = tuple(one for one in contract.context if one.is_number)
    texts = tuple(one for one in contract.context if not one.is_number)
    return row, Shape(numbers, texts, extra, reject)


class Problems:
    """What is wrong with one request: the first few, said together."""

    def __init__(self) -> None:
        self._found: list[InputError] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Keep what is raised within. Raises: InputError of all of them, once they are enough."""
        try:
            yield
        except InputError as error:
            self._found.append(error)
            if len(self._found) > limits.PROBLEMS_SAID_MAX:
                self.raise_found()

    def raise_found(self) -> None:
        """Raises: InputError with the code and the hint of the first, if there is any."""
        if not self._found:
            return
        first, *others = (one.message for one in self._found[: limits.PROBLEMS_SAID_MAX])
        more = [". There may be more"] if len(self._found) > limits.PROBLEMS_SAID_MAX else []
        said = "".join([first, *(f". Also {one}" for one in others), *more])
        raise InputError(self._found[0].code, said, self._found[0].hint)


def read_object(
    found: Any, shape: Shape, where: str, problems: Problems
) -> tuple[tuple[Any, ...], list[str]]:
    """The values of `found` in the order of `shape`, without those that `problems` took, and
    warnings. where: `row 0`.

    The problems are `bad-row`, `extra-field`, `missing-field`, `bad-field`, `out-of-range` and
    `unseen-category`.
    """
    warnings: list[str] = []
    values: list[Any] = []
    with problems.noting():
        if not isinstance(found, Mapping):
            raise InputError("bad-row", f"{where} is {describe(found)}; expected an object")
        names = shape.names
        for name in found:
            if name not in names:
                with problems.noting():
                    raise _extra(name, shape, where)
        for field in (*shape.numbers, *shape.texts):
            with problems.noting():
                given, is_there = found.get(field.name), field.name in found
                values.append(read_value(given, field, shape.reject, where, warnings, is_there))
        for name in shape.ids:
            with problems.noting():
                values.append(read_id(found.get(name), name, where))
    return tuple(values), warnings


def read_value(
    found: Any, field: Field, reject: bool, where: str, warnings: list[str], present: bool
) -> float | str | None:
    """One value as it travels: float (missing: NaN) or text (missing: None)."""
    if found is None:
        if field.required:
            state = "is null" if present else "is missing"
            raise InputError(
                "bad-field" if present else "missing-field",
                f"{where}: field {field.name!r} {state}; expected {_EXPECTED[field.type]}",
            )
        return NAN if field.is_number else None
    if field.is_number:
        return _read_number(found, field, reject, where, warnings)
    return _read_text(found, field, reject, where, warnings)


def read_id(found: Any, name: str, where: str) -> str | None:
    """A key or unit: text or a whole number. Raises: InputError (`bad-field`)."""
    if found is None:
        return None
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) <= limits.INT_MAX:
        return str(found)
    if isinstance(found, str) and len(found) <= limits.ID_CHARS_MAX:
        return found
    raise _bad(
        where, name, found, f"text of at most {limits.ID_CHARS_MAX} characters or a whole number"
    )


def describe(found: Any) -> str:
    """A value in words for an error: `text 'abc'`, `number 3.5`, `null`, `a list`."""
    if found is None or isinstance(found, bool):
        return {None: "null", True: "true", False: "false"}[found]
    if isinstance(found, str):
        shown = (
            found if len(found) <= limits.FOUND_CHARS_MAX else found[: limits.FOUND_CHARS_MAX] + "…"
        )
        return f"text {shown!r}"
    if isinstance(found, int | float):
        if isinstance(found, int) and abs(found) > 10**limits.FOUND_CHARS_MAX:
            return "a number of more than 60 digits"
        return f"number {found}"
    return "a list" if isinstance(found, list) else "an object"


def _read_number(found: Any, field: Field, reject: bool, where: str, warnings: list[str]) -> float:
    value = _number(found, field, where)
    low, high = field.range_min, field.range_max
    if (low is not None and value < low) or (high is not None and value > high):
        if reject:
            raise InputError(
                "out-of-range",
                f"{where}: field {field.name!r} is {describe(found)}; expected "
                f"{_range_text(low, high)}",
            )
        warnings.append(f"range:{field.name}")
    return value


def _number(found: Any, field: Field, where: str) -> float:
    if field.type == "bool":
        if isinstance(found, bool):
            return float(found)
        raise _bad(where, field.name, found, _EXPECTED["bool"])
    if field.type == "time" and isinstance(found, str) and len(found) <= limits.ID_CHARS_MAX:
        try:
            return float(parse_instant(found))
        except (InputError, OverflowError):
            raise _bad(where, field.name, found, _EXPECTED["time"]) from None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise _bad(where, field.name, found, _EXPECTED[field.type])
    return _finite(found, field, where)


def _finite(found: int | float, field: Field, where: str) -> float:
    whole = field.type in ("int", "time")
    if whole and not -limits.INT_MAX <= found <= limits.INT_MAX:
        raise _bad(where, field.name, found, f"{field.type} between -2^53 and 2^53")
    try:
        value = float(found)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _bad(where, field.name, found, "a finite float")
    if whole and not value.is_integer():
        raise _bad(where, field.name, found, f"{field.type} (a whole number)")
    return value


def _read_text(
    found: Any, field: Field, reject: bool, where: str, warnings: list[str]
) -> str | None:
    limit = chars_max(field)
    if not isinstance(found, str):
        raise _bad(where, field.name, found, "text")
    if len(found) > limit:
        raise InputError(
            "bad-field",
            f"{where}: field {field.name!r} has {len(found)} characters; expected at most {limit}",
        )
    if field.type != "category" or not field.values or found in field.values:
        return found
    if field.unseen == "reject" or (reject and field.unseen == "allow"):
        raise InputError(
            "unseen-category",
            f"{where}: field {field.name!r} is {describe(found)}, which is not among its "
            f"{len(field.values)} known values",
            f"known: {', '.join(field.values[:20])}",
        )
    warnings.append(f"unseen:{field.name}")
    return None if field.unseen == "missing" else found


def chars_max(field: Field) -> int:
    return limits.CATEGORY_CHARS_MAX if field.type == "category" else limits.TEXT_CHARS_MAX


def _extra(name: Any, shape: Shape, where: str) -> InputError:
    shown = str(name)[: limits.FOUND_CHARS_MAX]
    near = difflib.get_close_matches(shown, shape.names, n=1)
    return InputError(
        "extra-field",
        f"{where}: field {shown!r} is not in the contract",
        f"did you mean {near[0]!r}?" if near else f"fields: {', '.join(shape.names[:40])}",
    )


def _bad(where: str, name: str, found: Any, expected: str) -> InputError:
    return InputError(
        "bad-field", f"{where}: field {name!r} is {describe(found)}; expected {expected}"
    )


def _range_text(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
