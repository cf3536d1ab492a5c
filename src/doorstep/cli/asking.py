"""Rows of a file as requests."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from doorstep.cli.reaching import KEY_VARIABLE
from doorstep.client import error_from
from doorstep.core.contract import Contract
from doorstep.core.errors import InputError, SignInError, UnreachableError
from doorstep.core.servicefile import stored_service_file
from doorstep.formats.columns import Column, Table
from doorstep.formats.table import read_table, require_table
from doorstep.register.surface import Service

ROWS_A_REQUEST = 200
TIMEOUT_S = 30.0
UNAUTHENTICATED = 401
CANNOT = "unavailable"
Row = dict[str, Any]


def rows_of(
    source: str, contract: Contract, limit: int, ids: Collection[str] = ()
) -> tuple[list[Row], list[Row]]:
    """(rows, context of each row) of a file, or of JSON: one object, or a list of them.

    Columns that neither the contract nor `ids` names are left out: a file of data has its label
    too. ids: the columns that identify a case; they go with the context, so that outcomes join.
    Raises: InputError (`not-json`, `no-rows`), and what reading the file raises.
    """
    if source.lstrip().startswith(("{", "[")):
        found = _from_json(source)
    else:
        found = _from_file(Path(source), contract, limit, ids)
    if not found:
        raise InputError("no-rows", f"{source[:60]} has no rows")
    inputs = {one.name for one in contract.inputs}
    if not inputs & set(found[0]):
        raise InputError(
            "no-matching-column",
            f"{source[:60]} has none of the {len(inputs)} inputs, such as "
            f"{', '.join(sorted(inputs)[:5])}; it has {', '.join(sorted(found[0])[:5])}",
            "is it the file of another service?",
        )
    context = {one.name for one in contract.context} | set(ids) - inputs
    rows = [{k: v for k, v in row.items() if k in inputs} for row in found[:limit]]
    contexts = [{k: v for k, v in row.items() if k in context} for row in found[:limit]]
    return rows, contexts


def require_file(source: str) -> None:
    """Raises: NotFoundError (`no-file`) unless it is JSON or a file that is there."""
    if not source.lstrip().startswith(("{", "[")):
        require_table(Path(source))


def ids_of(service: Service) -> frozenset[str]:
    """The columns that identify a case of this service, its unit and its subject."""
    ids = stored_service_file(service.file).ids
    return frozenset((ids.key, ids.unit, ids.subject)) - {""}


def _from_json(text: str) -> list[Row]:
    try:
        found = msgspec.json.decode(text, type=Row | list[Row])
    except msgspec.DecodeError as error:
        raise InputError(
            "not-json", f"the rows are not JSON objects: {error}", "expected {...} or [{...}, ...]"
        ) from None
    return [found] if isinstance(found, dict) else found


def _from_file(path: Path, contract: Contract, limit: int, ids: Collection[str]) -> list[Row]:
    texts = [one.name for one in (*contract.inputs, *contract.context) if not one.is_number]
    return list(records(read_table(path, rows_max=limit, texts=[*texts, *ids])))


def records(table: Table) -> Iterator[Row]:
    """The rows of a table as JSON values; missing ones are None."""
    columns = {one.name: _values(one) for one in table.columns}
    for index in range(table.rows):
        yield {name: values[index] for name, values in columns.items()}


def _values(column: Column) -> list[Any]:
    pairs = zip(column.values.tolist(), column.missing.tolist(), strict=True)
    return [None if missing or _is_odd(value) else value for value, missing in pairs]


def _is_odd(value: Any) -> bool:
    """Infinity has no place in JSON."""
    return isinstance(value, float) and not math.isfinite(value)


def ask_service(
    reached: dict[str, Any], service: str, asked: tuple[list[Row], list[Row]]
) -> list[dict[str, Any]]:
    """The answers, one for each request of at most `ROWS_A_REQUEST` rows. reached: see
    `reaching.reach`. Raises: DoorstepError."""
    rows, contexts = asked
    answers = []
    with httpx.Client(timeout=TIMEOUT_S, **reached) as http:
        for start in range(0, len(rows), ROWS_A_REQUEST):
            body: dict[str, Any] = {"rows": rows[start : start + ROWS_A_REQUEST]}
            if any(contexts):
                body["context"] = contexts[start : start + ROWS_A_REQUEST]
            answers.append(ask_once(http, service, msgspec.json.encode(body)))
    return answers


def ask_once(
    http: httpx.Client, service: str, body: bytes, verb: str = "predict"
) -> dict[str, Any]:
    """The answer to one request. Raises: DoorstepError, also the one that was answered."""
    try:
        response = http.post(
            f"/v1/services/{service}/{verb}",
            content=body,
            headers={"Content-Type": "application/json"},
        )
    except httpx.HTTPError as error:
        raise UnreachableError(
            "no-answer",
            f"{http.base_url} does not answer: {type(error).__name__}: {error}",
            "--ca FILE names the certificates to believe"
            if "CERTIFICATE_VERIFY_FAILED" in str(error)
            else "doorstep status",
        ) from None
    if response.status_code == UNAUTHENTICATED:
        raise SignInError(
            "unauthenticated",
            f"{service} wants an API key; none was sent, or it is not known, expired or revoked",
            f"doorstep token create --service {service} makes one; put it in {KEY_VARIABLE}",
        )
    if response.status_code >= 400:
        said = error_from(response.status_code, response.content)
        said.hint = said.hint or (f"doorstep status {service}" if said.code == CANNOT else "")
        raise said
    found: dict[str, Any] = msgspec.json.decode(response.content)
    return found
