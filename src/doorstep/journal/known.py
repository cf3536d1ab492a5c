"""Which rows were imported already: one small SQLite file per service, `<home>/watched/*.ids`.

Exactly once, also across a crash: ids are noted as on their way, then the rows are handed to the
journal in one write, then the ids are noted as written. What a crash left on its way is looked for
in the journal; a batch is one frame there, so that one of its ids speaks for all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ASKED_AT_ONCE = 500
ROW, OUTCOME = 1, 2
_TABLE = "CREATE TABLE IF NOT EXISTS known (id BLOB PRIMARY KEY, on_its_way INT) WITHOUT ROWID"
_INDEX = "CREATE INDEX IF NOT EXISTS way ON known (on_its_way) WHERE on_its_way > 0"


class KnownIds:
    """Use it inside `known_ids`: one user at a time, of all processes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def among(self, ids: Iterable[bytes]) -> set[bytes]:
        """Those of `ids` that were imported already."""
        asked, found = list(ids), set()
        for start in range(0, len(asked), ASKED_AT_ONCE):
            part = asked[start : start + ASKED_AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(
                f"SELECT id FROM known WHERE id IN ({marks})",  # noqa: S608
                part,
            )
            found |= {bytes(row[0]) for row in rows}
        return found

    @contextlib.contextmanager
    def writing(self, rows: Iterable[bytes], outcomes: Iterable[bytes]) -> Iterator[None]:
        """The body hands the rows of these ids to the journal; if it raises, none was."""
        marked = [*((one, ROW) for one in rows), *((one, OUTCOME) for one in outcomes)]
        with self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO known VALUES (?, ?)", marked)
        try:
            yield
        except BaseException:
            self._end(is_written=False)
            raise
        self._end(is_written=True)

    def _end(self, *, is_written: bool) -> None:
        done = "UPDATE known SET on_its_way = 0" if is_written else "DELETE FROM known"
        with self._connection:
            self._connection.execute(f"{done} WHERE on_its_way > 0")

    def settle(self, is_written: Callable[[bytes], bool]) -> None:
        """Decide what a crash left open. is_written: asks the journal about one request id.
        Outcomes without a row are taken again: the last one counts, so a double changes nothing."""
        if not self._one_where("on_its_way > 0"):
            return
        row = self._one_where(f"on_its_way = {ROW}")
        self._end(is_written=bool(row) and is_written(row))

    def _one_where(self, condition: str) -> bytes:
        found = self._connection.execute(f"SELECT id FROM known WHERE {condition} LIMIT 1")  # noqa: S608
        return bytes((found.fetchone() or (b"",))[0])


@contextlib.contextmanager
def known_ids(folder: Path, service: str) -> Iterator[KnownIds]:
    """The ids of one service, while nobody else has them. Raises: OSError, sqlite3.Error."""
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / f"{service}.lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.closing(sqlite3.connect(folder / f"{service}.ids")) as connection:
            connection.execute(_TABLE)
            connection.execute(_INDEX)
            yield KnownIds(connection)
    finally:
        os.close(lock)
