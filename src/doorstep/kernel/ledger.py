"""The ledger in the database: append in the caller's transaction, read, prove, export.

`seq` is the leaf index of a Merkle tree (`core/merkle.py`). Only one transaction writes at a time,
so `seq` has no gaps and a rolled-back change leaves nothing. Beside the leaves, the roots of
complete subtrees are stored at levels 8, 16, 24...: a proof at size n reads at most 256 hashes for
each of its O(log n) steps, and 1 stored root serves 256 events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import (
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    Row,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)

from doorstep.core import merkle
from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.ids import new_id
from doorstep.core.instant import Instant
from doorstep.kernel.event import Actor, Event, Object, decode_event, encode_event, plain
from doorstep.kernel.schema import OPERATIONAL, At, Whole, metadata

TILE_LEVELS = 8
EVENTS_READ_MAX = 1000
EXPORT_BATCH = 1000

entries = Table(
    "ledger",
    metadata,
    Column("seq", Whole, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("hash", LargeBinary(merkle.HASH_BYTES), nullable=False),
    # Copied from the leaf to be found by; `ledger_check` compares them with it.
    Column("at", At, nullable=False),
    Column("kind", Text, nullable=False),
    Column("object_type", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("service", Text, nullable=False),
    Index(None, "service", "seq"),
    Index(None, "object_type", "object_id", "seq"),
    Index(None, "kind", "seq"),
    info=dict(OPERATIONAL),
)
nodes = Table(
    "ledger_node",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", Whole, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary(merkle.HASH_BYTES), nullable=False),
    info=dict(OPERATIONAL),
)
head = Table(
    "ledger_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", Whole, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    info=dict(OPERATIONAL),
)
_ONLY_ROW = 1


class TreeHead(msgspec.Struct, frozen=True):
    """How many events there are, and what they hash to."""

    size: int
    frontier: merkle.Frontier

    def __post_init__(self) -> None:
        if len(self.frontier) != self.size.bit_count():
            raise ValueError(f"a tree of {self.size} has not {len(self.frontier)} parts")

    @property
    def root(self) -> bytes:
        return merkle.root_of(self.frontier)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events; "" is any. starts: what a kind begins with. without: a kind that is left out.
    before: only events with a smaller seq, for paging backwards."""

    service: str = ""
    kind: str = ""
    starts: str = ""
    object: Object | None = None
    before: int | None = None
    without: str = ""


class Appender:
    """The events of one transaction: numbered at once, written together by `flush`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._head: TreeHead | None = None
        self._entries: list[dict[str, Any]] = []
        self._nodes: list[dict[str, Any]] = []
        self.appended = 0

    def append(
        self,
        kind: str,
        about: Object,
        data: Mapping[str, Any] | msgspec.Struct,
        *,
        actor: Actor,
        at: Instant,
    ) -> Event:
        """The event, with its place. Raises: InputError (`not-json`, `event-too-large`)."""
        now = self._head or lock_head(self._connection)
        event = Event(
            seq=now.size, ts=at, kind=kind, id=new_id(), actor=actor, object=about, data=plain(data)
        )
        leaf = encode_event(event)
        frontier, completed = merkle.grow(now.frontier, now.size, merkle.hash_leaf(leaf))
        self._head = TreeHead(now.size + 1, frontier)
        self._entries.append(_entry_of(event, leaf, completed[0][1]))
        self._nodes += _stored_nodes(completed)
        self.appended += 1
        return event

    def flush(self) -> None:
        """Write what was appended; the caller commits."""
        if self._head is None or not self._entries:
            return
        self._connection.execute(insert(entries), self._entries)
        if self._nodes:
            self._connection.execute(insert(nodes), self._nodes)
        self._connection.execute(
            update(head)
            .where(head.c.id == _ONLY_ROW)
            .values(size=self._head.size, frontier=b"".join(self._head.frontier))
        )
        self._entries, self._nodes = [], []


def lock_head(connection: Connection) -> TreeHead:
    """The head, locked until the transaction ends where the database locks rows."""
    return _head_of(connection.execute(_SELECT_HEAD.with_for_update()).one())


def read_head(connection: Connection) -> TreeHead:
    """The head as this transaction sees it."""
    return _head_of(connection.execute(_SELECT_HEAD).one())


def read_leaf(connection: Connection, seq: int) -> bytes:
    """The stored bytes at `seq`. Raises: NotFoundError (`no-event`)."""
    leaf = connection.execute(select(entries.c.leaf).where(entries.c.seq == seq)).scalar()
    if leaf is None:
        raise NotFoundError("no-event", f"the ledger has no event {seq}", "doorstep ledger show")
    return bytes(leaf)


def read_events(connection: Connection, wanted: Filter, limit: int = 100) -> list[Event]:
    """The newest events that match, newest first; at most `EVENTS_READ_MAX`."""
    query = select(entries.c.leaf).order_by(entries.c.seq.desc())
    if wanted.service:
        query = query.where(entries.c.service == wanted.service)
    if wanted.kind:
        query = query.where(entries.c.kind == wanted.kind)
    if wanted.without:
        query = query.where(entries.c.kind != wanted.without)
    if wanted.starts:
        # LIKE takes no pattern of any length, and in SQLite no heed of capitals.
        begins = func.substr(entries.c.kind, 1, len(wanted.starts))
        query = query.where(begins == wanted.starts)
    if wanted.object:
        query = query.where(entries.c.object_type == wanted.object.type)
        query = query.where(entries.c.object_id == wanted.object.id)
    if wanted.before is not None:
        query = query.where(entries.c.seq < wanted.before)
    rows = connection.execute(query.limit(min(limit, EVENTS_READ_MAX))).scalars()
    return [decode_event(bytes(leaf)) for leaf in rows]


def scan(
    connection: Connection, start: int | None = None, end: int | None = None
) -> Iterator[Row[Any]]:
    """Rows of the ledger in order of seq, [start, end), read in batches of `EXPORT_BATCH`.

    Without bounds, every row that is there, also one that has no business there. Inside one read
    transaction, what is yielded is one state of the ledger.
    """
    after = None if start is None else start - 1
    while True:
        query = select(entries).order_by(entries.c.seq)
        if after is not None:
            query = query.where(entries.c.seq > after)
        if end is not None:
            query = query.where(entries.c.seq < end)
        rows = connection.execute(query.limit(EXPORT_BATCH)).all()
        yield from rows
        if len(rows) < EXPORT_BATCH:
            return
        after = rows[-1].seq


def export_lines(connection: Connection, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """NDJSON: the stored bytes of each event and a line break. The verifier hashes these lines."""
    for row in scan(connection, start, end):
        yield bytes(row.leaf) + b"\n"


def hash_at(connection: Connection) -> merkle.HashAt:
    """The stored (level, index) -> hash, for the provers of `core/merkle.py`.

    Raises, when asked for a subtree that is not complete: InputError (`ledger-broken`).
    """

    def read(level: int, index: int) -> bytes:
        base = level - level % TILE_LEVELS
        count = 1 << level - base
        hashes = _hash_range(connection, base, index * count, count)
        if len(hashes) != count:
            raise InputError(
                "ledger-broken",
                f"the ledger lacks {count - len(hashes)} of {count} hashes under node "
                f"({level}, {index})",
                "doorstep ledger verify",
            )
        return _root_of_complete(hashes)

    return read


def prove_inclusion(connection: Connection, seq: int, size: int) -> list[bytes]:
    """The RFC 9162 proof that event `seq` is in the ledger at `size`. Raises: NotFoundError."""
    if not 0 <= seq < size <= read_head(connection).size:
        raise NotFoundError("no-event", f"the ledger has no event {seq} at size {size}")
    return merkle.inclusion_proof(seq, size, hash_at(connection))


def prove_consistency(connection: Connection, old: int, new: int) -> list[bytes]:
    """The RFC 9162 proof that the ledger at `old` is a prefix of `new`. Raises: NotFoundError."""
    if not 0 <= old <= new <= read_head(connection).size:
        raise NotFoundError("no-event", f"the ledger has no sizes {old} and {new}")
    return merkle.consistency_proof(old, new, hash_at(connection))


_SELECT_HEAD = select(head.c.size, head.c.frontier).where(head.c.id == _ONLY_ROW)


def _head_of(row: Row[Any, Any]) -> TreeHead:
    packed = bytes(row.frontier)
    parts = range(0, len(packed), merkle.HASH_BYTES)
    return TreeHead(row.size, tuple(packed[at : at + merkle.HASH_BYTES] for at in parts))


def _entry_of(event: Event, leaf: bytes, leaf_hash: bytes) -> dict[str, Any]:
    return {"seq": event.seq, "leaf": leaf, "hash": leaf_hash, **index_columns(event)}


def index_columns(event: Event) -> dict[str, Any]:
    """The columns of `ledger` that are copies of what the leaf says."""
    return {
        "at": event.ts,
        "kind": event.kind,
        "object_type": event.object.type,
        "object_id": event.object.id,
        "service": event.service,
    }


def _stored_nodes(completed: list[tuple[merkle.Subtree, bytes]]) -> list[dict[str, Any]]:
    return [
        {"level": level, "number": number, "hash": found}
        for (level, number), found in completed
        if level and level % TILE_LEVELS == 0
    ]


def _hash_range(connection: Connection, level: int, start: int, count: int) -> list[bytes]:
    if level == 0:
        query = select(entries.c.hash).where(entries.c.seq.between(start, start + count - 1))
        rows = connection.execute(query.order_by(entries.c.seq)).scalars()
    else:
        query = select(nodes.c.hash).where(nodes.c.level == level)
        query = query.where(nodes.c.number.between(start, start + count - 1))
        rows = connection.execute(query.order_by(nodes.c.number)).scalars()
    return [bytes(found) for found in rows]


def _root_of_complete(hashes: list[bytes]) -> bytes:
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=True)
        hashes = [merkle.hash_node(left, right) for left, right in pairs]
    return hashes[0]
