"""Versions: trust, register, show, list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doorstep.cli.options import Home, Json, Url, Why, connect
from doorstep.cli.output import MARKS, done, emit, note, progress, say_goal, table, warn, when
from doorstep.core.plural import plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from doorstep.monitor.surface import GoalNow
    from doorstep.register.model_file import Source
    from doorstep.register.surface import Version

VersionName = Annotated[str, typer.Argument(help="SERVICE@NUMBER, such as loans@3.")]
CATEGORIES_SHOWN = 6
DIGEST_SHOWN = 12
FILES_SHOWN = 8


def add_to(app: typer.Typer) -> None:
    app.command("trust")(trust)
    app.command("register")(register)
    app.command("show")(show)
    app.command("list")(list_versions)


def trust(
    file: Annotated[str, typer.Argument(help="A model file, or file.py:function.")],
    why: Why,
    code: Annotated[
        list[Path] | None,
        typer.Option(help="Code that it needs too, as runtime.code names it; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Sign that you made a file and its code. Only then is one that can run code ever loaded."""
    from doorstep.cli.vouching import fuller_command, trust_store
    from doorstep.core.instant import SystemClock
    from doorstep.kernel.trust import who_am_i
    from doorstep.register.model_file import find_source

    found = find_source(file, tuple(code or ()))
    who = who_am_i()
    signed = trust_store().sign(found.digest, why=why, who=who, at=SystemClock().now())
    for one in _odd_names(found.main):
        warn(f"{found.main.name} would call {one} when it is loaded")
    done(f'trusted {_covered(found)}: "{why}", signed by {who}')
    if command := fuller_command(found):
        note(f"doorstep.yaml names code that runs too; to vouch for all of it: {command}")
    if json:
        emit(signed, "", as_json=True)


def _covered(found: Source) -> str:
    """The file and its SHA-256, or all files that run and their one digest."""
    if len(found.running) == 1 and not found.entry:
        return f"{found.main.name} (sha256 {found.digest[:DIGEST_SHOWN]})"
    names = [str(path) for path in found.running.values()]
    more = len(names) - FILES_SHOWN
    shown = ", ".join(names[:FILES_SHOWN]) + (f" and {more} more" if more > 0 else "")
    count = f"{len(names):,} file" + ("s" if len(names) > 1 else "")
    return f"{found.name}, {count}: {shown} (digest {found.digest[:DIGEST_SHOWN]})"


def _odd_names(path: Path) -> tuple[str, ...]:
    """What a pickle would import that has no business in a model."""
    from doorstep.core.errors import DoorstepError
    from doorstep.formats.recognise import (
        pickle_globals,
        read_model_file,
        recognise,
        suspicious_globals,
    )

    try:
        data = read_model_file(path)
        if recognise(data, path.name) not in ("pickle", "joblib"):
            return ()
    except DoorstepError:
        return ()  # Whether it is a model is for `init` and `register` to say.
    return suspicious_globals(pickle_globals(data))


def register(
    model: Annotated[str, typer.Argument(help="skops, pickle, joblib, ONNX, or file.py:function.")],
    file: Annotated[Path, typer.Option("--file", help="The service file.")] = Path("doorstep.yaml"),
    gates: Annotated[bool, typer.Option("--gate/--no-gate", help="Run the gates too.")] = True,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Make a version of a model. Built and compared here, uploaded, then put through its gates."""
    from doorstep.cli.registering import next_command, parts_of, register_model
    from doorstep.cli.saying import say

    with connect(url, home) as client, progress() as shown:
        found = register_model(client, model, file, shown.stage, with_gates=gates)
    say(parts_of(found))
    note(f"next: {next_command(found)}")
    name = f"{found.version.service}@{found.version.number}"
    emit({"version": found.version, "gates": found.run}, name, as_json=json)
    verdict = "pass" if found.run is None else found.run.verdict.value
    raise typer.Exit({"pass": 0, "fail": 1, "inconclusive": 4}[verdict])


def show(version: VersionName, json: Json = False, url: Url = None, home: Home = None) -> None:
    """Show a version. What it is made of, where it came from, what it reads."""
    with connect(url, home) as client:
        found = client.version(version)
        status = client.status(found.service)
    goals = [one for seen in status for one in seen.goal if one.version == found.number]
    emit(found, lambda: version_text(found, goals), as_json=json)


def version_text(found: Version, goals: Sequence[GoalNow] = ()) -> str:
    """What `doorstep show` prints."""
    manifest, lineage = found.manifest, found.manifest.lineage
    answers = ", ".join(manifest.labels) or "a number"
    if manifest.positive:
        answers += f" (about {manifest.positive!r}, from {manifest.threshold:g})"
    facts = [
        ("state", found.state),
        *_approvals(found),
        *(("goal", f"{one.text}: {say_goal(one)}") for one in goals),
        ("digest", found.digest),
        ("registered", f"{when(found.registered_at)} by {found.by}"),
        ("serves as", _form(found)),
        ("trusted", "yes, signed" if found.trusted else "no"),
        ("task", f"{manifest.task} of {manifest.label!r}: {answers}"),
        ("model", lineage.estimator or manifest.native.family),
        ("code", lineage.code_commit or "not in git"),
        *([("python", f"{lineage.python}; " + _listed(lineage.libraries))]
          if lineage.python else []),
        *((one.role, f"{one.name}, {plural(one.rows, 'row')}, {one.digest[:DIGEST_SHOWN]}")
          for one in lineage.data),
    ]  # fmt: skip
    fields = [
        (one.name, kind, one.type, _bounds(one.range_min, one.range_max, one.values), _flags(one))
        for kind, fields in (
            ("input", manifest.contract.inputs),
            ("context", manifest.contract.context),
        )
        for one in fields
    ]
    said = [f"{MARKS[one.verdict.value]} {one.check}: {one.reason}" for one in found.findings]
    head = ("field", "as", "type", "values", "")
    parts = [f"{found.service}@{found.number}", table(("", ""), facts).lstrip("\n")]
    return "\n\n".join([*parts, "\n".join(said), table(head, fields)])


def _approvals(found: Version) -> Iterator[tuple[str, str]]:
    if found.approved_by:
        yield "approved by", ", ".join(found.approved_by)
    if (it := found.unapproved) is not None:
        people = f"of {', '.join(it.of)}" if it.of else f"of people other than {it.by}"
        said = f"{plural(it.missing, 'more yes', 'more yeses')} {people}"
        yield "needs", f"{said}; next: doorstep approve --help"


def _form(found: Version) -> str:
    if found.state == "watched":
        return "nothing here: it is watched, and served elsewhere"
    return f"{found.form}, {found.placement}, {found.speed_ms_p99:.2f} ms a row (p99)"


def _listed(libraries: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in libraries.items())


def _bounds(low: float | None, high: float | None, values: tuple[str, ...]) -> str:
    if values:
        more = len(values) - CATEGORIES_SHOWN
        return ", ".join(values[:CATEGORIES_SHOWN]) + (f" and {more} more" if more > 0 else "")
    if low is None and high is None:
        return ""
    ends = ("–" if one is None else f"{one:g}" for one in (low, high))
    return " to ".join(ends)


def _flags(field: object) -> str:
    flags = (
        ("" if getattr(field, "required", True) else "may be missing"),
        ("personal" if getattr(field, "personal", "no") != "no" else ""),
        ("protected" if getattr(field, "protected", False) else ""),
    )
    return ", ".join(one for one in flags if one)


def list_versions(
    service: Annotated[str, typer.Argument(help="Only of this service; default: all.")] = "",
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """List the versions of a service, or of all services."""
    with connect(url, home) as client:
        names = [service] if service else [one.service for one in client.services()]
        found = [version for name in names for version in client.versions(name)]
    found.sort(key=lambda one: (one.service, -one.number))
    rows = [
        (
            f"{one.service}@{one.number}",
            one.state,
            f"{one.form} ({one.placement})",
            when(one.registered_at),
            one.by,
            one.digest[:DIGEST_SHOWN],
        )
        for one in found
    ]
    head = ("version", "state", "serves as", "registered", "by", "digest")
    empty = "no versions yet\nnext: doorstep register MODEL"
    emit(found, lambda: table(head, rows) if rows else empty, as_json=json)
