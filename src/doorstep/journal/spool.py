"""What `doorstep.Record` left in `<home>/watched/spool/<service>` becomes journal records."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from doorstep.core.errors import DoorstepError
from doorstep.core.ids import parse_name
from doorstep.core.plural import plural
from doorstep.core.servicefile import ServiceFile, stored_service_file
from doorstep.core.servicefile_watch import WatchSpec
from doorstep.journal.importing import import_rows, note_left_out, note_versions
from doorstep.journal.surface import IMPORTED_MAX, ImportedRow, ImportRows
from doorstep.journal.watched import watched_folder
from doorstep.kernel.app import App
from doorstep.register import store
from doorstep.register.views import FORM
from doorstep.register.watched import reference_of, watch_version

SPOOL, REFUSED = "spool", "refused"
FILES_A_TICK = 8
"""Of each service, of a megabyte each: the loop has other things to do as well."""
FILE_BYTES_MAX = 8 * 1024 * 1024
REFUSED_BYTES_MAX = 4 * 1024 * 1024
_log = logging.getLogger("doorstep.spool")


class Lines(msgspec.Struct, frozen=True):
    """One file. lost: requests that were left out. refused: lines that are no rows."""

    rows: list[ImportedRow]
    lost: int
    refused: list[tuple[bytes, str]]


class _Lost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    lost: int


def take_spools(app: App) -> int:
    """Import what is waiting, of services that there are; how many rows. Call it every second or
    so. Raises: OSError, and what the database raises; DoorstepError of the first service whose rows
    make no reference, when the others had their turn. What was not taken waits."""
    root = watched_folder(app.home.path) / SPOOL
    folders = sorted(one for one in root.iterdir() if one.is_dir()) if root.is_dir() else []
    if not folders:
        return 0
    with app.database.reading() as connection:
        found = [(one, store.find_service(connection, one.name)) for one in folders]
        watched = {
            row.name
            for _, row in found
            if row and any(v.form == FORM for v in store.list_versions(connection, row.name))
        }
    taken, failed = 0, None
    for folder, row in found:
        try:
            taken += _take(app, folder, row, is_known=row.name in watched) if row else 0
        except DoorstepError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return taken


def _take(app: App, folder: Path, row: store.ServiceRow, *, is_known: bool) -> int:
    files = _waiting(folder)
    # Rows are not at fault for a file that cannot be read: they wait until it can.
    stored_service_file(row.file, app.home.environment)
    if not is_known and not _first_version(app, row, files):
        return 0
    taken = 0
    for path in files[:FILES_A_TICK]:
        try:
            taken += _import(app, parse_name(row.name), lines_of(path))
        except DoorstepError as error:
            _log.warning("%s of %s cannot be taken: %s", path.name, row.name, error)
            path.rename(path.with_suffix(".bad"))
        else:
            path.unlink()
    return taken


def _waiting(folder: Path) -> list[Path]:
    left = [one for one in folder.glob("*.open") if _is_left(one)]
    return sorted(folder.glob("*.jsonl")) + left


def count_waiting(home: Path, service: str, most: int) -> int:
    """How many rows that were recorded wait for the reference, counted up to `most`."""
    found = 0
    for path in _waiting(watched_folder(home) / SPOOL / service):
        with contextlib.suppress(FileNotFoundError):  # taken meanwhile
            found += len(lines_of(path).rows)
        if found >= most:
            break
    return found


def _is_left(path: Path) -> bool:
    """Whether the process that wrote it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):  # the second: it was given to its reader
        return False
    return True


def lines_of(path: Path) -> Lines:
    """The rows of one file. The last line may be torn: then it is refused."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX)
    rows: list[ImportedRow] = []
    refused: list[tuple[bytes, str]] = []
    lost = 0
    row, left_out = msgspec.json.Decoder(ImportedRow), msgspec.json.Decoder(_Lost)
    for line in data.splitlines():
        try:
            if line.startswith(b'{"lost"'):
                lost += left_out.decode(line).lost
            else:
                rows.append(row.decode(line))
        except (msgspec.DecodeError, RecursionError) as error:
            refused.append((line, str(error)))
    return Lines(rows, lost, refused)


def _first_version(app: App, row: store.ServiceRow, files: list[Path]) -> bool:
    """Whether there are rows enough to compare later ones with; these are then the reference."""
    file = stored_service_file(row.file, app.home.environment)
    needed = (file.watch or WatchSpec()).reference_rows
    good: list[ImportedRow] = []
    for path in files:
        good += [one for one in lines_of(path).rows if not one.error]
        if len(good) >= needed:
            break
    else:
        return False
    good = good[:needed]
    said = (
        f"the first {plural(len(good), 'row')} that were recorded, because no reference was given"
    )
    reference = reference_of([_record(one) for one in good], _as_recorded(file, good), said)
    made, _ = watch_version(app, row.file, good[0].version, reference)
    note_versions(app.home.path, row.name, {good[0].version: made})
    return True


def _record(row: ImportedRow) -> dict[str, Any]:
    scores = {f"score of {label}": one for label, one in row.scores.items()}
    return {**row.fields, **scores, "(answer)": row.answer, "(outcome)": row.outcome}


def _as_recorded(file: ServiceFile, rows: list[ImportedRow]) -> ServiceFile:
    """The service file, for columns as `_record` names them."""
    labels = rows[0].scores
    watch = WatchSpec(
        prediction="(answer)",
        outcome="(outcome)",
        score="score of " if "" in labels else "",
        scores={} if "" in labels else {one: f"score of {one}" for one in labels},
        time="(time)",
    )
    return msgspec.structs.replace(file, watch=watch)


def _import(app: App, service: str, lines: Lines) -> int:
    refused = list(lines.refused)
    taken = 0
    for start in range(0, len(lines.rows), IMPORTED_MAX):
        part = lines.rows[start : start + IMPORTED_MAX]
        found = import_rows(app, ImportRows(service=service, rows=tuple(part)))
        taken += found.imported
        refused += [(msgspec.json.encode(part[one.index]), one.reason) for one in found.refused]
    if lines.lost or lines.refused:
        note_left_out(app.home.path, service, lost=lines.lost, refused=len(lines.refused))
    _keep(watched_folder(app.home.path) / REFUSED, service, refused)
    return taken


def _keep(folder: Path, service: str, refused: Iterable[tuple[bytes, str]]) -> None:
    """Refused lines with their reasons; only as many as fit."""
    lines = [
        msgspec.json.encode({"reason": reason, "line": line.decode(errors="replace")})
        for line, reason in refused
    ]
    if not lines:
        return
    folder.mkdir(exist_ok=True)
    path = folder / f"{service}.jsonl"
    if not path.exists() or path.stat().st_size < REFUSED_BYTES_MAX:
        with path.open("ab") as file:
            file.write(b"\n".join(lines) + b"\n")
