"""What the control plane tidies: its own journal, and uploads that nobody came back for."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

from doorstep.compose.control import ControlPlane
from doorstep.core.errors import UnreachableError
from doorstep.journal.replica import replica_of
from doorstep.journal.telling import CONTROL_NODE, OutcomeWriter
from doorstep.kernel.app import UPLOADS

COMPACT_EVERY_S = 60.0
COMPACT_S_MAX = 600.0
UPLOADS_EVERY_S = 600.0
UPLOAD_KEPT_S = 24 * 3600.0
"""An upload that broke off can be taken up again for a day."""
LEFT_BUNDLES = (".incoming-*", ".broken-*")
_log = logging.getLogger("doorstep.upkeep")


class ControlJournal:
    """The blocks of outcomes that were told to the API: closed when they are old, then compacted by
    a child, one at a time (DuckDB never runs in this process)."""

    def __init__(self, control: ControlPlane, replica: str = "") -> None:
        self._control = control
        if replica:
            place = replica_of(replica)
            control.app().kept.get(
                OutcomeWriter, lambda: OutcomeWriter(control.home.journal, place)
            )
        self._folder = control.home.journal / CONTROL_NODE
        self._child: subprocess.Popen[bytes] | None = None
        self._started_s = float("-inf")

    @property
    def is_compacting(self) -> bool:
        return self._child is not None

    def tick(self) -> None:
        """Never waits long."""
        writer = self._control.app().kept.find(OutcomeWriter)
        if writer is not None:
            # What was told meanwhile was refused, which is all that there is to say of it.
            with contextlib.suppress(UnreachableError):
                writer.idle()
        now_s = self._control.clock.monotonic_s()
        if self._child is not None:
            self._look(now_s)
        elif now_s - self._started_s >= COMPACT_EVERY_S and self._has_work(writer):
            self._start(now_s)

    def stop(self) -> None:
        """Close the open block; end a compaction, which the next one takes up."""
        writer = self._control.app().kept.find(OutcomeWriter)
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _has_work(self, writer: OutcomeWriter | None) -> bool:
        """Closed blocks, or open ones of a control plane that was killed."""
        mine = writer.boot if writer else "-"
        return any(self._folder.glob("*.block")) or any(
            not path.name.startswith(mine) for path in self._folder.glob("*.open")
        )

    def _start(self, now_s: float) -> None:
        home = self._control.home
        command = [
            *(sys.executable, "-P", "-m", "doorstep.journal.compactor", "--home", str(home.path)),
            *("--node", CONTROL_NODE, "--once"),
        ]
        with (home.run / "compactor.log").open("wb") as log:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._started_s = now_s

    def _look(self, now_s: float) -> None:
        assert self._child is not None
        code = self._child.poll()
        if code is None:
            if now_s - self._started_s > COMPACT_S_MAX:
                self._child.kill()
            return
        self._child = None
        if code:
            _log.warning("compaction of the control plane's journal ended with code %s", code)


class Uploads:
    """Forgets what nobody came back for within a day: uploaded files of which no version was made,
    bundles that broke off half way, and damaged ones that were replaced."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._looked_s = float("-inf")

    def tick(self) -> None:
        now_s = self._control.clock.monotonic_s()
        if now_s - self._looked_s < UPLOADS_EVERY_S:
            return
        self._looked_s = now_s
        home = self._control.home
        for path in (home.path / UPLOADS).iterdir():
            if _is_old(path):
                path.unlink(missing_ok=True)
        for pattern in LEFT_BUNDLES:
            for path in home.bundles.glob(pattern):
                if _is_old(path):
                    shutil.rmtree(path, ignore_errors=True)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > UPLOAD_KEPT_S
    except FileNotFoundError:
        return False
