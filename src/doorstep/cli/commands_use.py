"""Use and watch: predict, prediction, explain, monitor, alerts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doorstep.cli import commands_journal, commands_outcomes
from doorstep.cli.options import Home, Json, Url, connect
from doorstep.cli.output import emit, percent, progress, table, when
from doorstep.core.plural import plural

if TYPE_CHECKING:
    from doorstep.explain.surface import Explanation
    from doorstep.journal.surface import Prediction
    from doorstep.monitor.surface import MonitorView

Service = Annotated[str, typer.Argument(help="The service.")]
PredictionId = Annotated[str, typer.Argument(help="REQUEST-ID.ROW, as the answer gave it.")]


def add_to(app: typer.Typer) -> None:
    app.command("predict")(predict)
    commands_outcomes.add_to(app)
    journal = typer.Typer(
        no_args_is_help=True,
        help="Look into the predictions that were made; import those of others.",
    )
    journal.command("import")(commands_outcomes.import_journal)
    journal.command("list")(list_predictions)
    journal.command("show")(show_prediction)
    journal.command("query")(commands_journal.query)
    journal.command("export")(commands_journal.export)
    journal.command("restore")(commands_journal.restore)
    app.add_typer(journal, name="journal")
    app.command("explain")(explain)
    app.command("monitor")(monitor)
    app.command("alerts")(alerts)


def predict(
    service: Service,
    source: Annotated[str, typer.Argument(help="A CSV, Parquet or JSON file, or JSON itself.")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="Only the first rows.")] = 1000,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="Certificates to believe; else SSL_CERT_FILE.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option("--cert", help="Our certificate, where a node asks for one.")
    ] = None,
    cert_key: Annotated[Path | None, typer.Option("--cert-key", help="Its key.")] = None,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Ask a service for predictions of the rows of a file, or of JSON on the command line.

    An API key is taken from DOORSTEP_API_KEY.
    """
    import os

    from doorstep.cli.asking import ask_service, ids_of, rows_of
    from doorstep.cli.reaching import pair_of, reach

    shown_cert = pair_of(cert, cert_key)
    with connect(url, home) as client:
        data_url = client.installation().data_url
        found_service = client.service(service)
        version = client.version(f"{service}@{_answering(found_service, client)}")
    asked = rows_of(source, version.manifest.contract, rows, ids_of(found_service))
    with progress() as shown:
        shown.stage(f"asking {data_url}")
        answers = ask_service(reach(data_url, os.environ, ca, shown_cert), service, asked)
    found = [one for answer in answers for one in answer["predictions"]]

    def text() -> str:
        lines = [(one["id"], _said(one), ", ".join(one.get("warnings", ()))) for one in found]
        shown = table(("prediction", "answer", "warnings"), lines)
        version = answers[0]["version"] if answers else "–"
        if version == 0:
            return f"the fallback of {service}\n{shown}\nnext: doorstep status {service}"
        return f"{service}@{version}\n{shown}"

    emit(answers if len(answers) != 1 else answers[0], text, as_json=json)


def _answering(service: Any, client: Any) -> int:
    """The version whose contract rows are read by: the champion, or the first being released."""
    if service.champion is not None:
        return int(service.champion)
    releases = client.releases(service.service)
    if releases:
        return int(releases[0].challenger)
    from doorstep.core.errors import RefusedError

    raise RefusedError(
        "nothing-released",
        f"no version of {service.service} was released yet",
        f"doorstep release start {service.service}@1",
    )


def _said(one: dict[str, Any]) -> str:
    if "value" in one:
        return f"{one['value']:.6g}"
    chances = one.get("probabilities") or {}
    answer = str(one.get("answer"))
    chance = chances.get(answer)
    return answer if chance is None else f"{answer} ({percent(chance)})"


def list_predictions(
    service: Service,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    key: Annotated[str, typer.Option("--key", help="Only of this key.")] = "",
    subject: Annotated[
        str, typer.Option("--subject", help="Only of this person, by the field ids.subject.")
    ] = "",
    version: Annotated[
        int, typer.Option("--version", min=0, help="Only what this version answered.")
    ] = 0,
    answer: Annotated[str, typer.Option("--answer", help="Only this answer.")] = "",
    status: Annotated[str, typer.Option("--status", help="Such as ok, failed, timed-out.")] = "",
    since: commands_journal.Since = "",
    until: commands_journal.Until = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """List the newest predictions of a service."""
    with connect(url, home) as client, progress(waiting="searching the journal"):
        found = client.predictions(
            service,
            limit,
            key,
            subject=subject,
            version=version,
            answer=answer,
            status=status,
            since=commands_journal.instant(since),
            before=commands_journal.instant(until),
        )
    rows = [
        (one.id, when(one.at), _who(one), _shown(one.answer), _shown(one.outcome), one.status)
        for one in found
    ]
    head = ("prediction", "at", "answered by", "answer", "outcome", "status")
    asked = any((key, subject, version, answer, status, since, until))
    empty = f"no predictions yet\nnext: doorstep predict {service} FILE"
    empty = "no prediction matches" if asked else empty
    emit(found, lambda: table(head, rows) if rows else empty, as_json=json)


def _shown(answer: str | float | None) -> str:
    if answer is None:
        return "–"
    return f"{answer:.6g}" if isinstance(answer, float) else str(answer)


def _given(value: object) -> str:
    """A field as it was sent: whole numbers are recorded as floats."""
    if value is None:
        return "–"
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _who(one: Prediction) -> str:
    who = "nobody" if one.answered_by is None else f"@{one.answered_by}"
    return who if one.answered_by == one.assigned else f"{who} for @{one.assigned}"


PERSONAL = {
    "sealed": "personal fields: sealed; --open WHY shows them, and the ledger says so",
    "erased": "personal fields: erased; nothing opens them any more",
    "lost": "personal fields: their keys are lost; restore personal.db from its newest backup",
}


def show_prediction(
    prediction: PredictionId,
    open_for: Annotated[
        str, typer.Option("--open", help="Open sealed fields: the reason, kept in the ledger.")
    ] = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Show one prediction: input, answer, version, outcome."""
    with connect(url, home) as client:
        found = (
            client.open_prediction(prediction, open_for)
            if open_for
            else client.prediction(prediction)
        )

    def text() -> str:
        values = [*found.inputs.items(), *((f"{k} (context)", v) for k, v in found.context.items())]
        lines = [
            f"{found.service}, {when(found.at)}: {_shown(found.answer)} by {_who(found)} "
            f"({found.status}, {found.latency_ms:.2f} ms)",
            *([f"key: {found.key}"] if found.key else []),
            f"outcome: {'not yet known' if found.outcome is None else _shown(found.outcome)}",
            *(f"warning: {one}" for one in found.warnings),
            *([PERSONAL[found.personal]] if found.personal in PERSONAL else []),
            "",
            table(("field", "value"), [(name, _given(value)) for name, value in values]),
        ]
        return "\n".join(lines)

    emit(found, text, as_json=json)


def explain(
    prediction: PredictionId, json: Json = False, url: Url = None, home: Home = None
) -> None:
    """Say why a prediction is what it is: what each value added to the score."""
    with connect(url, home) as client, progress() as shown:
        shown.stage("explaining")
        found = client.explain(prediction)
    emit(found, lambda: explanation_text(found), as_json=json)


def explanation_text(found: Explanation) -> str:
    largest = max((abs(one.amount) for one in found.contributions), default=0.0) or 1.0
    rows = [
        (one.column, str(one.value), f"{one.amount:+.4f}", _signed_bar(one.amount / largest))
        for one in found.contributions
    ]
    reasons = [one.words for one in found.contributions[:4] if one.amount]
    of = f"score of {found.of!r}" if found.of else "value"
    return "\n".join(
        (
            f"{found.version} answered {_shown(found.answer)}: {of} {found.score:.4f} = "
            f"{found.base:.4f} on average of {found.background_rows} reference rows "
            f"{found.score - found.base:+.4f}",
            *(f"  {one}" for one in reasons),
            "",
            table(("column", "value", "adds", ""), rows, right=(2,)),
        )
    )


def _signed_bar(share: float, width: int = 12) -> str:
    filled = round(abs(share) * width)
    bar = "█" * filled
    return f"{bar:>{width}}│" if share < 0 else f"{'':>{width}}│{bar}"


def monitor(service: Service, json: Json = False, url: Url = None, home: Home = None) -> None:
    """Show what is measured of a service now: drift, quality, errors, latency, promises."""
    with connect(url, home) as client, progress(waiting="measuring"):
        found = client.monitor(service)
    emit(found, lambda: monitor_text(found), as_json=json)


def monitor_text(found: MonitorView) -> str:
    """What `doorstep monitor` prints: every number beside the window that it is of."""
    from doorstep.monitor.wording import say_ended
    from doorstep.release.wording import say_time

    if found.version is None:
        nothing = f"no version of {found.service} was released or is watched yet"
        watched = f"where it is watched: doorstep status {found.service}"
        return f"{nothing}\nnext: doorstep release start {found.service}@1; {watched}"
    rows = [
        (
            "!" if one.drifted else "",
            one.column,
            "–" if one.shift_sd is None else f"{one.shift_sd:.2f}",
            "–" if one.psi is None else f"{one.psi:.3f}",
            percent(one.nulls_now),
            "–" if one.p is None else f"{one.p:.2g}",
        )
        for one in found.columns
    ]
    quality = [
        f"{name} {value:.3f} [{low:.3f}, {high:.3f}]"
        for name, (value, low, high) in found.quality.items()
    ]
    lines = [
        f"quality, {say_ended(found.quality_s, found.quality_delay_s)}: "
        f"{', '.join(quality) or 'not yet known: no outcomes'} "
        f"(outcomes of {percent(found.labelled, 0)}, {plural(found.labelled_rows, 'row')})",
        f"traffic, last {say_time(found.traffic_s)}: errors {percent(found.errors, 2)} · "
        f"failed by its version {percent(found.failed, 2)} · p99 "
        + ("–" if found.latency_ms_p99 is None else f"{found.latency_ms_p99:.1f} ms"),
        f"columns, {say_time(found.window_s)} from {when(found.since)}: "
        f"{plural(found.rows, 'row')} of {found.service}@{found.version}",
        "",
        table(("", "column", "shift sd", "psi", "missing", "p"), rows, right=(2, 3, 4, 5)),
    ]
    if found.values:
        lines += ["", _values(found), ""]
    lines += [f"{one.state:14}  {one.text}  ({one.measured})" for one in found.promises]
    lines += [f"! {one.sentence}" for one in found.findings]
    return "\n".join(lines)


def _values(found: MonitorView) -> str:
    """What cases were worth, by version and day of their predictions."""
    rows = [
        (
            f"{found.service}@{one.version}",
            one.day or "all days",
            f"{one.rows:,}",
            _with_ends(one.mean),
            _with_ends(one.total),
        )
        for one in found.values
    ]
    head = ("version", "day", "known", f"mean, {found.unit}", f"sum, {found.unit}")
    return table(head, rows, right=(2, 3, 4))


def _with_ends(found: tuple[float, float | None, float | None]) -> str:
    value, low, high = found
    ends = "" if low is None or high is None else f" [{low:,.2f}, {high:,.2f}]"
    return f"{value:,.2f}{ends}"


def alerts(
    service: Annotated[str, typer.Argument(help="Only of this service.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """List the open findings, worst first."""
    with connect(url, home) as client:
        if service:
            client.service(service)  # a name that is mistyped has no findings either
        found = client.findings(service, "" if every else "open").findings
        killed = [one.headline for one in client.status(service) if one.state == "killed"]
    rows = [
        (one.severity, one.service, one.kind, when(one.since), one.state, one.sentence)
        for one in found
    ]
    head = ("severity", "service", "kind", "since", "state", "finding")
    nothing = "no findings" if every else "nothing is open"
    shown = table(head, rows) if rows else "" if killed else nothing
    emit(found, "\n".join([*killed, *([shown] if shown else [])]), as_json=json)
