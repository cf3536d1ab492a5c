"""What the control plane does by itself, in two threads: the quick loop decides and publishes, the
slow loop reads the journal. Both only call actions; a crash between two of them loses nothing.
What they read and write of the database they get from `ControlPlane.leading`, which checks the
term."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from doorstep.compose.control import ControlPlane
from doorstep.core.plan import PlanPointer
from doorstep.govern.operations import signer_of
from doorstep.kernel.app import App
from doorstep.kernel.checkpoints import is_due, read_checkpoint, sign_checkpoint
from doorstep.kernel.keys import SigningKey, load_signing_key
from doorstep.kernel.leadership import Leadership
from doorstep.kernel.ledger import read_head
from doorstep.kernel.turns import in_turn
from doorstep.release.actions import (
    keep_watch,
    plan_now,
    running_releases,
    tick_release,
    would_act,
)
from doorstep.release.collect import Keeper, collect
from doorstep.release.moments import note_moments
from doorstep.release.planning import publish_plan, sweep_plans
from doorstep.release.store import newest_plan
from doorstep.release.types import Release

QUICK_S = 0.2
SLOW_S = 2.0
LEASE_EVERY_S = 2.0
RENEWAL_EVERY_S = 5.0
RENEWALS_A_LEASE = 4
KEEP_EVERY_S = 1.0
WATCH_EVERY_S = 5.0
LOOK_EVERY_S = 1.0
SWEEP_EVERY_S = 600.0
_log = logging.getLogger("doorstep.loops")


class Quick:
    """Nodes, releases, plan: a fifth of a second between two looks."""

    def __init__(self, control: ControlPlane, leader: Leadership) -> None:
        self._control = control
        self._leader = leader
        self._keeper = Keeper()
        self._key: SigningKey = load_signing_key(control.home.keys / "plan.key")
        self._renewal = _renewal_in(control.home.plan / "current")
        self._published = (0, 0)
        self._planned = (0, -1, 0)
        self._kept_s = self._renewed_s = self._led_s = self._swept_s = float("-inf")
        self._watched_s = self._looked_s = float("-inf")
        self._reported: list[tuple[str, str, int]] = []

    def tick(self) -> None:
        self._control.nodes.look()
        self._lead()
        if self._control.term == 0:
            return
        self._plan()
        # What was decided of one release is published, whatever happens to another.
        in_turn([self._releases, self._publish])

    def _lead(self) -> None:
        now_s = self._control.clock.monotonic_s()
        if self._control.term == 0 or now_s - self._led_s >= LEASE_EVERY_S:
            self._control.term = self._leader.tick() or 0
            self._led_s = now_s

    def _plan(self) -> None:
        """A new plan when anything changed: each change of domain state grows the ledger, and
        nodes that come and go share the limits."""
        app = self._control.leading()
        with app.database.reading() as connection:
            size = read_head(connection).size
        basis = (app.leader_term, size, len(app.nodes.alive()))
        if basis == self._planned:
            return
        with app.database.transaction() as unit:
            plan_now(unit, app)
        self._planned = basis

    def _releases(self) -> None:
        app = self._control.leading()
        rows = running_releases(app)
        now_s = self._control.clock.monotonic_s()
        if now_s - self._kept_s >= KEEP_EVERY_S:
            self._keeper.keep(app, [row.release for row in rows])
            self._kept_s = now_s
        tasks: list[Callable[[], object]] = []
        if rows and now_s - self._watched_s >= WATCH_EVERY_S:
            keep_watch(app, rows)
            self._watched_s = now_s
            rows = running_releases(app)
            tasks = [partial(note_moments, app, [row.release]) for row in rows]
        # Nothing new was reported: only the passing of time can change a decision.
        reported = [(one.node, one.boot, one.sequence) for one in app.nodes.reports()]
        if reported != self._reported or now_s - self._looked_s >= LOOK_EVERY_S:
            self._reported, self._looked_s = reported, now_s
            tasks = [*(partial(_decide, app, row.release) for row in rows), *tasks]
        in_turn(tasks)

    def _publish(self) -> None:
        app = self._control.leading()
        now_s = app.clock.monotonic_s()
        with app.database.reading() as connection:
            every_s = min(RENEWAL_EVERY_S, app.challenger_lease_s / RENEWALS_A_LEASE)
            is_due_now = now_s - self._renewed_s >= every_s
            plan = newest_plan(connection)
            newest = plan.number if plan else 0
            if (app.leader_term, newest) == self._published and not is_due_now:
                return
            self._renewal += 1
            publish_plan(connection, app.home, self._key, self._renewal)
        if now_s - self._swept_s >= SWEEP_EVERY_S:
            with app.database.transaction() as unit:
                sweep_plans(unit, app.home)
            self._swept_s = now_s
        self._published, self._renewed_s = (app.leader_term, newest), now_s


def _decide(app: App, release: Release) -> None:
    evidence = collect(app, release)
    if would_act(release, evidence, app.clock.now()):
        decision = tick_release(app, release.id, evidence)
        if decision is not None:
            _log.info("%s: %s", release.service, decision.reason)


class Slow:
    """Checkpoints, and whatever else `tasks` names: each in turn, whether or not one fails."""

    def __init__(self, control: ControlPlane, tasks: list[Callable[[], object]]) -> None:
        self._control = control
        self._tasks: list[Callable[[], object]] = [self._checkpoint, *tasks]

    def tick(self) -> None:
        if self._control.term == 0:
            return
        in_turn(self._tasks)

    def _checkpoint(self) -> None:
        app = self._control.leading()
        with app.database.reading() as connection:
            head, last = read_head(connection), read_checkpoint(connection)
        if is_due(head, last, app.clock.now()):
            sign_checkpoint(app.database, signer_of(app), app.clock.now())


class Loop(threading.Thread):
    """Calls `tick` again and again until stopped; logs what a tick raises, each message once."""

    def __init__(
        self, name: str, tick: Callable[[], None], every_s: float, wake: threading.Event
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._tick = tick
        self._every_s = every_s
        self._wake = wake
        self._stopping = threading.Event()
        self._said = ""

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._tick()
                self._said = ""
            except Exception as error:  # noqa: BLE001  the edge of a thread: the next tick tries again
                self._note(error)
            self._wake.wait(self._every_s)
            self._wake.clear()

    def _note(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if said != self._said:
            _log.error("%s: %s", self.name, said, exc_info=error)
            self._said = said

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stopping.set()
        self._wake.set()
        deadline = time.monotonic() + timeout_s
        while self.is_alive() and time.monotonic() < deadline:
            self.join(0.05)
            self._wake.set()


def _renewal_in(path: Path) -> int:
    """The number in the pointer that the last leader left: ours must rise above it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=PlanPointer).renewal
    except (OSError, msgspec.MsgspecError):
        return 0
