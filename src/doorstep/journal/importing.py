"""Rows that another service answered become records: each once, or refused with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import msgspec
from msgspec.structs import replace

from doorstep.core.errors import InputError
from doorstep.core.operation import operation
from doorstep.core.outcome import Refused
from doorstep.core.servicefile import stored_service_file
from doorstep.core.servicefile_types import IdsSpec
from doorstep.journal import query
from doorstep.journal.erased import kept_subjects
from doorstep.journal.imports import Prepared, Shape, matrix_of, prepared, shape_of
from doorstep.journal.known import KnownIds, known_ids
from doorstep.journal.sealing import subject_in
from doorstep.journal.subjects import sealer_of
from doorstep.journal.surface import IMPORTED_MAX, Imported, ImportRows
from doorstep.journal.telling import OutcomeWriter
from doorstep.journal.watched import (
    Watched,
    WatchedVersion,
    read_watched,
    watched_folder,
    write_watched,
)
from doorstep.kernel.app import App
from doorstep.register import store
from doorstep.register.views import manifest_of
from doorstep.register.watched import name_fault, watch_version, watched_rows

VERSIONS_MAX = 200
"""More names than that are no versions, but a column that means something else."""


@operation("prediction.import", permission="prediction:write", effect="read")
def import_rows(app: App, asked: ImportRows) -> Imported:
    """Record what another service answered; rows that were recorded before are left out."""
    if len(asked.rows) > IMPORTED_MAX:
        raise InputError("too-many", f"{len(asked.rows)} rows; at most {IMPORTED_MAX} at a time")
    with app.database.reading() as connection:
        row = store.get_service(connection, asked.service)
    file = stored_service_file(row.file, app.home.environment)
    names = {one.version for one in asked.rows if not name_fault(one.version)}
    shapes = _shapes(app, row, file.ids, names, makes_new=not asked.check)
    found: list[Prepared] = []
    refused: list[Refused] = []
    now = app.clock.now()
    for index, one in enumerate(asked.rows):
        try:
            if fault := name_fault(one.version):
                raise ValueError(fault)
            ready = prepared(one, shapes[one.version], asked.service, now)
            found.append(replace(ready, index=index))
        except ValueError as error:
            refused.append(Refused(index=index, reason=str(error)[:300]))
    found = _still_welcome(app, found, refused)
    if asked.check:
        return Imported(imported=0, known=0, outcomes=0, refused=tuple(refused))
    return _record(app, asked.service, found, list(shapes.values()), refused)


def _still_welcome(app: App, found: Sequence[Prepared], refused: list[Refused]) -> list[Prepared]:
    """Without rows of before their subject was erased."""
    subjects = kept_subjects(app) if any(one.seal for one in found) else None
    if subjects is None:
        return list(found)
    names = [subject_in(one.meta.texts[-2] or "") if one.seal else "" for one in found]
    gone = subjects.erased(names)
    is_gone = [one.meta.at <= gone.get(name, -1) for one, name in zip(found, names, strict=True)]
    refused += [
        Refused(index=one.index, reason="whose row this is was erased since")
        for one, left_out in zip(found, is_gone, strict=True)
        if left_out
    ]
    return [one for one, left_out in zip(found, is_gone, strict=True) if not left_out]


def _shapes(
    app: App, row: store.ServiceRow, ids: IdsSpec, names: set[str], *, makes_new: bool
) -> dict[str, Shape]:
    """By what the other service calls its version; a name that is new becomes a version, or, where
    nothing is made, counts as the newest one. Raises: InputError (`too-many-versions`,
    `no-reference`)."""
    with app.database.reading() as connection:
        known = watched_rows(app, store.list_versions(connection, row.name))
    missing = sorted(names - set(known))
    if len(known) + len(missing) > VERSIONS_MAX:
        raise InputError(
            "too-many-versions",
            f"{row.name} would have {len(known) + len(missing)} watched versions; at most "
            f"{VERSIONS_MAX}",
            "say under watch.version which column is the version",
        )
    newest = next(iter(known.values()), None)
    for name in missing:
        if newest is None or makes_new:
            known[name], _ = watch_version(app, row.file, name, None)
        else:
            known[name] = newest
    if makes_new:
        note_versions(app.home.path, row.name, known)
    shapes = {}
    sealer = sealer_of(app.home.path)
    for name in names:
        manifest = manifest_of(app.home.bundles, known[name].digest)
        shapes[name] = shape_of(row.name, known[name].number, manifest, ids, sealer)
    return shapes


def note_versions(home: Path, service: str, known: dict[str, store.VersionRow]) -> None:
    """Tell those who have only the home which versions there are."""
    with known_ids(watched_folder(home), service):
        watched = read_watched(home, service) or Watched(service=service)
        new = [
            WatchedVersion(name=name, number=row.number, bundle=row.digest, first=0, last=0, rows=0)
            for name, row in known.items()
            if watched.find(row.number) is None
        ]
        if new:
            versions = (*watched.versions, *new)
            write_watched(home, msgspec.structs.replace(watched, versions=versions))


def note_left_out(home: Path, service: str, *, lost: int, refused: int) -> None:
    """Count what a recorder had to leave out, and lines that were no rows."""
    with known_ids(watched_folder(home), service):
        watched = read_watched(home, service) or Watched(service=service)
        write_watched(
            home,
            msgspec.structs.replace(
                watched, lost=watched.lost + lost, refused=watched.refused + refused
            ),
        )


def _record(
    app: App,
    service: str,
    found: list[Prepared],
    shapes: list[Shape],
    refused: list[Refused],
) -> Imported:
    with known_ids(watched_folder(app.home.path), service) as known:
        known.settle(lambda request: _is_recorded(app, request))
        fresh, outcomes = _unknown(found, known)
        with known.writing(
            (one.meta.request for one in fresh), (one.outcome_id for one in outcomes)
        ):
            _write(app, fresh, outcomes, shapes)
        _count(app, service, fresh, shapes, len(refused))
    return Imported(
        imported=len(fresh),
        known=len(found) - len(fresh),
        outcomes=len(outcomes),
        refused=tuple(refused),
    )


def _unknown(found: Sequence[Prepared], known: KnownIds) -> tuple[list[Prepared], list[Prepared]]:
    """(rows, outcomes) that were not recorded before, each once."""
    rows = {one.meta.request: one for one in reversed(found)}
    outcomes = {one.outcome_id: one for one in found if one.outcome is not None}
    seen = known.among([*rows, *outcomes])
    fresh = [one for request, one in reversed(rows.items()) if request not in seen]
    return fresh, [one for name, one in outcomes.items() if name not in seen]


def _is_recorded(app: App, request: bytes) -> bool:
    name = f"{UUID(bytes=request)}.0"
    asked = query.Question(what="prediction", home=str(app.home.path), id=name)
    return query.ask(asked) is not None


def _write(app: App, fresh: list[Prepared], outcomes: list[Prepared], shapes: list[Shape]) -> None:
    """Outcomes first, then a frame of rows for each layout, in one write."""
    told = [one.outcome for one in outcomes if one.outcome is not None]
    by_layout: dict[str, tuple[Shape, set[int]]] = {}
    for shape in shapes:
        by_layout.setdefault(shape.layout.digest, (shape, set()))[1].add(shape.number)
    groups = []
    for shape, numbers in by_layout.values():
        rows = [one for one in fresh if one.meta.assigned in numbers]
        if rows:
            for seal in sorted({one.seal for one in rows}):
                some = [one for one in rows if one.seal == seal]
                groups.append((shape.layout, [one.meta for one in some], matrix_of(some), seal))
    app.kept.get(OutcomeWriter, lambda: OutcomeWriter(app.home.journal)).write(told, groups)


def _count(
    app: App, service: str, fresh: list[Prepared], shapes: list[Shape], refused: int
) -> None:
    watched = read_watched(app.home.path, service) or Watched(service=service)
    for shape in shapes:
        ats = [one.meta.at for one in fresh if one.meta.assigned == shape.number]
        watched = watched.counted(shape.number, ats)
    watched = msgspec.structs.replace(watched, refused=watched.refused + refused)
    if fresh or refused:
        write_watched(app.home.path, watched)
