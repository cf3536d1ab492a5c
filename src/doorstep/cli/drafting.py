"""What `init` finds out about a model and its data, and the service file that says it."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorstep.cli.vouching import statement_about
from doorstep.core.contract import Field
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import NAME_LENGTH_MAX, parse_name
from doorstep.core.instant import to_text
from doorstep.core.servicefile import parse_service_file
from doorstep.core.servicefile_types import FieldSpec
from doorstep.core.servicefile_write import Draft, render_service_file
from doorstep.core.verdict import Verdict
from doorstep.formats.columns import Column, Table
from doorstep.formats.table import require_table, write_parquet
from doorstep.register.build import Described, describe
from doorstep.register.data import BuildSpec
from doorstep.register.model_file import Opened, open_model
from doorstep.register.personal import looks_protected, words_of
from doorstep.register.split import Split, split_table, time_column

VALUES_WRITTEN_MAX = 12
VALUES_CHARACTERS_MAX = 72
"""More categories, or longer ones, are read from the training data when a version is registered."""
ID_WORDS = ("id", "key", "uuid", "guid", "number", "nr")


@dataclass(frozen=True, slots=True)
class Asked:
    """model: a file, or file.py:function. holdout: None makes a split. service: "" for a name from
    the folder. out: where the service file goes."""

    model: str
    train: Path
    label: str
    out: Path
    holdout: Path | None = None
    service: str = ""
    positive: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Drafted:
    """text: the service file. kind: what the model is, in words. notes: what to look at. split:
    made from the one file that was given, else None."""

    draft: Draft
    text: str
    kind: str
    columns: int
    labels: tuple[str, ...]
    personal: tuple[str, ...]
    protected: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    split: Split | None
    files: tuple[Path, ...]

    @property
    def lines(self) -> int:
        return self.text.count("\n")


def draft_service(asked: Asked) -> Drafted:
    """Open the model, look at all of the data, and write nothing yet.

    Raises: RefusedError (`untrusted-model`), InputError, NotFoundError.
    """
    trusted = statement_about(asked.model) is not None
    opened = open_model(asked.model, trusted=trusted)
    described = _describe(opened, asked)
    split = None
    files: tuple[Path, ...] = ()
    if asked.holdout is None:
        split = split_table(described.data.train, time_column(described.data.train))
        files = split_paths(asked.train, asked.out.parent)
    draft = _draft(asked, described, split, files)
    text = render_service_file(draft)
    parse_service_file(text, asked.out.name)
    found = draft.inputs | draft.context
    return Drafted(
        draft=draft,
        text=text,
        kind=f"{_kind_of(opened, asked.model)}, {_task_of(described)}",
        columns=len(described.contract.inputs),
        labels=described.target.labels,
        personal=tuple(name for name, one in found.items() if one.personal != "no"),
        protected=tuple(name for name, one in found.items() if one.protected),
        notes=tuple(_notes(described, asked)),
        warnings=tuple(_warnings(described, asked)),
        split=split,
        files=files,
    )


def _describe(opened: Opened, asked: Asked) -> Described:
    """The contract, after columns that only identify a case, which are no inputs, were set aside.
    A model that knows its columns has said so itself."""
    spec = BuildSpec(
        label=asked.label, train=asked.train, holdout=asked.holdout, positive=asked.positive
    )
    if opened.names is not None or opened.count is not None:
        return describe(opened, spec)
    from dataclasses import replace

    from doorstep.formats.table import read_table

    key = key_column(read_table(asked.train), {asked.label})
    return describe(opened, replace(spec, ids=(key,) if key else ()))


def _draft(
    asked: Asked, described: Described, split: Split | None, files: tuple[Path, ...]
) -> Draft:
    train, contract = described.data.train, described.contract
    read = {one.name for one in contract.inputs} | {asked.label}
    folder = asked.out.parent
    others = [one for one in train.columns if one.name not in read]
    holdout = files[1] if split else asked.holdout
    assert holdout is not None
    return Draft(
        service=parse_name(asked.service or name_for(asked.model, folder)),
        label=asked.label,
        train=_relative(asked.train, folder),
        holdout=_relative(holdout, folder),
        task=described.target.task,
        positive=described.target.positive,
        key=key_column(train, read),
        inputs={one.name: field_spec(one) for one in contract.inputs},
        context={one.name: _context_spec(one) for one in others if looks_protected(one.name)},
        holdout_note=f"{split.rule}; train on {files[0].name}" if split else "",
    )


def field_spec(field: Field) -> FieldSpec:
    """What a person would write of one field; the rest is read from the data at `register`."""
    low, high = _plain(field.range_min), _plain(field.range_max)
    return FieldSpec(
        type=field.type,
        range=None if low is None or high is None else (low, high),
        values=field.values if _is_short(field.values) else None,
        unit=field.unit,
        personal=field.personal,
        protected=looks_protected(field.name),
    )


def _context_spec(column: Column) -> FieldSpec:
    """A column that the model does not read and that law may protect: recorded, for fairness."""
    from doorstep.register.schema import infer_type

    return FieldSpec(type=infer_type(column), protected=True)


def _plain(value: float | None) -> float | None:
    """Whole numbers without their `.0`."""
    whole = value is not None and value.is_integer() and abs(value) < 1e15
    return int(value) if whole and value is not None else value


def _is_short(values: tuple[str, ...]) -> bool:
    size = sum(len(one) + 4 for one in values)
    return 0 < len(values) <= VALUES_WRITTEN_MAX and size <= VALUES_CHARACTERS_MAX


def key_column(table: Table, read: Iterable[str]) -> str:
    """The first column, not among those `read`, that is named like an id and has a different value
    in every row; "" if there is none."""
    taken = set(read)
    for column in table.columns:
        is_named = words_of(column.name).split()[-1:] and words_of(column.name).split()[-1] in (
            ID_WORDS
        )
        if column.name in taken or not is_named or column.missing_rows or column.kind == "float":
            continue
        if len(set(column.values.tolist())) == table.rows:
            return column.name
    return ""


def name_for(model: str, folder: Path) -> str:
    """A service's name from the folder, or, where that has none, from the model's file."""
    here = folder.resolve()
    named = "" if here in (Path.home().resolve(), Path(here.anchor)) else here.name
    for text in (named, Path(model.partition(":")[0]).stem, "service"):
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:NAME_LENGTH_MAX].strip("-")
        if name:
            return name
    raise AssertionError("unreachable: the last text is a name")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _kind_of(opened: Opened, model: str) -> str:
    if opened.family == "onnx":
        return "ONNX model"
    if opened.family == "python":
        return f"Python function {model.rpartition(':')[2]}"
    library = type(opened.model).__module__.partition(".")[0]
    name = type(opened.model).__name__
    if library != "sklearn":
        return f"{library} {name}"
    return "scikit-learn pipeline" if name == "Pipeline" else f"scikit-learn {name}"


def _task_of(described: Described) -> str:
    target = described.target
    if target.task == "multiclass":
        return f"multiclass with {len(target.labels)} labels"
    return target.task


def _notes(described: Described, asked: Asked) -> Iterable[str]:
    if described.target.why and not asked.positive:
        yield f"{described.target.why}; change it with --positive"
    for one in described.data.findings:
        if asked.holdout is not None and one.verdict is not Verdict.PASS:
            yield one.reason
    yield from described.data.train.notes[:3]


def _warnings(described: Described, asked: Asked) -> Iterable[str]:
    """A hold-out file of other data is read without complaint, and its gates say nothing then."""
    wanted = [*(one.name for one in described.contract.inputs), asked.label]
    missing = [name for name in wanted if name not in described.data.holdout]
    if asked.holdout is not None and missing:
        more = ", ..." if len(missing) > 5 else ""
        yield (
            f"{asked.holdout} lacks {len(missing)} of the {len(wanted)} columns that the model "
            f"needs ({', '.join(missing[:5])}{more}); expected rows like those of {asked.train}: "
            "name others with --holdout"
        )


def split_paths(train: Path, folder: Path) -> tuple[Path, Path]:
    """Where the two parts of one file go: beside the service file, in the format of the file."""
    with train.open("rb") as file:
        is_text = file.read(4) != b"PAR1" and train.suffix.lower() not in (".jsonl", ".ndjson")
    suffix = ".csv" if is_text and train.suffix.lower() != ".json" else ".parquet"
    return folder / f"{train.stem}-kept{suffix}", folder / f"{train.stem}-holdout{suffix}"


def write_split(split: Split, files: tuple[Path, ...], *, force: bool) -> None:
    """Write both parts. Raises: RefusedError (`file-exists`)."""
    for path, table in zip(files, (split.train, split.holdout), strict=True):
        refuse_existing(path, force=force)
        write = write_csv if path.suffix == ".csv" else write_parquet
        write(table, path)


def refuse_existing(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise RefusedError("file-exists", f"{path} is there already", "add --force to replace it")


def write_csv(table: Table, path: Path) -> None:
    """The table as CSV that reads back to the same values."""
    columns = [_texts(column) for column in table.columns]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.names)
        writer.writerows(zip(*columns, strict=True))


def _texts(column: Column) -> list[str]:
    def one(value: Any, missing: bool) -> str:
        if missing:
            return ""
        match column.kind:
            case "bool":
                return "true" if value else "false"
            case "time":
                return to_text(int(value))
            case _:
                return value if isinstance(value, str) else repr(value)

    pairs = zip(column.values.tolist(), column.missing.tolist(), strict=True)
    return [one(value, missing) for value, missing in pairs]


def check_files(asked: Asked) -> None:
    """What can be refused before anything is read. Raises: RefusedError, InputError."""
    refuse_existing(asked.out, force=asked.force)
    if asked.out.is_dir():
        raise InputError("not-a-file", f"{asked.out} is a folder", "name the file to write")
    for path in (asked.train, asked.holdout):
        if path is not None:
            require_table(path)
    if not asked.out.parent.is_dir():
        raise InputError("no-folder", f"there is no folder {asked.out.parent}", "make it first")
