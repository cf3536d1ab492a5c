"""Fixtures that several rooms' tests share: databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from doorstep.core.instant import SystemClock
from doorstep.kernel.db import Database
from doorstep.migrations.upgrade import upgrade
from fakes.faults import Missing
from fakes.nats import running_nats
from fakes.places import Place, place_in_nats, place_in_postgres
from fakes.postgres import create_database, running_postgres

# How fast an example ran says something of the machine, and nothing of the claim.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL, with `{}` for the database's name, of a private PostgreSQL on a Unix socket."""
    try:
        with running_postgres() as server:
            yield server
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of a new, empty PostgreSQL database."""
    return create_database(postgres_server)


@pytest.fixture(scope="session")
def nats_port() -> Iterator[int]:
    """Of a private NATS server with JetStream."""
    try:
        with running_nats() as port:
            yield port
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=["postgresql", "nats"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A second place of a journal, empty."""
    if request.param == "nats":
        made = place_in_nats(request.getfixturevalue("nats_port"))
    else:
        made = place_in_postgres(request.getfixturevalue("postgres_url"))
    with made as found:
        yield found


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a new, empty SQLite database."""
    return f"sqlite:///{tmp_path / 'doorstep.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new, empty database: the test runs on SQLite and on PostgreSQL."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def open_database() -> Iterator[Callable[..., Database]]:
    """Opens databases by URL, with a clock if one is given, and closes them after the test."""
    opened: list[Database] = []

    def open_one(url: str, clock: SystemClock | None = None) -> Database:
        opened.append(Database(url, clock or SystemClock()))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


@pytest.fixture
def database(database_url: str, open_database: Callable[..., Database]) -> Database:
    """A migrated database: the test runs on SQLite and on PostgreSQL."""
    made = open_database(database_url)
    upgrade(made)
    return made


@pytest.fixture
def sqlite_database(sqlite_url: str, open_database: Callable[..., Database]) -> Database:
    """A migrated SQLite database, for tests to which the kind does not matter."""
    made = open_database(sqlite_url)
    upgrade(made)
    return made
