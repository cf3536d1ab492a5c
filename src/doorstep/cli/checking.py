"""A service file looked at from all sides, without a server."""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorstep.core.errors import NotFoundError
from doorstep.core.filekeys import Problem
from doorstep.core.servicefile import ServiceFile, read_service_file
from doorstep.core.servicefile_explain import ExplainedKey, advice, explain, thin_keys


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
    advice: allowed, and probably not meant. explained: every key; () if the file cannot be read."""

    file: str
    service: str
    problems: tuple[Place, ...]
    thin: tuple[Said, ...] = ()
    advice: tuple[Said, ...] = ()
    explained: tuple[ExplainedKey, ...] = ()

    def without_explained(self) -> Checked:
        return msgspec.structs.replace(self, explained=())


def check_file(file: Path, environment: str | None = None) -> Checked:
    """Everything that can be said about the file. environment: also with its differences.

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
    said = [*advice(found), *_missing_files(found, file.parent)]
    return Checked(
        file=str(file),
        service=found.service,
        problems=places,
        thin=tuple(Said(*one) for one in thin_keys(found)),
        advice=tuple(Said(*one) for one in said),
        explained=tuple(explain(found)),
    )


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
