"""The second place is a table of PostgreSQL: one INSERT for a group, committed as the server says.

`synchronous_commit` is the server's, the role's or the URL's: with `on` an acknowledged group is on
the disk there, with synchronous standbys on theirs too.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import pq

from doorstep.core.instant import SECOND_US, Instant
from doorstep.journal.replica import WAIT_S, Segment, There, unreachable

TABLE = "doorstep_journal"
TRIMMED_AT_ONCE = 5000
READ_WAIT_S = 60.0
"""For one statement of those that look at the whole table."""
DAY_US = 86_400 * SECOND_US
_CREATE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (node text, block text, number int, start bigint, "
    "opened_at bigint, data bytea, PRIMARY KEY (node, block, number))",
    # Rows come nearly in the order of that time, so that this costs nothing to keep.
    f"CREATE INDEX IF NOT EXISTS {TABLE}_opened ON {TABLE} USING brin (opened_at)",
    # Compressing what is mostly floats costs the server more than it saves.
    f"ALTER TABLE {TABLE} ALTER data SET STORAGE EXTERNAL",
)
_TRIM = (
    f"DELETE FROM {TABLE} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {TABLE} WHERE opened_at < %s "  # noqa: S608
    f"LIMIT {TRIMMED_AT_ONCE})) RETURNING 1"
)
_LOCK = 0x646F6F72  # any number that is ours: two workers that start make one table


class PostgresReplica:
    """A `Replica`. What waits for the server has a limit of its own: a server that hangs answers
    neither a statement nor its cancellation."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None

    def keep(self, segments: Sequence[Segment]) -> None:
        with self._reached() as connection:
            if segments:
                _insert(connection.pgconn, segments)
            else:
                _ask(connection.pgconn, b"SELECT 1", [], [])

    def blocks(self) -> There:
        asked = f"SELECT node, block, min(opened_at) FROM {TABLE} GROUP BY 1, 2 ORDER BY 1, 2"  # noqa: S608
        with self._reached() as connection:
            found = _execute(connection, asked)
        return There(
            since=min((opened_at for *_, opened_at in found), default=0),
            blocks=tuple((node, block) for node, block, _ in found),
        )

    def read(self, node: str, block: str) -> list[Segment]:
        asked = (
            f"SELECT node, block, number, start, opened_at, data FROM {TABLE} "  # noqa: S608
            "WHERE node = %s AND block = %s"
        )
        with self._reached() as connection:
            return [Segment(*row) for row in _execute(connection, asked, (node, block))]

    def trim(self, days: float, now: Instant) -> None:
        before = (now - int(days * DAY_US),)
        with self._reached() as connection:
            # In parts, so that nobody waits long for what one of them holds.
            while len(_execute(connection, _TRIM, before)) == TRIMMED_AT_ONCE:
                continue

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _reached(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            self._connection = self._connection or self._connect()
            yield self._connection
        except (psycopg.Error, OSError) as error:
            self.close()
            raise unreachable(self._url, error) from None

    def _connect(self) -> psycopg.Connection[Any]:
        found = psycopg.connect(self._url, autocommit=True, connect_timeout=int(WAIT_S))
        # Who may only insert does not get as far as "it exists already".
        with _limited(found, WAIT_S):
            if found.execute("SELECT to_regclass(%s)", (TABLE,)).fetchone() == (None,):
                with found.transaction():
                    found.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                    for statement in _CREATE:
                        found.execute(statement)
        return found


def _execute(
    connection: psycopg.Connection[Any], said: LiteralString, values: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    with _limited(connection, READ_WAIT_S):
        return connection.execute(said, values).fetchall()


@contextlib.contextmanager
def _limited(connection: psycopg.Connection[Any], wait_s: float) -> Iterator[None]:
    """After so long the way to the server is shut, which ends the waiting: a server that hangs
    would not hear of a cancellation. Raises: TimeoutError."""
    way, is_over = socket.socket(fileno=os.dup(connection.fileno())), threading.Event()

    def shut() -> None:
        is_over.set()
        with contextlib.suppress(OSError):
            way.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(wait_s, shut)
    timer.start()
    try:
        yield
    except psycopg.OperationalError:
        if is_over.is_set():
            raise TimeoutError(f"no answer within {wait_s:g} s") from None
        raise
    finally:
        timer.cancel()
        timer.join()
        way.close()


def _insert(server: pq.abc.PGconn, segments: Sequence[Segment]) -> None:
    """One statement, by libpq itself: psycopg's cursor takes more CPU than all else of a group."""
    values: list[bytes | bytearray] = []
    for one in segments:
        numbers = (one.number, one.start, one.opened_at)
        values += (one.node.encode(), one.block.encode(), *(b"%d" % number for number in numbers))
        values.append(one.data)
    rows = ",".join(
        f"(${at},${at + 1},${at + 2},${at + 3},${at + 4},${at + 5})"
        for at in range(1, len(values), 6)
    )
    said = f"INSERT INTO {TABLE} VALUES {rows} ON CONFLICT DO NOTHING"  # noqa: S608
    _ask(server, said.encode(), values, [0, 0, 0, 0, 0, 1] * len(segments))


def _ask(
    server: pq.abc.PGconn, said: bytes, values: list[bytes | bytearray], formats: list[int]
) -> None:
    until_s = time.monotonic() + WAIT_S
    server.send_query_params(said, values, param_formats=formats)
    while server.flush():
        _wait(server, select.POLLIN | select.POLLOUT, until_s)
        server.consume_input()
    while True:
        while server.is_busy():
            _wait(server, select.POLLIN, until_s)
            server.consume_input()
        if (result := server.get_result()) is None:
            return
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


def _wait(server: pq.abc.PGconn, events: int, until_s: float) -> None:
    poll = select.poll()
    poll.register(server.socket, events)
    if not poll.poll(max(until_s - time.monotonic(), 0) * 1000):
        raise TimeoutError(f"no answer within {WAIT_S:g} s")
