"""The supervisor's side of the engines: one per bundle and form, warm before anybody asks it.

Where all engines of the plan fit the node's memory, all run. Else those of services that are used
now; the others sleep, and start when a worker asks for them. Going to sleep drops nothing: workers
are told first, hang up when nothing is under way, and an engine ends when nobody is connected.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from doorstep.core.ids import digest_of
from doorstep.core.plan import ServicePlan, VersionPlan
from doorstep.serve.children import Child, rss_mb
from doorstep.serve.limits import ENGINE_START_S
from doorstep.serve.nodeplan import engine_key
from doorstep.serve.orphan import short_folder

ENGINE_MODULE = "doorstep.serve.engine"
LEAVE_S = 30.0
"""An engine that no plan names any more lives this long: a rollback may want it back."""
FAILURES_TOLD = 2
TRIES_MAX = 3
"""An engine that was started more often without getting warm is taken to be unable to."""
ENGINE_MB = 150.0
"""What an engine that has not run yet is taken to need: scikit-learn and a small model."""
IDLE_S = 30.0
"""An engine that was used so lately is not put to sleep for another one."""


class EngineSlot:
    """One engine: its process, its socket, whether somebody wants it. used_s: when it was used
    last, by the monotonic clock; pinned: a release is about it. asleep: it runs when it is asked.
    tries: starts since it was warm.
    """

    def __init__(self, child: Child, path: Path, name: str, *, asleep: bool) -> None:
        self.child = child
        self.path = path
        self.name = name
        self.asleep = asleep
        self.pinned = False
        self.used_s = 0.0
        self.size_mb = ENGINE_MB
        self.unwanted_s: float | None = None
        self.began_s = time.monotonic()
        self.warm = False
        self.tries = 0

    def keep(self) -> None:
        if self.asleep:
            # It ends by itself, once every worker has hung up. Woken before, it goes on with those
            # that are still there, and ends and starts again when they have gone.
            self.warm, self.tries = False, 0
            self.child.hang_up()
            self.child.reap()
            return
        if self.child.keep():
            self.began_s = time.monotonic()
            self.warm = False
            self.tries += 1
        self.warm = self.warm and self.child.running
        if not self.warm and not self.child.stopping:
            self.warm = _answers(self.path)
        if self.warm:
            self.tries = 0
        elif time.monotonic() - self.began_s > ENGINE_START_S:
            self.child.stop(1.0)

    @property
    def is_broken(self) -> bool:
        return self.tries > TRIES_MAX

    @property
    def problem(self) -> str:
        if self.warm or self.child.starts < FAILURES_TOLD:
            return ""
        said = self.child.last_words()
        return f"the engine of {self.name} has ended {self.child.starts - 1} times: {said}"


class Engines:
    """All engines of a node by engine key."""

    def __init__(self, bundles: Path, state: Path, logs: Path, budget_mb: float) -> None:
        self._bundles = bundles
        self._budget_mb = budget_mb
        self._folder = short_folder(state)
        self._logs = logs
        self._last = 0
        self._used_s: dict[str, float] = {}
        self._leaving: list[Child] = []
        self.slots: dict[str, EngineSlot] = {}

    def want(self, services: Iterable[ServicePlan]) -> dict[str, str]:
        """Start what these need. Answers the sockets by engine key, warm or not."""
        needed: dict[str, str] = {}
        pinned: set[str] = set()
        for service in services:
            for version in service.versions:
                if version.placement == "engine":
                    slot = self._slot(version, service)
                    slot.unwanted_s = None
                    needed[engine_key(version)] = str(slot.path)
                    if service.release is not None:
                        pinned.add(engine_key(version))
        for key in needed:
            self.slots[key].pinned = key in pinned
        return needed

    def replace_hung(self, socket: str) -> None:
        """Kill the engine at `socket`; `keep` starts it again. One that is not warm is left alone:
        it was replaced since this was said."""
        for slot in self.slots.values():
            if str(slot.path) == socket and slot.warm and slot.child.running:
                slot.warm = False
                slot.child.stop(0.0)

    def use(self, services: Iterable[ServicePlan]) -> None:
        """These were asked since the last call."""
        now = time.monotonic()
        for service in services:
            self._used_s[service.service] = now
            for version in service.versions:
                slot = self.slots.get(engine_key(version))
                if slot is not None and not slot.asleep:
                    slot.used_s = now

    def wake(self, socket: str) -> None:
        """Somebody asks the engine at `socket`."""
        for slot in self.slots.values():
            if str(slot.path) == socket and slot.asleep:
                slot.asleep, slot.used_s = False, time.monotonic()

    @property
    def asleep(self) -> frozenset[str]:
        """The sockets of those that sleep."""
        return frozenset(str(slot.path) for slot in self.slots.values() if slot.asleep)

    def _fit(self) -> None:
        """Put to sleep what must, for the others to fit."""
        for slot in self.slots.values():
            if slot.warm and slot.child.running:
                slot.size_mb = rss_mb(slot.child.pid) or slot.size_mb
        for slot in to_sleep(self.slots.values(), self._budget_mb, time.monotonic()):
            slot.asleep = True

    @property
    def _awake_mb(self) -> float:
        return sum(slot.size_mb for slot in self.slots.values() if not slot.asleep)

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
        self._fit()
        self._leaving = [child for child in self._leaving if not child.stop()]

    @property
    def problems(self) -> list[str]:
        found = [slot.problem for slot in self.slots.values() if slot.problem]
        if self._awake_mb > self._budget_mb:
            running = sum(not slot.asleep for slot in self.slots.values())
            found.append(
                f"{running} engines that are used now take {self._awake_mb:,.0f} MB; the node has "
                f"{self._budget_mb:,.0f} MB for engines: give it more with --memory"
            )
        return found

    def stop(self) -> None:
        for child in self._leaving:
            child.end()
        for slot in self.slots.values():
            slot.child.end()
            with contextlib.suppress(OSError):
                slot.path.unlink(missing_ok=True)

    def _slot(self, version: VersionPlan, service: ServicePlan) -> EngineSlot:
        key, name = engine_key(version), f"{service.service}@{version.number}"
        if key not in self.slots:
            self._last += 1
            path = self._folder / f"e-{digest_of(key.encode())[:12]}.sock"
            argv = ["-m", ENGINE_MODULE, "--bundle", str(self._bundles / version.bundle)]
            argv += ["--form", version.form, "--socket", str(path)]
            argv += ["--trusted"] if version.trusted else []
            child = Child(f"engine-{self._last}", "engine", argv, self._logs, serves=name)
            is_used = time.monotonic() - self._used_s.get(service.service, -IDLE_S) < IDLE_S
            fits = self._awake_mb + ENGINE_MB <= self._budget_mb
            asleep = not (fits or is_used or service.release is not None)
            self.slots[key] = EngineSlot(child, path, name, asleep=asleep)
        return self.slots[key]


def to_sleep(slots: Iterable[EngineSlot], budget_mb: float, now_s: float) -> list[EngineSlot]:
    """Which engines must sleep for the others to fit: the longest unused first; none that is used
    now, is in a release, or is not warm yet."""
    awake = [slot for slot in slots if not slot.asleep]
    over_mb = sum(slot.size_mb for slot in awake) - budget_mb
    idle = [
        slot for slot in awake
        if slot.warm and not slot.pinned and now_s - max(slot.used_s, slot.began_s) >= IDLE_S
    ]  # fmt: skip
    found = []
    for slot in sorted(idle, key=lambda one: one.used_s):
        if over_mb <= 0:
            break
        over_mb -= slot.size_mb
        found.append(slot)
    return found


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0.2)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
