"""The keys of subjects, one each, wrapped by the home's key: `<home>/keys/personal.db`, 0600.

Whoever has this file and `personal.key` of a backup can open what they opened then.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_wrap,
)

from doorstep.core.errors import RefusedError
from doorstep.core.instant import Instant
from doorstep.core.record import SEALED
from doorstep.journal.columns import SEALED_KEY, Batch
from doorstep.journal.sealing import (
    KEY_BYTES,
    SEAL_BYTES,
    Opener,
    Sealer,
    Values,
    open_sealed,
    subject_in,
)
from doorstep.kernel.keys import (
    PERSONAL_FILE,
    PRIVATE_MODE,
    SUBJECTS_FILE,
    PersonalKey,
    load_personal_key,
)

FILE = SUBJECTS_FILE
WAIT_S = 30.0
MANY = 500
_TABLES = """
CREATE TABLE IF NOT EXISTS subject (name TEXT PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erasure (
  name TEXT PRIMARY KEY, at INTEGER NOT NULL, by TEXT NOT NULL, why TEXT NOT NULL,
  done INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erased (about TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
"""


class Erasure(msgspec.Struct, frozen=True):
    """name: the subject's pseudonym. at: what was answered until then cannot be read any more."""

    name: str
    at: Instant
    by: str
    why: str


class Subjects:
    """keys: the folder of the home. Any process may have one; a transaction is short.

    Raises: NotFoundError (`no-key`) where the home's key is not, OSError."""

    def __init__(self, keys: Path) -> None:
        self._key: PersonalKey = load_personal_key(keys)
        self._opener = Opener(self._key)
        self._path = keys / FILE
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, PRIVATE_MODE))
        with self._writing() as con:
            con.executescript(_TABLES)

    @property
    def secret(self) -> bytes:
        """Of pseudonyms."""
        return self._key.sealing[KEY_BYTES:]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """What is deleted is overwritten, and the file that could bring it back is gone after each
        transaction."""
        con = sqlite3.connect(self._path, timeout=WAIT_S, isolation_level=None)
        try:
            con.execute("PRAGMA journal_mode = DELETE")
            con.execute("PRAGMA synchronous = EXTRA")
            con.execute("PRAGMA secure_delete = ON")
            con.execute("BEGIN IMMEDIATE")
            yield con
            if con.in_transaction:
                con.execute("COMMIT")
        finally:
            con.close()

    def wrap(self, batch: Batch) -> list[bytes | None]:
        """What opens each record of a block from now on: its row key under its subject's key, made
        here for a subject that has none. None for one that was erased since.

        Raises: RefusedError (`sealed-for-another-key`)."""
        at = next(i for i, one in enumerate(batch.layout.texts) if one.name == SEALED)
        fields = batch.fields
        names = [subject_in(texts[at] or "") for texts in fields["texts"]]
        asked = sorted({*names} - {""})
        with self._writing() as con:
            erased = _select(con, "SELECT name, at FROM erasure", "name", asked)
            keys = _select(con, "SELECT name, key FROM subject", "name", asked)
            is_open = [
                name != "" and seal is not None and answered_at > erased.get(name, -1)
                for name, seal, answered_at in zip(names, batch.keys, fields["at"], strict=True)
            ]
            live = {name for name, found in zip(names, is_open, strict=True) if found}
            new = {name: self._new_key() for name in sorted(live - set(keys))}
            con.executemany("INSERT INTO subject VALUES (?, ?)", new.items())
        plain = {name: self._unwrapped(key) for name, key in (keys | new).items()}
        opener, service = self._opener, batch.layout.service
        places = zip(fields["request"], fields["row"], strict=True)
        return [
            aes_key_wrap(plain[name], opener.row_key(seal, service, *place))
            if found and seal is not None
            else None
            for name, seal, place, found in zip(names, batch.keys, places, is_open, strict=True)
        ]

    def _new_key(self) -> bytes:
        return aes_key_wrap(self._key.wrapping, secrets.token_bytes(KEY_BYTES))

    def _unwrapped(self, key: bytes) -> bytes:
        try:
            return aes_key_unwrap(self._key.wrapping, key)
        except InvalidUnwrap:
            raise RefusedError(
                "sealed-for-another-key",
                f"{self._path} has keys of persons that are wrapped by another home's key",
                "restore keys/personal.key from the backup that belongs to this journal",
            ) from None

    def open(self, rows: Iterable[Mapping[str, Any]]) -> list[Values | None]:
        """The sealed values of each row of the journal; None where they were erased, {} where none
        were sealed. Raises: RefusedError (`sealed-for-another-key`)."""
        some = list(rows)
        names = sorted({subject_in(one[SEALED]) for one in some if one.get(SEALED)})
        with self._writing() as con:
            erased = _select(con, "SELECT name, at FROM erasure", "name", names)
            keys = _select(con, "SELECT name, key FROM subject", "name", names)
        return [self._open(one, erased, keys) for one in some]

    def _open(
        self, row: Mapping[str, Any], erased: dict[str, Any], keys: dict[str, Any]
    ) -> Values | None:
        if not row.get(SEALED):
            return {}
        name, found = subject_in(row[SEALED]), row.get(SEALED_KEY)
        if found is None or row["at"] <= erased.get(name, -1):
            return None
        if len(found) == SEAL_BYTES:
            request = UUID(row["request"]).bytes
            key = self._opener.row_key(found, row["service"], request, row["row"])
        elif name not in keys:
            return None
        else:
            wrapping = self._unwrapped(keys[name])
            try:
                key = aes_key_unwrap(wrapping, found)
            except InvalidUnwrap:
                return None  # of the key that was destroyed; the subject came back since
        return open_sealed(key, row[SEALED])

    def lost(self, rows: Iterable[Mapping[str, Any]]) -> list[bool]:
        """Of rows that nothing opens: whether a key that nobody destroyed, as far as is known here,
        is not there, as where `personal.db` was lost."""
        some = list(rows)
        until = self.erased(subject_in(one[SEALED]) for one in some)
        return [
            one.get(SEALED_KEY) is not None and one["at"] > until.get(subject_in(one[SEALED]), -1)
            for one in some
        ]

    def erased(self, names: Iterable[str]) -> dict[str, Instant]:
        """Until when each of these was erased."""
        with self._writing() as con:
            return _select(con, "SELECT name, at FROM erasure", "name", sorted(set(names)))

    def erase(self, asked: Erasure) -> None:
        """Destroy the key, and note that it is not told yet: from here on nothing opens what was
        recorded until then. To do it again does no harm."""
        with self._writing() as con:
            con.execute("DELETE FROM subject WHERE name = ?", [asked.name])
            con.execute(
                "INSERT OR REPLACE INTO erasure VALUES (?, ?, ?, ?, 0)",
                [asked.name, asked.at, asked.by, asked.why],
            )

    def undone(self) -> list[Erasure]:
        """Erasures of which the ledger was not told: somebody was killed in between."""
        with self._writing() as con:
            found = con.execute("SELECT name, at, by, why FROM erasure WHERE done = 0")
            return [Erasure(*row) for row in found]

    def look_again(self) -> None:
        """Records came back: each erasure looks again for those of its subject."""
        with self._writing() as con:
            con.execute("UPDATE erasure SET done = 0")

    def finish(self, one: Erasure, about: Iterable[str]) -> None:
        """The ledger has it. about: ids and recorded keys of predictions that were erased."""
        with self._writing() as con:
            rows = ((name, one.at) for name in about)
            con.executemany("INSERT OR REPLACE INTO erased VALUES (?, ?)", rows)
            # Not of one that was asked for since, which the ledger does not have yet.
            said = "UPDATE erasure SET done = 1 WHERE name = ? AND at = ?"
            con.execute(said, [one.name, one.at])

    def told(self) -> list[str]:
        """Ids and recorded keys of all predictions that were erased."""
        with self._writing() as con:
            return [name for (name,) in con.execute("SELECT about FROM erased")]

    def erased_among(self, about: Iterable[str]) -> dict[str, Instant]:
        """Which of these ids and recorded keys are of erased predictions, and until when."""
        with self._writing() as con:
            return _select(con, "SELECT about, at FROM erased", "about", sorted(set(about)))


def _select(
    con: sqlite3.Connection, query: str, column: str, names: Sequence[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for start in range(0, len(names), MANY):
        some = names[start : start + MANY]
        marks = ", ".join("?" * len(some))
        found |= dict(con.execute(f"{query} WHERE {column} IN ({marks})", some).fetchall())
    return found


def subjects_of(home: Path) -> Subjects:
    """Raises: NotFoundError (`no-key`), and what `load_personal_key` raises."""
    return Subjects(home / "keys")


def sealer_of(home: Path) -> Sealer | None:
    """None where the home has no key of personal fields."""
    return Sealer(load_personal_key(home / "keys").sealing) if has_key(home) else None


def has_key(home: Path) -> bool:
    return (home / "keys" / PERSONAL_FILE).exists()
