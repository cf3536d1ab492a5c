"""What the journal knows of a release's outcomes, read now and then and kept in between."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import Kind
from doorstep.journal import query
from doorstep.journal.joined import OutcomeArrays
from doorstep.kernel.app import App
from doorstep.release.losses import loss_cells, told_of
from doorstep.release.types import Guardrail, LossCell, Release

LOOK_EVERY_S = 10.0


class Losses:
    """The newest loss cells of running releases. After a restart they are read again."""

    def __init__(self) -> None:
        self._cells: dict[str, tuple[LossCell, ...]] = {}
        self._looked_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, release: str) -> tuple[LossCell, ...]:
        return self._cells.get(release, ())

    def look(self, app: App, releases: Iterable[Release]) -> None:
        """Read the journal for those whose quality is guarded and was not looked at lately."""
        running = {one.id: one for one in releases if quality_of(one) is not None}
        with self._lock:
            self._cells = {name: one for name, one in self._cells.items() if name in running}
            now_s = app.clock.monotonic_s()
            for name, release in running.items():
                if now_s - self._looked_s.get(name, -LOOK_EVERY_S) >= LOOK_EVERY_S:
                    self._cells[name] = read_losses(app, release, self.get(name))
                    self._looked_s[name] = app.clock.monotonic_s()


def quality_of(release: Release) -> Guardrail | None:
    return next((one for one in release.spec.guardrails if one.name == "quality"), None)


def read_losses(
    app: App, release: Release, before: tuple[LossCell, ...] = ()
) -> tuple[LossCell, ...]:
    """Of a release whose quality is guarded. before: what was read last."""
    guardrail = quality_of(release)
    assert guardrail is not None
    asked = query.Question(
        what="outcomes_joined", home=str(app.home.path), service=release.service,
        since=release.started_at, until=app.clock.now() - round(guardrail.delay_s * SECOND_US),
        kinds=(int(Kind.LIVE), int(Kind.SHADOW)),
    )  # fmt: skip
    arrays: OutcomeArrays = query.ask(asked)
    cells = loss_cells(told_of(arrays, release, guardrail), release, guardrail)
    return whole_cells(cells, before, release, int(arrays.at[0])) if arrays.is_cut else cells


def whole_cells(
    cells: tuple[LossCell, ...], before: tuple[LossCell, ...], release: Release, since: Instant
) -> tuple[LossCell, ...]:
    """What the newest rows say, of which there were too many: those before `since` were left out.
    An epoch that began before keeps what it said while it was whole: evidence that lost its
    beginning could be picked by when it is looked at."""
    cut = {one.number for one in release.epochs if one.started_at <= since}
    kept = tuple(one for one in before if one.epoch in cut)
    return kept + tuple(one for one in cells if one.epoch not in cut)
