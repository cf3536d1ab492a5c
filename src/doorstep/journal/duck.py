"""DuckDB as we use it: in memory, limited, and with no file but the ones that were named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from numpy.typing import NDArray

from doorstep.core.instant import Instant

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_MB_MAX = 512
SPILL_MB_MAX = 8192
ROW_GROUP_ROWS = 10_000
"""Small groups: a lookup by time or id reads one of them, in 6 ms where 50,000 rows take 22, and
the files are no larger."""

PARQUET = f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP_ROWS}"
"""Level 1 takes half the time of level 3, for files that are less than 1 % larger."""

LISTS_JOINED_BY = "\x1f"


class Computed(msgspec.Struct, frozen=True):
    """What DuckDB makes: of a column an expression over the arrays beside it, and its parameters;
    likewise a query."""

    sql: str
    values: tuple[object, ...] = ()


Array = NDArray[Any]
Columns = Mapping[str, Array | Computed]
"""Arrays of equal length, by name."""


def connect(temp: Path | None, memory_mb: int = MEMORY_MB_MAX) -> DuckDBPyConnection:
    """A database in memory that spills to `temp`; None: it fails instead."""
    import duckdb

    if temp is not None:
        temp.mkdir(parents=True, exist_ok=True)
    settings = {
        "memory_limit": f"{memory_mb}MB",
        "threads": 1,
        # Its checkpoint of a database in memory compresses 16 MB of what is about to be dropped.
        "checkpoint_threshold": "1TB",
        "temp_directory": str(temp or ""),
        "max_temp_directory_size": f"{SPILL_MB_MAX}MB",
    }
    return duckdb.connect(":memory:", config=settings)


def confine(
    con: DuckDBPyConnection, files: Iterable[Path] = (), folders: Iterable[Path] = ()
) -> None:
    """From now on it reads these files, and what is in these folders, and nothing else (no variable
    of ours either), and its settings are fixed."""
    for name, paths in (("paths", files), ("directories", folders)):
        listed = ", ".join(quote_text(str(path)) for path in paths)
        con.execute(f"SET allowed_{name} = [{listed}]")
    con.execute("SET enable_external_access = false")
    con.execute("SET python_enable_replacements = false")
    con.execute("SET lock_configuration = true")


def quote_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def parquet_of(files: Iterable[Path]) -> str:
    """The FROM item of these Parquet files, columns matched by name."""
    listed = ", ".join(quote_text(str(path)) for path in files)
    return f"read_parquet([{listed}], union_by_name = true)"


def create_table(con: DuckDBPyConnection, table: str, types: Mapping[str, str]) -> None:
    columns = ", ".join(f"{quote_name(name)} {kind}" for name, kind in types.items())
    con.execute(f"CREATE OR REPLACE TABLE {quote_name(table)} ({columns})")


def insert(con: DuckDBPyConnection, table: str, types: Mapping[str, str], columns: Columns) -> None:
    """Append what `types` names; a column of lists arrives as joined texts."""
    source = select_from(con, "arrays", types, columns)
    try:
        con.execute(f"INSERT INTO {quote_name(table)} {source.sql}", source.values)
    finally:
        con.unregister("arrays")


def select_from(
    con: DuckDBPyConnection, name: str, types: Mapping[str, str], columns: Columns
) -> Computed:
    """A query of these columns, which are registered as `name` for it: unregister it after."""
    chosen: list[str] = []
    values: list[object] = []
    for column, kind in types.items():
        found = columns[column]
        if isinstance(found, Computed):
            sql = f"CAST({found.sql} AS {kind})"
            values += found.values
        else:
            sql = _from_array(column, kind)
        chosen.append(f"{sql} AS {quote_name(column)}")
    arrays = {name: one for name, one in columns.items() if not isinstance(one, Computed)}
    con.register(name, arrays)
    query = f"SELECT {', '.join(chosen)} FROM {quote_name(name)}"  # noqa: S608
    return Computed(query, tuple(values))


def _from_array(name: str, kind: str) -> str:
    column = quote_name(name)
    if kind != "VARCHAR[]":
        return f"CAST({column} AS {kind})"
    separator = f"chr({ord(LISTS_JOINED_BY)})"
    return f"CASE WHEN {column} = '' THEN [] ELSE string_split({column}, {separator}) END"


def copy_to(
    con: DuckDBPyConnection, source: str, order: str, path: Path, values: Sequence[object] = ()
) -> None:
    """Write `source` (a FROM item, with its parameters) as Parquet with zstd. order: "" leaves it
    as it is."""
    query = f"SELECT * FROM {source}" + (f" ORDER BY {order}" if order else "")  # noqa: S608
    con.execute(f"COPY ({query}) TO {quote_text(str(path))} ({PARQUET})", values)


def span(con: DuckDBPyConnection, source: str, column: str) -> tuple[int, Instant, Instant]:
    """(rows, smallest, largest `column`); (0, 0, 0) if there are no rows."""
    name = quote_name(column)
    query = f"SELECT count(*), coalesce(min({name}), 0), coalesce(max({name}), 0)"
    found = con.execute(f"{query} FROM {source}").fetchone()
    assert found is not None
    return int(found[0]), int(found[1]), int(found[2])
