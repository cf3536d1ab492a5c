"""Idempotency keys: the same key with the same request gives the same stored answer, on this node.

All workers of a node share one SQLite file in its state folder, opened with the first request that
has a key. A key is claimed before its rows are scored; the answer is stored once its records are in
the journal and before the caller gets it. Only answers with status 200 are stored; after any other
the key is free again, and so is one whose worker died on the way.

Ages go by the wall clock, because they outlive the process. A key belongs to the credential that it
came with: nobody is given another caller's answer.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from doorstep.core.errors import InputError
from doorstep.serve.admission import WireError
from doorstep.serve.call import Exchange
from doorstep.serve.cells import has_writer
from doorstep.serve.http import JSON, KEPT, Head
from doorstep.serve.limits import (
    KEY_BUSY_S,
    KEY_CHARS_MAX,
    KEY_FLIGHT_S,
    KEY_KEPT_S,
    KEY_SWEEP_S,
    KEYS_BYTES_MAX,
    KEYS_MAX,
)
from doorstep.serve.path import Troubles
from doorstep.serve.visit import Visit

if TYPE_CHECKING:
    import sqlite3

HEADER = b"idempotency-key"
FILE = "idempotency.db"
TOPIC = "idempotency"
RETRY = b"retry-after: 1\r\n"
REPLAYED = b"idempotent-replayed: true\r\n"
_CREDENTIALS = (b"authorization", b"x-api-key")
_ALIKE = sorted(KEPT - {HEADER, b"traceparent", *_CREDENTIALS})
"""Headers that must be the same for a request to be the same."""
_MANY = (
    f"more idempotency keys than {KEYS_MAX:,}, or than {KEYS_BYTES_MAX:,} bytes of answers, in a "
    "day: the oldest are forgotten early"
)
_TABLE = """CREATE TABLE IF NOT EXISTS answer (
    key BLOB PRIMARY KEY, request BLOB NOT NULL, owner TEXT NOT NULL, at INTEGER NOT NULL,
    body BLOB, headers BLOB, media BLOB) WITHOUT ROWID"""


class Answered(NamedTuple):
    """A stored answer, byte for byte. headers: whole lines."""

    body: bytes
    headers: bytes
    media: bytes


class Refused(NamedTuple):
    """Why a key cannot be used now."""

    status: int
    code: str
    message: str


_UNAVAILABLE = Refused(503, "idempotency-unavailable", "the node cannot keep answers by key now")


class KeyStore:
    """Keys and answers. owner: the worker's cell file in `cells`, which it holds locked while it
    lives. Every method raises sqlite3.Error or OSError when the file cannot be used."""

    def __init__(self, path: Path, cells: Path, owner: str) -> None:
        import sqlite3

        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._cells = cells
        self._owner = owner
        self._db: sqlite3.Connection = sqlite3.connect(
            path, timeout=KEY_BUSY_S, isolation_level=None
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(_TABLE)
        self._swept_s = 0.0
        self._stored = self._stored_bytes = 0

    def claim(self, key: bytes, request: bytes, now: int) -> Answered | Refused | None:
        """The stored answer of this request, or why it must not be made now; None: the key is
        ours until `store` or `release`. now: seconds UTC."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            found = self._db.execute("SELECT * FROM answer WHERE key = ?", (key,)).fetchone()
            if found is not None and not self._is_over(found, now):
                _, known, _, _, body, headers, media = found
                if known != request:
                    return Refused(
                        422, "idempotency-mismatch", "this key came with another request before"
                    )
                if body is None:
                    return Refused(
                        409, "idempotency-in-flight", "the first request with this key is under way"
                    )
                return Answered(body, headers, media)
            row = (key, request, self._owner, now)
            self._db.execute(
                "INSERT OR REPLACE INTO answer (key, request, owner, at) VALUES (?, ?, ?, ?)", row
            )
        return None

    def store(self, key: bytes, answer: Answered) -> None:
        self._db.execute(
            "UPDATE answer SET body = ?, headers = ?, media = ? WHERE key = ? AND owner = ?",
            (*answer, key, self._owner),
        )
        self._stored += 1
        self._stored_bytes += len(answer.body)

    def release(self, key: bytes) -> None:
        """The request was not answered: the key is free."""
        mine = "key = ? AND owner = ? AND body IS NULL"
        self._db.execute(f"DELETE FROM answer WHERE {mine}", (key, self._owner))  # noqa: S608

    def sweep(self, now: int) -> int | None:
        """Drop what is too old, and the oldest of what is too much: how many of these there were.
        None: little was stored since the last time, so nobody looked."""
        clock = time.monotonic()
        is_little = self._stored < KEYS_MAX // 8 and self._stored_bytes < KEYS_BYTES_MAX // 8
        if is_little and clock - self._swept_s < KEY_SWEEP_S:
            return None
        self._swept_s, self._stored, self._stored_bytes = clock, 0, 0
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            old = (now - KEY_KEPT_S, now + KEY_KEPT_S)
            self._db.execute("DELETE FROM answer WHERE at < ? OR at > ?", old)
            kept = "SELECT key, row_number() OVER newest AS place, sum(length(body)) OVER newest"
            kept += " AS bytes FROM answer WINDOW newest AS (ORDER BY at DESC, key)"
            dropped = self._db.execute(
                f"DELETE FROM answer WHERE key IN (SELECT key FROM ({kept}) "  # noqa: S608
                "WHERE place > ? OR bytes > ?)",
                (KEYS_MAX, KEYS_BYTES_MAX),
            )
        return dropped.rowcount

    def close(self) -> None:
        self._db.close()

    def _is_over(self, found: Any, now: int) -> bool:
        _, _, owner, at, body, _, _ = found
        if body is not None:
            return bool(abs(now - at) > KEY_KEPT_S)
        return abs(now - at) > KEY_FLIGHT_S or not self._lives(owner)

    def _lives(self, owner: str) -> bool:
        try:
            return owner == self._owner or has_writer(self._cells / owner)
        except FileNotFoundError:
            return False


class KeyedExchange:
    """The place of an answer that is stored before it is given."""

    def __init__(self, keys: IdempotencyKeys, visit: Visit, key: bytes, request_id: str) -> None:
        self._keys = keys
        self._visit = visit
        self._key = key
        self._request_id = request_id

    def respond(self, status: int, body: bytes, headers: bytes = b"", media: bytes = JSON) -> None:
        exchange = self._visit.exchange
        if status != 200:
            self.release()
        elif not self._keys.store(self._key, Answered(body, headers, media)):
            return self._keys.refuse_unavailable(self._visit, self._request_id)
        return exchange.respond(status, body, headers, media)

    def release(self) -> None:
        """The request was not taken."""
        self._keys.release(self._key)


class IdempotencyKeys:
    """The keys of one worker. cells: its cell file."""

    def __init__(self, state: Path, cells: Path, troubles: Troubles) -> None:
        self._state = state
        self._cells = cells
        self._troubles = troubles
        self._store: KeyStore | None = None

    def take(self, visit: Visit, request_id: str) -> Exchange | None:
        """Where the answer of a request with a key goes; None if it was answered at once.
        Raises: InputError (`bad-idempotency-key`), WireError (`idempotency-mismatch`,
        `idempotency-in-flight`, `idempotency-unavailable`)."""
        import sqlite3

        name = visit.head.fields[HEADER]
        if not 0 < len(name) <= KEY_CHARS_MAX:
            raise InputError(
                "bad-idempotency-key",
                f"the key has {len(name)} characters; expected 1 to {KEY_CHARS_MAX}",
            )
        key, now = _key_of(visit.head, name), int(time.time())
        try:
            store = self._open()
            dropped = store.sweep(now)
            if dropped is not None:
                self._troubles.tell(TOPIC, _MANY if dropped else "")
            found = store.claim(key, _request_of(visit), now)
        except (sqlite3.Error, OSError) as error:
            self._lose(error)
            raise _wire(_UNAVAILABLE) from None
        match found:
            case Answered(body, headers, media):
                visit.exchange.respond(200, body, headers + REPLAYED, media)
            case Refused():
                raise _wire(found)
            case None:
                return KeyedExchange(self, visit, key, request_id)
        return None

    def store(self, key: bytes, answer: Answered) -> bool:
        """Whether it could be."""
        import sqlite3

        try:
            self._open().store(key, answer)
        except (sqlite3.Error, OSError) as error:
            self._lose(error)
            self.release(key)
            return False
        return True

    def release(self, key: bytes) -> None:
        import sqlite3

        try:
            self._open().release(key)
        except (sqlite3.Error, OSError) as error:
            self._lose(error)

    def refuse_unavailable(self, visit: Visit, request_id: str) -> None:
        status, code, message = _UNAVAILABLE
        headers = f"doorstep-request-id: {request_id}\r\n".encode() + RETRY
        body = visit.codec.refusal(code, message, "", request_id)
        visit.exchange.respond(status, body, headers)

    def _open(self) -> KeyStore:
        if self._store is None:
            self._store = KeyStore(self._state / FILE, self._cells.parent, self._cells.name)
            self._troubles.tell(TOPIC, "")
        return self._store

    def _lose(self, error: Exception) -> None:
        """The file cannot be used; the next request with a key opens it again."""
        if self._store is not None:
            self._store.close()
            self._store = None
        self._troubles.tell(TOPIC, f"requests with an idempotency key are refused: {error}")


def _wire(why: Refused) -> WireError:
    headers = RETRY if why.status in (409, 503) else b""
    return WireError(why.status, why.code, why.message, headers=headers)


def _key_of(head: Head, name: bytes) -> bytes:
    return _digest(name, *(head.fields.get(one, b"") for one in _CREDENTIALS))


def _request_of(visit: Visit) -> bytes:
    head = visit.head
    said = (head.fields.get(one, b"") for one in _ALIKE)
    return _digest(visit.service.encode(), head.url, *said, visit.body)


def _digest(*parts: bytes) -> bytes:
    found = sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()
