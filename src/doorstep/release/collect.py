"""The evidence of a release: what nodes report now, and what boots that are gone had reported."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from doorstep.core.report import Cell, NodeReport
from doorstep.kernel.app import App
from doorstep.kernel.nodes import past_reports
from doorstep.release import store
from doorstep.release.evidence import Gathered, cells_of, evidence_of, gather, merge
from doorstep.release.outcomes import Losses
from doorstep.release.types import Evidence, Release

Source = tuple[str, str, str]
"""(release, node, boot)"""
Cells = tuple[Cell, ...]
CRASH_STARTS = 4
"""Starts of one slot since the release's first epoch that make a crash loop."""


def collect(app: App, release: Release) -> Evidence:
    """Everything that is known of this release now."""
    with app.database.reading() as connection:
        kept = store.read_cells(connection, release.id)
    gathered: Gathered = {}
    for node, boot, cells in kept:
        gathered = merge(gathered, cells_of(node, boot, cells))
    reports = app.nodes.reports()
    gathered = merge(gathered, gather(release.id, reports))
    found = evidence_of(release, gathered, crash_loops(release, reports))
    read = app.kept.get(Losses, Losses).get(release.id)
    return msgspec.structs.replace(found, losses=read.cells, rankings=read.rankings)


def crash_loops(release: Release, reports: Iterable[NodeReport]) -> list[str]:
    """Nodes whose engine of the challenger was started again and again."""
    name = f"{release.service}@{release.challenger}"
    return [
        report.node
        for report in reports
        if any(
            worker.kind == "engine" and worker.serves == name and worker.starts >= CRASH_STARTS
            for worker in report.workers
        )
    ]


class Keeper:
    """Writes reported cells down when they have changed, so that evidence survives its node."""

    def __init__(self) -> None:
        self._written: dict[Source, Cells] = {}

    def keep(self, app: App, releases: Iterable[Release]) -> None:
        """One transaction for everything that changed since the last call."""
        ids = {release.id for release in releases}
        past = past_reports(app.home.nodes)
        self._written = {key: kept for key, kept in self._written.items() if key[0] in ids}
        changed = self._merged([*(one for _, one in past), *app.nodes.reports()], ids)
        if changed:
            with app.database.transaction() as unit:
                for (release, node, boot), cells in changed.items():
                    store.save_cells(unit.connection, release, node, boot, cells)
            self._written |= changed
        for path, _ in past:
            path.unlink(missing_ok=True)

    def _merged(self, reports: Iterable[NodeReport], releases: set[str]) -> dict[Source, Cells]:
        """What is new. Readings are merged: one that we read late cannot undo a later one."""
        known = dict(self._written)
        for key, cells in _cells_in(reports, releases):
            _, node, boot = key
            before = cells_of(node, boot, known.get(key, ()))
            known[key] = tuple(merge(before, cells_of(node, boot, cells)).values())
        return {key: cells for key, cells in known.items() if self._written.get(key) != cells}


def _cells_in(reports: Iterable[NodeReport], releases: set[str]) -> Iterable[tuple[Source, Cells]]:
    for report in reports:
        for release in sorted(releases):
            mine = tuple(cell for cell in report.cells if cell.release == release)
            if mine:
                yield (release, report.node, report.boot), mine
