"""The words of the service file: each way to write one scalar, as a text, a share, a duration.

Text is what the person wrote, also where YAML would see a number: `label: 007` is "007".
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from doorstep.core.condition import (
    CONDITION_LENGTH_MAX,
    Condition,
    bound_of,
    parse_condition,
)
from doorstep.core.errors import InputError
from doorstep.core.filekeys import suggestion
from doorstep.core.filereaders import Word, choice
from doorstep.core.ids import NAME_LENGTH_MAX, parse_name
from doorstep.core.instant import parse_duration_s
from doorstep.core.yamltext import Scalar

TEXT_LENGTH_MAX = 1000
_ANY_SCALAR = ["string", "number", "boolean"]
_DURATION_JSON = r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)\s*$"
_SHARE = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,18})?)\s*%\Z")
_RATE = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,3})?)\s*/\s*(?P<unit>[smh])\Z")
_RATE_UNITS = {"s": 1, "m": 60, "h": 3600}
_CRON_FIELD = r"(?:\*|[0-9]{1,2}(?:-[0-9]{1,2})?)(?:/[0-9]{1,2})?"
_CRON_PART = re.compile(rf"{_CRON_FIELD}(?:,{_CRON_FIELD})*\Z")
_CRON_RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12))
_CRON_RANGES_ALL = (*_CRON_RANGES, ("weekday", 0, 7))

QUALITY_METRICS = [
    *("auc", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1"),
    *("f1_macro", "mcc", "brier", "log_loss", "average_precision", "calibration_error"),
    *("error_rate", "mae", "rmse", "mse", "r2", "mape", "median_absolute_error"),
    *("ndcg", "mrr", "hit_rate", "map"),
]
FAIRNESS_METRICS = [
    *("selection_rate_ratio", "selection_rate_difference", "accuracy_difference"),
    *("equal_opportunity_difference", "equalized_odds_difference"),
    *("false_positive_rate_difference", "false_negative_rate_difference"),
]
UNBOUNDED_METRICS = [
    *("log_loss", "mae", "rmse", "mse", "r2", "mape", "median_absolute_error", "mean_value"),
]
LATENCY_METRICS = ["p50", "p90", "p95", "p99", "p999", "mean"]
GOAL_METRICS = [
    *("error_rate", "accuracy", "precision", "recall", "specificity", "selection_rate"),
    *("outcome_rate", "default_rate", "conversion", "mean_value"),
]
"""Means over cases, which have a confidence sequence."""
SPEED_METRICS = [*LATENCY_METRICS, "size"]
SLO_METRICS = [*LATENCY_METRICS, "availability", "error_rate"]


def text(example: str, pattern: str = "", length_max: int = TEXT_LENGTH_MAX) -> Word:
    """The raw text of a scalar, printable, not empty. pattern: that it must match as a whole."""
    rule = re.compile(pattern)

    def parse(scalar: Scalar) -> str:
        if not scalar.text or len(scalar.text) > length_max:
            raise ValueError(f"{len(scalar.text)} characters, 1 to {length_max} are allowed")
        if not scalar.text.isprintable():
            raise ValueError("a character that cannot be printed")
        if pattern and not rule.fullmatch(scalar.text):
            raise ValueError
        return scalar.text

    json: dict[str, Any] = {"type": _ANY_SCALAR, "maxLength": length_max}
    return Word(example, parse, {**json, "pattern": f"^(?:{pattern})$"} if pattern else json)


def category() -> Word:
    """One value of a category: its raw text, also `null` and the empty text in quotes."""

    def parse(scalar: Scalar) -> str:
        if (not scalar.text and not scalar.quoted) or len(scalar.text) > TEXT_LENGTH_MAX:
            raise ValueError
        return scalar.text

    return Word("a value of the category", parse, {"type": [*_ANY_SCALAR, "null"]})


def name(what: str) -> Word:
    json = {"type": "string", "pattern": "^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"}
    expected = f"a {what} name: a-z, 0-9 and inner hyphens, 1 to {NAME_LENGTH_MAX} characters"
    return Word(expected, lambda scalar: _parse_name(scalar.text), json)


def _parse_name(word: str) -> str:
    try:
        return parse_name(word[: NAME_LENGTH_MAX + 1])
    except InputError:
        raise ValueError from None


def choice_of(values: dict[str, Any], expected: str) -> Word:
    """One of some words, each of which means a value (shown as None where no word means it)."""
    words = choice(*values)
    names = {value: word for word, value in values.items()}
    return Word(expected, lambda scalar: values[words.parse(scalar)], words.json, names.get)


def count(least: int, most: int) -> Word:
    def parse(scalar: Scalar) -> int:
        value = scalar.value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    json = {"type": "integer", "minimum": least, "maximum": most}
    return Word(f"a whole number from {least} to {most:,}", parse, json)


def number(least: float, most: float, also_none: bool = False) -> Word:
    """A finite number. also_none: `null` may stand for "open"."""

    def parse(scalar: Scalar) -> float | None:
        value = scalar.value
        if value is None and also_none:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if not least <= value <= most:
            raise ValueError
        return float(value)

    json = {"type": ["number", "null"] if also_none else "number"}
    limits: dict[str, Any] = {"minimum": least, "maximum": most}
    finite = "a number" if most > 1e300 else f"a number from {compact(least)} to {compact(most)}"
    expected = f"{finite}, or null for open" if also_none else finite
    return Word(expected, parse, json if most > 1e300 else {**json, **limits}, compact)


def compact(value: float | None) -> float | int | None:
    """A whole number without its .0."""
    if value is not None and float(value).is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def literal() -> Word:
    """An answer as the model gives it: a number that is written as one, else the raw text."""

    def parse(scalar: Scalar) -> str | float:
        value = None if scalar.quoted else scalar.value
        if isinstance(value, int | float) and not isinstance(value, bool):
            exact = float(value)
            if scalar.text in {str(compact(exact)), repr(exact)} and abs(exact) < 1e300:
                return exact
        if not scalar.text or len(scalar.text) > TEXT_LENGTH_MAX:
            raise ValueError
        return scalar.text

    def write(value: str | float) -> str | float | int | None:
        return value if isinstance(value, str) else compact(value)

    return Word("an answer", parse, {"type": _ANY_SCALAR}, write)


def duration(least_s: float, most_s: float, zero_word: str = "") -> Word:
    """Seconds. zero_word: a word that stands for 0."""

    def parse(scalar: Scalar) -> float:
        if zero_word and scalar.text == zero_word:
            return 0.0
        try:
            seconds = parse_duration_s(scalar.text[:40])
        except InputError:
            raise ValueError from None
        if not least_s <= seconds <= most_s:
            raise ValueError(f"expected {show_duration(least_s)} to {show_duration(most_s)}")
        return seconds

    def write(seconds: float) -> str:
        return zero_word if zero_word and seconds == 0 else show_duration(seconds)

    timed: dict[str, Any] = {"type": "string", "pattern": _DURATION_JSON}
    json = {"anyOf": [{"const": zero_word}, timed]} if zero_word else timed
    word = f"{zero_word} or " if zero_word else ""
    return Word(f"{word}a duration such as 10m or 200 ms", parse, json, write)


def show_duration(seconds: float) -> str:
    """`10m`, `200 ms`; parses back to exactly these seconds."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    thousandths = f"{round(seconds * 1000)} ms"
    if parse_duration_s(thousandths) == seconds:
        return thousandths
    return f"{Decimal(repr(seconds)):f}s"


def share(least: float, most: float) -> Word:
    """A fraction, written as a percentage or as a number with a point."""

    def parse(scalar: Scalar) -> float:
        fraction = parse_share(scalar)
        if not least <= fraction <= most:
            raise ValueError(f"expected {show_share(least)} to {show_share(most)}")
        return fraction

    pattern = r"^[0-9]{1,9}(\.[0-9]{1,18})?\s*%$"
    json = {
        "anyOf": [
            {"type": "string", "pattern": pattern},
            {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        ]
    }
    return Word("a percentage such as 5%", parse, json, show_share)


def parse_share(scalar: Scalar) -> float:
    """`5%` or 0.05 -> 0.05. A bare 5 or 1 could mean either, so it is refused (ValueError)."""
    if match := _SHARE.match(scalar.text.strip()):
        return float(Decimal(match["number"]) / 100)
    value = scalar.value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise ValueError


def show_share(fraction: float) -> str:
    """`5%`, `99.9%`; parses back to exactly this fraction."""
    percent = f"{Decimal(repr(fraction)) * 100:f}"
    return (percent.rstrip("0").rstrip(".") if "." in percent else percent) + "%"


def rate() -> Word:
    """Requests per second; `none` is 0."""

    def parse(scalar: Scalar) -> float:
        return 0.0 if scalar.text == "none" else parse_rate(scalar.text)

    json = {"type": "string", "pattern": r"^(none|[0-9]{1,9}(\.[0-9]{1,3})?\s*/\s*[smh])$"}
    return Word("none or a rate such as 500/s", parse, json, show_rate)


def parse_rate(text: str) -> float:
    """`100/s`, `30/m` -> requests per second. Raises: ValueError."""
    match = _RATE.match(text.strip())
    found = float(match["number"]) / _RATE_UNITS[match["unit"]] if match else 0.0
    if found <= 0:
        raise ValueError("expected requests per s, m or h, more than 0")
    return found


def show_rate(per_s: float) -> str:
    """`100/s`; parses back to exactly this rate where it was written with three decimals."""
    for unit, size_s in _RATE_UNITS.items():
        shown = round(per_s * size_s, 3)
        if shown and shown / size_s == per_s:
            return f"{compact(shown)}/{unit}"
    return f"{per_s * 3600:.3f}/h" if per_s else "none"


def condition(example: str, metrics: list[str] | None = None) -> Word:
    """A condition. metrics: the names that may be asked; None for any."""

    def parse(scalar: Scalar) -> Condition:
        try:
            found = parse_condition(scalar.text)
        except InputError as error:
            raise ValueError(error.message.rpartition("is not a condition: ")[2]) from None
        if metrics is not None and found.left not in metrics:
            near = suggestion(found.left, metrics) or f"; expected one of {', '.join(metrics)}"
            raise ValueError(f"metric {found.left!r} is not known{near}")
        if metrics is not None and (fault := measure_fault(found)):
            raise ValueError(fault)
        return found

    json = {"type": "string", "maxLength": CONDITION_LENGTH_MAX, "pattern": r"(<=|>=|==|!=|<|>)"}
    return Word(f'a condition such as "{example}"', parse, json, str)


def measure_fault(found: Condition) -> str:
    """Why the right side cannot be a value of the metric on the left, "" if it can."""
    is_time, is_size = found.left in LATENCY_METRICS, found.left == "size"
    unit = found.unit
    if unit is None:
        return f"{found.left} is a number, not text"
    if is_time or is_size:
        wanted = "ms" if is_time else "bytes"
        example = "20 ms" if is_time else "50 MB"
        is_bare = str(found.right) == "champion"
        return "" if unit == wanted or is_bare else f"{found.left} needs a unit, as in {example}"
    if unit in {"ms", "bytes"}:
        return f"{found.left} is not measured in {unit}"
    if found.left not in UNBOUNDED_METRICS and not -1 <= _size_of(found) <= 1:
        return f"{found.left} is between 0 and 1; write a percentage with its %"
    return ""


def _size_of(found: Condition) -> float:
    """The number on the right: the bound, or the offset to the champion."""
    return float(bound_of(found, champion=0.0))


def cron() -> Word:
    """Five fields of a schedule: minute, hour, day, month, weekday."""

    def parse(scalar: Scalar) -> str:
        parts = scalar.text.split()
        if len(parts) != 5:
            raise ValueError(f"{len(parts)} fields")
        for part, (what, least, most) in zip(parts, _CRON_RANGES_ALL, strict=True):
            numbers = [int(digits) for digits in re.findall(r"(?<!/)\b[0-9]{1,2}\b", part)]
            if not _CRON_PART.match(part) or any(not least <= n <= most for n in numbers):
                raise ValueError(f"{part!r} is not a {what} ({least} to {most})")
            if re.search(r"/0+\b", part):
                raise ValueError(f"{part!r} steps by nothing")
        return " ".join(parts)

    return Word('a schedule such as "0 3 * * 1"', parse, {"type": "string"})
