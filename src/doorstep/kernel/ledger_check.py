"""Verify the whole ledger: hash every stored byte again and compare with everything known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select

from doorstep.core import merkle
from doorstep.core.errors import InputError
from doorstep.kernel.checkpoints import checkpoints
from doorstep.kernel.event import decode_event
from doorstep.kernel.keys import PublicKey
from doorstep.kernel.ledger import (
    TILE_LEVELS,
    index_columns,
    nodes,
    read_head,
    scan,
)
from doorstep.kernel.note import Checkpoint, open_checkpoint

PROBLEMS_MAX = 100


class Problem(msgspec.Struct, frozen=True):
    """seq: the event or size that it is about. what: one sentence."""

    seq: int
    what: str


class LedgerReport(msgspec.Struct, frozen=True):
    """What a verification found. root: hex, of the events as they are stored now.

    problems: at most `PROBLEMS_MAX`, by seq; empty if the ledger is whole.
    """

    size: int
    root: str
    checkpoints: int
    problems: tuple[Problem, ...]

    @property
    def is_whole(self) -> bool:
        return not self.problems


class _Walk:
    """The tree built again from the leaves, and what was wrong on the way."""

    def __init__(self, sizes: set[int]) -> None:
        self.size = 0
        self.frontier: merkle.Frontier = ()
        self.roots: dict[int, bytes] = {0: merkle.EMPTY_ROOT}
        self.nodes: dict[merkle.Subtree, bytes] = {}
        self.problems: list[Problem] = []
        self._sizes = sizes

    def add(self, row: Row[Any]) -> None:
        leaf = bytes(row.leaf)
        found = merkle.hash_leaf(leaf)
        for what in _problems_of(row, leaf, found, self.size):
            self.say(row.seq, what)
        self.frontier, completed = merkle.grow(self.frontier, self.size, found)
        self.size += 1
        for (level, index), node in completed:
            if level and level % TILE_LEVELS == 0:
                self.nodes[level, index] = node
        if self.size in self._sizes:
            self.roots[self.size] = merkle.root_of(self.frontier)

    def say(self, seq: int, what: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(seq, what))


def verify_ledger(
    connection: Connection, key: PublicKey, pinned: Sequence[Checkpoint] = ()
) -> LedgerReport:
    """Hash all events again and compare them with their hashes, the head and every checkpoint.

    pinned: checkpoints that were kept elsewhere; without one, whoever holds the ledger's key can
    rewrite its history unseen. Reads every event once, in one read transaction.
    """
    notes = connection.execute(select(checkpoints).order_by(checkpoints.c.size)).all()
    kept = list(pinned)
    wrong: list[Problem] = []
    for row in notes:
        try:
            kept.append(_checkpoint_of(row, key))
        except InputError as error:
            wrong.append(Problem(row.size, error.message))
    walk = _Walk({checkpoint.size for checkpoint in kept})
    for row in scan(connection):
        walk.add(row)
    _compare_head(connection, walk)
    _compare_nodes(connection, walk)
    _compare_checkpoints(kept, walk)
    problems = sorted([*wrong, *walk.problems], key=lambda problem: problem.seq)[:PROBLEMS_MAX]
    root = merkle.root_of(walk.frontier).hex()
    return LedgerReport(walk.size, root, len(kept), tuple(problems))


def _checkpoint_of(row: Row[Any], key: PublicKey) -> Checkpoint:
    checkpoint = open_checkpoint(row.note, key)
    if checkpoint.size != row.size:
        raise InputError("bad-note", f"the checkpoint kept at {row.size} is of {checkpoint.size}")
    return checkpoint


def _problems_of(row: Row[Any], leaf: bytes, found: bytes, expected: int) -> list[str]:
    problems = []
    if row.seq != expected:
        problems.append(f"event {expected} was expected here: events are missing or were inserted")
    if found != bytes(row.hash):
        problems.append("the event was changed: its bytes have another hash")
    try:
        event = decode_event(leaf)
    except InputError as error:
        return [*problems, error.message]
    if event.seq != row.seq:
        problems.append(f"the event says that its place is {event.seq}: it was moved")
    wanted: Mapping[str, Any] = index_columns(event)
    stored = row._mapping
    problems += [
        f"column {name} was changed: {stored[name]!r} is not what the event says"
        for name in wanted
        if stored[name] != wanted[name]
    ]
    return problems


def _compare_head(connection: Connection, walk: _Walk) -> None:
    try:
        head = read_head(connection)
    except ValueError as error:
        walk.say(walk.size, f"the head cannot be read: {error}")
        return
    if (head.size, head.frontier) != (walk.size, walk.frontier):
        walk.say(walk.size, f"the head says {head.size} events, {walk.size} hash to another root")


def _compare_nodes(connection: Connection, walk: _Walk) -> None:
    stored = {
        (row.level, row.number): bytes(row.hash) for row in connection.execute(select(nodes)).all()
    }
    if stored != walk.nodes:
        walk.say(walk.size, "the stored inner hashes are not those of the events")


def _compare_checkpoints(kept: Sequence[Checkpoint], walk: _Walk) -> None:
    for checkpoint in kept:
        if checkpoint.size > walk.size:
            walk.say(
                checkpoint.size,
                f"a checkpoint covers {checkpoint.size} events, {walk.size} are here: "
                "the end was cut off",
            )
        elif walk.roots[checkpoint.size] != checkpoint.root:
            walk.say(
                checkpoint.size,
                f"the first {checkpoint.size} events are not those of the checkpoint",
            )
