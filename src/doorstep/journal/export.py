"""The predictions of a service as one file, written by a short-lived child with bounded memory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from doorstep.core.errors import RefusedError
from doorstep.core.record import Kind
from doorstep.journal import duck
from doorstep.journal.away import ask_child, locate
from doorstep.journal.joined import TOLD
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.tables import Source, Span, create_outcomes, create_predictions, sources_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TIMEOUT_S = 600.0
"""Files that a merge replaced are kept 900 s: an export that read the list before finds them."""
MEMORY_MB = 4096
FOLDER = "exports"
OPTIONS = {"parquet": duck.PARQUET, "csv": "FORMAT csv, HEADER"}


class ExportQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """temp: where the file is made and where to spill."""

    home: str
    temp: str
    service: str
    span: Span
    kinds: tuple[int, ...]
    format: str
    outcomes: bool


def export_file(
    home: Path, service: str, span: Span, *, kinds: tuple[int, ...], format: str, outcomes: bool
) -> BinaryIO:
    """The file, open; it has no name any more, so that it is gone when it is closed.

    Raises: RefusedError (`export-failed`, `child-died`, `child-timed-out`), OSError.
    """
    folder = home / FOLDER
    folder.mkdir(exist_ok=True)
    _remove_old(folder)
    with tempfile.TemporaryDirectory(dir=folder) as temp:
        asked = ExportQuestion(
            home=str(home),
            temp=temp,
            service=service,
            span=span,
            kinds=kinds,
            format=format,
            outcomes=outcomes,
        )
        request = msgspec.msgpack.encode(asked)
        ask_child(home, __name__, request, timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB)
        return _made(Path(temp)).open("rb")


def _remove_old(folder: Path) -> None:
    """What a server that was killed left."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > 2 * TIMEOUT_S:
                shutil.rmtree(path, ignore_errors=True)


def _made(temp: Path) -> Path:
    return temp / "made"


def main(request: bytes) -> bytes:
    """The child's side of `export_file`."""
    asked = msgspec.msgpack.decode(request, type=ExportQuestion)
    write(asked)
    return b""


def write(asked: ExportQuestion) -> None:
    """Raises: RefusedError (`export-failed`)."""
    import duckdb

    every = take_snapshots(Path(asked.home))
    # What was predicted after the span takes an outcome by key away from one in it.
    read = Span(asked.span.since) if asked.outcomes else asked.span
    source = sources_of(every, (asked.service,), read)[asked.service]
    con = duck.connect(Path(asked.temp))
    try:
        duck.confine(con, [*locate(source.files), _made(Path(asked.temp))])
        query = _query(con, asked, source, read)
        if asked.format == "csv":  # which has no bytes
            query = f"SELECT * REPLACE (lower(hex(leaf_hash)) AS leaf_hash) FROM ({query})"  # noqa: S608
        to = duck.quote_text(str(_made(Path(asked.temp))))
        con.execute(f"COPY ({query}) TO {to} ({OPTIONS[asked.format]})")
    except duckdb.Error as error:
        raise RefusedError(
            "export-failed",
            f"the predictions of {asked.service} were not written: {str(error)[:300]}",
            "narrow --since and --until, or make room on the disk",
        ) from None
    finally:
        con.close()


def _resolved(kinds: tuple[int, ...]) -> list[int]:
    return [one for one in kinds if one != Kind.SHADOW] or [int(Kind.LIVE)]


def _query(con: DuckDBPyConnection, asked: ExportQuestion, source: Source, read: Span) -> str:
    view = create_predictions(con, source, read)
    chosen = f"""kind IN ({", ".join(map(str, asked.kinds))}) AND p."at" < {asked.span.until:d}"""
    if not asked.outcomes:
        return f"SELECT * FROM {view} p WHERE {chosen}"  # noqa: S608
    outcomes = create_outcomes(con, source, read)
    told = TOLD.replace("$resolve", str(_resolved(asked.kinds))).replace("$is_known", "true")
    told = told.replace("$began", '"at"')
    return (
        f"WITH p AS NOT MATERIALIZED (FROM {view}), o AS (FROM {outcomes}), {told} "  # noqa: S608
        'SELECT p.*, last.label AS outcome, last.value AS outcome_value, last."at" AS outcome_at '
        f"FROM p LEFT JOIN last ON p.id = last.about WHERE {chosen}"
    )
