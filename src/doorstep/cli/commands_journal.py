"""Questions to the journal: query, export; and restore, from its replica."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doorstep.cli.options import Home, Json, Url, connect
from doorstep.cli.output import done, emit, progress, table, warn
from doorstep.core.plural import plural

if TYPE_CHECKING:
    from doorstep.journal.restore import Restored
    from doorstep.journal.surface import JournalTable

Since = Annotated[str, typer.Option("--since", help="Only what was answered since (ISO 8601).")]
Until = Annotated[str, typer.Option("--until", help="Only what was answered before (ISO 8601).")]
CELL_CHARS_MAX = 60


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT, or - to read it from standard input.")],
    since: Since = "",
    until: Until = "",
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="At most this many rows.")
    ] = 1000,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, max=600, help="Seconds it may take.")
    ] = 30.0,
    csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Ask the journal in SQL: tables are the services, predictions (of all) and outcomes.

    It is DuckDB's SQL. Inputs are columns "in.NAME", outputs "out.NAME", and time is in UTC.
    """
    import sys

    from doorstep.core.errors import UsageError

    if csv and json:
        raise UsageError("bad-option", "--csv and --json are both given; expected one of them")
    with connect(url, home) as client, progress() as shown:
        shown.stage("asking the journal")
        found = client.query(
            sys.stdin.read() if sql == "-" else sql,
            since=instant(since),
            until=instant(until),
            limit=limit,
            timeout_s=timeout,
        )
    if csv:
        _write_csv(found)
    else:
        emit(found, lambda: _text(found), as_json=json)
    if found.is_cut:
        rows = plural(len(found.rows), "row")
        warn(f"cut after {rows}: there are more; raise --limit, or aggregate")


def export(
    service: Annotated[str, typer.Argument(help="The service.")],
    to: Annotated[Path, typer.Option("--to", help="A file: .parquet, .csv or .arrow.")],
    since: Since = "",
    until: Until = "",
    kind: Annotated[
        str, typer.Option("--kind", help="live, rehearsal or shadow; default: live and rehearsal.")
    ] = "",
    outcomes: Annotated[
        bool, typer.Option("--outcomes", help="Join what became true of each.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Write the predictions of a service to a file."""
    with connect(url, home) as client, progress(label="bytes") as shown:
        shown.stage(f"gathering the predictions of {service}")
        size_bytes = client.export(
            service,
            to,
            since=instant(since),
            until=instant(until),
            kind=kind,
            outcomes=outcomes,
            force=force,
            told=shown.reach,
        )
    done(f"{size_bytes:,} bytes written")
    emit({"file": str(to), "bytes": size_bytes}, str(to), as_json=json)


def restore(
    replica: Annotated[
        str, typer.Option("--from", help="Its URL; default: DOORSTEP_REPLICA.")
    ] = "",
    json: Json = False,
    home: Home = None,
) -> None:
    """Bring back from its replica what this home's journal lacks. It can be run again.

    It reads and writes here, not in the server, which may run or not.
    """
    import contextlib
    import os

    from doorstep.cli.running import home_folder
    from doorstep.core.errors import UnreachableError, UsageError
    from doorstep.journal.replica import VARIABLE, replica_of, say_replica
    from doorstep.journal.restore import restore as bring_back
    from doorstep.kernel.home import open_home

    named = replica or os.environ.get(VARIABLE, "")
    if named.startswith(("s3://", "gs://", "az://", "file://")):
        raise UsageError(
            "bad-replica",
            f"{say_replica(named)} is an object store: nothing needs to be brought back from it",
            f"doorstep up --store {say_replica(named)}",
        )
    folder = open_home(home_folder(home), create=False).path
    found = []
    with progress() as shown, contextlib.closing(replica_of(named)) as place:
        try:
            for one in bring_back(folder, place):
                found.append(one)
                shown.stage(f"node {one.node}: {plural(one.predictions, 'prediction')}")
        except UnreachableError as error:
            if error.code != "replica-unreachable":
                raise
            hint = "start it, or name another one with --from; then again: what came back stays"
            raise UnreachableError("replica-unreachable", error.message, hint) from None
    head = ("node", "blocks", "predictions", "outcomes", "unreadable")
    rows = [(one.node, *map(_number, _counts(one))) for one in found]
    emit(found, lambda: table(head, rows, right=(1, 2, 3, 4)), as_json=json)
    if not found:
        warn("nothing is there; is it the URL that the node had?")
        raise typer.Exit(1)
    for one in found:
        if one.live:
            warn(f"{one.node} writes {one.live} of its blocks here; they were left alone")
    if past := sum(one.past for one in found):
        said = plural(past, "block is", "blocks are")
        warn(f"{said} older than their services keep records, left alone")
    if any(one.unreadable for one in found):
        warn("of a block that is unreadable the replica has no beginning: it was trimmed")


def _counts(one: Restored) -> tuple[int, int, int, int]:
    return one.blocks, one.predictions, one.outcomes, len(one.unreadable)


def _number(value: int) -> str:
    return f"{value:,}"


def instant(text: str) -> int:
    """0 for "". Raises: InputError (`bad-time`)."""
    from doorstep.core.instant import parse_instant

    return parse_instant(text) if text else 0


def _text(found: JournalTable) -> str:
    numbers = ("INT", "HUGE", "UINT", "BIG", "SMALL", "TINY", "DOUBLE", "FLOAT", "DECIMAL")
    right = [place for place, kind in enumerate(found.types) if kind.startswith(numbers)]
    if not found.rows:
        return "no rows"
    rows = [[_cell(value) for value in row] for row in found.rows]
    return table([_cut(one) for one in found.columns], rows, right=right)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return _cut(f"{value:.6g}" if isinstance(value, float) else str(value))


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= CELL_CHARS_MAX else flat[: CELL_CHARS_MAX - 1] + "…"


def _write_csv(found: JournalTable) -> None:
    import csv
    import sys

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(found.columns)
    writer.writerows(found.rows)
    sys.stdout.flush()
