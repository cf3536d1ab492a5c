"""What the journal knows of a release, read now and then and kept in between."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from doorstep.kernel.app import App
from doorstep.kernel.turns import in_turn
from doorstep.release.reading import Asked, Read, ask
from doorstep.release.types import EXPERIMENT, Guardrail, Release

LOOK_EVERY_S = 10.0
LOOK_PART_MAX = 0.1
"""Of our time, so that a release with a long history is looked at less often."""


NOTHING = Read()


class Losses:
    """The newest loss cells of running releases. After a restart they are read again."""

    def __init__(self) -> None:
        self._read: dict[str, Read] = {}
        self._next_s: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self._lock = threading.Lock()

    def get(self, release: str) -> Read:
        return self._read.get(release, NOTHING)

    def trouble(self, release: str) -> str:
        """Why the newest look found nothing out, so that the evidence is that of an earlier one; ""
        if it did."""
        return self._said.get(release, "")

    def look(self, app: App, releases: Iterable[Release]) -> None:
        """Read the journal for those that need it and were not looked at lately."""
        running = {one.id: one for one in releases if any(measured(one))}
        with self._lock:
            self._read = {name: one for name, one in self._read.items() if name in running}
            self._next_s = {name: one for name, one in self._next_s.items() if name in running}
            self._said = {name: one for name, one in self._said.items() if name in running}
            in_turn([partial(self._look_at, app, one) for one in running.values()])

    def _look_at(self, app: App, release: Release) -> None:
        name, began_s = release.id, app.clock.monotonic_s()
        if began_s < self._next_s.get(name, 0.0):
            return
        try:
            self._read[name] = read_losses(app, release)
            self._said.pop(name, None)
        except Exception as error:
            self._said[name] = f"what outcomes say of it could not be read: {error}"
            raise
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


def read_losses(app: App, release: Release) -> Read:
    """Of a release of which something is measured by the journal."""
    home, now = str(app.home.path), app.clock.now()
    # What is told apart by its history is not asked for.
    bare = msgspec.structs.replace(release, history=())
    found = [
        ask(Asked(home=home, release=bare, metric=metric, guardrail=guardrail, now=now))
        for metric, guardrail in measured(release)
    ]
    rankings = next((one.rankings for one in found if one.rankings), ())
    return Read(tuple(cell for one in found for cell in one.cells), rankings)
