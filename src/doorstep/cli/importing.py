"""`doorstep journal import`: what another service answered, from a file or a query."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doorstep.cli.refusals import Refusals
from doorstep.cli.sources import Read, rows_of_file
from doorstep.client import Client
from doorstep.core.errors import InputError, NotFoundError, RefusedError
from doorstep.core.plural import plural
from doorstep.core.servicefile import ServiceFile, parse_service_file, stored_service_file
from doorstep.core.servicefile_watch import REFERENCE_ROWS_MAX, WatchSpec
from doorstep.journal.imports import DEFAULT_VERSION, mapped
from doorstep.journal.surface import ImportedRow
from doorstep.register.surface import Reference
from doorstep.register.watched import reference_of, renamed

ROWS_A_CALL = 1_000
NAMES_SHOWN_MAX = 30
ODD_PART_MAX = 0.05
Opened = Callable[[], Iterator[Read]]


@dataclass(slots=True)
class Result:
    """As `Refusals` says: refused, reasons, kept. reference: what the rows are compared with.
    mixed: columns that a few rows of it made text, in words."""

    service: str
    rows: int = 0
    imported: int = 0
    known: int = 0
    outcomes: int = 0
    refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    reference: str = ""
    kept: str = ""
    mixed: tuple[str, ...] = ()


def import_rows(
    client: Client,
    service: str,
    opened: Opened,
    *,
    name: str,
    refusals: Refusals,
    file: Path,
    digest: str = "",
    reference: Path | None = None,
    strict: bool = False,
    passed: Callable[[], None] = lambda: None,
) -> Result:
    """Import everything that `opened` gives. name: of the source, for people. file: the service
    file, for a service that is new. digest: of the source; "" if its rows have no order that lasts,
    and then each needs a key. strict: refuse everything if one row is refused. passed: as `tell`.

    Raises: NotFoundError (`no-service`), InputError, RefusedError (`rows-refused`).
    """
    result = Result(service)
    parsed = _prepare(client, service, opened, name, file, reference, result, digest)
    if strict:
        rows = _with_columns(opened(), parsed, name)
        _send(client, parsed, rows, digest, refusals, result, check=True)
        if refusals.count:
            count = plural(refusals.count, "row is", "rows are")
            _refuse(refusals, f"of {name} {count} refused", strict)
    rows = _with_columns(opened(), parsed, name)
    _send(client, parsed, rows, digest, refusals, result, check=False, passed=passed)
    if refusals.count and refusals.count == result.rows:
        which = "the only row" if result.rows == 1 else f"each of the {result.rows:,} rows"
        _refuse(refusals, f"{which} of {name} is refused", strict)
    result.refused, result.kept, result.reasons = refusals.count, refusals.kept, refusals.reasons
    return result


def _prepare(
    client: Client,
    service: str,
    opened: Opened,
    name: str,
    file: Path,
    reference: Path | None,
    result: Result,
    digest: str,
) -> ServiceFile:
    """The service file; the first watched version is made here, of the reference."""
    text, parsed, watched = _found(client, service, file)
    if not parsed.ids.key and not digest:
        raise InputError(
            "no-key",
            f"{service} has no ids.key, and rows of a query have no other name that lasts",
            "write ids: {key: COLUMN}, then: doorstep apply",
        )
    if watched:
        _require_first(service, watched if reference is not None else "")
        result.reference = watched
        return parsed
    if reference is not None:
        rows, said = _rows_of_reference(reference)
    else:
        rows = _readable(opened(), (parsed.watch or WatchSpec()).reference_rows)
        said = f"the first {plural(len(rows), 'row')} of {name}, because no reference was given"
    first = _first_version(_with_columns(opened(), parsed, name), parsed, digest)
    made = reference_of(rows, parsed, said)
    client.watch(text, first, made)
    result.reference, result.mixed = (
        said,
        _mixed(renamed(rows, parsed.watch or WatchSpec()), parsed, made),
    )
    return parsed


def _mixed(rows: list[dict[str, Any]], file: ServiceFile, made: Reference) -> tuple[str, ...]:
    """Inputs that are no numbers only because a few of their values are none."""
    found = []
    guessed = [one for one in made.contract.inputs if one.name not in file.contract.inputs]
    for name in (one.name for one in guessed if not one.is_number):
        given = [row[name] for row in rows if row.get(name) not in (None, "")]
        odd = [value for value in given if not _is_number(value)]
        if 0 < len(odd) <= len(given) * ODD_PART_MAX:
            found.append(f"{name} is no number in {plural(len(odd), 'row')}, such as {odd[0]!r}")
    return tuple(found)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def set_reference(client: Client, service: str, reference: Path, file: Path) -> str:
    """What all that comes later is compared with, before anything came: in words.

    Raises: NotFoundError (`no-service`), RefusedError (`reference-set`), InputError."""
    text, parsed, watched = _found(client, service, file)
    _require_first(service, watched)
    rows, said = _rows_of_reference(reference)
    client.watch(text, DEFAULT_VERSION, reference_of(rows, parsed, said))
    return said


def _rows_of_reference(path: Path) -> tuple[list[dict[str, Any]], str]:
    rows = _readable(rows_of_file(path), REFERENCE_ROWS_MAX)
    return rows, f"{plural(len(rows), 'row')} of {path.name}"


def _require_first(service: str, watched: str) -> None:
    """Raises: RefusedError (`reference-set`)."""
    if watched:
        raise RefusedError(
            "reference-set",
            f"{service} is compared with a reference already: {watched}",
            "watch it as a service of another name to compare it with another one",
        )


def _found(client: Client, service: str, file: Path) -> tuple[str, ServiceFile, str]:
    """(text, service file, what the newest watched version is compared with). What the server has
    counts; a service that it does not know, or that is not watched yet, is read from the file."""
    try:
        text = client.service(service).file
        known = [one for one in client.versions(service) if one.form == "watched"]
    except NotFoundError:
        text, known = "", []
    if not known and file.is_file():
        local = file.read_text(encoding="utf-8")
        if parse_service_file(local, str(file)).service == service:
            text = local
    if not text:
        raise NotFoundError(
            "no-service",
            f"there is no service {service!r}, and {file} is not its service file",
            f"write {file} with service: {service}, model.label and watch",
        )
    said = known[0].findings[0].reason if known and known[0].findings else ""
    return text, stored_service_file(text), said if known else ""


def _readable(rows: Iterator[Read], most: int) -> list[dict[str, Any]]:
    return list(itertools.islice((row for row, fault in rows if not fault), most))


def _with_columns(rows: Iterator[Read], file: ServiceFile, name: str) -> Iterator[Read]:
    """These rows, if the first have the columns that say what a row is: without its key a row
    would be another one each time, and without the answer it would be guessed from the score.

    Raises: InputError (`no-column`)."""
    watch = file.watch or WatchSpec()
    first = list(itertools.islice(rows, ROWS_A_CALL))
    names = dict.fromkeys(column for row, _ in first for column in row)
    has_score = bool(watch.score or watch.scores)
    is_stated = not has_score or watch.prediction != WatchSpec().prediction
    wanted = {"ids.key": file.ids.key, "watch.time": watch.time, "watch.score": watch.score}
    wanted |= {f"watch.scores of {label}": column for label, column in watch.scores.items()}
    wanted |= {"watch.version": watch.version}
    wanted |= {"watch.prediction": watch.prediction} if is_stated else {}
    for said, column in wanted.items() if names else ():
        if column and column not in names:
            raise InputError(
                "no-column",
                f"{name} has no column {column!r}, which {said} names; it has "
                f"{', '.join(list(names)[:NAMES_SHOWN_MAX])}",
                "name it in the service file as it is, then: doorstep apply",
            )
    return itertools.chain(first, rows)


def _first_version(rows: Iterator[Read], file: ServiceFile, digest: str) -> str:
    """Raises: InputError (`no-rows`) if none can be taken, with the first reason."""
    first = ""
    for number, (row, fault) in enumerate(rows):
        try:
            if not fault:
                return mapped(row, file, f"{digest}:{number}" if digest else "").version
        except ValueError as error:
            fault = str(error)
        first = first or fault
    raise InputError(
        "no-rows",
        f"none of the rows can be taken: {first or 'there are none'}",
        "say under watch which column is what",
    )


def _send(
    client: Client,
    file: ServiceFile,
    rows: Iterator[Read],
    digest: str,
    kept: Refusals,
    result: Result,
    *,
    check: bool,
    passed: Callable[[], None] = lambda: None,
) -> None:
    batch: list[tuple[int, dict[str, Any], ImportedRow]] = []
    for number, (row, fault) in enumerate(rows, 1):
        result.rows += not check
        try:
            if fault:
                raise ValueError(fault)
            batch.append((number, row, mapped(row, file, f"{digest}:{number}" if digest else "")))
        except ValueError as error:
            kept.add(number, row, str(error))
        if len(batch) >= ROWS_A_CALL:
            _send_batch(client, file.service, batch, kept, result, check)
            passed()
            batch = []
    if batch:
        _send_batch(client, file.service, batch, kept, result, check)
    passed()


def _send_batch(
    client: Client,
    service: str,
    batch: list[tuple[int, dict[str, Any], ImportedRow]],
    kept: Refusals,
    result: Result,
    check: bool,
) -> None:
    found = client.import_rows(service, (one for _, _, one in batch), check=check)
    result.imported += found.imported
    result.known += found.known
    result.outcomes += found.outcomes
    for refused in found.refused:
        number, row, _ = batch[refused.index]
        kept.add(number, row, refused.reason)


def _refuse(refusals: Refusals, said: str, strict: bool) -> None:
    """Raises: RefusedError (`rows-refused`)."""
    refusals.close()
    raise RefusedError(
        "rows-refused",
        f"{said} ({refusals.worst()}), so nothing was imported; they are in {refusals.kept}",
        "correct them, or leave --strict away" if strict else "correct them, or the service file",
    )


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
