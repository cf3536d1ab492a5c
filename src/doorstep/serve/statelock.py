"""One supervisor for each state folder: a lock that dies with it, and its pid inside.

A supervisor may outlive the `doorstep up` that started it. The next `up` ends it: its workers serve
on, and hand the listening socket to the supervisor that comes after (`serve/orphan.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from doorstep.core.errors import RefusedError
from doorstep.kernel.home_lock import hold, holder

LOCK_FILE = "lock"
END_S = 5.0
_PAUSE_S = 0.02


def lock_state(state: Path) -> int:
    """Take the state folder for this process. Raises: RefusedError (`state-in-use`)."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = hold(state / LOCK_FILE)
    if fd is None:
        raise RefusedError(
            "state-in-use",
            f"another node runs with the state folder {state}",
            "stop it, or give this one its own --state",
        )
    return fd


def holder_of_state(state: Path) -> int | None:
    """The pid of the supervisor that runs with this state folder; None if none does."""
    return holder(state / LOCK_FILE)


def end_holder(state: Path) -> bool:
    """End a supervisor that outlived its control plane. Whether there was one.

    Killed, not asked: asked to stop, it would drain the workers that must serve on.
    Raises: RefusedError (`state-in-use`) if it does not go.
    """
    pid = holder_of_state(state)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until_s = time.monotonic() + END_S
    while holder_of_state(state) == pid:
        if time.monotonic() > until_s:
            raise RefusedError(
                "state-in-use",
                f"process {pid} runs the node of {state} and does not end",
                f"end process {pid}, then start again",
            )
        time.sleep(_PAUSE_S)
    return True
