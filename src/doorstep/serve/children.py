"""Processes that are kept alive: a slot, what runs there, and when to try again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from doorstep.core.report import WorkerReport
from doorstep.kernel.child import ENVIRONMENT_KEPT
from doorstep.kernel.store import store_environment
from doorstep.serve.limits import BACKOFF_S, STEADY_S

LOG_BYTES_MAX = 4 * 1024 * 1024
LOG_TAIL_BYTES = 2000
LAST_WORDS_CHARS_MAX = 300
STOP_S = 5.0
"""A child that was asked to end is killed after this."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ChildKind = Literal["front", "engine", "shadow", "compactor", "node"]


def child_environment(kind: ChildKind) -> dict[str, str]:
    """A short list of our variables: no secret of ours reaches model code. The compactor, which
    runs none, has those of the journal's store; a node, which starts them, has all."""
    if kind == "node":
        return dict(os.environ)
    kept = {name: value for name, value in os.environ.items() if name in ENVIRONMENT_KEPT}
    if kind == "compactor":
        kept |= store_environment(os.environ)
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Child:
    """A slot and the process that runs in it. Standard input stays open while we live, so that a
    child can notice our death; standard error goes to a log file of a bounded size."""

    def __init__(
        self, slot: str, kind: ChildKind, argv: Sequence[str], logs: Path, serves: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.slot = slot
        self.serves = serves
        self.kind: ChildKind = kind
        self.argv = tuple(argv)
        self._variables = variables or {}
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._log = logs / f"{slot}.log"
        self._pause_s = 0.0
        self._next_start_s = 0.0
        self._started_s = 0.0
        self._kill_s = 0.0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def stopping(self) -> bool:
        return self._kill_s > 0

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return self.process.pid if self.process and self.running else 0

    def keep(self, fds: Sequence[int] = (), argv: Sequence[str] | None = None) -> bool:
        """Start it if it is not running and its pause is over. Answers whether it was started."""
        now = time.monotonic()
        if self._kill_s:
            self.stop()
        self.reap()
        if self.process is not None or now < self._next_start_s:
            return False
        self.starts += 1
        self._started_s = now
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *(argv or self.argv)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=tuple(fds),
                env={**child_environment(self.kind), **self._variables},
                start_new_session=True,
            )
        return True

    def reap(self) -> int | None:
        """The exit code of a process that has ended since the last call; None otherwise."""
        process = self.process
        code = process.poll() if process else None
        if process is None or code is None:
            self._bound_log()
            return None
        self.process, self._kill_s = None, 0.0
        if process.stdin:
            process.stdin.close()
        self._plan_restart()
        return code

    def hang_up(self) -> None:
        """Close its standard input: an engine ends once nobody is connected."""
        if self.process and self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def stop(self, grace_s: float = STOP_S) -> bool:
        """Ask it to end, and kill it in a later call, once `grace_s` is over; never waits. Answers
        whether it has ended."""
        now = time.monotonic()
        if self.process is None or self.reap() is not None:
            return True
        if not self._kill_s:
            self._kill_s = now + grace_s
            self.process.terminate()
        elif now >= self._kill_s:
            self.process.kill()
        return False

    def end(self, timeout_s: float = STOP_S) -> None:
        """Ask it to end, wait, then kill it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.hang_up()
        self.process, self._kill_s = None, 0.0

    def last_words(self) -> str:
        """The last line of its log."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:LAST_WORDS_CHARS_MAX] if lines else ""

    def report(self, plan_number: int) -> WorkerReport:
        assert self.kind != "node"  # which writes reports, and is in none
        return WorkerReport(
            slot=self.slot,
            kind=self.kind,
            pid=self.pid,
            starts=self.starts,
            plan_number=plan_number,
            rss_mb=rss_mb(self.pid),
            serves=self.serves,
        )

    def _plan_restart(self) -> None:
        """At once after a steady life, else later and later."""
        shortest, longest = BACKOFF_S
        lived_s = time.monotonic() - self._started_s
        if lived_s >= STEADY_S:
            self._pause_s = 0.0
        self._next_start_s = time.monotonic() + self._pause_s
        self._pause_s = min(max(self._pause_s * 2, shortest), longest)

    def _bound_log(self) -> None:
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > LOG_BYTES_MAX:
                os.truncate(self._log, 0)


def rss_mb(pid: int) -> float:
    """Resident memory; 0 where it cannot be read (a process that is gone, macOS)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(pages * PAGE_BYTES / 1e6, 1)
