"""SQLAlchemy's engine, set so that SQLite and PostgreSQL mean the same by a transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.sql.dml import UpdateBase

from doorstep.core.errors import (
    DoorstepError,
    InputError,
    MissingExtraError,
    OverloadedError,
    UnreachableError,
    UsageError,
)

BUSY_WAIT_S = 10
CONNECT_WAIT_S = 5
STATEMENT_WAIT_S = 60
CONNECTIONS_MAX = 10
WRITER_LOCK = 0x646F6F7273746570  # "doorstep": one advisory lock per PostgreSQL database

_WRITES = "doorstep_writes"
_CHANGED = "doorstep_changed"
_SQLITE_BUSY = frozenset({5, 6})  # SQLITE_BUSY, SQLITE_LOCKED
_SQLITE_BROKEN = frozenset({11, 26})  # SQLITE_CORRUPT, SQLITE_NOTADB
# serialization_failure, deadlock_detected, lock_not_available
_POSTGRES_CONFLICT = frozenset({"40001", "40P01", "55P03"})


def make_engine(url: str) -> Engine:
    """The engine for a `sqlite:///PATH` or `postgresql://...` URL; it connects when first used.

    Raises: UsageError (`bad-database-url`), MissingExtraError if psycopg is not installed.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    return _postgres_engine(parsed)


def parse_url(url: str) -> URL:
    """Raises: UsageError (`bad-database-url`)."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _bad_url("what was given") from None
    match parsed.get_backend_name():
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return parsed.set(drivername="sqlite+pysqlite")
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case _:
            raise _bad_url(repr(parsed.render_as_string(hide_password=True)))


def say_url(url: str) -> str:
    """The URL without its password, for messages."""
    return parse_url(url).render_as_string(hide_password=True)


def is_conflict(error: DBAPIError) -> bool:
    """Whether another transaction was in the way, and this one was rolled back."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_BUSY
    return getattr(error.orig, "sqlstate", None) in _POSTGRES_CONFLICT


def is_passing(error: DBAPIError) -> bool:
    """Whether a transaction that could not begin may be able to, a moment later."""
    return is_conflict(error) or error.connection_invalidated


def busy(said: str) -> OverloadedError:
    return OverloadedError(
        "database-busy",
        f"the database {said} is busy: others have been writing for over {BUSY_WAIT_S} s",
        "try again",
    )


def refusal_of(error: DBAPIError, said: str) -> DoorstepError:
    """What to say when no transaction could be begun at all."""
    reason = str(error.orig).strip()
    if getattr(error.orig, "sqlite_errorcode", None) in _SQLITE_BROKEN:
        return InputError(
            "not-a-database",
            f"{said} cannot be read ({reason}); expected a SQLite database of Doorstep",
            "put a copy of it back, or choose another --home",
        )
    return UnreachableError(
        "database-unreachable", f"the database {said} does not answer: {reason}", "doorstep doctor"
    )


def changed_tables(connection: Connection) -> set[str]:
    """Names of the tables of domain state that this transaction wrote to."""
    changed: set[str] = connection.info.setdefault(_CHANGED, set())
    return changed


def begin_options(kind: str, *, writes: bool) -> dict[str, Any]:
    """Execution options for a transaction that writes, or one that reads one state."""
    if kind == "sqlite":
        return {_WRITES: writes}
    if writes:
        return {_WRITES: True, "isolation_level": "READ COMMITTED"}
    return {_WRITES: False, "isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=CONNECTIONS_MAX,
        max_overflow=0,
        pool_timeout=BUSY_WAIT_S,
        connect_args={"timeout": BUSY_WAIT_S},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "before_execute", _note_change)
    return engine


def _postgres_engine(url: URL) -> Engine:
    limits = {
        "lock_timeout": BUSY_WAIT_S,
        "statement_timeout": STATEMENT_WAIT_S,
        "idle_in_transaction_session_timeout": STATEMENT_WAIT_S,
    }
    try:
        engine = create_engine(
            url,
            pool_size=CONNECTIONS_MAX,
            max_overflow=0,
            pool_timeout=BUSY_WAIT_S,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_WAIT_S,
                "options": " ".join(f"-c {name}={wait}s" for name, wait in limits.items()),
            },
        )
    except ModuleNotFoundError:
        raise MissingExtraError.of("psycopg", "postgres", "a PostgreSQL database") from None
    event.listen(engine, "begin", _begin_postgres)
    event.listen(engine, "before_execute", _note_change)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # We say BEGIN ourselves: the driver's own would be deferred, and a reader that turns writer
    # in the middle fails where it should have waited.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.info[_CHANGED] = set()
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgres(connection: Connection) -> None:
    connection.info[_CHANGED] = set()
    if connection.get_execution_options().get(_WRITES, False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")


def _note_change(connection: Connection, statement: object, *_parameters: object) -> None:
    if isinstance(statement, UpdateBase):
        table = statement.table
        if not connection.get_execution_options().get(_WRITES, False):
            raise RuntimeError(f"a reading transaction tried to change {table}")
        if not getattr(table, "info", {}).get("operational"):
            changed_tables(connection).add(str(table))


def _bad_url(found: str) -> UsageError:
    return UsageError(
        "bad-database-url",
        f"{found} is not a database URL of ours; expected sqlite:///PATH or "
        "postgresql://USER@HOST/NAME",
    )
