"""Idempotency keys: the same key with the same request gives the same stored answer, on this node.

All workers of a node share one SQLite file in its state folder, opened with the first request that
has a key. A key is claimed before its rows are scored; the answer is stored once its records are in
the journal and before the caller gets it. Only answers with status 200 are stored; after any other
the key is free again, and so is one whose worker died on the way.

Whoever writes the file is alone for a few milliseconds. An answer that finds it locked for longer
is stored in a later turn of the loop; a request is refused, to be sent again.

Ages go by the wall clock, because they outlive the process. A key belongs to the credential that it
came with: nobody is given another caller's answer.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from doorstep.core.errors import InputError
from doorstep.serve import limits
from doorstep.serve.admission import WireError
from doorstep.serve.call import Exchange
from doorstep.serve.cells import has_writer
from doorstep.serve.http import JSON, KEPT, RETRY, Head
from doorstep.serve.path import Troubles
from doorstep.serve.visit import Visit

if TYPE_CHECKING:
    import sqlite3

HEADER = b"idempotency-key"
FILE = "idempotency.db"
TOPIC = "idempotency"
REPLAYED = b"idempotent-replayed: true\r\n"
_CREDENTIALS = (b"authorization", b"x-api-key")
_ALIKE = sorted(KEPT - {HEADER, b"traceparent", *_CREDENTIALS})
"""Headers that must be the same for a request to be the same."""
_MANY = (
    f"more idempotency keys than {limits.KEYS_MAX:,}, or than {limits.KEYS_BYTES_MAX:,} bytes of "
    "answers, in a day: the oldest are forgotten early"
)
_TABLES = """BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS answer (
    key BLOB PRIMARY KEY, request BLOB NOT NULL, owner TEXT NOT NULL, at INTEGER NOT NULL,
    body BLOB, headers BLOB, media BLOB);
CREATE INDEX IF NOT EXISTS by_age ON answer (at);
CREATE TABLE IF NOT EXISTS total (keys INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO total SELECT count(*), total(length(body)) FROM answer
    WHERE NOT EXISTS (SELECT * FROM total);
CREATE TRIGGER IF NOT EXISTS claimed AFTER INSERT ON answer BEGIN
    UPDATE total SET keys = keys + 1, bytes = bytes + ifnull(length(new.body), 0); END;
CREATE TRIGGER IF NOT EXISTS stored AFTER UPDATE OF body ON answer BEGIN
    UPDATE total SET bytes = bytes + length(new.body) - ifnull(length(old.body), 0); END;
CREATE TRIGGER IF NOT EXISTS dropped AFTER DELETE ON answer BEGIN
    UPDATE total SET keys = keys - 1, bytes = bytes - ifnull(length(old.body), 0); END;
COMMIT"""
_OLD = (
    """SELECT key FROM answer WHERE at < ? UNION ALL SELECT key FROM answer WHERE at > ? LIMIT ?"""
)


class Answered(NamedTuple):
    """A stored answer, byte for byte. headers: whole lines."""

    body: bytes
    headers: bytes
    media: bytes


class KeyStore:
    """Keys and answers. owner: the worker's cell file in `cells`, which it holds locked while it
    lives. Every method raises sqlite3.Error or OSError when the file cannot be used."""

    def __init__(self, path: Path, cells: Path, owner: str) -> None:
        import sqlite3

        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._cells = cells
        self._owner = owner
        self._db: sqlite3.Connection = sqlite3.connect(
            path, timeout=limits.KEY_BUSY_S, isolation_level=None
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        # What replaces a key drops it: the totals must hear of it.
        self._db.execute("PRAGMA recursive_triggers = ON")
        self._db.executescript(_TABLES)
        self._swept_s = 0.0
        self._stored = self._stored_bytes = self._dropped = 0

    def claim(self, key: bytes, request: bytes, now: int) -> Answered | None:
        """The stored answer of this request; None: the key is ours until `store` or `release`.
        now: seconds UTC. Raises: WireError (`idempotency-mismatch`, `idempotency-in-flight`)."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            found = self._db.execute("SELECT * FROM answer WHERE key = ?", (key,)).fetchone()
            if found is not None and not self._is_over(found, now):
                _, known, _, _, body, headers, media = found
                if known != request:
                    raise WireError(
                        422, "idempotency-mismatch", "this key came with another request before"
                    )
                if body is None:
                    raise WireError(
                        409, "idempotency-in-flight",
                        "the first request with this key is under way", headers=RETRY,
                    )  # fmt: skip
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
        """Drop a slice of what is too old, and of the oldest of what is too much: how many these
        were in this sweep so far. None: little was stored since the last one, so nobody looked."""
        clock = time.monotonic()
        is_little = (
            self._stored < limits.KEYS_MAX // 8 and self._stored_bytes < limits.KEYS_BYTES_MAX // 8
        )
        if is_little and clock - self._swept_s < limits.KEY_SWEEP_S:
            return None
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            old = (now - limits.KEY_KEPT_S, now + limits.KEY_KEPT_S, limits.KEY_SLICE)
            gone = self._db.execute(_OLD, old).fetchall()
            many = self._too_many() if len(gone) < limits.KEY_SLICE else []
            self._db.executemany("DELETE FROM answer WHERE key = ?", [*gone, *many])
        found = self._dropped = self._dropped + len(many)
        if max(len(gone), len(many)) < limits.KEY_SLICE:
            self._swept_s, self._stored, self._stored_bytes, self._dropped = clock, 0, 0, 0
        return found

    def _too_many(self) -> list[tuple[bytes]]:
        """The oldest keys that must go for the others to be within the limits, or a slice."""
        keys, size = self._db.execute("SELECT keys, bytes FROM total").fetchone()
        oldest = "SELECT key, ifnull(length(body), 0) FROM answer ORDER BY at LIMIT ?"
        found = []
        for key, length in self._db.execute(oldest, (limits.KEY_SLICE,)):
            if keys <= limits.KEYS_MAX and size <= limits.KEYS_BYTES_MAX:
                break
            keys, size = keys - 1, size - length
            found.append((key,))
        return found

    def close(self) -> None:
        self._db.close()

    def _is_over(self, found: Any, now: int) -> bool:
        _, _, owner, at, body, _, _ = found
        if body is not None:
            return bool(abs(now - at) > limits.KEY_KEPT_S)
        return abs(now - at) > limits.KEY_FLIGHT_S or not self._lives(owner)

    def _lives(self, owner: str) -> bool:
        try:
            return owner == self._owner or has_writer(self._cells / owner)
        except FileNotFoundError:
            return False


class KeyedExchange(msgspec.Struct):
    """The place of an answer that is stored before it is given."""

    keys: IdempotencyKeys
    visit: Visit
    key: bytes
    request_id: str

    def respond(self, status: int, body: bytes, headers: bytes = b"", media: bytes = JSON) -> None:
        def give(stored: bool) -> None:
            if not stored:
                self.release()
                return self.keys.refuse_unavailable(self.visit, self.request_id)
            return self.visit.exchange.respond(status, body, headers, media)

        if status == 200:
            return self.keys.store(self.key, Answered(body, headers, media), give)
        self.release()
        return give(True)

    def release(self) -> None:
        """The request was not taken."""
        self.keys.release(self.key)


class _Write(NamedTuple):
    """What is to be done to the file until then, and who is told whether it was."""

    do: Callable[[KeyStore], None]
    then: Callable[[bool], None]
    until_s: float


class IdempotencyKeys:
    """The keys of one worker. cells: its cell file."""

    def __init__(self, state: Path, cells: Path, troubles: Troubles) -> None:
        self._state = state
        self._cells = cells
        self._troubles = troubles
        self._store: KeyStore | None = None
        self._waiting: deque[_Write] = deque()

    def take(self, visit: Visit, request_id: str) -> Exchange | None:
        """Where the answer of a request with a key goes; None if it was answered at once.
        Raises: InputError (`bad-idempotency-key`), WireError (`idempotency-mismatch`,
        `idempotency-in-flight`, `idempotency-unavailable`)."""
        import sqlite3

        name = visit.head.fields[HEADER]
        if not 0 < len(name) <= limits.KEY_CHARS_MAX:
            raise InputError(
                "bad-idempotency-key",
                f"the key has {len(name)} characters; expected 1 to {limits.KEY_CHARS_MAX}",
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
            raise _unavailable() from None
        if found is None:
            return KeyedExchange(self, visit, key, request_id)
        visit.exchange.respond(200, found.body, found.headers + REPLAYED, found.media)
        return None

    def store(self, key: bytes, answer: Answered, then: Callable[[bool], None]) -> None:
        """then: told whether it could be, now or in a later turn of the loop."""
        self._write(lambda store: store.store(key, answer), then, limits.KEY_STORE_S)

    def release(self, key: bytes) -> None:
        self._write(lambda store: store.release(key), lambda _: None, limits.KEY_FLIGHT_S)

    def refuse_unavailable(self, visit: Visit, request_id: str) -> None:
        error = _unavailable()
        headers = f"doorstep-request-id: {request_id}\r\n".encode() + error.headers
        body = visit.codec.refusal(error.code, error.message, "", request_id)
        visit.exchange.respond(error.status, body, headers)

    def _open(self) -> KeyStore:
        if self._store is None:
            self._store = KeyStore(self._state / FILE, self._cells.parent, self._cells.name)
            self._troubles.tell(TOPIC, "")
        return self._store

    def _write(
        self, do: Callable[[KeyStore], None], then: Callable[[bool], None], limit_s: float
    ) -> None:
        one = _Write(do, then, time.monotonic() + limit_s)
        if not self._waiting and self._is_done(one):
            return
        self._waiting.append(one)
        if len(self._waiting) == 1:
            self._come_back()

    def _come_back(self) -> None:
        asyncio.get_running_loop().call_later(limits.KEY_AGAIN_S, self._go_on)

    def _go_on(self) -> None:
        while self._waiting and self._is_done(self._waiting[0]):
            self._waiting.popleft()
        if self._waiting:
            self._come_back()

    def _is_done(self, one: _Write) -> bool:
        """False: somebody else writes, and there is time to wait for that."""
        import sqlite3

        try:
            one.do(self._open())
        except (sqlite3.Error, OSError) as error:
            if _is_busy(error) and time.monotonic() < one.until_s:
                return False
            self._lose(error)
            one.then(False)
        else:
            one.then(True)
        return True

    def _lose(self, error: Exception) -> None:
        """The file cannot be used; unless somebody else only writes it, the next request with a key
        opens it again."""
        if self._store is not None and not _is_busy(error):
            self._store.close()
            self._store = None
        self._troubles.tell(TOPIC, f"requests with an idempotency key are refused: {error}")


def _is_busy(error: Exception) -> bool:
    import sqlite3

    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _unavailable() -> WireError:
    return WireError(
        503, "idempotency-unavailable",
        "the node cannot keep answers by key now", headers=RETRY,
    )  # fmt: skip


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
