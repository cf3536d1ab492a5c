"""The database: SQLite in the home, or PostgreSQL by URL, with the same meaning on both.

A writing transaction is alone: SQLite by BEGIN IMMEDIATE, PostgreSQL by one advisory lock. So what
an action has read is still true when it writes, and ledger numbers have no gaps. Reading
transactions see one state and wait for nobody.

    with database.transaction(actor) as unit:
        store.save(unit.connection, release)
        unit.record("release.started", Object("release", release.id), {"service": "loans"})
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from doorstep.core.instant import Clock, Instant
from doorstep.kernel.engine import (
    BUSY_WAIT_S,
    begin_options,
    busy,
    changed_tables,
    is_conflict,
    is_passing,
    make_engine,
    refusal_of,
    say_url,
)
from doorstep.kernel.event import DOORSTEP, Actor, Event, Object
from doorstep.kernel.leases import require_term
from doorstep.kernel.ledger import Appender

TRIES_MAX = 5
PAUSE_S = 0.05

Answer = TypeVar("Answer")


class Unit:
    """One writing transaction: a connection, the time, who acts, and the events to append."""

    def __init__(self, connection: Connection, clock: Clock, actor: Actor) -> None:
        self.connection = connection
        self.clock = clock
        self.actor = actor
        self._appender = Appender(connection)

    def now(self) -> Instant:
        """Wall time, for `_at` columns."""
        return self.clock.now()

    def record(
        self,
        kind: str,
        about: Object,
        data: Mapping[str, Any] | msgspec.Struct,
        *,
        actor: Actor | None = None,
    ) -> Event:
        """Append a ledger event, committed with the change that it tells of.

        actor: who did it, if not whoever this unit acts for.
        Raises: InputError (`not-json`, `event-too-large`).
        """
        at = self.clock.now()
        return self._appender.append(kind, about, data, actor=actor or self.actor, at=at)

    def finish(self) -> None:
        """Write the events. Raises: RuntimeError if domain state changed without one."""
        changed = changed_tables(self.connection)
        if changed and not self._appender.appended:
            raise RuntimeError(f"{sorted(changed)} changed without a ledger event")
        self._appender.flush()


class Database:
    """One database, used by the threads of one process. It connects when first used."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._engine = make_engine(url)
        self._clock = clock
        self._said = say_url(url)
        self._thread = threading.local()
        self._term: int | None = None

    def led(self, term: int) -> Database:
        """The same database for the loops of the leader of this term: each of its transactions,
        reading or writing, begins by checking that the lease is still held in it. So what a loop
        of a process that leads no longer has decided is neither saved nor published.

        Its transactions raise, besides: RefusedError (`not-leader`).
        """
        led = copy(self)
        led._term = term
        return led

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @contextmanager
    def transaction(self, actor: Actor = DOORSTEP) -> Iterator[Unit]:
        """A writing unit of work: everything in it is committed at the end, or nothing.

        Raises: OverloadedError (`database-busy`) after `BUSY_WAIT_S`, UnreachableError
        (`database-unreachable`), InputError (`not-a-database`), RuntimeError for one inside
        another, which would wait for itself.
        """
        with self.writing() as connection:
            unit = Unit(connection, self._clock, actor)
            yield unit
            unit.finish()

    def run(self, work: Callable[[Unit], Answer], actor: Actor = DOORSTEP) -> Answer:
        """`work(unit)` in a transaction, again if the database undid it because of another one.

        Only what was certainly rolled back is repeated, at most `TRIES_MAX` times; `work` must
        have no effect outside its unit. Raises: as `transaction`, and what `work` raises.
        """
        for tried in range(1, TRIES_MAX + 1):
            try:
                with self.transaction(actor) as unit:
                    return work(unit)
            except DBAPIError as error:
                if not is_conflict(error):
                    raise
                time.sleep(PAUSE_S * tried)
        raise busy(self._said)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database and cannot change it.

        Raises: as `transaction`; RuntimeError for an insert, update or delete.
        """
        with self._begun(writes=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """The bare transaction under `transaction`, for migrations: no events, no checks."""
        if getattr(self._thread, "writes", False):
            raise RuntimeError("a writing transaction was opened inside another one")
        self._thread.writes = True
        try:
            with self._begun(writes=True) as connection:
                yield connection
                connection.commit()
        finally:
            self._thread.writes = False

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _begun(self, *, writes: bool) -> Iterator[Connection]:
        connection = self._begin(writes=writes)
        with connection:
            if self._term is not None:
                require_term(connection, self._term)
            yield connection

    def _begin(self, *, writes: bool) -> Connection:
        """A connection in a transaction. Nothing was done in it yet, so trying again is safe."""
        give_up_s = time.monotonic() + BUSY_WAIT_S
        while True:
            try:
                return self._connect(writes=writes)
            except DBAPIError as error:
                if not is_passing(error):
                    raise refusal_of(error, self._said) from error
                if time.monotonic() > give_up_s:
                    raise busy(self._said) from error
                time.sleep(PAUSE_S)
            except PoolTimeoutError as error:
                raise busy(self._said) from error

    def _connect(self, *, writes: bool) -> Connection:
        connection = self._engine.connect()
        try:
            connection = connection.execution_options(**begin_options(self.kind, writes=writes))
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection
