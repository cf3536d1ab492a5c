"""What the journal knows of a release, read now and then and kept in between."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import Kind
from doorstep.journal import query
from doorstep.journal.joined import OutcomeArrays, Trials
from doorstep.kernel.app import App
from doorstep.kernel.turns import in_turn
from doorstep.release.groups import gap_cells
from doorstep.release.losses import (
    loss_cells,
    rankings_of,
    shadow_epochs,
    split_epochs,
    told_of,
    trials_of,
)
from doorstep.release.types import EXPERIMENT, Guardrail, LossCell, Ranking, Release

LOOK_EVERY_S = 10.0
LOOK_PART_MAX = 0.1
"""Of our time, so that a release with a long history is looked at less often."""


class Read(msgspec.Struct, frozen=True):
    """What the journal said of one release."""

    cells: tuple[LossCell, ...] = ()
    rankings: tuple[Ranking, ...] = ()


NOTHING = Read()


class Losses:
    """The newest loss cells of running releases. After a restart they are read again."""

    def __init__(self) -> None:
        self._read: dict[str, Read] = {}
        self._next_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, release: str) -> Read:
        return self._read.get(release, NOTHING)

    def look(self, app: App, releases: Iterable[Release]) -> None:
        """Read the journal for those that need it and were not looked at lately."""
        running = {one.id: one for one in releases if any(measured(one))}
        with self._lock:
            self._read = {name: one for name, one in self._read.items() if name in running}
            self._next_s = {name: one for name, one in self._next_s.items() if name in running}
            in_turn([partial(self._look_at, app, one) for one in running.values()])

    def _look_at(self, app: App, release: Release) -> None:
        name, began_s = release.id, app.clock.monotonic_s()
        if began_s < self._next_s.get(name, 0.0):
            return
        try:
            self._read[name] = read_losses(app, release, self.get(name).cells)
        finally:
            now_s = app.clock.monotonic_s()
            self._next_s[name] = now_s + max(LOOK_EVERY_S, (now_s - began_s) / LOOK_PART_MAX)


def measured(release: Release) -> Iterator[tuple[str, Guardrail]]:
    """(name of its cells, what is measured) of all that the journal is read for."""
    for one in release.spec.guardrails:
        if one.metric.read != "nodes":
            yield one.name, one
    experiment = release.spec.experiment
    if experiment is not None and experiment.measure.metric.read != "nodes":
        yield EXPERIMENT, experiment.measure


def read_losses(app: App, release: Release, before: tuple[LossCell, ...] = ()) -> Read:
    """Of a release of which something is measured by the journal. before: what was read last."""
    found: list[LossCell] = []
    rankings: tuple[Ranking, ...] = ()
    for metric, guardrail in measured(release):
        known = tuple(one for one in before if one.metric == metric)
        read = _read(app, release, metric, guardrail, known)
        found += read.cells
        rankings = read.rankings or rankings
    return Read(tuple(found), rankings)


def _read(
    app: App,
    release: Release,
    metric: str,
    guardrail: Guardrail,
    before: tuple[LossCell, ...],
) -> Read:
    now = app.clock.now()
    needs_outcome = guardrail.metric.read == "outcomes"
    trials = Trials(
        field=guardrail.field,
        release=release.id,
        split=tuple(_used(release, guardrail)),
        whole=tuple(shadow_epochs(release)),
    )
    # What is judged at an age is asked for up to it; a unit's later requests count for its first.
    age_s = guardrail.delay_s if needs_outcome else 0.0
    asked = query.Question(
        what="outcomes_joined", home=str(app.home.path), service=release.service,
        since=release.started_at, until=now - round(age_s * SECOND_US),
        kinds=(int(Kind.LIVE), int(Kind.SHADOW)), trials=None if needs_outcome else trials,
    )  # fmt: skip
    arrays: OutcomeArrays = query.ask(asked)
    if guardrail.name == "fairness":
        return Read(gap_cells(arrays, release, guardrail))
    if not needs_outcome:
        # Of too many the first are read: evidence then stays as it is.
        told = trials_of(arrays, release, guardrail, now)
        return Read(loss_cells(told, release, guardrail, metric))
    cells = loss_cells(told_of(arrays, release, guardrail), release, guardrail, metric)
    if arrays.is_cut:
        cells = whole_cells(cells, before, release, int(arrays.at[0]))
    return Read(cells, rankings_of(arrays, release, guardrail.label))


def whole_cells(
    cells: tuple[LossCell, ...], before: tuple[LossCell, ...], release: Release, since: Instant
) -> tuple[LossCell, ...]:
    """What the newest rows say, of which there were too many: those before `since` were left out.
    An epoch that began before keeps what it said while it was whole: evidence that lost its
    beginning could be picked by when it is looked at."""
    cut = {one.number for one in release.epochs if one.started_at <= since}
    kept = tuple(one for one in before if one.epoch in cut)
    return kept + tuple(one for one in cells if one.epoch not in cut)


def _used(release: Release, guardrail: Guardrail) -> list[int]:
    """Epochs in which units are met. Of fairness the challenger's own gap counts, wherever it
    answers."""
    if guardrail.name != "fairness":
        return split_epochs(release)
    return [one.number for one in release.epochs if one.measured and one.share > 0.0]
