"""Questions to the journal. Those that need DuckDB run in a child: `ask`.

`prediction`, `predictions` and `outcomes_joined` read rows and load DuckDB; in the control plane
call them by `ask(...)`, which asks `doorstep.kernel.child`. `counts` and `column_codes` (in
`journal.windows`) read summaries only and may run anywhere; give them a `SummaryCache` in a process
that lives.
"""

from __future__ import annotations

import contextlib
import heapq
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import numpy as np

from doorstep.core.errors import InputError
from doorstep.core.ids import parse_name, parse_prediction_id
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import SEALED, Kind
from doorstep.journal import duck
from doorstep.journal.away import FOLDER, ask_child, locate
from doorstep.journal.joined import ANSWERED, About, OutcomeArrays, Trials, join_outcomes
from doorstep.journal.layouts import read_layout
from doorstep.journal.reader import Group
from doorstep.journal.rows import (
    Filters,
    Row,
    find_in_tail,
    listed_rows,
    row_of,
    tail_parts,
    tail_rows,
    types_of,
)
from doorstep.journal.snapshot import NO_END, Listed, NodeSnapshot, take_snapshots

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LIMIT_MAX = 1000
FILES_AT_ONCE = 16
TIMEOUT_S = 60.0
MEMORY_MB = 4096
"""Address space of the child; DuckDB itself is held to `duck.MEMORY_MB_MAX`."""
CHILD_KEPT_S = 60.0
"""Somebody who looks at predictions asks again soon, and starting a child takes most of the time
of a question. It answers our own questions only: SQL that people write gets a child of its own."""
Place = tuple[Instant, str, int]
"""(at, request, row)."""
NEAR_US = 3600 * SECOND_US
"""A request id says when the request came; its record is looked for around that time first."""


def prediction(home: Path, id: str) -> Row | None:
    """The record with this prediction id, from files and open blocks; None if there is none.

    `shadows`: the records of versions that scored the same row in the shadow. Raises: InputError
    (`bad-prediction-id`).
    """
    request, number = parse_prediction_id(id)
    wanted = f"{request}.{number}"
    snapshots = take_snapshots(home)
    rows = [
        row_of(one, one.part, index)
        for snapshot in snapshots
        for tail in snapshot.tails
        for one in find_in_tail(tail, request.bytes)
        if isinstance(one.part, Group)
        for index, row in enumerate(one.part.rows)
        if row.request == request.bytes and row.row == number
    ]
    files = _listed(snapshots)
    near, far = _split_by_time(files, (request.int >> 80) * 1000)
    for some in (near, far):
        if not any(row["kind"] != Kind.SHADOW for row in rows):
            rows += _find(some, wanted)
    return _with_shadows(rows)


def _listed(snapshots: Sequence[NodeSnapshot], service: str | None = None) -> list[Listed]:
    return [
        (snapshot.folder, file)
        for snapshot in snapshots
        for file in snapshot.files
        if file.holds == "predictions" and service in (None, file.service)
    ]


def _split_by_time(files: list[Listed], at: Instant) -> tuple[list[Listed], list[Listed]]:
    near: list[Listed] = []
    far: list[Listed] = []
    for one in files:
        is_near = one[1].first - NEAR_US <= at <= one[1].last + NEAR_US
        (near if is_near else far).append(one)
    return near, far


def _find(files: list[Listed], wanted: str) -> list[Row]:
    if not files:
        return []
    by_service: dict[str, list[Path]] = {}
    for (_, file), path in zip(files, locate(files), strict=True):
        by_service.setdefault(file.service, []).append(path)
    with contextlib.closing(_reader(files[0][0].parent.parent).cursor()) as con:
        return [
            row
            for service, paths in by_service.items()
            for row in listed_rows(con, service, paths, "WHERE id = ?", [wanted])
        ]


def _with_shadows(rows: list[Row]) -> Row | None:
    if not rows:
        return None
    rows.sort(key=lambda row: (row["kind"] == Kind.SHADOW, row["at"], row["version"]))
    first, *others = rows
    shadows = [row for row in others if row["kind"] == Kind.SHADOW]
    return first | {"shadows": shadows}


def predictions(
    home: Path,
    service: str,
    limit: int = 50,
    before: tuple[Instant, str] | None = None,
    filters: Filters | None = None,
) -> list[Row]:
    """The newest records that pass, those of one request in its order. before: the (at, id) of the
    last row of the page before this one; id "" takes everything before `at`.

    Raises: InputError (`bad-limit`) unless 1 <= limit <= LIMIT_MAX, (`bad-prediction-id`).
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise InputError("bad-limit", f"the limit is {limit}; expected 1 to {LIMIT_MAX}")
    parse_name(service)
    filters = filters or Filters()
    end = _end(*before) if before else None
    snapshots = take_snapshots(home)
    unlisted = (
        row
        for row in tail_rows(tail_parts(snapshots, service), filters)
        if end is None or _place(row) < end
    )
    rows = heapq.nlargest(limit, unlisted, key=_place)
    files = sorted(_listed(snapshots, service), key=lambda one: -one[1].last)
    files = [one for one in files if end is None or one[1].first <= end[0]]
    files = [one for one in files if one[1].last >= (filters.since or 0)]
    with contextlib.closing(_reader(home).cursor()) as con:
        for start in range(0, len(files), FILES_AT_ONCE):
            some = files[start : start + FILES_AT_ONCE]
            if len(rows) >= limit and some[0][1].last < rows[limit - 1]["at"]:
                break
            rows += _newest(con, service, some, limit, end, filters)
            rows = heapq.nlargest(limit, rows, key=_place)
    return rows


def _place(row: Row) -> Place:
    """The largest comes first: the newest, and of one request row 0."""
    return row["at"], row["request"], -row["row"]


def _end(at: Instant, id: str) -> Place:
    request, row = parse_prediction_id(id) if id else ("", 0)
    return at, str(request), -row


def _newest(
    con: DuckDBPyConnection,
    service: str,
    files: list[Listed],
    limit: int,
    end: Place | None,
    filters: Filters,
) -> list[Row]:
    paths = locate(files)
    condition, values = filters.where(types_of(con, paths) if filters.wanted else {})
    if end is not None:
        condition += ' AND "at" <= ? AND ("at", request, -"row") < (?, ?, ?)'
        values += [end[0], *end]
    tail = f'WHERE {condition} ORDER BY "at" DESC, request DESC, "row" LIMIT {limit:d}'
    return listed_rows(con, service, paths, tail, values)


def outcomes_joined(
    home: Path,
    service: str,
    since: Instant,
    until: Instant,
    kinds: Collection[int] = ANSWERED,
    about: About | None = None,
    trials: Trials | None = None,
) -> OutcomeArrays:
    """Predictions with `at` in [since, until) and what became of them: see
    `journal.joined.join_outcomes`. Rehearsals and shadow records only if `kinds` says so."""
    with (
        tempfile.TemporaryDirectory() as temp,
        contextlib.closing(duck.connect(Path(temp))) as con,
    ):
        return join_outcomes(con, take_snapshots(home), service, since, until, kinds, about, trials)


def sealed_of(home: Path, names: Collection[str]) -> list[tuple[str, Instant, str, str]]:
    """(pseudonym, at, id, recorded key) of records that were sealed for one of these pseudonyms."""
    snapshots = take_snapshots(home)
    found = [
        (name, row.at, f"{UUID(bytes=row.request)}.{row.row}", row.key)
        for one in tail_parts(snapshots)
        if isinstance(one.part, Group) and one.part.seal
        for row in one.part.rows
        for text in row.texts
        if (name := (text or "").partition(".")[0]) in names
    ]
    paths = locate(
        (folder, file)
        for folder, file in _listed(snapshots)
        if (layout := read_layout(folder, file.layout)) is None or layout.seals
    )
    with contextlib.closing(_reader(home).cursor()) as con:
        if paths and SEALED in types_of(con, paths):
            name = f"split_part({SEALED}, '.', 1)"
            query = f'SELECT {name}, "at", id, key FROM {duck.parquet_of(paths)} '  # noqa: S608
            where = f"WHERE {name} IN (SELECT unnest(?))"
            found += con.execute(query + where, [list(names)]).fetchall()
    return found


def first_after(home: Path, service: str, after: Mapping[str, Instant]) -> dict[str, Instant]:
    """Of each of these keys, when its first prediction after that time was answered; without those
    that have none."""
    snapshots = take_snapshots(home)
    found = [
        (row.key, row.at)
        for one in tail_parts(snapshots, service)
        if isinstance(one.part, Group)
        for row in one.part.rows
        if row.at > after.get(row.key, NO_END)
    ]
    oldest = min(after.values(), default=NO_END)
    if paths := locate(one for one in _listed(snapshots, service) if one[1].last > oldest):
        query = (
            f'SELECT key, min("at") FROM {duck.parquet_of(paths)} '  # noqa: S608
            'JOIN (SELECT unnest(?) AS key, unnest(?) AS since) USING (key) WHERE "at" > since '
            "GROUP BY key"
        )
        with contextlib.closing(_reader(home).cursor()) as con:
            found += con.execute(query, [list(after), list(after.values())]).fetchall()
    return dict(sorted(found, reverse=True))


@lru_cache(maxsize=1)
def _reader(home: Path) -> DuckDBPyConnection:
    """Reads the journal's files and those fetched from its store, and nothing else. Kept, because
    making one takes longer than to find a row; each question has a cursor of its own. It never
    spills: it sorts a page at most."""
    con = duck.connect(None)
    duck.confine(con, folders=[home / "journal", home / FOLDER])
    return con


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `main` is asked. what: the function's name."""

    what: str
    home: str
    id: str = ""
    service: str = ""
    limit: int = 50
    before: tuple[Instant, str] | None = None
    filters: Filters = Filters()
    since: Instant = 0
    until: Instant = 0
    kinds: tuple[int, ...] = tuple(int(one) for one in ANSWERED)
    about: About | None = None
    trials: Trials | None = None
    names: tuple[str, ...] = ()
    after: dict[str, Instant] = {}


def ask(question: Question, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The answer, computed in a child: rows as dicts, or OutcomeArrays.

    Raises: what the function raises; RefusedError `child-died`, `child-timed-out`.
    """
    request = msgspec.msgpack.encode(question)
    answer = ask_child(
        Path(question.home), __name__, request, timeout_s=timeout_s, memory_mb=MEMORY_MB,
        kept_s=CHILD_KEPT_S,
    )  # fmt: skip
    if question.what == "outcomes_joined":
        return unpack_arrays(answer)
    return msgspec.msgpack.decode(answer)


def main(request: bytes) -> bytes:
    """The child's side of `ask`."""
    question = msgspec.msgpack.decode(request, type=Question)
    home = Path(question.home)
    match question.what:
        case "prediction":
            return msgspec.msgpack.encode(prediction(home, question.id))
        case "predictions":
            return msgspec.msgpack.encode(
                predictions(
                    home, question.service, question.limit, question.before, question.filters
                )
            )
        case "outcomes_joined":
            one = question
            return pack_arrays(
                outcomes_joined(
                    home, one.service, one.since, one.until, one.kinds, one.about, one.trials
                )
            )
        case "sealed_of":
            return msgspec.msgpack.encode(sealed_of(home, {*question.names}))
        case "first_after":
            return msgspec.msgpack.encode(first_after(home, question.service, question.after))
        case other:
            raise InputError("bad-question", f"{other!r} is not a question to the journal")


def pack_arrays(arrays: OutcomeArrays) -> bytes:
    """Arrays of numbers as their bytes, of texts as lists."""
    fields = msgspec.structs.asdict(arrays)
    return msgspec.msgpack.encode(fields, enc_hook=_pack)


def _pack(array: Any) -> Any:
    if array.dtype == object:
        return array.tolist()
    return [array.dtype.str, array.tobytes()]


_NUMBERS = (
    *("at", "version", "assigned", "kind", "epoch", "value", "outcome_at", "received_at"),
    "latency_us",
)
_TEXTS = ("id", "segment", "release", "unit", "answer", "label", "group")


def unpack_arrays(data: bytes) -> OutcomeArrays:
    fields = msgspec.msgpack.decode(data)
    numbers = {name: np.frombuffer(fields[name][1], fields[name][0]) for name in _NUMBERS}
    texts = {name: np.array(fields[name], dtype=object) for name in _TEXTS}
    scores = {name: np.frombuffer(one[1], one[0]) for name, one in fields["scores"].items()}
    return OutcomeArrays(**numbers, **texts, scores=scores, is_cut=fields["is_cut"])
