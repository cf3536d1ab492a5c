"""Signed checkpoints of the ledger: what cannot be taken back.

The signer remembers what it signed last in a file beside its key. It signs only committed events,
and nothing that is not consistent with that file and with the last checkpoint in the database: a
database that was restored to an older state, or rewritten, gets no new signature.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import Column, Connection, Table, Text, insert, select

from doorstep.core.errors import InputError, RefusedError
from doorstep.core.instant import Instant
from doorstep.core.merkle import verify_consistency
from doorstep.kernel.db import Database
from doorstep.kernel.files import write_atomic
from doorstep.kernel.keys import SigningKey
from doorstep.kernel.ledger import TreeHead, prove_consistency, read_head
from doorstep.kernel.note import NOTE_BYTES_MAX, Checkpoint, open_checkpoint, sign_note
from doorstep.kernel.schema import OPERATIONAL, At, Whole, metadata

EVENTS_MAX = 1000
AGE_S_MAX = 60

checkpoints = Table(
    "ledger_checkpoint",
    metadata,
    Column("size", Whole, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
    Column("signed_at", At, nullable=False),
    info=dict(OPERATIONAL),
)


class Signed(msgspec.Struct, frozen=True):
    """A checkpoint as it was signed."""

    size: int
    note: str
    signed_at: Instant


class Signer:
    """The ledger's key, and the note that it signed last (`memory`, a file)."""

    def __init__(self, key: SigningKey, memory: Path) -> None:
        self.key = key
        self._memory = memory

    def last(self) -> Checkpoint | None:
        """What was signed last. Raises: InputError (`bad-note`) if the file was changed."""
        try:
            note = self._memory.read_bytes()
        except FileNotFoundError:
            return None
        if len(note) > NOTE_BYTES_MAX:
            raise InputError("bad-note", f"{self._memory} is too long to be a checkpoint")
        return open_checkpoint(note.decode(errors="replace"), self.key.public)

    def sign(self, head: TreeHead) -> str:
        """The note, remembered before it is given out."""
        checkpoint = Checkpoint(self.key.public.name, head.size, head.root)
        note = sign_note(checkpoint.to_text(), self.key)
        write_atomic(self._memory, note.encode(), 0o600)
        return note


def is_due(head: TreeHead, last: Signed | None, now: Instant) -> bool:
    """Whether a checkpoint should be signed: after 1000 events, or 60 s after there is a new one.

    A verification, and so an export, signs at once without asking.
    """
    if last is None or head.size == last.size:
        return last is None and head.size > 0
    age_s = (now - last.signed_at) / 1e6
    return head.size - last.size >= EVENTS_MAX or age_s >= AGE_S_MAX


def sign_checkpoint(database: Database, signer: Signer, now: Instant) -> Signed:
    """The signed checkpoint of what is committed now; the last one if nothing came after it.

    Must not be called inside a transaction: only committed events are signed.
    Raises: RefusedError (`ledger-inconsistent`), and nothing is signed.
    """
    with database.reading() as connection:
        head = read_head(connection)
        newest = read_checkpoint(connection)
        if newest is not None:
            _require_prefix(connection, open_checkpoint(newest.note, signer.key.public), head)
        remembered = signer.last()
        if remembered is not None:
            _require_prefix(connection, remembered, head)
    if newest is not None and newest.size == head.size:
        return newest
    signed = Signed(head.size, signer.sign(head), now)
    with database.transaction() as unit:
        known = read_checkpoint(unit.connection, head.size)
        if known is None:
            unit.connection.execute(insert(checkpoints).values(msgspec.structs.asdict(signed)))
    return known or signed


def read_checkpoint(connection: Connection, size: int | None = None) -> Signed | None:
    """The checkpoint at `size`, or the newest."""
    query = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
    if size is not None:
        query = query.where(checkpoints.c.size == size)
    row = connection.execute(query).one_or_none()
    return None if row is None else Signed(row.size, row.note, row.signed_at)


def _require_prefix(connection: Connection, old: Checkpoint, head: TreeHead) -> None:
    if old.size <= head.size:
        proof = prove_consistency(connection, old.size, head.size)
        if verify_consistency(old.size, head.size, old.root, head.root, proof):
            return
    raise RefusedError(
        "ledger-inconsistent",
        f"the ledger ({head.size} events) does not continue what was signed at {old.size}: "
        "it was rewritten, or restored to an older state; no checkpoint is signed",
        "doorstep ledger verify",
    )
