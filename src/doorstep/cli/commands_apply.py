"""Edits of the service file: diff, apply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doorstep.cli.options import Home, Json, Url, connect
from doorstep.cli.output import done, emit, note, table, warn

if TYPE_CHECKING:
    from doorstep.register.surface import KeyChange, Rule, ServiceDiff

VALUE_CHARS_SHOWN = 60
File = Annotated[Path, typer.Argument(help="The service file.")]
DEFAULT_FILE = Path("doorstep.yaml")


def add_to(app: typer.Typer) -> None:
    app.command("diff")(diff)
    app.command("apply")(apply)


def diff(file: File = DEFAULT_FILE, json: Json = False, url: Url = None, home: Home = None) -> None:
    """Show what an edited service file would change: each key, now, after, and when."""
    text = _read(file)
    with connect(url, home) as client:
        found = client.diff(text, str(file))
    _say_same(found)
    emit(found, lambda: diff_text(found), as_json=json)
    if not found.is_same:
        note(f"next: doorstep apply {file}")


def apply(
    file: File = DEFAULT_FILE, json: Json = False, url: Url = None, home: Home = None
) -> None:
    """Make an edited service file the one in effect: a numbered revision in the ledger."""
    text = _read(file)
    with connect(url, home) as client:
        found = client.diff(text, str(file))
        revision = client.apply(text, str(file))
        rule = client.service(found.service).rule
    _say_same(found)
    emit(revision, lambda: diff_text(found), as_json=json)
    if revision.created:
        but = ", but for who must say yes" if rule.waiting == revision.revision else ""
        done(f"revision {revision.revision} of {revision.service} is in effect{but}")
    if rule.waiting:
        say_waiting(found.service, rule)


def say_waiting(service: str, rule: Rule) -> None:
    """That a looser rule does not hold yet."""
    yes = f" ({', '.join(rule.given)} did)" if rule.given else ""
    need = "1 person" if rule.needs == 1 else f"{rule.needs} people"
    warn(
        f"revision {rule.waiting} asks fewer people, or lets more, than the rule in force: that "
        f"holds once {need} other than who applied it said yes to it{yes}; until then holds "
        f"{rule.said}"
    )
    note(f'next: doorstep approve {service} --revision {rule.waiting} --why "..."')


def _read(file: Path) -> str:
    from doorstep.cli.checking import read_text
    from doorstep.core.errors import InputError

    try:
        return read_text(file).decode()
    except UnicodeDecodeError:
        hint = f"doorstep check {file}"
        raise InputError("bad-service-file", f"{file} is not UTF-8 text", hint) from None


def _say_same(found: ServiceDiff) -> None:
    if found.is_same:
        done(f"revision {found.revision} of {found.service} is this file already: nothing changes")
    elif not found.changes:
        note(f"  only comments and layout differ from revision {found.revision}, or what holds in "
             "other environments")  # fmt: skip
    if loose := [one.key for one in found.changes if one.loosens]:
        warn(f"loosens what a version must show, or who may: {', '.join(loose)}")


def diff_text(found: ServiceDiff) -> str:
    """The table that `doorstep diff` prints."""
    head = ("key", "now", "after", "takes effect", "")
    rows = [_row(one) for one in found.changes]
    return table(head, rows) if rows else f"{found.service}: no key changes"


def _row(one: KeyChange) -> tuple[str, ...]:
    now, after = (_clip(value) for value in (one.now, one.after))
    return one.key, now, after, one.takes_effect, "loosens" if one.loosens else ""


def _clip(value: str) -> str:
    if len(value) > VALUE_CHARS_SHOWN:
        return f"{value[: VALUE_CHARS_SHOWN - 1]}…"
    return value or "–"
