"""A private PostgreSQL server, with databases of its own that may be made unreachable."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from fakes.faults import Missing

START_WAIT_S = 30
OWNER = "postgres"


@contextlib.contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[str]:
    """The URL, with `{}` for the database's name, of a server on a Unix socket. durable: what it
    has committed is on the disk. Raises: Missing."""
    programs = _programs()
    if programs is None:
        raise Missing("PostgreSQL's server programs are not installed")
    if os.getuid() == 0 and not shutil.which("setpriv"):
        raise Missing("root cannot run PostgreSQL without setpriv")
    # Not under a test's folder: a socket's path is short, and another user must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="doorstep-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, OWNER)
    data, start = folder / "data", _unprivileged()
    made = [str(programs / "initdb"), "-D", str(data), "-U", OWNER, "-A", "trust", "-N"]
    subprocess.run([*start, *made], check=True, capture_output=True, cwd="/", timeout=60)
    run = [str(programs / "postgres"), "-D", str(data), "-k", str(folder)]
    run += [] if durable else ["-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*start, *run, "-c", "listen_addresses="], stdout=log, stderr=log, cwd="/"
        )
    try:
        _wait_until_ready(programs, folder, server)
        yield f"postgresql://{OWNER}@/{{}}?host={folder}"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=START_WAIT_S)
        shutil.rmtree(folder, ignore_errors=True)


def create_database(server: str) -> str:
    """The URL of a new, empty database."""
    import psycopg

    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.format(name)


def allow(server: str, url: str, *, allowed: bool) -> None:
    """Let the database of `url` be reached, or end everybody's connections to it."""
    import psycopg

    name = url.partition("@/")[2].partition("?")[0]
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {str(allowed).lower()}")
        if not allowed:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )


def _programs() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb")
    return folders[-1].parent if folders else Path(found).parent if found else None


def _unprivileged() -> list[str]:
    """The start of a command line that runs as nobody special: PostgreSQL refuses to be root."""
    if os.getuid() != 0:
        return []
    owner = pwd.getpwnam(OWNER)
    user = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    return ["setpriv", *user, "--pdeathsig=QUIT"]


def _wait_until_ready(programs: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_WAIT_S
    asked = [str(programs / "pg_isready"), "-q", "-h", str(folder), "-U", OWNER]
    while subprocess.run(asked).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "log").read_text(errors="replace")[-2000:])
        time.sleep(0.05)
