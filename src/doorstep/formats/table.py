"""Training and hold-out files: CSV, Parquet and JSON lines, read whole, by DuckDB without pandas.

The type of a CSV column is decided from every value of it, never from the first rows. What pandas
reads as missing by default is missing here too (`NA`, `NaN`, `null`, ...), because that is what a
model trained on the same file has seen.
"""

# ruff: noqa: S608 - what is put into SQL here is c0, c1, ... , our own constants and quoted names
from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError, NotFoundError, RefusedError
from doorstep.formats.batch import Batch
from doorstep.formats.columns import Column, Kind, Table

FORMATS = "name a CSV, Parquet or JSON-lines file"
FILE_BYTES_MAX = 4 * 1024**3
CELLS_MAX = 400_000_000
COLUMNS_MAX = 4096
HEADER_BYTES_MAX = 1024 * 1024
MISSING_TEXTS = (
    "", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None", "<NA>", "#N/A",
    "#NA", "#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
)  # fmt: skip
_INT = "^-?(0|[1-9][0-9]{0,17})$"
_FLOAT = "^-?((0|[1-9][0-9]{0,17})([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?$|^[-+]?(inf|Inf)$"
_BOOL = "^(true|True|TRUE|false|False|FALSE)$"
_TIME = (
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    "([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
)
SHAPES = {"int": _INT, "float": _FLOAT, "bool": _BOOL, "time": _TIME}
SHAPE_ROWS = 2000
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), "int"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER"), "int"),
    **dict.fromkeys(("FLOAT", "DOUBLE", "DECIMAL", "HUGEINT", "UBIGINT", "UHUGEINT"), "float"),
    **dict.fromkeys(("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"), "time"),
    **dict.fromkeys(("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "time"),
    **dict.fromkeys(("VARCHAR", "ENUM", "UUID", '"NULL"'), "text"),
    "BOOLEAN": "bool",
}
_CASTS: dict[Kind, str] = {
    "int": "CAST({0} AS BIGINT)",
    "float": "CAST({0} AS DOUBLE)",
    "bool": "CAST({0} AS BOOLEAN)",
    "time": "epoch_us(CAST({0} AS TIMESTAMPTZ))",
    "text": "CAST({0} AS VARCHAR)",
}


def read_table(path: Path, *, rows_max: int | None = None, texts: Collection[str] = ()) -> Table:
    """The table in `path`: CSV (`,` `;` tab or `|`), Parquet or JSON lines, by its content.

    rows_max: read only so many rows. texts: CSV columns to keep as text whatever they look like.
    Raises: NotFoundError (`no-file`), InputError (`bad-table`, `empty-table`, `duplicate-columns`,
    `bad-column`), RefusedError (`table-too-large`).
    """
    require_table(path)
    limit = "" if rows_max is None else f" LIMIT {int(rows_max)}"
    with _connect() as connection, _explained(path):
        names, untyped = _load_source(connection, path, limit)
        rows = connection.execute("SELECT count(*) FROM t").fetchone()[0]
        if rows == 0:
            raise InputError(
                "empty-table", f"{path.name} has a header but no rows", "name a file with rows"
            )
        if rows * len(names) > CELLS_MAX:
            raise RefusedError(
                "table-too-large",
                f"{path.name} has {rows:,} rows of {len(names)} columns; at most {CELLS_MAX:,} "
                "values",
                "take a sample of the rows first",
            )
        kinds = _csv_kinds(connection, names, texts) if untyped else _stored_kinds(connection, path)
        columns = _fetch(connection, names, kinds, untyped)
        notes = _missing_notes(connection, names, kinds) if untyped else ()
    return Table(columns, rows, notes)


def require_table(path: Path) -> None:
    """Raises: NotFoundError (`no-file`), InputError (`empty-table`), RefusedError
    (`table-too-large`): what is seen of a file before it is read."""
    if path.is_dir():
        raise NotFoundError("no-file", f"{path} is a folder, not a file", FORMATS)
    if not path.is_file():
        raise NotFoundError("no-file", f"there is no file {path}", FORMATS)
    size = path.stat().st_size
    if size == 0:
        raise InputError("empty-table", f"{path.name} is empty (0 bytes)", FORMATS)
    if size > FILE_BYTES_MAX:
        raise RefusedError(
            "table-too-large",
            f"{path.name} has {size / 1e9:.1f} GB; at most {FILE_BYTES_MAX / 1e9:.1f} GB",
            "take a sample of the rows first",
        )
    if re.search(r"[*?\[\]{}]", str(path)):
        raise InputError("bad-path", f"{path} has pattern characters in its name", "rename it")


@contextlib.contextmanager
def _connect() -> Iterator[Any]:
    import duckdb

    settings = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    connection = duckdb.connect(config={**settings, "threads": "2"})
    try:
        connection.execute("SET timezone = 'UTC'")
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """DuckDB's refusals in our words: the line, what it has, what was expected."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise InputError("bad-table", f"{path.name} cannot be read: {_said(str(error))}") from None


def _said(text: str) -> str:
    line = re.search(r"CSV Error on Line: (\d+)", text)
    counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if line and counts:
        return f"line {line[1]} has {counts[2]} values, expected {counts[1]}"
    if line and "unterminated quote" in text:
        return f"line {line[1]} has a quote that is never closed"
    if "not utf-8" in text or "unicode" in text.lower():
        where = f"line {line[1]}" if line else "it"
        return f"{where} is not UTF-8 text; save the file as UTF-8"
    first = text.split(": ", 1)[-1].splitlines()[0]
    return re.sub(r' in file "[^"]*"', "", first)[:300]


def _load_source(connection: Any, path: Path, limit: str) -> tuple[list[str], bool]:
    """Load the file into table `t` with columns c0, c1, ...; say its names and if it has no types.
    DuckDB would fold the case of names and rename doubles, so it never sees the real ones."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES_MAX)
    if start[:4] == b"PAR1":
        call, values = "read_parquet(?)", [str(path)]
    elif path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        call = "read_json(?, sample_size=-1, maximum_object_size=1048576)"
        values = [str(path)]
    elif b"\0" in start[:4096]:
        raise InputError(
            "bad-table",
            f"{path.name} is not a table; expected CSV, Parquet or JSON lines",
            "save it as CSV in UTF-8, or as Parquet",
        )
    else:
        return _load_csv(connection, path, start, limit)
    described = connection.execute(f"DESCRIBE SELECT * FROM {call}", values).fetchall()
    names = [row[0] for row in described]
    _check_names(names, path)
    aliases = ", ".join(f"c{at}" for at in range(len(names)))
    connection.execute(
        f"CREATE TEMP TABLE t AS SELECT * FROM {call} AS s({aliases}){limit}", values
    )
    return names, False


def _load_csv(connection: Any, path: Path, start: bytes, limit: str) -> tuple[list[str], bool]:
    try:
        text = start.decode("utf-8-sig", errors="strict" if len(start) < 4096 else "ignore")
    except UnicodeDecodeError:
        raise InputError(
            "bad-table",
            f"{path.name} cannot be read: it is not UTF-8 text",
            f"save it as UTF-8: iconv -f latin1 -t utf-8 {quote(path.name)} > utf8.csv",
        ) from None
    delimiter = delimiter_of(text)
    names = _header(text, delimiter, path)
    _check_names(names, path)
    columns = {f"c{at}": "VARCHAR" for at in range(len(names))}
    connection.execute(
        "CREATE TEMP TABLE t AS SELECT * FROM read_csv(?, auto_detect=false, header=true, "
        "delim=?, quote='\"', escape='\"', columns=?, strict_mode=true, null_padding=false, "
        f"max_line_size=1048576){limit}",
        [str(path), delimiter, columns],
    )
    return names, True


def delimiter_of(text: str) -> str:
    line = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").splitlines()[0] if text.strip() else "")
    return max(",;\t|", key=line.count)


def _header(text: str, delimiter: str, path: Path) -> list[str]:
    try:
        names = next(csv.reader(text.lstrip("\r\n").splitlines(True), delimiter=delimiter), [])
    except csv.Error as error:
        raise InputError("bad-table", f"{path.name} has no readable header: {error}") from None
    # The unnamed index column that DataFrame.to_csv writes gets the name pandas reads it back by.
    return [name or f"Unnamed: {at}" for at, name in enumerate(names)]


def _check_names(names: list[str], path: Path) -> None:
    if not names or len(names) > COLUMNS_MAX:
        raise InputError("bad-table", f"{path.name} has {len(names)} columns; at most 4,096")
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            both = f"{seen[name.lower()]!r} and {name!r}" if seen[name.lower()] != name else name
            raise InputError(
                "duplicate-columns",
                f"{path.name} has two columns named {both}; every column needs its own name",
                "rename one of them",
            )
        seen[name.lower()] = name


def _csv_kinds(connection: Any, names: list[str], texts: Collection[str]) -> list[Kind]:
    wanted = [at for at, name in enumerate(names) if name not in texts]
    kinds: list[Kind] = ["text"] * len(names)
    if not wanted:
        return kinds
    # What a few rows rule out is not asked of all rows; what they allow is decided by all.
    few = _shape_counts(
        connection, f"(FROM t LIMIT {SHAPE_ROWS})", [(at, tuple(SHAPES)) for at in wanted]
    )
    possible = [
        (at, tuple(kind for kind in SHAPES if counts[kind] == counts["present"]))
        for at, counts in zip(wanted, few, strict=True)
    ]
    everything = _shape_counts(connection, "t", possible)
    for (at, _), counts in zip(possible, everything, strict=True):
        kinds[at] = _kind_of(counts)
    return kinds


def _shape_counts(
    connection: Any, source: str, asked: list[tuple[int, tuple[str, ...]]]
) -> list[dict[str, int]]:
    """Per column: how many values are present, and how many of them have each shape asked for."""
    selected = []
    for at, shapes in asked:
        present = f"c{at} IS NOT NULL AND trim(c{at}) NOT IN {_missing_list()}"
        tests = [present, *(f"{present} AND {_shape_test(at, shape)}" for shape in shapes)]
        counts = ", ".join(f"count(*) FILTER (WHERE {test})" for test in tests)
        selected.append(f"[{counts}]")
    found = connection.execute(f"SELECT {', '.join(selected)} FROM {source}").fetchone()
    return [
        dict(zip(("present", *shapes), counts, strict=True))
        for (_, shapes), counts in zip(asked, found, strict=True)
    ]


def _shape_test(at: int, shape: str) -> str:
    value = f"trim(c{at})"
    test = f"regexp_matches({value}, '{SHAPES[shape]}')"
    return f"{test} AND TRY_CAST({value} AS TIMESTAMPTZ) IS NOT NULL" if shape == "time" else test


def _missing_list() -> str:
    return "(" + ", ".join(f"'{text}'" for text in MISSING_TEXTS) + ")"


def _kind_of(counts: dict[str, int]) -> Kind:
    """The narrowest kind that every present value has; of none, float, as pandas reads it."""
    if counts["present"] == 0:
        return "float"
    narrow: tuple[Kind, ...] = ("int", "float", "bool", "time")
    return next((kind for kind in narrow if counts.get(kind) == counts["present"]), "text")


def _stored_kinds(connection: Any, path: Path) -> list[Kind]:
    described = connection.execute("DESCRIBE t").fetchall()
    kinds: list[Kind] = []
    for at, (_, stored, *_rest) in enumerate(described):
        kind = _KINDS.get(re.sub(r"\(.*\)", "", stored))
        if kind is None or stored.endswith("[]"):
            raise InputError(
                "bad-column",
                f"column {at + 1} of {path.name} has type {stored}; expected numbers, text, "
                "booleans or times",
                "take the parts out into columns of their own",
            )
        kinds.append(kind)
    return kinds


def _fetch(
    connection: Any, names: list[str], kinds: list[Kind], untyped: bool
) -> tuple[Column, ...]:
    selected = [_select(at, kind, untyped) for at, kind in enumerate(kinds)]
    found = connection.execute(f"SELECT {', '.join(selected)} FROM t").fetchnumpy()
    return tuple(
        _column(name, kind, found[f"c{at}"])
        for at, (name, kind) in enumerate(zip(names, kinds, strict=True))
    )


def _select(at: int, kind: Kind, untyped: bool) -> str:
    value = f"c{at}"
    if untyped:
        inner = value if kind == "text" else f"trim({value})"
        value = f"CASE WHEN trim({value}) IN {_missing_list()} THEN NULL ELSE {inner} END"
    return f"{_CASTS[kind].format(value)} AS c{at}"


def _column(name: str, kind: Kind, found: Any) -> Column:
    mask = np.array(np.ma.getmaskarray(found), dtype=np.bool_)
    data: NDArray[Any] = np.ma.getdata(found)
    if kind == "text":
        values: NDArray[Any] = np.empty(len(data), dtype=object)
        values[:] = [None if gone else str(text) for text, gone in zip(data, mask, strict=True)]
        return Column(name, kind, values, mask)
    if kind == "float":
        numbers = np.where(mask, np.nan, data.astype(np.float64))
        return Column(name, kind, numbers, np.isnan(numbers))
    dtype = np.bool_ if kind == "bool" else np.int64
    return Column(name, kind, np.where(mask, 0, data).astype(dtype), mask)


def _missing_notes(connection: Any, names: list[str], kinds: list[Kind]) -> tuple[str, ...]:
    """What a person may not expect: words in a text column that were read as missing."""
    at_texts = [at for at, kind in enumerate(kinds) if kind == "text"]
    if not at_texts:
        return ()
    words = ", ".join(f"'{text}'" for text in MISSING_TEXTS if text)
    counts = connection.execute(
        "SELECT " + ", ".join(
            f"count(*) FILTER (WHERE trim(c{at}) IN ({words}))" for at in at_texts
        ) + " FROM t"
    ).fetchone()  # fmt: skip
    return tuple(
        f"{count:,} values such as NA in column {names[at]!r} are read as missing, as pandas does"
        for at, count in zip(at_texts, counts, strict=True)
        if count
    )


def write_parquet(table: Table, path: Path) -> None:
    """Write `table` in a canonical form: the same table gives the same bytes (on one version of
    DuckDB). Times are written as timestamps UTC. The file appears whole or not at all."""
    with _connect() as connection:
        connection.execute("SET threads = 1")
        connection.execute("SET pandas_analyze_sample = 0")
        connection.register("data", _registered(table))
        selected = ", ".join(_stored(at, column) for at, column in enumerate(table.columns))
        partial = path.with_name(path.name + ".partial")
        target = str(partial).replace("'", "''")
        connection.execute(
            f"COPY (SELECT {selected} FROM data) TO '{target}' "
            "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 131072)"
        )
    partial.replace(path)


def _registered(table: Table) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for at, column in enumerate(table.columns):
        hidden = np.ma.MaskedArray(column.values, column.missing)
        found[f"c{at}"] = column.values if column.kind == "text" else hidden
    return found


def _stored(at: int, column: Column) -> str:
    name = '"' + column.name.replace('"', '""') + '"'
    types = {"int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN", "text": "VARCHAR"}
    if column.kind == "time":
        return f"make_timestamp(CAST(c{at} AS BIGINT)) AS {name}"
    return f"CAST(c{at} AS {types[column.kind]}) AS {name}"


def to_batch(table: Table, contract: Contract) -> Batch:
    """The inputs of `contract` as a model takes them. A column that the table has not is missing in
    every row if its field is not required.

    Raises: InputError (`no-column`, `bad-column`).
    """
    numbers = np.full((table.rows, len(contract.numbers)), np.nan)
    for at, field in enumerate(contract.numbers):
        if _has(table, field):
            numbers[:, at] = table.column(field.name).as_numbers()
    texts: list[list[str | None]] = []
    for field in contract.texts:
        there = _has(table, field)
        texts.append(table.column(field.name).as_texts() if there else [None] * table.rows)
    return Batch(numbers, texts)


def _has(table: Table, field: Field) -> bool:
    if field.name not in table and field.required:
        table.column(field.name)
    return field.name in table
