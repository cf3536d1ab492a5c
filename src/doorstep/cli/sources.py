"""Rows of a file or of a query, one after the other, however many there are."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from doorstep.core.errors import InputError, MissingExtraError, RefusedError, UnreachableError
from doorstep.formats.table import delimiter_of, require_table

ROWS_FETCHED = 1_000
CELL_CHARS_MAX = 1_000_000
LINE_BYTES_MAX = 1_048_576
NAMES_MAX = 100_000
GZIP = b"\x1f\x8b"
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
QUERY_WAIT_S = 600.0
SQLITE_STEPS = 100_000
"""Of its virtual machine, some milliseconds."""
Read = tuple[dict[str, Any], str]
"""One row: its values, and why it cannot be read, "" if it can."""
Told = Callable[[float], None]
"""Is told which share of the source was read, 0..1."""


def rows_of_file(path: Path, told: Told = lambda _: None) -> Iterator[Read]:
    """CSV (`,` `;` tab or `|`), Parquet or JSON lines, by its content.

    Raises: NotFoundError (`no-file`), InputError (`bad-table`, `empty-table`)."""
    require_table(path)
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:4] == b"PAR1":
        return _parquet(path, told)
    if path.suffix.lower() in JSON_ENDINGS:
        if start.lstrip()[:1] == b"[":
            raise InputError(
                "bad-table",
                f"{path.name} is one JSON list; expected an object on each line",
                f"jq -c '.[]' {path} > rows.jsonl; pandas: to_json(orient='records', lines=True)",
            )
        return _json_lines(path, told)
    if b"\0" in start or start[:2] == GZIP:
        what = "is compressed" if start[:2] == GZIP else "is not a table"
        raise InputError(
            "bad-table",
            f"{path.name} {what}; expected CSV, Parquet or JSON lines",
            f"gunzip -k {path}" if start[:2] == GZIP else "save it as CSV in UTF-8, or as Parquet",
        )
    return _csv(path, told)


def _csv(path: Path, told: Told) -> Iterator[Read]:
    csv.field_size_limit(CELL_CHARS_MAX)
    size = path.stat().st_size
    # A byte that is no UTF-8 spoils its row, not the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        head = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter_of(head))
        names = next(reader, [])
        if len(set(names)) < len(names) or not names:
            raise InputError(
                "duplicate-columns",
                f"{path.name} has two columns of one name",
                "rename one of them",
            )
        read = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield {}, f"line {reader.line_num}: {error}"
                continue
            read += sum(map(len, cells)) + len(cells) + 1
            told(min(1.0, read / size))
            yield from _csv_row(names, cells)


def _csv_row(names: list[str], cells: list[str]) -> Iterator[Read]:
    if not cells:
        return
    row = dict(zip(names, cells, strict=False))
    if len(cells) != len(names):
        yield row, f"{len(cells)} values, expected {len(names)}"
    elif any("\udc80" <= one <= "\udcff" for cell in cells for one in cell):
        yield {name: ascii(cell) for name, cell in row.items()}, "it is not UTF-8 text"
    else:
        yield row, ""


def _json_lines(path: Path, told: Told) -> Iterator[Read]:
    """The first row has the names of all rows, as in a table: who looks for a column looks there,
    and a row of JSON says what it has only."""
    names = dict[str, None]()
    for row, fault in _json_rows(path, lambda _: None):
        if not fault and len(names) < NAMES_MAX:
            names |= dict.fromkeys(row)
    for row, fault in _json_rows(path, told):
        yield row if fault else names | row, fault
        names = names if fault else {}


def _json_rows(path: Path, told: Told) -> Iterator[Read]:
    size, read = path.stat().st_size, 0
    decoder = msgspec.json.Decoder(dict[str, Any])
    with path.open("rb") as file:
        while line := file.readline(LINE_BYTES_MAX):
            read += len(line)
            told(read / size)
            if not line.strip():
                continue
            try:
                yield decoder.decode(line), ""
            except (msgspec.DecodeError, RecursionError) as error:
                yield {"line": line[:500].decode(errors="replace")}, f"not a JSON object: {error}"


def _parquet(path: Path, told: Told) -> Iterator[Read]:
    import duckdb

    try:
        with contextlib.closing(duckdb.connect(config={"threads": "2"})) as connection:
            connection.execute("SET timezone = 'UTC'")
            counted = connection.execute("SELECT count(*) FROM read_parquet(?)", [str(path)])
            total = (counted.fetchone() or (0,))[0] or 1
            cursor = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
            names = [one[0] for one in cursor.description or ()]
            read = 0
            while rows := cursor.fetchmany(ROWS_FETCHED):
                read += len(rows)
                told(read / total)
                yield from ((dict(zip(names, row, strict=True)), "") for row in rows)
    except duckdb.Error as error:
        said = str(error).splitlines()[0]  # the others are our own statement
        raise InputError("bad-table", f"{path.name} cannot be read: {said}") from None


class After(msgspec.Struct, frozen=True):
    """Only rows whose `column` is at least `value`, in its order; None is all."""

    column: str
    value: str | int | float | None = None


def rows_of_query(
    url: str, sql: str, after: After | None = None, wait_s: float = QUERY_WAIT_S
) -> Iterator[Read]:
    """What a query answers, from SQLite (`sqlite:///file.db`) or PostgreSQL
    (`postgresql://...`), read as it comes, in a transaction that can only read. wait_s: how long
    the database may take for the next rows.

    Raises: InputError (`bad-sql`), UnreachableError (`no-database`), RefusedError
    (`sql-timed-out`)."""
    import sqlalchemy

    engine = _engine(url)
    # A colon is the user's own, in a cast or a text; only our watermark is a parameter.
    escaped = sql.strip().rstrip(";").replace(":", r"\:")
    asked = sqlalchemy.text(escaped if after is None else _after(escaped, after))
    if after is not None and after.value is not None:
        # Without a type the database compares it as what the column is.
        asked = asked.bindparams(
            sqlalchemy.bindparam("mark", after.value, type_=sqlalchemy.types.NullType())
        )
    patience = _Patience(wait_s)
    try:
        with _connected(engine) as connection:
            chosen = connection.execution_options(
                stream_results=True, yield_per=ROWS_FETCHED, postgresql_readonly=True
            )
            patience.ends_statements_of(chosen)
            for row in chosen.execute(asked):
                yield dict(row._mapping), ""
                patience.renew()
    except sqlalchemy.exc.SQLAlchemyError as error:
        if patience.is_over:
            raise RefusedError(
                "sql-timed-out",
                f"the database gave no row for {wait_s:g} s, and the query was ended",
                "ask for less: name fewer columns, or fewer rows",
            ) from None
        said = f"the query cannot be answered: {_first_line(error)}"
        raise InputError("bad-sql", said) from None
    finally:
        engine.dispose()


class _Patience:
    """How long a database may take for the next rows: a query may never end by itself."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self.renew()

    def renew(self) -> None:
        self._until_s = time.monotonic() + self._wait_s

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._until_s

    def ends_statements_of(self, connection: Any) -> None:
        inner = connection.connection.driver_connection
        if connection.dialect.name == "sqlite":
            # It asks while it computes; so a person's Ctrl-C is noticed too.
            inner.set_progress_handler(lambda: self.is_over, SQLITE_STEPS)
        else:  # of each fetch of the cursor that the rows come by
            inner.execute(f"SET LOCAL statement_timeout = {round(self._wait_s * 1000)}")


def _after(sql: str, after: After) -> str:
    column = '"' + after.column.replace('"', '""').replace(":", r"\:") + '"'
    newer = f"WHERE {column} >= :mark " if after.value is not None else ""
    return f"SELECT * FROM ({sql}) AS asked {newer}ORDER BY {column}"  # noqa: S608


def _engine(url: str) -> Any:
    import sqlalchemy

    if url.startswith(("postgresql://", "postgres://")):
        url = "postgresql+psycopg://" + url.partition("://")[2]
    if not url.startswith(("sqlite://", "postgresql+psycopg://")):
        raise InputError(
            "bad-sql",
            f"{url.partition(':')[0]} is not a database that is read",
            "expected sqlite:///FILE or postgresql://HOST/NAME",
        )
    if url.startswith("sqlite"):
        # Read only: a mistyped name must not become an empty database.
        url = f"sqlite:///file:{quote(url.removeprefix('sqlite:///'))}?mode=ro&uri=true"
    try:
        return sqlalchemy.create_engine(url)
    except ModuleNotFoundError:
        raise MissingExtraError.of("psycopg", "postgres", "a query to PostgreSQL") from None
    except sqlalchemy.exc.ArgumentError:
        raise InputError("bad-sql", "the URL of the database cannot be read") from None


def _connected(engine: Any) -> Any:
    import sqlalchemy

    try:
        return engine.connect()
    except sqlalchemy.exc.OperationalError as error:
        name = str(engine.url.database).removeprefix("file:")
        said = f"the database {name} does not answer: {_first_line(error)}"
        raise UnreachableError("no-database", said) from None


def _first_line(error: Exception) -> str:
    """Of the driver's own words, which hold no password."""
    return str(getattr(error, "orig", error)).splitlines()[0][:300]
