"""One process for each folder: an advisory lock on a file, with the holder's pid inside. So there
is one `up` for each home (`run/up.lock`), and one supervisor for each state folder of a node.

The kernel releases it when the process dies, however it dies; the file stays.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from doorstep.core.errors import RefusedError
from doorstep.kernel.home import Home
from doorstep.kernel.server import is_running

LOCK_FILE = "up.lock"


class HomeLock:
    """Held from `__enter__` to `__exit__`. Raises: RefusedError (`home-in-use`) on entering."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._path: Path = home.run / LOCK_FILE
        self._descriptor = -1

    def __enter__(self) -> HomeLock:
        descriptor = hold(self._path)
        if descriptor is None:
            raise self._in_use(str(holder(self._path) or "unknown"))
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = -1

    def _in_use(self, holder: str) -> RefusedError:
        return RefusedError(
            "home-in-use",
            f"the home {self._home.path} is already run by process {holder}; "
            "expected one `doorstep up` for each home",
            "doorstep down, or choose another --home",
        )


def hold(path: Path) -> int | None:
    """The descriptor by which this process now holds the file; None if another one does."""
    # Not inherited by children: a surviving worker must not keep the home locked.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def holder_of(home: Path) -> int | None:
    """The process that holds the lock of the home at `home`; None if nobody does."""
    return holder(home / "run" / LOCK_FILE)


def holder(path: Path) -> int | None:
    """The process that holds the file; None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        written = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        # Tried only for a process that is there: trying takes the lock for an instant, in which an
        # `up` that starts would be refused.
        if not written.isdecimal() or not is_running(int(written)):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(written)
    finally:
        os.close(descriptor)
    return None
