"""Fixtures that several rooms' tests share: databases."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from doorstep.core.instant import SystemClock
from doorstep.kernel.db import Database
from doorstep.migrations.upgrade import upgrade

# How fast an example ran says something of the machine, and nothing of the claim.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

START_WAIT_S = 30
POSTGRES_OWNER = "postgres"


def find_postgres() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb")
    return folders[-1].parent if folders else Path(found).parent if found else None


def unprivileged() -> list[str]:
    """The start of a command line that runs as nobody special: PostgreSQL refuses to be root."""
    if os.getuid() != 0:
        return []
    owner = pwd.getpwnam(POSTGRES_OWNER)
    user = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    return ["setpriv", *user, "--pdeathsig=QUIT"]


def wait_until_ready(programs: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_WAIT_S
    asked = [str(programs / "pg_isready"), "-q", "-h", str(folder), "-U", POSTGRES_OWNER]
    while subprocess.run(asked).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail((folder / "log").read_text(errors="replace")[-2000:])
        time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL, with `{}` for the database's name, of a private PostgreSQL on a Unix socket."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root cannot run PostgreSQL without setpriv")
    # Not under tmp_path: a socket's path is short, and another user must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="doorstep-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, POSTGRES_OWNER)
    data, start = folder / "data", unprivileged()
    made = [str(programs / "initdb"), "-D", str(data), "-U", POSTGRES_OWNER, "-A", "trust", "-N"]
    subprocess.run([*start, *made], check=True, capture_output=True, cwd="/", timeout=60)
    run = [str(programs / "postgres"), "-D", str(data), "-k", str(folder), "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*start, *run, "-c", "listen_addresses="], stdout=log, stderr=log, cwd="/"
        )
    try:
        wait_until_ready(programs, folder, server)
        yield f"postgresql://{POSTGRES_OWNER}@/{{}}?host={folder}"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=START_WAIT_S)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of a new, empty PostgreSQL database."""
    import psycopg

    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres_server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_server.format(name)


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
