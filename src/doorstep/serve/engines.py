"""The supervisor's side of the engines: one per bundle and form, warm before anybody asks it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from doorstep.core.ids import digest_of
from doorstep.core.plan import ServicePlan, VersionPlan
from doorstep.serve.children import Child
from doorstep.serve.limits import ENGINE_START_S
from doorstep.serve.nodeplan import engine_key
from doorstep.serve.orphan import short_folder

ENGINE_MODULE = "doorstep.serve.engine"
LEAVE_S = 30.0
"""An engine that no plan names any more lives this long: a rollback may want it back."""
FAILURES_TOLD = 2


class EngineSlot:
    """One engine: its process, its socket, whether somebody wants it."""

    def __init__(self, child: Child, path: Path, name: str) -> None:
        self.child = child
        self.path = path
        self.name = name
        self.unwanted_s: float | None = None
        self.began_s = time.monotonic()
        self.warm = False
        self.hung = 0

    def keep(self) -> None:
        if self.child.keep():
            self.began_s = time.monotonic()
            self.warm = False
        self.warm = self.warm and self.child.running
        if not self.warm and not self.child.stopping:
            self.warm = _answers(self.path)
        if not self.warm and time.monotonic() - self.began_s > ENGINE_START_S:
            self.child.stop(1.0)

    @property
    def problem(self) -> str:
        if self.warm or self.child.starts < FAILURES_TOLD:
            return ""
        said = self.child.last_words()
        return f"the engine of {self.name} has ended {self.child.starts - 1} times: {said}"


class Engines:
    """All engines of a node by engine key."""

    def __init__(self, bundles: Path, state: Path, logs: Path) -> None:
        self._bundles = bundles
        self._folder = short_folder(state)
        self._logs = logs
        self._last = 0
        self._leaving: list[Child] = []
        self.slots: dict[str, EngineSlot] = {}

    def want(self, services: Iterable[ServicePlan]) -> dict[str, str]:
        """Start what these need. Answers the sockets by engine key, warm or not."""
        needed: dict[str, str] = {}
        for service in services:
            for version in service.versions:
                if version.placement == "engine":
                    slot = self._slot(version, f"{service.service}@{version.number}")
                    slot.unwanted_s = None
                    needed[engine_key(version)] = str(slot.path)
        return needed

    def replace_hung(self, socket: str) -> None:
        """Kill the engine at `socket`; `keep` starts it again. One that is not warm is left alone:
        it was replaced since this was said."""
        for slot in self.slots.values():
            if str(slot.path) == socket and slot.warm and slot.child.running:
                slot.warm = False
                slot.hung += 1
                slot.child.stop(0.0)

    def all_warm(self, keys: Iterable[str]) -> bool:
        return all(self.slots[key].warm for key in keys)

    def keep(self, wanted: set[str]) -> None:
        """Restart what died; let go of what nobody has wanted for a while."""
        now = time.monotonic()
        for key, slot in list(self.slots.items()):
            if key in wanted:
                slot.unwanted_s = None
            elif slot.unwanted_s is None:
                slot.unwanted_s = now
            elif now - slot.unwanted_s > LEAVE_S:
                self._leaving.append(slot.child)
                slot.path.unlink(missing_ok=True)
                del self.slots[key]
                continue
            slot.keep()
        self._leaving = [child for child in self._leaving if not child.stop()]

    @property
    def problems(self) -> list[str]:
        return [slot.problem for slot in self.slots.values() if slot.problem]

    def stop(self) -> None:
        for child in self._leaving:
            child.end()
        for slot in self.slots.values():
            slot.child.end()
            with contextlib.suppress(OSError):
                slot.path.unlink(missing_ok=True)

    def _slot(self, version: VersionPlan, name: str) -> EngineSlot:
        key = engine_key(version)
        if key not in self.slots:
            self._last += 1
            path = self._folder / f"e-{digest_of(key.encode())[:12]}.sock"
            argv = ["-m", ENGINE_MODULE, "--bundle", str(self._bundles / version.bundle)]
            argv += ["--form", version.form, "--socket", str(path)]
            argv += ["--trusted"] if version.trusted else []
            child = Child(f"engine-{self._last}", "engine", argv, self._logs, serves=name)
            self.slots[key] = EngineSlot(child, path, name)
        return self.slots[key]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0.2)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
