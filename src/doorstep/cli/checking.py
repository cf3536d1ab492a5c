"""A service file looked at from all sides. A server, if one runs here, is asked who is there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorstep.core.errors import DoorstepError, NotFoundError
from doorstep.core.filekeys import Problem
from doorstep.core.people import OWNER
from doorstep.core.servicefile import ServiceFile, read_service_file
from doorstep.core.servicefile_explain import ExplainedKey, advice, explain, thin_keys
from doorstep.journal.options import GB, JOURNAL_GB_MAX

RATE = 10.0
RECORD_BYTES = 105.0
"""What is ours of a record, with two scores, as Parquet; measured, as the others are."""
NUMBER_BYTES = 8.0
_BYTES_OF: dict[str, float] = {"category": 2.0, "text": 20.0, "bool": 1.0}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A problem: where, and what is wrong."""

    line: int
    column: int
    path: str
    message: str

    @property
    def text(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Said(msgspec.Struct, frozen=True):
    path: str
    sentence: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """problems: none means that the file can be used. thin: read and checked, not acted on yet.
    advice: allowed, and probably not meant. explained: every key; () if the file cannot be read.
    journal: how much it will take, "" if the contract is not in the file."""

    file: str
    service: str
    problems: tuple[Place, ...]
    thin: tuple[Said, ...] = ()
    advice: tuple[Said, ...] = ()
    explained: tuple[ExplainedKey, ...] = ()
    journal: str = ""

    def without_explained(self) -> Checked:
        return msgspec.structs.replace(self, explained=())


def check_file(file: Path, environment: str | None = None, rate: float = RATE) -> Checked:
    """Everything that can be said about the file. environment: also with its differences. rate:
    predictions per second.

    Raises: NotFoundError (`no-file`, `no-environment`).
    """
    found, problems = read_service_file(read_text(file), environment)
    places = tuple(_place(one) for one in problems)
    if found is None or problems:
        return Checked(file=str(file), service=found.service if found else "", problems=places)
    if environment is not None and environment not in found.environments:
        raise NotFoundError(
            "no-environment",
            f"{file} has no environment {environment!r}; it has "
            f"{', '.join(found.environments) or 'none'}",
            "leave --environment away, or add it under environments",
        )
    said = [*advice(found), *_missing_files(found, file.parent), *_too_few(found)]
    return Checked(
        file=str(file),
        service=found.service,
        problems=places,
        thin=tuple(Said(*one) for one in thin_keys(found)),
        advice=tuple(Said(*one) for one in said),
        explained=tuple(explain(found)),
        journal=say_journal(found, rate),
    )


def bytes_a_prediction(file: ServiceFile) -> float:
    """Of a compacted record, about: numbers that do not repeat take all their bytes."""
    fields = [*file.contract.inputs.values(), *file.contract.context.values()]
    inputs = sum(_BYTES_OF.get(one.type, NUMBER_BYTES) for one in fields)
    share = {"full": 1.0, "no-inputs": 0.0, "sample": file.serve.record.share}
    return RECORD_BYTES + share[file.serve.record.mode] * inputs


def say_journal(file: ServiceFile, rate: float) -> str:
    """What the journal will take at so many predictions per second."""
    if not file.contract.inputs:
        return ""
    size = bytes_a_prediction(file)
    days = file.privacy.keep_s / 86400
    gb_a_day = size * rate * 86400 / GB
    said = (
        f"journal: about {gb_a_day:,.1f} GB a day at {rate:g} predictions a second ({size:.0f} "
        f"bytes each), {gb_a_day * days:,.0f} GB in the {days:g} days that they are kept"
    )
    if gb_a_day * days <= JOURNAL_GB_MAX:
        return said
    held = f"{JOURNAL_GB_MAX / gb_a_day:,.0f} days fit into the {JOURNAL_GB_MAX} GB"
    return f"{said}; {held} of doorstep up --journal-max"


def _too_few(file: ServiceFile) -> list[tuple[str, str]]:
    """That fewer people are there than must say yes; or, where none runs here to be asked, that
    they have to be."""
    need, may = file.approve.people, file.may.approve
    if not need:
        return []
    from doorstep.client import connect

    try:
        with connect() as client:
            live = {one.name for one in client.tokens() if one.scope and one.state == "live"}
    except DoorstepError:
        return [("approve.people", f"{_say_need(need)}; each has a token: {_MAKES}")] * (need > 1)
    known = {*live, OWNER.name} & {*may} if may else {*live, OWNER.name}
    # Whoever registers and asks is one of them, unless the file names who approves.
    if len(known) >= need + (not may):
        return []
    there = ", ".join(sorted(known - {OWNER.name})) or "nobody"
    said = f"{_say_need(need)}; beside the owner there is {there} so far; next: {_MAKES}"
    return [("approve.people", said)]


_MAKES = "doorstep token create --person NAME"


def _say_need(need: int) -> str:
    people = "1 person" if need == 1 else f"{need} people"
    return f"is {need}: {people} who neither registered a version nor ask for its release"


def read_text(file: Path) -> bytes:
    """The bytes of a service file. Raises: NotFoundError (`no-file`)."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(
            "no-file",
            f"there is no service file {file}",
            "doorstep init MODEL --train FILE --holdout FILE --label COL",
        ) from None


def _place(problem: Problem) -> Place:
    return Place(
        line=problem.line, column=problem.column, path=problem.path, message=problem.message
    )


def _missing_files(file: ServiceFile, folder: Path) -> list[tuple[str, str]]:
    if file.data is None:
        return []
    named = (("data.train", file.data.train), ("data.holdout", file.data.holdout))
    return [
        (path, f"names {one.path}, which is not there")
        for path, one in named
        if one is not None and one.path and not (folder / one.path).is_file()
    ]
