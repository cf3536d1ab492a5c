"""Outcomes of a file: which can be recorded, and which are kept beside with the reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import to_builtins

from doorstep.cli.asking import Row, records
from doorstep.cli.output import progress
from doorstep.client import Client
from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.ids import digest_of, parse_prediction_id
from doorstep.core.instant import Instant, parse_instant
from doorstep.core.record import outcome_fault
from doorstep.core.servicefile import parse_service_file
from doorstep.formats.columns import value_text
from doorstep.formats.table import read_table
from doorstep.journal.surface import OutcomeGiven, OutcomesRecorded, RecordOutcomes
from doorstep.register.surface import Service

AT = "at"
OUTCOMES_A_CALL = 1000
ERASED = "whose prediction this is was erased"


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns of the file mean what. at: "" is `at` where there is one, else now. value: ""
    is the label. key: "" is `prediction`, else `ids.key`."""

    value: str = ""
    key: str = ""
    at: str = ""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """row: its number in the file, from 1."""

    row: int
    reason: str
    values: Row


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """given: each once. rows: of each, its number in the file. repeated: rows that said the same
    again. unknown: rows without an outcome."""

    given: tuple[OutcomeGiven, ...]
    rows: tuple[int, ...]
    refused: tuple[Refused, ...]
    repeated: int
    unknown: int


def outcomes_of(
    path: Path, service: Service, known: Collection[tuple[str, ...]], asked: Columns
) -> Told:
    """What a file (CSV, Parquet, JSON lines) tells. known: as `outcome_fault` wants it.

    Raises: NotFoundError (`no-column`), and what reading the file raises.
    """
    file = parse_service_file(service.file)
    # As `predict` sends it: a key such as 007 stays text.
    table = read_table(path, texts=[asked.key or file.ids.key])
    by = asked.key or ("prediction" if "prediction" in table.names else file.ids.key)
    columns = Columns(value=asked.value or file.model.label, key=by, at=asked.at)
    for wanted in (columns.value, by, *([asked.at] if asked.at else [])):
        if wanted not in table.names:
            raise NotFoundError(
                "no-column",
                f"{path} has no column {wanted or 'prediction'!r}; it has "
                f"{', '.join(table.names[:12])}",
                "name it with --column, --key or --at",
            )
    if not asked.at and AT in table.names and AT not in (columns.value, by):
        columns = msgspec.structs.replace(columns, at=AT)
    kinds = {one.name: one.kind for one in table.columns}
    if columns.at and kinds[columns.at] not in ("time", "text", "category"):
        raise InputError(
            "bad-time",
            f"the column {columns.at} of {path} is {kinds[columns.at]}; expected times such as "
            "2026-11-22T14:02:00Z",
            "name another with --at",
        )
    return _sorted_out(list(records(table)), columns, service, known)


def _sorted_out(
    rows: Sequence[Row], columns: Columns, service: Service, known: Collection[tuple[str, ...]]
) -> Told:
    found: dict[tuple[str, str, Instant], tuple[int, OutcomeGiven]] = {}
    refused = []
    is_value = service.task in ("regression", "ranking")
    told = [(number, row) for number, row in enumerate(rows, 1) if row[columns.value] is not None]
    for number, row in told:
        try:
            one = _outcome(row, columns, is_value)
            fault = outcome_fault(one.label, one.value, service.service, known)
        except InputError as error:
            fault = error.message
        if not fault:
            first, same = found.setdefault((one.prediction, one.key, one.at), (number, one))
            fault = "" if same == one else f"row {first} says another outcome of this at this time"
        if fault:
            refused.append(Refused(row=number, reason=fault, values=row))
    return Told(
        given=tuple(one for _, one in found.values()),
        rows=tuple(number for number, _ in found.values()),
        refused=tuple(refused),
        repeated=len(told) - len(refused) - len(found),
        unknown=len(rows) - len(told),
    )


def _outcome(row: Row, columns: Columns, is_value: bool) -> OutcomeGiven:
    """Raises: InputError: why this row is none."""
    found, by = row[columns.value], row[columns.key]
    if by is None or by == "":
        raise InputError("bad-outcome", f"{columns.key} is empty; expected whose outcome this is")
    is_id = columns.key == "prediction"
    if is_id:
        parse_prediction_id(str(by))
    at = _instant(row[columns.at], columns.at) if columns.at else 0
    is_number = is_value and isinstance(found, int | float)
    return OutcomeGiven(
        prediction=str(by) if is_id else "",
        key="" if is_id else str(by),
        label=None if is_number else value_text(found),
        value=float(found) if is_number else None,
        at=at,
    )


def _instant(value: Any, name: str) -> Instant:
    """Raises: InputError. A column of times arrives as microseconds, a mixed one as text."""
    if isinstance(value, str):
        return parse_instant(value)
    if isinstance(value, int | float) and value > 0:
        return int(value)
    raise InputError("bad-time", f"{name} is {value!r}; expected a time such as 2026-11-22")


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """repeated: were there already. kept: the file of the refused rows. reason: of the first."""

    recorded: int
    repeated: int
    refused: int
    unknown: int
    kept: str = ""
    reason: str = ""


def tell(
    client: Client,
    service: str,
    path: Path,
    asked: Columns,
    *,
    strict: bool,
    again: bool,
) -> Sent:
    """Send the outcomes of a file; the rows that are none go into `FILE.refused.jsonl`.

    strict: all rows or none. again: also what was sent before.
    Raises: InputError (`bad-outcome`) if strict, and what `outcomes_of` raises.
    """
    known = {one.manifest.labels for one in client.versions(service)}
    told = outcomes_of(path, client.service(service), known, asked)
    refused = list(told.refused)
    if refused and strict:
        hint = f"correct it and send {path} again; none was recorded"
        raise InputError("bad-outcome", f"{path}, {_reason(refused)}", hint)
    recorded = 0
    with progress(len(told.given), "outcomes") as shown:
        for start in range(0, len(told.given), OUTCOMES_A_CALL):
            some = told.given[start : start + OUTCOMES_A_CALL]
            batch = "" if again else batch_of(service, some)
            asked_for = RecordOutcomes(
                service=service, outcomes=some, batch=batch, skip_erased=not strict
            )
            found = client.call("outcome.record", asked_for, OutcomesRecorded)
            recorded += found.recorded
            refused += [
                Refused(row=told.rows[start + at], reason=ERASED, values=to_builtins(some[at]))
                for at in found.erased
            ]
            shown.count(start + len(some))
    kept = Path(f"{path}.refused.jsonl")
    if refused:
        kept.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in refused))
    return Sent(
        recorded=recorded,
        repeated=len(told.given) + len(told.refused) - len(refused) - recorded + told.repeated,
        refused=len(refused),
        unknown=told.unknown,
        kept=str(kept) if refused else "",
        reason=_reason(refused) if refused else "",
    )


def _reason(refused: Sequence[Refused]) -> str:
    return f"row {refused[0].row}: {refused[0].reason}"


def batch_of(service: str, given: Sequence[OutcomeGiven]) -> str:
    """The name of this set of outcomes: the same ones have the same."""
    return digest_of(msgspec.json.encode([service, given]))
