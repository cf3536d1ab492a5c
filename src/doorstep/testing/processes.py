"""What tests of real processes share: waiting for a condition, and leaving nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

WAIT_S = 60.0
POLL_S = 0.02
FoundT = TypeVar("FoundT")


def wait_for(look: Callable[[], FoundT | None], what: str, timeout_s: float = WAIT_S) -> FoundT:
    """The first answer of `look` that is true. Raises: TimeoutError."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(POLL_S)
    raise TimeoutError(f"it did not come to: {what}; it is {look()!r}")


def is_alive(pid: int) -> bool:
    """Whether this pid is a running process of ours; pids are used again."""
    try:
        return b"doorstep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def kill_left(pids: Iterable[int]) -> None:
    """kill -9 those that are still there."""
    for pid in pids:
        if is_alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
