"""Start: init, check, doctor, up, down, console."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doorstep.cli.options import Home, Json, Url, connect
from doorstep.cli.output import done, emit, fail, note, progress, table, warn
from doorstep.core.plural import plural

if TYPE_CHECKING:
    from doorstep.cli.drafting import Asked, Drafted
    from doorstep.compose.up import Ready
    from doorstep.journal.options import JournalOptions

Number = Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes any free port.")]
GrpcPort = Annotated[
    int | None, typer.Option(help="Serve gRPC too, at this port; needs the extra `grpc`.")
]
Cert = Annotated[
    str, typer.Option("--tls-cert", help="Of the data port: a certificate chain, PEM.")
]
Key = Annotated[str, typer.Option("--tls-key", help="Its key, PEM.")]
ClientCa = Annotated[
    str, typer.Option("--tls-client-ca", help="Clients must show a certificate of these.")
]
AccessLog = Annotated[
    str, typer.Option("--access-log", help="JSON lines of a sample of the requests.")
]

DEFAULT_FILE = Path("doorstep.yaml")


def add_to(app: typer.Typer) -> None:
    for command in (init, check, doctor, up, down, console):
        app.command(command.__name__)(command)


def init(
    model: Annotated[str, typer.Argument(help="skops, pickle, joblib, ONNX, or file.py:function.")],
    train: Annotated[Path, typer.Option("--train", help="CSV or Parquet it was trained on.")],
    label: Annotated[str, typer.Option("--label", help="The column that it predicts.")],
    holdout: Annotated[
        Path | None, typer.Option("--holdout", help="Rows that it has never seen.")
    ] = None,
    service: Annotated[str, typer.Option("--service", help="Default: from the folder.")] = "",
    positive: Annotated[
        str, typer.Option("--positive", help="The label that it is all about.")
    ] = "",
    out: Annotated[Path, typer.Option("--out", help="The service file.")] = Path("doorstep.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    json: Json = False,
) -> None:
    """Write the service file of a model. It is read from the model and all of its data."""
    from doorstep.cli.drafting import Asked, check_files, draft_service, write_split
    from doorstep.core.errors import RefusedError

    asked = Asked(model, train, label, out, holdout, service, positive, force)
    check_files(asked)
    try:
        with progress() as shown:
            shown.stage(f"looking at {model} and {train}")
            found = draft_service(asked)
    except RefusedError as error:
        if error.code != "untrusted-model" or json:
            raise
        fail(error.message.replace(": doorstep trust", ":  doorstep trust"))
        raise typer.Exit(1) from None
    if found.split is not None:
        write_split(found.split, found.files, force=force)
    out.write_text(found.text, encoding="utf-8")
    _say_drafted(found, asked)
    if json:
        emit(_drafted_values(found, asked), "", as_json=True)


def _say_drafted(found: Drafted, asked: Asked) -> None:
    from doorstep.cli.saying import say

    parts = [("✓", f"{found.kind}, {plural(found.columns, 'column')}")]
    if found.personal:
        parts.append(("!", f"{_look(found.personal, 'personal')}: set to pseudonymise"))
    if found.protected:
        parts.append(("!", f"{_look(found.protected, 'protected')}: marked, for fairness"))
    say([*parts, ("✓", f"wrote {asked.out} ({plural(found.lines, 'line')})")])
    if found.split is not None:
        train, holdout = found.files
        warn(
            f"one file was given, so a split was made: {found.split.rule} ({holdout.name}). The "
            f"model may have seen them: train it again on {train.name}, then name that under "
            "data.train; until then its quality is inconclusive"
        )
    for one in found.warnings:
        warn(one)
    for one in found.notes:
        note(f"  {one}")
    note(f"next: doorstep up -d, then doorstep register {asked.model}")


def _look(names: tuple[str, ...], how: str) -> str:
    count = "1 column looks" if len(names) == 1 else f"{plural(len(names), 'column')} look"
    return f"{count} {how} ({', '.join(names)})"


def _drafted_values(found: Drafted, asked: Asked) -> dict[str, Any]:
    return {
        "file": str(asked.out),
        "lines": found.lines,
        "service": found.draft.service,
        "task": found.draft.task,
        "labels": found.labels,
        "positive": found.draft.positive,
        "inputs": list(found.draft.inputs),
        "context": list(found.draft.context),
        "key": found.draft.key,
        "personal": found.personal,
        "protected": found.protected,
        "split": "" if found.split is None else found.split.rule,
        "notes": found.notes,
        "warnings": found.warnings,
    }


def check(
    file: Annotated[Path, typer.Argument(help="The service file.")] = DEFAULT_FILE,
    section: Annotated[
        str, typer.Argument(help="With --explain: a section such as release, or all.")
    ] = "",
    explained: Annotated[
        bool, typer.Option("--explain", help="What it promises, by section; or each key of one.")
    ] = False,
    environment: Annotated[
        str | None, typer.Option("--environment", help="With its differences.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Predictions a second, for the size of the journal.")
    ] = 10,
    json: Json = False,
) -> None:
    """Check a service file. Every problem is named with its line and column.

    --explain shows its sections, and what it says of each; `doorstep check --explain release` each
    key of one: its value, what it is for, how it is written, and why its default is what it is.
    """
    from doorstep.cli.checking import check_file
    from doorstep.cli.explaining import explained_text, sections_of, which

    file, section = which(file, section, explained)
    found = check_file(file, environment, rate)
    if found.problems:
        fail(f"{file} has {_count(len(found.problems), 'problem')}")
    for sentence in (one.sentence for one in found.thin):
        warn(sentence)
    for one in found.advice:
        warn(f"{one.path} {one.sentence}")
    if not found.problems:
        done(f"{file}: {found.service}, no problems")
        if found.journal:
            note(f"  {found.journal}")
    lines = [f"{file}:{one.line}:{one.column}: {one.text}" for one in found.problems]
    if explained:
        lines.append(explained_text(found.explained, section))
    shown = found if explained else found.without_explained()
    if lines or json:
        emit(shown, "\n".join(lines), as_json=json)
    if not explained and (wrong := sections_of(found.problems)):
        named = "" if file == DEFAULT_FILE else f"{file} "
        others = f" (or {', '.join(wrong[1:])})" if wrong[1:] else ""
        note(f"next: doorstep check {named}{wrong[0]} --explain" + others)
    raise typer.Exit(1 if found.problems else 0)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def doctor(json: Json = False, home: Home = None) -> None:
    """Say what is installed, missing, running or wrong here."""
    from doorstep.cli.doctoring import MARK, examine, verdict_of

    found = examine(home)
    rows = [(MARK[one.state], one.subject, one.text) for one in found]

    def text() -> str:
        hints = [f"next: {one.next}" for one in found if one.next]
        return "\n".join([table(("", "what", "found"), rows), *hints])

    emit(found, text, as_json=json)
    raise typer.Exit(verdict_of(found))


JournalWord = Annotated[
    str, typer.Option(metavar="MODE", help="durable: answer when the disk has it; replicated.")
]
Replica = Annotated[
    str, typer.Option(metavar="URL", help="Of the second place; default: DOORSTEP_REPLICA.")
]
ReplicaDays = Annotated[
    float, typer.Option(metavar="DAYS", help="It forgets what is older; default: 30.")
]
JournalMax = Annotated[
    float, typer.Option(metavar="GB", help="With more, the oldest days go; default: 100.")
]
DiskReserve = Annotated[float, typer.Option(metavar="MB", help="To be left free; default: 256.")]
DiskLow = Annotated[
    str, typer.Option(metavar="WHAT", help="Then: refuse, or no-inputs: record without them.")
]
StoreUrl = Annotated[
    str, typer.Option("--store", metavar="URL", help="s3://BUCKET/PREFIX for the journal, or none.")
]
Memory = Annotated[
    int, typer.Option(min=0, metavar="MB", help="For all models; 0: half of the machine's.")
]
Database = Annotated[
    str | None, typer.Option("--database", help="URL; default: SQLite in the home.")
]
NewEnvironment = Annotated[
    str | None, typer.Option("--environment", help="The name of a new home.")
]


def up(
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Start it and return.")] = False,
    home: Home = None,
    database: Database = None,
    data_port: Number = None,
    health_port: Number = None,
    grpc_port: GrpcPort = None,
    control_port: Number = None,
    environment: NewEnvironment = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64)] = 2,
    memory: Memory = 0,
    tls_cert: Cert = "",
    tls_key: Key = "",
    tls_client_ca: ClientCa = "",
    access_log: AccessLog = "",
    access_sample: Annotated[str, typer.Option("--access-sample", help="How many.")] = "1%",
    journal: JournalWord = "default",
    journal_max: JournalMax = 100,
    disk_reserve: DiskReserve = 256,
    disk_low: DiskLow = "refuse",
    replica: Replica = "",
    replica_days: ReplicaDays = 30,
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Run Doorstep over a home. Stop it with Ctrl-C or `doorstep down`."""
    import os

    from doorstep.journal.away import require_store
    from doorstep.kernel.settings import Flags, read_settings
    from doorstep.serve.observe_options import observe_options
    from doorstep.serve.tls import tls_files

    flags = Flags(
        home=home, database=database, environment=environment, data_port=data_port,
        health_port=health_port, grpc_port=grpc_port, control_port=control_port,
    )  # fmt: skip
    settings = read_settings(flags, os.environ, Path.cwd())
    tls = tls_files(tls_cert, tls_key, tls_client_ca)
    keep = _keep(journal, journal_max, disk_reserve, disk_low, replica, replica_days)
    words = observe_options(access_log, access_sample).words + keep.words
    words += ["--memory", str(memory)] if memory else []
    if store:
        require_store(store)
    if detach:
        from doorstep.cli.running import start_detached

        with progress() as shown:
            shown.stage("starting")
            words += ["--store", store] if store else []
            ready = start_detached(settings, workers, tls, words)
        say_ready(ready, as_json=json)
        return
    from doorstep.compose.up import UpOptions
    from doorstep.compose.up import up as run

    options = UpOptions(
        settings=settings, workers=workers, tls=tls, node_words=tuple(words),
        replica=keep.replica, store=store,
    )  # fmt: skip
    run(options, lambda ready: say_ready(ready, as_json=json))


def _keep(
    mode: str, gb_max: float, reserve_mb: float, disk_low: str, replica: str, replica_days: float
) -> JournalOptions:
    """How the journal is kept. Whom we start is told the replica's URL by the environment: a
    command line can be read by everybody."""
    import os

    from doorstep.journal.options import journal_options
    from doorstep.journal.replica import VARIABLE

    url = replica or os.environ.get(VARIABLE, "")
    found = journal_options(mode, gb_max, reserve_mb, disk_low, url, replica_days)
    os.environ[VARIABLE] = found.replica
    return found


def say_ready(ready: Ready, *, as_json: bool) -> None:
    if as_json:
        # One line, so that whoever started this process can tell it from what is said elsewhere.
        import msgspec

        print(msgspec.json.encode(ready).decode(), flush=True)
        return
    grpc = f"   grpc {ready.grpc_url}" if ready.grpc_url else ""
    done(f"console {ready.console_url}   predict {ready.data_url}{grpc}")
    made = ", made now (another: --home DIR)" if ready.home_is_new else ""
    note(f"  home {ready.home}{made}")
    note(f"  sign in once with {ready.invite}")


def down(home: Home = None, json: Json = False) -> None:
    """Stop what runs over a home. What is under way is answered first."""
    from doorstep.cli.running import home_folder, stop

    folder = home_folder(home)
    with progress() as shown:
        shown.stage("stopping")
        found = stop(folder)
    done(f"stopped ({found})" if str(found) else f"nothing is running in {folder}")
    if json:
        emit(found, "", as_json=True)


def console(json: Json = False, url: Url = None, home: Home = None) -> None:
    """Print a link that signs a browser in. It works once."""
    with connect(url, home) as client:
        link = client.invite()
    emit({"url": link}, link, as_json=json)
