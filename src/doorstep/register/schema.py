"""The contract and the task, read from the whole training table and what the service file says.

What a person wrote wins; what is left open is what the data has. Nothing is guessed from the first
rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from doorstep.core.contract import ALIKE, Contract, Field, FieldType, alike
from doorstep.core.errors import InputError
from doorstep.core.manifest import Task, label_fault
from doorstep.formats.columns import Column, Table, missing_column
from doorstep.register.personal import looks_personal

# A text with so few different values is a category; with more, it is free text.
CATEGORIES_MAX = 100
CATEGORY_LENGTH_MAX = 60
REPEATS_MIN = 3.0
CLASSES_MAX = 1000
CLASSES_OF_INTEGERS_MAX = 20
Overrides = Mapping[str, Mapping[str, Any]]
_POSITIVE_WORDS = ("1", "true", "yes", "y", "positive", "bad", "default", "fraud", "churn")


@dataclass(frozen=True, slots=True)
class Target:
    """labels: as text, in score order; () for regression. why: how positive was chosen."""

    task: Task
    labels: tuple[str, ...]
    positive: str
    why: str = ""


def infer_contract(
    table: Table,
    inputs: Sequence[str],
    *,
    overrides: Overrides | None = None,
    context: Overrides | None = None,
    enforce: str = "warn",
) -> Contract:
    """The contract of a model that reads the columns `inputs` of `table`, in that order.

    overrides, context: fields as the service file has them (`type`, `range`, `values`, `unseen`,
    `required`, `unit`, `personal`, `protected`); an absent or None key is read from the data. A
    context field need not be a column.
    Raises: InputError (`no-column`, `bad-contract`).
    """
    stated = overrides or {}
    for name in stated:
        if name not in inputs:
            raise InputError(
                "bad-contract",
                f"contract.inputs has {name!r}, which the model does not read",
                f"move it to contract.context, or remove it (the model reads {', '.join(inputs)})",
            )
    _check_names("inputs", inputs)
    _check_names("context", context or {})
    fields = tuple(_field(table.column(name), stated.get(name, {})) for name in inputs)
    around = tuple(
        _context_field(table, name, spec) for name, spec in sorted((context or {}).items())
    )
    return Contract(
        inputs=fields, context=around, enforce="reject" if enforce == "reject" else "warn"
    )


def _check_names(part: str, names: Iterable[str]) -> None:
    both = alike(names)
    if both is not None:
        raise InputError(
            "bad-contract",
            f"contract.{part} has {both[0]!r} and {both[1]!r}: {ALIKE}",
            "rename one of them, and train the model again",
        )


def _context_field(table: Table, name: str, stated: Mapping[str, Any]) -> Field:
    if name in table:
        found = _field(table.column(name), stated, observed=False)
        wanted = bool(stated.get("required"))
        return found if wanted else msgspec.structs.replace(found, required=False)
    return Field(
        name=name,
        type=stated.get("type", "text"),
        required=bool(stated.get("required")),
        values=tuple(stated.get("values") or ()),
        unit=stated.get("unit") or "",
        personal=stated.get("personal") or "no",
        protected=bool(stated.get("protected")),
    )


def _field(column: Column, stated: Mapping[str, Any], *, observed: bool = True) -> Field:
    kind: FieldType = stated.get("type") or infer_type(column)
    if kind in ("int", "float", "bool", "time") and column.kind == "text":
        raise InputError(
            "bad-contract",
            f"contract.inputs.{column.name}: type {kind}, but the data has text in that column",
            "expected type category or text",
        )
    low, high = _range(column, kind, stated.get("range")) if observed else (None, None)
    required = stated.get("required")
    personal: Any = stated.get("personal")
    if personal is None or (personal == "no" and "type" not in stated):
        personal = "pseudonymise" if looks_personal(column) else "no"
    hidden = personal != "no"
    return Field(
        name=column.name,
        type=kind,
        required=column.missing_rows == 0 if required is None else bool(required),
        range_min=low,
        range_max=high,
        values=() if hidden else _values(column, kind, stated.get("values")),
        unseen=stated.get("unseen") or "allow",
        unit=stated.get("unit") or "",
        personal=personal,
        protected=bool(stated.get("protected")),
    )


def infer_type(column: Column) -> FieldType:
    """Text is a category if it has few different values that repeat, else free text."""
    if column.kind != "text":
        return column.kind
    present = column.values[~column.missing]
    if present.size == 0:
        return "category"
    counts = Counter(present.tolist())
    if len(counts) > CATEGORIES_MAX or max(map(len, counts)) > CATEGORY_LENGTH_MAX:
        return "text"
    return "category" if len(present) / len(counts) >= REPEATS_MIN or len(counts) <= 5 else "text"


def _values(column: Column, kind: FieldType, stated: Sequence[str] | None) -> tuple[str, ...]:
    if kind != "category":
        return ()
    if stated is not None:
        return tuple(stated)
    counts = Counter(text for text in column.as_texts() if text is not None)
    return tuple(text for text, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _range(
    column: Column, kind: FieldType, stated: Sequence[float | None] | None
) -> tuple[float | None, float | None]:
    if stated is not None:
        return stated[0], stated[1]
    if kind not in ("int", "float") or column.kind == "text":
        return None, None
    numbers = column.as_numbers()
    finite = numbers[np.isfinite(numbers)]
    if finite.size == 0:
        return None, None
    return honest_range(float(finite.min()), float(finite.max()), whole=kind == "int")


def honest_range(low: float, high: float, *, whole: bool) -> tuple[float, float]:
    """Observed bounds, rounded outward to three digits of the larger one: 0.0312..97.3 becomes
    0..97.3. Whole numbers below 1,000 stay as they are. Nothing observed falls outside."""
    largest = max(abs(low), abs(high))
    if largest == 0 or (whole and largest < 1000):
        return low, high
    step = 10.0 ** (math.floor(math.log10(largest)) - 2)
    if not math.isfinite(step) or step == 0:
        return low, high
    digits = max(0, -math.floor(math.log10(step)))
    down = round(math.floor(low / step) * step, digits)
    up = round(math.ceil(high / step) * step, digits)
    return min(down, low), max(up, high)


def choose_inputs(
    table: Table, names: Sequence[str] | None, count: int | None, left_out: Sequence[str]
) -> tuple[str, ...]:
    """The columns that the model reads, in its order.

    names: what the model knows its columns by, if it does. count: how many it takes, if it says.
    left_out: the label, ids and context, which are never inputs.
    Raises: InputError (`no-column`, `bad-columns`).
    """
    if names is not None:
        for name in names:
            if name not in table:
                raise missing_column(name, table.names)
        return tuple(names)
    chosen = tuple(name for name in table.names if name not in left_out)
    if count is not None and len(chosen) != count:
        raise InputError(
            "bad-columns",
            f"the model takes {count} columns, and the data has {len(chosen)} beside "
            f"{', '.join(left_out) or 'nothing'}: {', '.join(chosen[:30])}",
            "name the others under ids or contract.context, or train with a DataFrame, so that "
            "the model knows its columns",
        )
    return chosen


def find_target(
    column: Column, classes: tuple[str, ...] | None, *, positive: str = "", task: str = ""
) -> Target:
    """Task, labels and positive label. classes: of the model (() for a regressor), None if it does
    not say, in which case the labels are the values of the label column.

    Raises: InputError (`bad-label`, `bad-positive`).
    """
    present = Counter(text for text in column.as_texts() if text is not None)
    if not present:
        raise InputError("bad-label", f"the label column {column.name!r} has no values")
    labels = _labels_of(column, present, task) if classes is None else classes
    if not labels or task in ("regression", "ranking"):
        return Target("ranking" if task == "ranking" else "regression", (), "")
    _check_labels(column, present, labels)
    fault = label_fault(labels)
    if fault:
        raise InputError(
            "bad-label", f"the label column {column.name!r}: {fault}",
            "give the labels other names, and train the model again",
        )  # fmt: skip
    if len(labels) != 2:
        named: Task = "text-classification" if task == "text-classification" else "multiclass"
        return Target(named, labels, positive if positive in labels else "")
    chosen, why = _positive(labels, present, positive)
    return Target("text-classification" if task == "text-classification" else "binary",
                  labels, chosen, why)  # fmt: skip


def _labels_of(column: Column, present: Mapping[str, int], task: str) -> tuple[str, ...]:
    wanted = task in ("binary", "multiclass", "text-classification")
    few = len(present) <= CLASSES_OF_INTEGERS_MAX
    if column.kind in ("text", "bool") or wanted or (column.kind == "int" and few):
        if len(present) > CLASSES_MAX:
            raise InputError(
                "bad-label",
                f"the label column {column.name!r} has {len(present):,} different values; at most "
                f"{CLASSES_MAX:,} classes",
            )
        return tuple(sorted(present, key=int if column.kind == "int" else str))
    return ()


def _check_labels(column: Column, present: Mapping[str, int], labels: tuple[str, ...]) -> None:
    unknown = sorted(set(present) - set(labels))
    if unknown:
        raise InputError(
            "bad-label",
            f"the label column {column.name!r} has {', '.join(map(repr, unknown[:5]))}, and the "
            f"model's classes are {', '.join(map(repr, labels[:20]))}",
            "use the same labels as in training",
        )


def _positive(labels: tuple[str, ...], present: Mapping[str, int], stated: str) -> tuple[str, str]:
    if stated:
        if stated not in labels:
            raise InputError(
                "bad-positive", f"model.positive is {stated!r}; expected one of {', '.join(labels)}"
            )
        return stated, ""
    for word in _POSITIVE_WORDS:
        for label in labels:
            if label.lower() == word:
                return label, f"positive label {label!r}, by its name"
    rarer = min(labels, key=lambda label: (present.get(label, 0), label))
    return rarer, f"positive label {rarer!r}, the rarer one"
