"""One grammar for every condition in a service file.

    condition = name operator right
    operator  = "<=" | ">=" | "<" | ">" | "==" | "!="
    right     = number [unit] | text in quotes | "champion" [("+" | "-") number [unit]]
    unit      = "ms" "s" "m" "h" | "B" "kB" "MB" "GB" "KiB" "MiB" "GiB" | "%"

Times are kept in milliseconds, sizes in bytes (kB, MB, GB are powers of 1000; KiB, MiB, GiB of
1024), percents as a fraction. Text is compared only by == and !=, the champion only by order.

    auc >= champion - 0.005      p99 <= 20 ms      availability >= 99.9%      answer == 'bad'
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Literal, TypeAlias, get_args

import msgspec

from doorstep.core.errors import InputError, UsageError

CONDITION_LENGTH_MAX = 200
EXAMPLE = "auc >= 0.75, auc >= champion - 0.005, p99 <= 20 ms or answer == 'bad'"

Operator = Literal["<=", ">=", "<", ">", "==", "!="]
Unit = Literal["", "ms", "bytes", "%"]
_OPERATORS: dict[str, Operator] = {one: one for one in get_args(Operator)}
_SCALE: dict[str, tuple[Unit, Decimal]] = {
    "": ("", Decimal(1)),
    "%": ("%", Decimal("0.01")),
    "ms": ("ms", Decimal(1)),
    "s": ("ms", Decimal(1000)),
    "m": ("ms", Decimal(60_000)),
    "h": ("ms", Decimal(3_600_000)),
    "B": ("bytes", Decimal(1)),
    "kB": ("bytes", Decimal(10**3)),
    "KB": ("bytes", Decimal(10**3)),
    "MB": ("bytes", Decimal(10**6)),
    "GB": ("bytes", Decimal(10**9)),
    "KiB": ("bytes", Decimal(2**10)),
    "MiB": ("bytes", Decimal(2**20)),
    "GiB": ("bytes", Decimal(2**30)),
}
_NUMBER = r"[-+]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,3})?"
_CONDITION = re.compile(
    r"\s*(?P<left>[A-Za-z_][A-Za-z0-9_.]*)\s*(?P<operator><=|>=|==|!=|<|>|=)\s*(?P<right>.*?)\s*\Z"
)
_QUANTITY = re.compile(rf"(?P<number>{_NUMBER})\s*(?P<unit>[A-Za-z]+|%)?\Z")
_CHAMPION = re.compile(r"champion(?:\s*(?P<sign>[+-])\s*(?P<offset>[^\s+-].*))?\Z")
_QUOTED = re.compile(r"""'(?P<single>[^'\n]*)'\Z|"(?P<double>[^"\n]*)"\Z""")


class Quantity(msgspec.Struct, frozen=True, tag="number"):
    """value: milliseconds for "ms", bytes for "bytes", a fraction for "%", else as it is."""

    value: float
    unit: Unit = ""

    def __str__(self) -> str:
        exact = Decimal(repr(self.value))
        if self.unit == "%":
            return f"{_plain(exact * 100)}%"
        if self.unit != "bytes":
            return f"{_plain(exact)} {self.unit}".rstrip()
        name = next((n for n in ("GB", "MB", "kB") if abs(exact) >= _SCALE[n][1]), "B")
        return f"{_plain(exact / _SCALE[name][1])} {name}"


class Text(msgspec.Struct, frozen=True, tag="text"):
    text: str

    def __str__(self) -> str:
        return f'"{self.text}"' if "'" in self.text else f"'{self.text}'"


class Champion(msgspec.Struct, frozen=True, tag="champion"):
    """The champion's value of the same metric, plus `offset` (which may be negative)."""

    offset: Quantity = Quantity(0.0)

    def __str__(self) -> str:
        if self.offset.value == 0:
            return "champion"
        sign = "-" if self.offset.value < 0 else "+"
        return f"champion {sign} {Quantity(abs(self.offset.value), self.offset.unit)}"


Right: TypeAlias = Quantity | Text | Champion


class Condition(msgspec.Struct, frozen=True):
    """`left operator right`, as a person wrote it; `str()` gives text that parses to the same."""

    left: str
    operator: Operator
    right: Right

    def __post_init__(self) -> None:
        is_equality = self.operator in {"==", "!="}
        if isinstance(self.right, Text) and not is_equality:
            raise _bad(str(self), "text is compared with == or !=")
        if isinstance(self.right, Champion) and is_equality:
            raise _bad(str(self), "the champion is compared with <, <=, > or >=")

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right}"

    @property
    def needs_champion(self) -> bool:
        """Whether it can be answered only when a champion serves."""
        return isinstance(self.right, Champion)

    @property
    def unit(self) -> Unit | None:
        """The unit of the right side; None if it is text."""
        match self.right:
            case Quantity(unit=unit):
                return unit
            case Champion(offset=offset):
                return offset.unit
            case Text():
                return None


def parse_condition(text: str) -> Condition:
    """`p99 <= 20 ms` -> Condition. Raises: InputError (`bad-condition`)."""
    if not isinstance(text, str) or len(text) > CONDITION_LENGTH_MAX:
        raise _bad(repr(text)[:40], f"expected at most {CONDITION_LENGTH_MAX} characters of text")
    match = _CONDITION.match(text)
    if not match:
        raise _bad(text, f"expected NAME OPERATOR VALUE, such as {EXAMPLE}")
    operator = _OPERATORS.get(match["operator"])
    if operator is None:
        raise _bad(text, f"{match['operator']} is not an operator; expected ==")
    return Condition(match["left"], operator, _right(match["right"], text))


def bound_of(condition: Condition, champion: float | None = None) -> float | str:
    """The value that the left side is compared with. champion: its value of the same metric.

    Raises: UsageError (`no-champion`) if the condition names the champion and none is given.
    """
    match condition.right:
        case Quantity(value=value):
            return value
        case Text(text=text):
            return text
        case Champion(offset=offset):
            if champion is None:
                raise UsageError(
                    "no-champion", f'"{condition}" needs the champion\'s {condition.left}'
                )
            return champion + offset.value


def holds(
    condition: Condition, value: float | str | bool | None, champion: float | None = None
) -> bool:
    """Whether `value` (in ms, bytes or as a fraction where the condition has a unit) satisfies it.

    A missing value or NaN never holds, not even by `!=`. Against text, `value` is compared as text
    (true and false for booleans); text that is not a number never holds against a number.
    Raises: UsageError (`no-champion`).
    """
    bound = bound_of(condition, champion)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if isinstance(bound, str):
        return _compare_texts(condition.operator, _as_text(value), bound)
    number = _as_number(value)
    if number is None or math.isnan(number) or math.isnan(bound):
        return False
    return _compare_numbers(condition.operator, number, bound)


def _right(text: str, whole: str) -> Right:
    if quoted := _QUOTED.match(text):
        return Text(quoted["single"] if quoted["single"] is not None else quoted["double"])
    if champion := _CHAMPION.match(text):
        if champion["offset"] is None:
            return Champion()
        offset = _quantity(champion["offset"], whole)
        sign = -1.0 if champion["sign"] == "-" else 1.0
        return Champion(Quantity(sign * offset.value, offset.unit)) if offset.value else Champion()
    return _quantity(text, whole)


def _quantity(text: str, whole: str) -> Quantity:
    match = _QUANTITY.match(text)
    if not match:
        raise _bad(whole, f"expected a number, 'text' in quotes or champion, found {text!r}")
    unit = match["unit"] or ""
    if unit not in _SCALE:
        known = ", ".join(name for name in _SCALE if name)
        raise _bad(whole, f"unit {unit!r} is not known; expected one of {known}")
    kept, scale = _SCALE[unit]
    value = float(Decimal(match["number"]) * scale) + 0.0
    if not math.isfinite(value):
        raise _bad(whole, f"{match['number']} is too large")
    return Quantity(value, kept)


def _plain(number: Decimal) -> str:
    """Digits without an exponent where that is short: 0.005, 20, 1e-30."""
    exponent = number.adjusted()
    text = f"{number:f}" if -12 <= exponent <= 21 else f"{number:e}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def _as_text(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _as_number(value: float | str | bool) -> float | None:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _compare_texts(operator: Operator, value: str, bound: str) -> bool:
    return (value == bound) is (operator == "==")


def _compare_numbers(operator: Operator, value: float, bound: float) -> bool:
    match operator:
        case "<=":
            return value <= bound
        case ">=":
            return value >= bound
        case "<":
            return value < bound
        case ">":
            return value > bound
        case "==":
            return value == bound
        case "!=":
            return value != bound


def _bad(text: str, why: str) -> InputError:
    return InputError("bad-condition", f"{text!r} is not a condition: {why}")
