"""What became true, and what others answered: from files, databases and streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doorstep.cli.options import Home, Json, Url, connect
from doorstep.cli.output import done, emit, note, progress, warn
from doorstep.core.plural import plural

if TYPE_CHECKING:
    from doorstep.cli.importing import Result
    from doorstep.cli.refusals import Refusals

Service = Annotated[str, typer.Argument(help="The service.")]
Query = Annotated[str, typer.Option("--query", help="What to read of a database: select ...")]
Watermark = Annotated[
    str,
    typer.Option(
        "--watermark", help="A column that only grows: the next run takes only what is new."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="All rows or none.")]
Column = Annotated[str, typer.Option("--column", help="What became true; default: the label.")]
Key = Annotated[
    str, typer.Option("--key", help="The key column; default: prediction, else ids.key.")
]
At = Annotated[
    str, typer.Option("--at", help="When it became true; default: the column at, else now.")
]


def add_to(app: typer.Typer) -> None:
    app.command("outcome")(outcome)
    outcomes = typer.Typer(no_args_is_help=True, help="Tell a service what became true.")
    outcomes.command("import")(outcome)
    outcomes.command("follow")(follow)
    app.add_typer(outcomes, name="outcomes")


def outcome(
    service: Service,
    source: Annotated[
        str,
        typer.Argument(
            help="CSV, Parquet or JSON lines; or sqlite:///FILE, postgresql://HOST/NAME."
        ),
    ],
    query: Query = "",
    watermark: Watermark = "",
    column: Column = "",
    key: Key = "",
    at: At = "",
    value: Annotated[
        str, typer.Option("--value", help="What the case was worth; default: the column value.")
    ] = "",
    strict: Strict = False,
    again: Annotated[
        bool, typer.Option("--again", help="Record it though the same was recorded before.")
    ] = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Tell a service what became true, by prediction id or by key.

    What was recorded before is left out; rows that make no sense are kept beside, with the reason.
    """
    from doorstep.cli.outcomes import Columns, tell

    asked = Columns(label=column, key=key, at=at, value=value)
    is_query = "://" in source
    _require_source(is_query, query, watermark, "doorstep outcomes import -h")
    name = "the query" if is_query else Path(source).name
    with (
        connect(url, home) as client,
        progress() as shown,
        _refusals(service if is_query else source, is_only_copy=bool(watermark)) as refusals,
    ):
        opened, passed = _opened(client, service, source, query, watermark, name, shown, refusals)
        sent = tell(
            client,
            service,
            opened,
            asked,
            refusals,
            name=name,
            strict=strict,
            again=again,
            passed=passed,
        )
    there = plural(sent.repeated, "was", "were")
    joined = "; they join their predictions by themselves" if sent.recorded else ""
    done(
        f"{plural(sent.recorded, 'outcome')} recorded for {service}, {there} there already{joined}"
    )
    if sent.refused:
        warn(f"{plural(sent.refused, 'row')} refused, see {sent.kept}: {refusals.worst()}")
    emit(sent, f"{sent.recorded}", as_json=json)
    if sent.is_all_refused:
        raise typer.Exit(1)


def import_journal(
    service: Service,
    source: Annotated[Path | None, typer.Argument(help="CSV, Parquet or JSON lines.")] = None,
    sql: Annotated[
        str, typer.Option("--sql", help="Instead: sqlite:///FILE or postgresql://HOST/NAME.")
    ] = "",
    query: Query = "",
    watermark: Watermark = "",
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Rows to compare with; default: the first.")
    ] = None,
    file: Annotated[
        Path, typer.Option("--file", help="The service file, of a new service.")
    ] = Path("doorstep.yaml"),
    strict: Strict = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Import what another service answered: drift and quality without serving it.

    Rows that were imported before are left out; rows that make no sense are kept beside, with the
    reason. With --reference alone: what doorstep.Record will record is compared with it.
    """
    from doorstep.cli.importing import digest_of_file, import_rows, set_reference
    from doorstep.core.errors import UsageError

    if reference is not None and source is None and not sql:
        with connect(url, home) as client:
            said = set_reference(client, service, reference, file)
        done(f"what comes of {service} is compared with {said}")
        emit({"reference": said}, f"next: doorstep status {service}", as_json=json)
        return
    if (source is None) == (not sql):
        said = "expected a FILE, or --sql URL with --query"
        raise UsageError("which-source", said, "doorstep journal import -h")
    _require_source(bool(sql), query, watermark, "doorstep journal import -h")
    name = source.name if source else "the query"
    with (
        connect(url, home) as client,
        progress() as shown,
        _refusals(source or service, is_only_copy=bool(watermark)) as kept,
    ):
        opened, passed = _opened(
            client, service, str(source or sql), query, watermark, name, shown, kept
        )
        found = import_rows(
            client,
            service,
            opened,
            name=name,
            refusals=kept,
            file=file,
            digest=digest_of_file(source) if source else "",
            reference=reference,
            strict=strict,
            passed=passed,
        )
    _say_imported(service, found, kept)
    emit(found, f"{found.imported}\nnext: doorstep monitor {service}", as_json=json)


def _say_imported(service: str, found: Result, kept: Refusals) -> None:
    done(
        f"{found.imported:,} of {plural(found.rows, 'row')} imported for {service}, "
        f"{plural(found.known, 'was', 'were')} there already, {plural(found.outcomes, 'outcome')}"
    )
    if found.refused:
        warn(f"{plural(found.refused, 'row')} refused, see {found.kept}: {kept.worst()}")
    for said in found.mixed:
        warn(f"{said}: the column is a category; contract.inputs can say what it is")
    note(f"compared with: {found.reference}")


def _require_source(is_query: bool, query: str, watermark: str, help_line: str) -> None:
    from doorstep.core.errors import UsageError

    if is_query != bool(query) or (watermark and not query):
        said = "expected a FILE, or the URL of a database with --query and, to go on, --watermark"
        raise UsageError("which-source", said, help_line)


def _refusals(source: str | Path, *, is_only_copy: bool = False) -> Any:
    import contextlib

    from doorstep.cli.refusals import Refusals

    return contextlib.closing(Refusals(Path(f"{source}.refused.jsonl"), is_only_copy=is_only_copy))


def _opened(
    client: Any, service: str, source: str, query: str, watermark: str, name: str, shown: Any,
    refusals: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """(gives the rows, is called when those that it gave are recorded)."""
    from doorstep.cli.marked import MarkedQuery
    from doorstep.cli.sources import rows_of_file
    from doorstep.formats.table import require_table

    shown.stage(f"importing {name}")
    if "://" in source:
        marked = MarkedQuery(client, service, source, query, watermark)

        def keep() -> None:
            refusals.sync()  # what was refused is not asked for again either
            marked.keep()

        return marked.rows, keep
    path = Path(source)
    require_table(path)
    return (
        lambda: rows_of_file(path, lambda share: shown.stage(f"importing {name}", share)),
        lambda: None,
    )


def follow(
    service: Service,
    source: Annotated[str, typer.Argument(help="nats://HOST:4222")],
    stream: Annotated[str, typer.Option("--stream", help="The JetStream stream.")],
    subject: Annotated[
        str, typer.Option("--subject", help="Only of this subject; default: all of the stream.")
    ] = "",
    durable: Annotated[
        str, typer.Option("--durable", help="Name of the consumer; default: doorstep-SERVICE.")
    ] = "",
    drain: Annotated[
        bool, typer.Option("--drain", help="End when nothing is waiting any more.")
    ] = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Take outcomes from a NATS JetStream as they come, until it is stopped.

    A message is one outcome as JSON. It is acknowledged once it is recorded; one that makes no
    sense is kept in SERVICE.refused.jsonl with the reason, and not delivered again.
    """
    from doorstep.cli.following import Following, follow_outcomes

    asked = Following(
        url=source,
        stream=stream,
        subject=subject,
        durable=durable or f"doorstep-{service}",
        drain=drain,
    )
    with connect(url, home) as client, _refusals(service, is_only_copy=True) as refusals:
        told = follow_outcomes(client, service, asked, refusals, note)
    done(f"{plural(told.recorded, 'outcome')} recorded for {service}")
    if told.refused:
        warn(f"{told.refused:,} messages refused, see {refusals.kept}: {refusals.first}")
    emit(told, f"{told.recorded}", as_json=json)
