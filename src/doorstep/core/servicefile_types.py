"""What a service file says about the model: names, data, runtime, contract and gates.

What happens to it once it runs is in `servicefile_running`; the whole file in `servicefile`.
Every field says how the file spells it, what it promises, and why its default is what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec

from doorstep.core.condition import Condition
from doorstep.core.contract import FIELDS_MAX, FieldType, Personal
from doorstep.core.filereaders import Group, ListOf, MapOf
from doorstep.core.filewords import (
    FAIRNESS_METRICS,
    QUALITY_METRICS,
    SPEED_METRICS,
    category,
    condition,
    count,
    name,
    number,
    text,
)

Task: TypeAlias = Literal["binary", "multiclass", "regression", "ranking", "text-classification"]
VALUES_MAX = 10_000
COLUMN = text("the name of a column", length_max=128)
PATH = text("a path such as data/holdout.csv")
ENTRY = text(
    'FILE-OR-MODULE:FUNCTION, such as "train.py:train"', r"[\w./-]+:[A-Za-z_]\w*", length_max=200
)


class SecretRef(msgspec.Struct, frozen=True, tag="secret"):
    """The name of a secret that an operator declared; never its value."""

    secret: Annotated[
        str, text("the name of a secret", r"[A-Za-z_][\w.-]*", 128), "name of the secret"
    ]


class IdsSpec(msgspec.Struct, frozen=True, kw_only=True):
    key: Annotated[
        str, COLUMN, "field that identifies a case and joins its outcome", "none: join by id"
    ] = ""
    unit: Annotated[
        str,
        COLUMN,
        "field whose holder sticks to one version during a release",
        "none: the key, else each request by itself",
    ] = ""
    subject: Annotated[
        str, COLUMN, "field of the person whose data it is", "none: nobody's data"
    ] = ""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    label: Annotated[str, COLUMN, "the column that the model predicts"]
    task: Annotated[
        Task | None,
        "what kind of answer the model gives",
        "read from the model when it is registered",
    ] = None
    positive: Annotated[
        str,
        category(),
        "the label that a binary service is about",
        "read from the model, and named when it is registered",
    ] = ""
    favourable: Annotated[
        str,
        category(),
        "the label that a person would rather get; fairness compares who gets it",
        "none: which answer is good for people is your decision, and fairness waits for it",
    ] = ""
    trainer: Annotated[
        str, ENTRY, "own function that trains it again", "none: the service is not retrainable"
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.task in {"regression", "ranking"} and self.positive:
            yield "positive", f"task {self.task} has no positive label; remove it"
        if self.task in {"regression", "ranking"} and self.favourable:
            yield "favourable", f"task {self.task} has no labels to favour; remove it"


class RuntimeSpec(msgspec.Struct, frozen=True, kw_only=True):
    python: Annotated[
        str,
        text('a Python version such as "3.11"', r"3\.[0-9]{1,2}"),
        "Python that the model runs in",
        "Doorstep's own",
    ] = ""
    requirements: Annotated[
        str, PATH, "requirements file, locked when registered", "none: Doorstep's own packages"
    ] = ""
    code: Annotated[
        tuple[str, ...],
        ListOf(PATH),
        "folders of own code that the model needs",
        "none: no own code runs",
    ] = ()
    predict: Annotated[
        str, ENTRY, "own function f(rows, context) -> answers", "none: the model's own predict"
    ] = ""
    device: Annotated[Literal["cpu", "gpu"], "where it scores", "cpu: every machine"] = "cpu"


class DataSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One table: a file, or a query over a declared connection."""

    path: Annotated[str, PATH, "CSV or Parquet file, relative to this file", "none"] = ""
    sql: Annotated[str, PATH, "file with a query", "none"] = ""
    connection: Annotated[
        str, name("connection"), "connection that an operator declared, for sql", "none"
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        if bool(self.path) == bool(self.sql):
            yield "path", "expected either path, or sql with connection"
        elif bool(self.sql) != bool(self.connection):
            yield "connection", "sql and connection go together"


DATA = Group(DataSpec, short="path")


class DataSetsSpec(msgspec.Struct, frozen=True, kw_only=True):
    holdout: Annotated[
        DataSpec, DATA, "rows that the model has never seen; gates run on these only"
    ]
    train: Annotated[
        DataSpec | None, DATA, "rows that the model was trained on", "none: given when registering"
    ] = None

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.train == self.holdout:
            yield "holdout", "is the training data; the model has seen those rows"


class FieldSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One field as a person wrote it; what is left open is read from the training data."""

    type: Annotated[FieldType, "what kind of value it is"]
    range: Annotated[
        tuple[float | None, float | None] | None,
        ListOf(number(-1e308, 1e308, also_none=True), least=2, most=2),
        "smallest and largest value, inclusive",
        "what the training data has",
    ] = None
    values: Annotated[
        tuple[str, ...] | None,
        ListOf(category(), least=1, most=VALUES_MAX),
        "the known categories, as text",
        "what the training data has",
    ] = None
    unseen: Annotated[
        Literal["allow", "missing", "reject"] | None,
        "what a category that is not known does",
        "allow, and reject where the contract enforces: reject",
    ] = None
    required: Annotated[
        bool | None, "whether it must be there", "true if no training row lacked it"
    ] = None
    unit: Annotated[str, text("a unit such as months", length_max=40), "of the value", "none"] = ""
    personal: Annotated[Personal, "what the journal keeps of it", "no: not personal"] = "no"
    protected: Annotated[
        bool, "whether it is a protected attribute, for fairness", "false: not protected"
    ] = False

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.range is not None and self.type not in {"int", "float"}:
            yield "range", f"type {self.type} has no range; expected type int or float"
        elif self.range is not None:
            low, high = self.range
            if low is not None and high is not None and low > high:
                yield "range", f"{low:g} is above {high:g}; expected [smallest, largest]"
        if self.type != "category":
            for key in ("values", "unseen"):
                if getattr(self, key) is not None:
                    yield key, f"type {self.type} has no {key}; expected type category"
        if self.values is not None and len(set(self.values)) < len(self.values):
            twice = next(one for one in self.values if self.values.count(one) > 1)
            yield "values", f"{twice[:40]!r} is listed twice"


FIELDS = MapOf(Group(FieldSpec, short="type"), "field", FIELDS_MAX)


class ContractSpec(msgspec.Struct, frozen=True, kw_only=True):
    enforce: Annotated[
        Literal["warn", "reject"],
        "what ranges and unseen categories do; types and required fields are always enforced",
        "warn: nothing is refused because of a range that nobody chose",
    ] = "warn"
    inputs: Annotated[
        dict[str, FieldSpec],
        FIELDS,
        "fields that the model is given",
        "read from the training data",
    ] = {}
    context: Annotated[
        dict[str, FieldSpec],
        FIELDS,
        "fields that are recorded, and never given to the model",
        "none",
    ] = {}

    def faults(self) -> Iterator[tuple[str, str]]:
        for field in self.context:
            if field in self.inputs:
                yield f"context.{field}", "is also an input; context is never given to the model"


class SliceSpec(msgspec.Struct, frozen=True, kw_only=True):
    check: Annotated[
        Condition,
        condition("auc >= 0.75", QUALITY_METRICS),
        "what must hold in every part of the data",
    ]
    by: Annotated[tuple[str, ...], ListOf(COLUMN, least=1, most=10), "fields that make the parts"]
    min_rows: Annotated[
        int,
        count(1, 10**9),
        "parts with fewer rows are inconclusive",
        "50: below it an interval is too wide to decide on",
    ] = 50


class GatesSpec(msgspec.Struct, frozen=True, kw_only=True):
    quality: Annotated[
        tuple[Condition, ...],
        ListOf(condition("auc >= 0.75", QUALITY_METRICS)),
        "what must hold on held-out rows",
        "none: a bar that you did not set is not a promise",
    ] = ()
    slices: Annotated[
        tuple[SliceSpec, ...],
        ListOf(Group(SliceSpec)),
        "what must hold in every part of the data",
        "none",
    ] = ()
    fairness: Annotated[
        tuple[Condition, ...],
        ListOf(condition("selection_rate_ratio >= 0.8", FAIRNESS_METRICS)),
        "what must hold between groups of protected fields",
        "none: which groups and which measure is your decision",
    ] = ()
    speed: Annotated[
        tuple[Condition, ...],
        ListOf(condition("p99 <= 20 ms", SPEED_METRICS)),
        "single-row latency and size of the form that will serve",
        "none: measured and shown, not judged",
    ] = ()
