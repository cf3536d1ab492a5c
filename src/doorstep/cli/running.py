"""`doorstep up` as a process of its own: started, waited for, found again and stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from doorstep.compose.node import end_orphans, end_process, end_supervisor
from doorstep.compose.up import Ready, require_startable
from doorstep.core.errors import DoorstepError, RefusedError, WaitedError
from doorstep.core.ids import new_id
from doorstep.kernel.home import is_home, open_home, resolve_home
from doorstep.kernel.home_lock import holder_of
from doorstep.kernel.server import read_announcement
from doorstep.kernel.settings import Port, Settings
from doorstep.serve.tls import TlsFiles

START_S_MAX = 90.0
"""`up` itself gives up after 60 s and says why; this only bounds one that cannot even do that."""
POLL_S = 0.05
OUTPUT = "up-{}.out"
"""One file for each attempt: two at once must not read each other's."""
OUTPUT_KEPT_S = 3600.0
OUTPUT_BYTES_MAX = 256 * 1024


def home_folder(home: str | None) -> Path:
    return resolve_home(home, os.environ, Path.cwd())


def start_detached(
    settings: Settings, workers: int, tls: TlsFiles | None = None, more: Sequence[str] = ()
) -> Ready:
    """Start `doorstep up` in a session of its own and wait until it answers. more: options.

    Raises: RefusedError (`already-running`), WaitedError (`not-ready`), and, if it ends at once,
    the very error that it ended with.
    """
    refuse_second(settings.home)
    require_startable(settings, tls)
    is_new = not is_home(settings.home)
    home = open_home(
        settings.home,
        create=True,
        environment=settings.environment,
        holds_database=not settings.database_url,
    )
    _sweep(home.run)
    output = home.run / OUTPUT.format(new_id().hex)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        child = subprocess.Popen(
            [*command_of(settings, workers), *(tls.words if tls else ()), *more],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=_environment(settings),
        )
    # Made here, not by the child: only we know that it was not there.
    return msgspec.structs.replace(_wait_ready(child, output), home_is_new=is_new)


def _sweep(run: Path) -> None:
    """Forget what attempts said that are over for long."""
    for path in run.glob(OUTPUT.format("*")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > OUTPUT_KEPT_S:
                path.unlink()


def refuse_second(home: Path) -> None:
    """Raises: RefusedError (`already-running`) if an `up` runs over this home."""
    pid = holder_of(home)
    if pid is None:
        return
    announced = read_announcement(home)
    where = f" at {announced.url}" if announced else ""
    raise RefusedError(
        "already-running",
        f"Doorstep is running over {home} already{where} (process {pid})",
        "doorstep console opens it; doorstep down stops it",
    )


def command_of(settings: Settings, workers: int) -> list[str]:
    """The command line that runs `up` in the foreground with these settings."""
    ports = (
        ("data", settings.ports.data),
        ("health", settings.ports.health),
        ("grpc", settings.ports.grpc),
        ("control", settings.ports.control),
    )
    return [
        *(sys.executable, "-P", "-m", "doorstep.cli.main", "up", "--json"),
        *("--home", str(settings.home), "--environment", settings.environment),
        *("--workers", str(workers)),
        *(word for name, port in ports for word in _port_words(name, port)),
    ]


def _port_words(name: str, port: Port) -> Iterator[str]:
    if port.named:
        yield f"--{name}-port"
        yield str(port.number)


def _environment(settings: Settings) -> dict[str, str]:
    """The database's URL may hold a password, and a command line can be read by everybody."""
    if not settings.database_url:
        return dict(os.environ)
    return {**os.environ, "DOORSTEP_DATABASE": settings.database_url}


def _wait_ready(child: subprocess.Popen[bytes], output: Path) -> Ready:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        ended = child.poll()
        lines = _lines(output)
        ready = find_ready(lines)
        if ready is not None and ready.pid == child.pid:
            return ready
        if ended is not None:
            raise find_error(lines) or RefusedError(
                "up-ended",
                f"it ended with code {ended} and said: {' '.join(lines[-3:]) or 'nothing'}",
                f"look into {output}",
            )
        time.sleep(POLL_S)
    child.terminate()
    raise WaitedError(
        "not-ready", f"nothing answered within {START_S_MAX:g} s", f"look into {output}"
    )


def _lines(output: Path) -> list[str]:
    with output.open("rb") as file:
        return file.read(OUTPUT_BYTES_MAX).decode(errors="replace").splitlines()


def find_ready(lines: list[str]) -> Ready | None:
    """What `up --json` says once everything answers, among everything that it said."""
    for line in lines:
        if line.startswith('{"console_url"'):
            try:
                return msgspec.json.decode(line, type=Ready)
            except msgspec.DecodeError:
                return None  # Half a line: it is still being written.
    return None


def find_error(lines: list[str]) -> DoorstepError | None:
    """The error that `--json` printed as the last thing."""
    from doorstep.client import error_from

    for line in reversed(lines):
        if line.startswith('{"error"'):
            return error_from(400, line.encode())
    return None


class Stopped(msgspec.Struct, frozen=True):
    """stopped: the pid of `up`. node: of a node that served on without one. port: where workers
    served on that had lost their node too. None: there was none to stop."""

    stopped: int | None = None
    node: int | None = None
    port: int | None = None

    def __str__(self) -> str:
        said = [f"process {self.stopped}"] if self.stopped else []
        if self.node:
            said.append(f"process {self.node}, a node that served on without its `up`")
        if self.port:
            said.append(f"workers that served on at port {self.port} without their node")
        return ", ".join(said)


def stop(home: Path) -> Stopped:
    """End all that runs over this home, also what an `up` that was killed has left behind.

    Raises: WaitedError (`still-running`), RefusedError (`not-yours`).
    """
    return Stopped(_stop_up(home), end_supervisor(home), end_orphans(home))


def _stop_up(home: Path) -> int | None:
    """Ask the `up` over this home to end, and wait until its process is gone and with it all that
    it ran: it keeps its lock that long. None if there is none.

    Raises: WaitedError (`still-running`), RefusedError (`not-yours`).
    """
    log = home / "run" / "up.log"
    return end_process(lambda: holder_of(home), f"the `doorstep up` over {home}", log)
