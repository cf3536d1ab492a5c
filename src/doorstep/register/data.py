"""What a build is asked for, and the training and held-out rows it works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError
from doorstep.core.verdict import Finding, Verdict
from doorstep.formats.columns import Column, Table
from doorstep.formats.table import read_table
from doorstep.register.schema import Overrides
from doorstep.register.split import overlap, split_table, time_column

PERSONAL_TEXT = "personal"


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """What the service file says about a model.

    train, holdout: table files, at least one. task, positive: "" is read from the model and data.
    inputs, context: fields as the service file has them. ids: key, unit and subject columns, never
    inputs. time: the column that orders rows in time, "" if none. code: own packages of the model.
    trusted: somebody in this installation said "I made it".
    """

    label: str
    train: Path | None = None
    holdout: Path | None = None
    task: str = ""
    positive: str = ""
    threshold: float = 0.5
    inputs: Overrides = field(default_factory=dict)
    context: Overrides = field(default_factory=dict)
    enforce: str = "warn"
    ids: tuple[str, ...] = ()
    time: str = ""
    code: tuple[Path, ...] = ()
    trusted: bool = False
    convert: bool = True
    parent: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Data:
    """train: the rows the model was trained on, or the best stand-in. seen: hold-out rows that the
    model may have seen."""

    train: Table
    holdout: Table
    seen: int
    findings: tuple[Finding, ...]


def read_data(spec: BuildSpec, texts: tuple[str, ...] = ()) -> Data:
    """Training and held-out rows. Given one file, a fifth of it is held out, and the finding says
    that the model may have seen those rows. Raises: InputError (`no-data`)."""
    kept = {name for name in texts if spec.inputs[name].get("type") in ("category", "text")}
    train = None if spec.train is None else read_table(spec.train, texts=kept)
    if train is not None:
        kept |= {one.name for one in train.columns if one.kind == "text"}
    holdout = None if spec.holdout is None else read_table(spec.holdout, texts=kept)
    if train is not None and holdout is not None:
        return _both(train, holdout)
    if holdout is not None:
        note = Finding(
            check="training data",
            verdict=Verdict.INCONCLUSIVE,
            reason="no training file was given, so the contract and the reference profile come "
            "from the held-out rows, and nobody can say if the model has seen them",
            next="add data.train to the service file",
        )
        return Data(holdout, holdout, 0, (note, *_notes(holdout)))
    if train is None:
        raise InputError("no-data", "neither a training nor a hold-out file was given")
    split = split_table(train, spec.time or time_column(train))
    note = Finding(
        check="held-out data",
        verdict=Verdict.INCONCLUSIVE,
        reason=f"no data that this model has not seen: {split.rule}, but it may have been trained "
        "on them",
        evidence={"rows": split.holdout.rows},
        next="train on the other rows only, and name a hold-out file under data.holdout",
    )
    return Data(train, split.holdout, split.holdout.rows, (note, *_notes(train)))


def _both(train: Table, holdout: Table) -> Data:
    seen = overlap(train, holdout)
    share = seen / holdout.rows
    found = Finding(
        check="held-out data",
        verdict=Verdict.PASS if seen == 0 else Verdict.INCONCLUSIVE,
        reason=f"{seen:,} of {holdout.rows:,} hold-out rows are in the training file ({share:.1%})",
        evidence={"rows": holdout.rows, "rows_in_training": seen},
        next="" if seen == 0 else "take them out of the training file and train again",
    )
    return Data(train, holdout, seen, (found, *_notes(train)))


def _notes(table: Table) -> tuple[Finding, ...]:
    return tuple(
        Finding(check="data", verdict=Verdict.PASS, reason=note) for note in table.notes[:20]
    )


def without_people(table: Table, contract: Contract) -> Table:
    """The rows with personal values replaced: texts by a token, numbers by the column's median, so
    that a bundle, which is kept for years, carries none."""
    personal = {one.name for one in contract.inputs if one.personal != "no"}
    return Table(
        tuple(
            _anonymous(column) if column.name in personal else column for column in table.columns
        ),
        table.rows,
    )


def _anonymous(column: Column) -> Column:
    if column.kind == "text":
        values: NDArray[Any] = np.full(len(column.values), PERSONAL_TEXT, dtype=object)
        values[column.missing] = None
        return Column(column.name, column.kind, values, column.missing)
    present = column.values[~column.missing]
    middle = np.sort(present)[len(present) // 2] if len(present) else column.values[:1]
    filled = np.where(column.missing, column.values, middle).astype(column.values.dtype)
    return Column(column.name, column.kind, filled, column.missing)
