"""What `doorstep init` finds out from a model and its data, before anybody has written a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doorstep.core.contract import Field
from doorstep.core.errors import InputError
from doorstep.core.ids import NAME_LENGTH_MAX
from doorstep.core.servicefile_types import FieldSpec
from doorstep.core.servicefile_write import Draft
from doorstep.formats.columns import Table
from doorstep.formats.table import read_table
from doorstep.register.build import describe
from doorstep.register.data import BuildSpec
from doorstep.register.model_file import Opened, open_model
from doorstep.register.personal import looks_protected, words_of
from doorstep.register.schema import infer_type

VALUES_SHOWN_MAX = 50
_PLAIN_NAMES = {"model", "pipeline", "clf", "classifier", "estimator", "final", "best", "regressor"}
_UNIT_WORDS = ("customer id", "client id", "user id", "person id", "patient id", "member id")
_FAMILY = {"sklearn": "scikit-learn", "onnx": "ONNX", "python": "Python function"}


@dataclass(frozen=True, slots=True)
class InitSpec:
    """What a person typed. name: "" takes one from the files."""

    model: Path | str
    label: str
    train: Path | None = None
    holdout: Path | None = None
    name: str = ""
    task: str = ""
    positive: str = ""
    code: tuple[Path, ...] = ()
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """draft: what the service file writer takes. headline: "scikit-learn Pipeline, binary, 23
    columns". notes: one sentence each, what a person should look at."""

    draft: Draft
    headline: str
    notes: tuple[str, ...] = field(default_factory=tuple)


def propose_service(spec: InitSpec) -> Proposal:
    """The service file that fits this model and data.

    Key and unit columns are guessed by name and uniqueness, and are never inputs; other columns
    that the model does not read become context only if they look protected.
    Raises: as `build_bundle` does for the model and the data.
    """
    opened = open_model(spec.model, trusted=spec.trusted, code=spec.code)
    asked = BuildSpec(
        label=spec.label, train=spec.train, holdout=spec.holdout,
        task=spec.task, positive=spec.positive,
    )  # fmt: skip
    table = read_first(asked)
    ids = guess_ids(table, opened, spec.label)
    described = describe(opened, BuildSpec(
        label=spec.label, train=spec.train, holdout=spec.holdout,
        task=spec.task, positive=spec.positive, ids=ids,
    ))  # fmt: skip
    inputs = {one.name: _spec(one) for one in described.contract.inputs}
    unused = [one for one in table.names if one not in inputs and one not in (spec.label, *ids)]
    context = {one: FieldSpec(type=infer_type(table.column(one)), protected=True) for one in unused
               if looks_protected(one)}  # fmt: skip
    target = described.target
    held = next((one for one in described.data.findings if one.check == "held-out data"), None)
    draft = Draft(
        service=spec.name or service_name(spec.model, spec.train or spec.holdout),
        label=spec.label,
        train=str(spec.train or ""),
        holdout=str(spec.holdout or spec.train or ""),
        task=target.task,
        positive=target.positive,
        key=ids[0] if ids else "",
        inputs=inputs,
        context=context,
        holdout_note="" if held is None else held.reason,
    )
    left = [one for one in unused if one not in context]
    reasons = tuple(one.reason for one in described.data.findings if one.check != "ONNX")
    notes = (*_field_notes(draft, left), *((target.why,) if target.why else ()), *reasons)
    return Proposal(draft, headline(opened, target.task, len(inputs)), notes)


def read_first(asked: BuildSpec) -> Table:
    """The table that the contract will be read from."""
    path = asked.train or asked.holdout
    if path is None:
        raise InputError("no-data", "neither a training nor a hold-out file was given")
    return read_table(path)


def headline(opened: Opened, task: str, columns: int) -> str:
    """`scikit-learn Pipeline, binary, 23 columns`."""
    kind = f" {type(opened.model).__name__}" if opened.family == "sklearn" else ""
    return f"{_FAMILY[opened.family]}{kind}, {task}, {columns} columns"


def guess_ids(table: Table, opened: Opened, label: str) -> tuple[str, ...]:
    """The key column (named id or ..._id, every value different and present), then a unit column
    (customer_id, user_id, ...). Columns that the model was trained with are never ids."""
    known = set(opened.names or ())
    free = [one for one in table.columns if one.name not in known and one.name != label]
    keys = [
        one.name
        for one in free
        if words_of(one.name).rstrip().endswith(" id")
        and not one.missing.any()
        and len(set(one.values.tolist())) == table.rows
    ]
    units = [
        one.name
        for one in free
        if words_of(one.name).strip() in _UNIT_WORDS and one.name not in keys
    ]
    return (*keys[:1], *units[:1]) if keys else ()


def service_name(model: Path | str, data: Path | None) -> str:
    """A name from the model's file, or its folder if the file is just `model`, or the data."""
    path = Path(str(model).split(":")[0])
    folder = path.resolve().parent.name
    stems = [path.stem, folder, data.stem if data is not None else ""]
    for stem in stems:
        name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:NAME_LENGTH_MAX].strip("-")
        words = set(re.sub(r"[0-9]", "", name).split("-")) - {"", "v"}
        if name and not words <= _PLAIN_NAMES:
            return name
    return "my-service"


def _spec(found: Field) -> FieldSpec:
    has_range = found.type in ("int", "float") and found.range_min is not None
    few = found.type == "category" and 0 < len(found.values) <= VALUES_SHOWN_MAX
    return FieldSpec(
        type=found.type,
        range=(found.range_min, found.range_max) if has_range else None,
        values=found.values if few else None,
        required=None if found.required else False,
        personal=found.personal,
    )


def _field_notes(draft: Draft, unused: Sequence[str]) -> list[str]:
    notes = []
    personal = [name for name, one in draft.inputs.items() if one.personal != "no"]
    if personal:
        notes.append(f"{_columns(personal)} personal ({_listed(personal)}): set to pseudonymise")
    protected = [name for name in (*draft.inputs, *draft.context) if looks_protected(name)]
    if protected:
        notes.append(
            f"{_columns(protected)} protected ({_listed(protected)}): say protected: true where it "
            "is so"
        )
    if unused:
        notes.append(f"the model does not read {_listed(unused)}: left out of the contract")
    return notes


def _columns(names: Sequence[str]) -> str:
    return "1 column looks" if len(names) == 1 else f"{len(names)} columns look"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
