"""What the journal keeps of one record, for a proof: its bytes made again, and its block's tree.

`find_stored` and `prove_in_block` load DuckDB: `ask_stored` and `ask_path` call them in a child.
Who signs and who checks is the ledger's matter (`govern/proof.py`).
"""

from __future__ import annotations

import contextlib
import math
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.ids import parse_prediction_id
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.merkle import hash_leaf, hash_node, inclusion_proof
from doorstep.core.record import SEALED, Kind, Layout, PredictionMeta
from doorstep.journal import duck
from doorstep.journal.away import ask_child, locate, places_of
from doorstep.journal.index import ListedFile, read_entries
from doorstep.journal.layouts import read_layout
from doorstep.journal.reader import Group
from doorstep.journal.rows import Row, find_in_tail, listed_rows, row_of
from doorstep.journal.snapshot import Listed, take_snapshots
from doorstep.journal.subjects import Subjects, subjects_of
from doorstep.kernel.files import sha256_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NEAR_US = 3600 * SECOND_US
"""A request id says when the request came; its record is looked for around that time first."""
TIMEOUT_S = 120.0
MEMORY_MB = 4096
_META = tuple(
    name
    for name in PredictionMeta.__struct_fields__
    if name not in ("request", "warnings", "texts")
)


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is stored now. record: the bytes that its leaf hashes, b"" if they cannot be
    made again. leaf: hex, as stored; of an unlisted block, as computed. is_listed: compacted.
    is_erased: nothing opens its sealed fields any more."""

    node: str
    block: str
    ordinal: int
    leaf: str
    is_listed: bool
    is_erased: bool = False
    layout: Layout | None = None
    record: bytes = b""


class InBlock(msgspec.Struct, frozen=True, kw_only=True):
    """What leads from a leaf to its block's root. closed: what the index says of the block, None
    if it does not say it any more. problems: sentences; with any, `path` may be empty."""

    path: tuple[str, ...] = ()
    closed: dict[str, Any] | None = None
    problems: tuple[str, ...] = ()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A record's place, and what the ledger says of its block: count, and the span of its times."""

    node: str
    block: str
    ordinal: int
    records: int
    first: Instant
    last: Instant


def record_bytes(layout: Layout, row: Row) -> bytes:
    """What the leaf of this row hashes: see `block.prediction_leaves`."""
    texts = tuple(row[one.name] for one in layout.texts)
    meta = PredictionMeta(
        request=UUID(row["request"]).bytes,
        warnings=tuple(row["warnings"]),
        texts=texts,
        **{name: row[name] for name in _META},
    )
    values = (row[one.name] for one in layout.numbers)
    numbers = [math.nan if value is None else value for value in values]
    matrix = struct.pack(f"<{len(numbers)}d", *numbers)
    return b"p" + bytes.fromhex(layout.digest) + msgspec.msgpack.encode(meta) + matrix


def find_stored(home: Path, prediction: str) -> Stored | None:
    """The record that a caller was answered with (not a shadow's). Raises: InputError."""
    request, number = parse_prediction_id(prediction)
    snapshots = take_snapshots(home)
    for snapshot in snapshots:
        for tail in snapshot.tails:
            for one in find_in_tail(tail, request.bytes):
                assert isinstance(one.part, Group)
                for index, row in enumerate(one.part.rows):
                    if (row.request, row.row) == (request.bytes, number) and _is_shown(row.kind):
                        found = row_of(one, one.part, index)
                        return _stored(home, one.part.layout, found, one.node)
    files = [(one.folder, file) for one in snapshots for file in one.files]
    return _find_listed(home, files, f"{request}.{number}", (request.int >> 80) * 1000)


def _is_shown(kind: int) -> bool:
    return kind != Kind.SHADOW


def _find_listed(home: Path, files: Iterable[Listed], wanted: str, at: Instant) -> Stored | None:
    groups: dict[tuple[bool, Path, str, str], list[Listed]] = {}
    for folder, one in files:
        if one.holds == "predictions":
            is_far = not one.first - NEAR_US <= at <= one.last + NEAR_US
            key = (is_far, folder, one.service, one.layout)
            groups.setdefault(key, []).append((folder, one))
    everything = [one for some in groups.values() for one in some]
    with _connected(places_of(everything)) as con, _readable():
        for key in sorted(groups):
            (_, folder, service, layout), paths = key, locate(groups[key])
            where = f'WHERE id = ? AND kind <> {int(Kind.SHADOW)} ORDER BY "at", ordinal LIMIT 1'
            if rows := listed_rows(con, service, paths, where, [wanted]):
                return _stored(home, read_layout(folder, layout), rows[0], folder.name)
    return None


def _is_erased(subjects: Subjects, row: Row) -> bool:
    return subjects.open([row]) == [None] and subjects.lost([row]) == [False]


def _stored(home: Path, layout: Layout | None, row: Row, node: str) -> Stored:
    is_gone = row["key"] is None
    is_erased = is_gone or (bool(row.get(SEALED)) and _is_erased(subjects_of(home), row))
    record = b"" if is_gone or layout is None else record_bytes(layout, row)
    return Stored(
        node=node,
        block=row["block"],
        ordinal=row["ordinal"],
        leaf=row["leaf_hash"] or hash_leaf(record).hex(),
        is_listed=row["leaf_hash"] is not None,
        is_erased=is_erased,
        layout=layout,
        record=record,
    )


def prove_in_block(home: Path, place: Place) -> InBlock:
    """The leaves of the whole block, from every listed file that may hold some of them."""
    folder = home / "journal" / place.node
    snapshot = next(one for one in take_snapshots(home) if one.folder == folder)
    files = [one for one in snapshot.files if one.first <= place.last and one.last >= place.first]
    paths = locate((folder, one) for one in files)
    problems = [*_changed_files(files, paths)]
    leaves = _leaves(paths, place, problems)
    said = [one.closed for one in read_entries(folder) if one.block == place.block]
    closed = msgspec.to_builtins(said[0]) if said and said[0] else None
    if len(leaves) != place.records:
        problems.append(
            f"block {place.block} has {len(leaves):,} of its {place.records:,} leaves: records "
            "were removed, or are past their days"
        )
    elif not 0 <= place.ordinal < place.records:
        problems.append(
            f"its row says that it is record {place.ordinal} of block {place.block}, which has "
            f"{place.records:,}: the row was changed"
        )
    else:
        levels = _levels(leaves)
        path = inclusion_proof(place.ordinal, len(leaves), lambda level, at: levels[level][at])
        found = tuple(one.hex() for one in path)
        return InBlock(path=found, closed=closed, problems=tuple(problems))
    return InBlock(closed=closed, problems=tuple(problems))


def _changed_files(files: Sequence[ListedFile], paths: Sequence[Path]) -> Iterator[str]:
    for one, path in zip(files, paths, strict=True):
        with path.open("rb") as file:
            if sha256_of(file) != one.sha256:
                yield f"{one.path} is not the file that the index lists: it has another digest"


def _leaves(paths: Sequence[Path], place: Place, problems: list[str]) -> list[bytes]:
    """In order; a list of another length than was promised if some are missing or there twice."""
    if not paths:
        return []
    query = f"SELECT ordinal, leaf_hash FROM {duck.parquet_of(paths)} WHERE block = ?"  # noqa: S608
    with _connected(paths) as con, _readable():
        found = con.execute(f"{query} ORDER BY ordinal", [place.block]).fetchall()
    if len({ordinal for ordinal, _ in found}) != len(found):
        problems.append(f"block {place.block} has two records at one place")
    return [bytes(leaf) for _, leaf in found]


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """The roots of the complete subtrees, by level."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        pairs = zip(levels[-1][::2], levels[-1][1::2], strict=False)
        levels.append([hash_node(left, right) for left, right in pairs])
    return levels


@contextlib.contextmanager
def _connected(files: Sequence[Path]) -> Iterator[DuckDBPyConnection]:
    with (
        tempfile.TemporaryDirectory() as temp,
        contextlib.closing(duck.connect(Path(temp))) as con,
    ):
        duck.confine(con, files)
        yield con


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Raises: InputError (`bad-index`) for a file that is not what the index says."""
    import duckdb

    try:
        yield
    except (duckdb.Error, ValueError, TypeError, LookupError, struct.error) as error:
        raise InputError(
            "bad-index",
            f"a file that the journal's index lists cannot be read as that: {error}",
            "restore it from a backup",
        ) from None


class _Question(msgspec.Struct, frozen=True, kw_only=True):
    home: str
    prediction: str = ""
    place: Place | None = None


def ask_stored(home: Path, prediction: str) -> Stored | None:
    """`find_stored` in a child. Raises: what it raises; RefusedError (`child-died`, ...)."""
    found: Stored | None = _ask(_Question(home=str(home), prediction=prediction), Stored | None)
    return found


def ask_path(home: Path, place: Place) -> InBlock:
    """`prove_in_block` in a child."""
    found: InBlock = _ask(_Question(home=str(home), place=place), InBlock)
    return found


def _ask(question: _Question, kind: Any) -> Any:
    request = msgspec.msgpack.encode(question)
    home = Path(question.home)
    answer = ask_child(home, __name__, request, timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB)
    return msgspec.msgpack.decode(answer, type=kind)


def main(request: bytes) -> bytes:
    """The child's side."""
    asked = msgspec.msgpack.decode(request, type=_Question)
    home = Path(asked.home)
    if asked.place is not None:
        return msgspec.msgpack.encode(prove_in_block(home, asked.place))
    return msgspec.msgpack.encode(find_stored(home, asked.prediction))
