"""Outcomes and the predictions that they are about, as arrays: what live quality is made of.

An outcome names a prediction, or a key: then it is about the latest prediction of that key at or
before the outcome's `at`, shadow records left out. Of several outcomes of a prediction the last
`at` wins (then the last received), for its label and for its value; all are kept. One that finds no
prediction waits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.instant import Instant
from doorstep.core.record import TRAFFIC, Kind, OutcomeRecord
from doorstep.journal import duck
from doorstep.journal.away import locate
from doorstep.journal.duck import Array
from doorstep.journal.rows import tail_parts
from doorstep.journal.snapshot import NodeSnapshot, TailPart
from doorstep.journal.tables import load_outcomes, load_predictions

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ANSWERED = TRAFFIC
JOINED_ROWS_MAX = 1_000_000
"""Enough for any interval that we compute; beyond it the newest are kept."""
PART_ROWS = 200_000
"""As arrays a row takes about half a kilobyte."""
UNIT = "CASE unit WHEN '' THEN split_part(id, '.', 1) ELSE unit END"
"""Where nobody is named, the rows of a request belong together."""


class OutcomeArrays(msgspec.Struct, frozen=True, kw_only=True):
    """Rows by (at, id); arrays of one length. scores: per output name (without `out.`), NaN where
    the version has no such output. label: None where the outcome is a value (then `value`, else
    NaN). received_at: when we were told; 0 for a row without an outcome. answer: the predicted
    label or None. latency_us: -1 where the answer had been computed before. group: the value of the
    field that was asked for, as text. is_cut: rows were left out, the older ones, of a release the
    newer ones."""

    id: Array
    at: NDArray[np.int64]
    version: NDArray[np.int64]
    assigned: NDArray[np.int64]
    kind: NDArray[np.int64]
    segment: Array
    release: Array
    epoch: NDArray[np.int64]
    unit: Array
    answer: Array
    label: Array
    value: NDArray[np.float64]
    outcome_at: NDArray[np.int64]
    received_at: NDArray[np.int64]
    scores: dict[str, NDArray[np.float64]]
    latency_us: NDArray[np.int64]
    group: Array
    is_cut: bool

    @property
    def rows(self) -> int:
        return len(self.at)


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Only these predictions are of interest, and others of their keys, which decide what an
    outcome by key is about. keys: without ""."""

    ids: tuple[str, ...]
    keys: tuple[str, ...]


class Trials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Predictions with an outcome and without. field: of the contract, whose value is wanted.
    release: only its own; of its epochs in `whole` all, of each place in `split` the first of each
    unit and those that have an outcome. "": all. A place is a text of epoch and segment."""

    field: str = ""
    release: str = ""
    split: tuple[str, ...] = ()
    whole: tuple[int, ...] = ()


_IS_SPLIT = "list_contains($split, concat(epoch, ' ', segment))"
TOLD = """
live AS (
  SELECT max(id) AS id, key, "at", arg_max($began, id) AS began
    FROM p WHERE list_contains($resolve, kind) GROUP BY key, "at"),
live_ids AS (
  SELECT id, min($began) AS began FROM p WHERE list_contains($resolve, kind) GROUP BY id),
named AS (
  SELECT lower(CASE WHEN contains(prediction, '.') THEN prediction ELSE prediction || '.0' END)
    AS about, "at", received_at, label, value FROM o WHERE prediction <> ''),
told AS (
  SELECT about, "at", label, value,
    min(received_at) AS received_at, max(received_at) AS again FROM (
    SELECT live.id AS about, o."at", o.received_at, o.label, o.value, began
      FROM (SELECT * FROM o WHERE key <> '') o
      ASOF JOIN live ON o.key = live.key AND o."at" >= live."at"
    UNION ALL SELECT named.*, began FROM named JOIN live_ids ON named.about = live_ids.id)
  WHERE $is_known GROUP BY about, "at", label, value),
last AS (
  SELECT about, truth.label, worth.value, coalesce(truth, worth)."at" AS "at",
    coalesce(truth, worth).received_at AS received_at FROM (
      SELECT about,
        max({"at": "at", again: again, received_at: received_at, label: label,
             value: CAST(NULL AS DOUBLE)}) FILTER (label IS NOT NULL) AS truth,
        max({"at": "at", again: again, received_at: received_at,
             label: CAST(NULL AS VARCHAR), value: value}) FILTER (isfinite(value)) AS worth
      FROM told GROUP BY about))
"""
"""With `p` predictions, `o` outcomes and $resolve (kinds that an outcome may be about), `last` is
what became of each: (about: its id, at, received_at, label, value). Label and value are told apart:
of each the last counts, and `at` and `received_at` are the label's where there is one. What is told
again was known since it was told first. $began: the time of a prediction; $is_known: which outcomes
count, of those `received_at` and what they are about `began`."""
_UNIT_BEGAN = f"""coalesce(min("at") FILTER (WHERE release = $release AND kind = {int(Kind.LIVE)}
  AND {_IS_SPLIT}) OVER (PARTITION BY {UNIT}), "at")"""
"""When a unit was first met in what is split, of which its later requests are a part."""
_WANTED = """
SELECT p.*, last.label, last.value, last."at" AS outcome_at, last.received_at
  FROM p JOIN last ON p.id = last.about
  WHERE list_contains($kinds, p.kind) AND p."at" >= $since AND p."at" < $until
"""
_OF_RELEASE = """
SELECT p.*, last.label, last.value, last."at" AS outcome_at, last.received_at
  FROM p LEFT JOIN last ON p.id = last.about
  WHERE list_contains($kinds, p.kind) AND p."at" >= $since AND p."at" < $until AND ($release = '' OR
    (p.release = $release AND ($is_split OR list_contains($whole, epoch))))
  QUALIFY $release = '' OR list_contains($whole, epoch) OR last.about IS NOT NULL OR row_number()
    OVER (PARTITION BY p.kind, p.cached, p.epoch, $unit ORDER BY p."at", p.id) = 1
""".replace("$unit", UNIT).replace("$is_split", _IS_SPLIT)
_NEEDED = (
    *("id", "at", "version", "assigned", "kind", "segment", "release", "epoch", "unit", "key"),
    *("latency_us", "cached"),
)


def join_outcomes(
    con: DuckDBPyConnection,
    snapshots: Sequence[NodeSnapshot],
    service: str,
    since: Instant,
    until: Instant,
    kinds: Collection[int] = ANSWERED,
    about: About | None = None,
    trials: Trials | None = None,
) -> OutcomeArrays:
    """Predictions with `at` in [since, until) that have an outcome, whenever it came. trials: also
    those that have none.

    kinds: which records are wanted; asking for shadow records gives each the outcome of the live
    prediction that has its id. What an outcome by key is about is decided among the wanted kinds
    that are not shadow (live ones if there is none). about: None is all of them.
    """
    is_oldest_kept = trials is not None and trials.release != ""
    order = '"at", id, version' if is_oldest_kept else '"at" DESC, id DESC, version DESC'
    joining = _joining(con, snapshots, service, since, until, kinds, about, trials)
    if joining is None:
        return _arrays({}, 0)
    query, values = joining
    limited = f"{query} ORDER BY {order} LIMIT {JOINED_ROWS_MAX + 1}"
    found = con.execute(limited, values).fetchnumpy()
    field = trials.field if trials else ""
    return _arrays(found, len(found["id"]), field, is_oldest_kept=is_oldest_kept)


def joined_parts(
    con: DuckDBPyConnection,
    snapshots: Sequence[NodeSnapshot],
    service: str,
    span: tuple[Instant, Instant],
    kinds: Collection[int],
    trials: Trials | None,
    age_us: int,
    *,
    is_whole: bool = False,
) -> Iterator[OutcomeArrays]:
    """What `join_outcomes` gives, however much it is: in parts of about PART_ROWS rows, in which a
    unit is whole. age_us: an outcome counts if it was told by that age of its prediction, with
    trials of its unit; 0: whenever it was told. is_whole: in one part, of too many the first."""
    joining = _joining(con, snapshots, service, *span, kinds, None, trials, age_us)
    if joining is None:
        return
    query, values = joining
    made = f"CREATE TEMP TABLE joined AS SELECT *, hash({UNIT}) AS part FROM ({query})"  # noqa: S608
    con.execute(made, values)
    counted = con.execute("SELECT count(*) FROM joined").fetchone()
    assert counted is not None
    parts = 1 if is_whole else max(1, math.ceil(counted[0] / PART_ROWS))
    for part in range(parts):
        found = con.execute(
            f'SELECT * FROM joined WHERE part % {parts:d} = {part:d} ORDER BY "at", id, version '  # noqa: S608
            f"LIMIT {JOINED_ROWS_MAX + 1}"
        ).fetchnumpy()
        field = trials.field if trials else ""
        yield _arrays(found, len(found["id"]), field, is_oldest_kept=True)


def _joining(
    con: DuckDBPyConnection,
    snapshots: Sequence[NodeSnapshot],
    service: str,
    since: Instant,
    until: Instant,
    kinds: Collection[int],
    about: About | None,
    trials: Trials | None,
    age_us: int = 0,
) -> tuple[str, dict[str, Any]] | None:
    """The query and its parameters; None where nothing was recorded."""
    paths = _paths(snapshots, service, since)
    parts = list(tail_parts(snapshots, service))
    field = trials.field if trials else ""
    predicted = _load_predictions(con, snapshots, parts, service, since, field)
    told = _load_outcomes(con, snapshots, parts, service, since, is_needed=trials is not None)
    duck.confine(con, paths)
    if not predicted or not told:
        return None
    values: dict[str, Any] = {"since": since, "until": until, "kinds": [int(one) for one in kinds]}
    resolve = [int(one) for one in kinds if one != Kind.SHADOW] or [int(one) for one in ANSWERED]
    values |= {"resolve": resolve}
    if about is not None:
        predicted = (
            f"SELECT * FROM ({predicted}) "  # noqa: S608
            "WHERE list_contains($ids, id) OR list_contains($keys, key)"
        )
        values |= {"ids": list(about.ids), "keys": list(about.keys)}
    wanted, began = _WANTED, '"at"'
    if trials is not None:
        wanted, began = _OF_RELEASE, _UNIT_BEGAN if age_us else began
        values |= {"release": trials.release}
        values |= {"split": list(trials.split), "whole": list(trials.whole)}
    values |= {"age": age_us} if age_us else {}
    known = "received_at - began <= $age" if age_us else "true"
    predicted = f"SELECT *, {began} AS began FROM ({predicted})"  # noqa: S608
    outcomes = TOLD.replace("$began", "began").replace("$is_known", known)
    return f"WITH p AS ({predicted}), o AS ({told}), {outcomes} {wanted}", values


def _paths(snapshots: Iterable[NodeSnapshot], service: str, since: Instant) -> list[Path]:
    return locate(
        file
        for snapshot in snapshots
        for holds in ("predictions", "outcomes")
        for file in snapshot.listed(service, holds, since)
    )


def _load_predictions(
    con: DuckDBPyConnection,
    snapshots: Sequence[NodeSnapshot],
    parts: Iterable[TailPart],
    service: str,
    since: Instant,
    field: str = "",
) -> str:
    """The query that gives the predictions since `since`; "" if there are none.

    There is no upper bound: a prediction after the window takes an outcome away from one in it.
    """
    sources = _parquet_sources(snapshots, service, "predictions", since)
    more = (*_NEEDED, *_columns_of(field))
    sources += load_predictions(con, parts, lambda name: name in more or name[:4] == "out.")
    # A pattern, because not every version has every output, nor the field.
    named = "|".join(re.escape(one) for one in _columns_of(field))
    pattern = duck.quote_text(rf"^(out\..*|{named})$" if named else r"^out\..*")
    columns = ", ".join(f'"{name}"' for name in _NEEDED) + f", COLUMNS({pattern})"
    chosen = (f'SELECT {columns} FROM {source} WHERE "at" >= {since:d}' for source in sources)  # noqa: S608
    return " UNION ALL BY NAME ".join(chosen)


def _columns_of(field: str) -> tuple[str, ...]:
    return (f"ctx.{field}", f"in.{field}") if field else ()


def _parquet_sources(
    snapshots: Iterable[NodeSnapshot], service: str, holds: str, since: Instant
) -> list[str]:
    paths = locate(file for one in snapshots for file in one.listed(service, holds, since))
    return [duck.parquet_of(paths)] if paths else []


def _load_outcomes(
    con: DuckDBPyConnection,
    snapshots: Sequence[NodeSnapshot],
    parts: Sequence[TailPart],
    service: str,
    since: Instant,
    *,
    is_needed: bool,
) -> str:
    """The query that gives the outcomes that were received since `since`."""
    sources = _parquet_sources(snapshots, service, "outcomes", since)
    if (is_needed and not sources) or any(isinstance(one.part, OutcomeRecord) for one in parts):
        sources.append(load_outcomes(con, parts, service))
    names = 'prediction, key, "at", received_at, label, value'
    return " UNION ALL BY NAME ".join(f"SELECT {names} FROM {one}" for one in sources)  # noqa: S608


def _arrays(
    found: dict[str, Any], count: int, field: str = "", *, is_oldest_kept: bool = False
) -> OutcomeArrays:
    used = min(count, JOINED_ROWS_MAX)
    kept = slice(0, used) if is_oldest_kept or not count else slice(used - 1, None, -1)
    cached = np.ma.filled(np.ma.asarray(found.get("cached", np.zeros(count, dtype=bool))), False)
    return OutcomeArrays(
        id=_texts(found, "id", kept),
        at=_integers(found, "at", kept),
        version=_integers(found, "version", kept),
        assigned=_integers(found, "assigned", kept),
        kind=_integers(found, "kind", kept),
        segment=_texts(found, "segment", kept),
        release=_texts(found, "release", kept),
        epoch=_integers(found, "epoch", kept),
        unit=_texts(found, "unit", kept),
        answer=_texts(found, "out.answer", kept),
        label=_texts(found, "label", kept),
        value=_floats(found.get("value"), kept),
        outcome_at=_integers(found, "outcome_at", kept),
        received_at=_integers(found, "received_at", kept),
        scores={
            name.removeprefix("out."): _floats(column, kept)
            for name, column in found.items()
            if name.startswith("out.") and name != "out.answer"
        },
        latency_us=np.where(cached[kept], -1, _integers(found, "latency_us", kept)),
        group=_groups(found, field, kept),
        is_cut=count > JOINED_ROWS_MAX,
    )


def _texts(found: dict[str, Any], name: str, kept: slice) -> Array:
    if name not in found:
        return np.empty(0, dtype=object)
    column = np.ma.asarray(found[name])
    made: Array = np.array(column.data, dtype=object)
    made[np.ma.getmaskarray(column)] = None
    return made[kept]


def _groups(found: dict[str, Any], field: str, kept: slice) -> Array:
    """As text, as segments are matched: 1.0 of a number is "1"."""
    name = next((one for one in _columns_of(field) if one in found), "")
    if not name:
        nothing: Array = np.full(len(_integers(found, "at", kept)), None, dtype=object)
        return nothing
    made = _texts(found, name, kept)
    made[:] = [f"{one:g}" if isinstance(one, float) else one and str(one) for one in made]
    return made


def _integers(found: dict[str, Any], name: str, kept: slice) -> NDArray[np.int64]:
    column = np.ma.filled(np.ma.asarray(found.get(name, ())), 0)
    made: NDArray[np.int64] = np.asarray(column, dtype=np.int64)[kept]
    return made


def _floats(column: Any, kept: slice) -> NDArray[np.float64]:
    if column is None:
        return np.empty(0)
    plain = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    made: NDArray[np.float64] = plain[kept]
    return made
