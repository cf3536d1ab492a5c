"""A person's SQL over the journal, in a short-lived child that can do nothing but read it.

What keeps it in: the text must be one SELECT that names only our tables and functions of a short
list (read from its syntax tree, before anything of it is bound); DuckDB may read the listed files
and nothing else, and its settings are locked; memory, spilled bytes, time and the answer's size
have limits; and it all happens in a process that is ended.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from doorstep.core.errors import InputError, RefusedError
from doorstep.journal import duck
from doorstep.journal.away import ask_child, locate
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.surface import JournalTable
from doorstep.journal.tables import (
    Source,
    Span,
    create_outcomes,
    create_predictions,
    create_union,
    sources_of,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PREDICTIONS, OUTCOMES = "predictions", "outcomes"
SQL_CHARS_MAX = 20_000
TABLE_BYTES_MAX = 32 * 1024 * 1024
ROWS_AT_ONCE = 100
MEMORY_MB = 4096
"""Address space of the child; DuckDB itself is held to `duck.MEMORY_MB_MAX`."""
FUNCTIONS = frozenset({"generate_series", "json_each", "json_tree", "range", "unnest"})
"""Table functions that may be named. The others read files, settings or pointers, or run SQL."""
LARGE = "ask for less: aggregate in SQL, name fewer columns, or narrow --since and --until"
_TEXTS = re.compile(r"'[^']*'|--[^\n]*")
_BARE_AT = re.compile(r'(?i)(?<!["\w])at(?!["\w]|\s+time\s+zone)')
AT = 'at is a keyword of DuckDB: write "at" in double quotes, or use the column time'


class SqlQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """services: those that exist, with or without predictions. temp: where to spill."""

    home: str
    temp: str
    sql: str
    services: tuple[str, ...]
    span: Span
    limit: int


def ask_sql(
    home: Path, sql: str, services: tuple[str, ...], span: Span, *, limit: int, timeout_s: float
) -> JournalTable:
    """The answer, computed in a child.

    Raises: InputError (`bad-sql`, `no-such-table`), RefusedError (`sql-not-allowed`,
    `sql-too-large`, `sql-timed-out`).
    """
    with tempfile.TemporaryDirectory(prefix="doorstep-sql-") as temp:
        asked = SqlQuestion(
            home=str(home), temp=temp, sql=sql, services=services, span=span, limit=limit
        )
        request = msgspec.msgpack.encode(asked)
        try:
            found = ask_child(home, __name__, request, timeout_s=timeout_s, memory_mb=MEMORY_MB)
        except RefusedError as error:
            raise _of_child(error, timeout_s) from None
    return msgspec.msgpack.decode(found, type=JournalTable)


def _of_child(error: RefusedError, timeout_s: float) -> RefusedError:
    if error.code == "child-timed-out":
        said = f"the query was not done after {timeout_s:g} s, and was ended"
        return RefusedError("sql-timed-out", said, f"give it longer (--timeout), or {LARGE}")
    if error.code == "child-died" and "Doorstep is stopping" not in error.message:
        said = f"the query took more memory than {MEMORY_MB} MB, or broke the engine"
        return RefusedError("sql-too-large", said, LARGE)
    return error


def main(request: bytes) -> bytes:
    """The child's side of `ask_sql`."""
    asked = msgspec.msgpack.decode(request, type=SqlQuestion)
    return msgspec.msgpack.encode(query(asked))


def query(asked: SqlQuestion) -> JournalTable:
    """Raises: as `ask_sql`."""
    import duckdb

    sources = sources_of(take_snapshots(Path(asked.home)), asked.services, asked.span)
    con = duck.connect(Path(asked.temp))
    try:
        named = tables_named(con, asked.sql)
        wanted = _wanted(sources, named)
        duck.confine(con, locate([file for one in wanted for file in one.files]))
        _create_views(con, wanted, named, asked.span)
        return _table(con.execute(asked.sql), asked.limit)
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise RefusedError("sql-too-large", _said(error), LARGE) from None
    except duckdb.PermissionException as error:
        raise RefusedError("sql-not-allowed", _said(error), _hint(sources)) from None
    except duckdb.Error as error:
        if isinstance(error, duckdb.CatalogException) and "Table with name" in str(error):
            raise InputError("no-such-table", _said(error), _hint(sources)) from None
        is_syntax = isinstance(error, duckdb.ParserException)
        is_at = is_syntax and _BARE_AT.search(_TEXTS.sub("", asked.sql))
        raise InputError("bad-sql", _said(error), AT if is_at else _hint(sources)) from None
    finally:
        con.close()


def _said(error: BaseException) -> str:
    """DuckDB's words, without the picture of the line and without its advice on settings."""
    lines = str(error).replace("\n\n", "\n").splitlines() or ["out of memory"]
    kept = [line.strip() for line in lines if not line.startswith(("LINE ", "Possible sol", "*"))]
    return " ".join(one for one in kept if one.strip(" ^"))[:500]


def _hint(sources: dict[str, Source]) -> str:
    names = ", ".join([PREDICTIONS, OUTCOMES, *map(duck.quote_name, sources)][:12])
    return f"there are: {names}; columns of one:  DESCRIBE {PREDICTIONS}"


def tables_named(con: DuckDBPyConnection, sql: str) -> set[str]:
    """Tables that one SELECT names, from its syntax tree; nothing of it runs.

    Raises: RefusedError (`sql-not-allowed`) for anything but one SELECT over tables and FUNCTIONS;
    InputError (`bad-sql`).
    """
    import duckdb

    if len(sql) > SQL_CHARS_MAX:
        raise InputError("bad-sql", f"{len(sql)} characters; expected at most {SQL_CHARS_MAX}")
    kinds = [one.type for one in con.extract_statements(sql)]
    if kinds != [duckdb.StatementType.SELECT]:
        found = " and ".join(one.name for one in kinds) or "nothing"
        raise RefusedError(
            "sql-not-allowed",
            f"found {found}; expected one SELECT: the journal is only read here",
            "to keep rows:  doorstep journal export SERVICE --to FILE",
        )
    nodes = list(_nodes(con, sql))
    functions = {
        str(node["function"]["function_name"]).lower()
        for node in nodes
        if node.get("type") == "TABLE_FUNCTION"
    }
    if refused := sorted(functions - FUNCTIONS):
        raise RefusedError(
            "sql-not-allowed",
            f"{refused[0]}() stands where a table does; expected a table of the journal, or one of "
            f"{', '.join(sorted(FUNCTIONS))}",
        )
    # DuckDB's names are the same in capitals.
    return {str(node["table_name"]).lower() for node in nodes if node.get("type") == "BASE_TABLE"}


def _nodes(con: DuckDBPyConnection, sql: str) -> Iterator[dict[str, Any]]:
    """Raises: RefusedError (`sql-not-allowed`)."""
    row = con.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    try:
        tree = msgspec.json.decode(row[0] if row else b"")
    except (msgspec.DecodeError, RecursionError):
        tree = None
    if not isinstance(tree, dict) or tree.get("error") is not False:
        raise RefusedError("sql-not-allowed", "this SELECT has a form that cannot be checked")
    waiting: list[Any] = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _create_views(
    con: DuckDBPyConnection, sources: Sequence[Source], named: set[str], span: Span
) -> None:
    """A view looks into every file that it is of, so only those that are asked."""
    views = [
        create_predictions(con, one, span)
        for one in sources
        if {one.service.lower(), PREDICTIONS} & named
    ]
    if PREDICTIONS in named and views:
        create_union(con, PREDICTIONS, views)
    if OUTCOMES in named and sources:
        create_union(con, OUTCOMES, [create_outcomes(con, one, span) for one in sources])


def _wanted(sources: dict[str, Source], named: set[str]) -> list[Source]:
    """Those that are named, or all."""
    if named & {PREDICTIONS, OUTCOMES}:
        return list(sources.values())
    return [one for name, one in sources.items() if name.lower() in named]


def _table(cursor: DuckDBPyConnection, limit: int) -> JournalTable:
    described = cursor.description or ()
    rows: list[tuple[Any, ...]] = []
    size_bytes = 0
    while len(rows) <= limit:
        some = cursor.fetchmany(min(ROWS_AT_ONCE, limit + 1 - len(rows)))
        plain = [tuple(_plain(value) for value in row) for row in some]
        size_bytes += len(msgspec.msgpack.encode(plain))
        if not some or size_bytes > TABLE_BYTES_MAX:
            break
        rows += plain
    if not rows and size_bytes > TABLE_BYTES_MAX:
        said = f"the first rows have {size_bytes:,} bytes; expected at most {TABLE_BYTES_MAX:,}"
        raise RefusedError("sql-too-large", said, LARGE)
    return JournalTable(
        columns=tuple(str(one[0]) for one in described),
        types=tuple(str(one[1]) for one in described),
        rows=tuple(rows[:limit]),
        is_cut=len(rows) > limit or size_bytes > TABLE_BYTES_MAX,
    )


def _plain(value: Any) -> Any:
    """What JSON has a form for: times as ISO 8601, bytes in hex, very large integers as text."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return str(value)
