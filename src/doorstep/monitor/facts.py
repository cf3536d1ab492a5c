"""From the journal's summaries and joined outcomes to the facts that a monitor judges. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np

from doorstep.core.instant import Instant
from doorstep.core.manifest import Task
from doorstep.core.record import TRAFFIC
from doorstep.gate.metrics import Labelled, estimate, find_metric, names_of
from doorstep.journal.summary import (
    LATENCY_BINS,
    STATUSES,
    Cell,
    Counted,
    PairSums,
    Summary,
    add_columns,
    add_pairs,
    window,
)
from doorstep.monitor.types import DriftWindow, QualityWindow, TrafficWindow
from doorstep.stats.distances import ColumnCounts


def drift_window(summary: Summary, version: int, since: Instant, until: Instant) -> DriftWindow:
    """Live rows that `version` answered; columns without codes (not in its profile) are left out.
    Shadow and rehearsal rows are not traffic."""
    cells = [one for one in _live(summary, since, until) if one.version == version]
    return DriftWindow(
        since=since,
        until=until,
        rows=sum(one.rows for one in cells),
        columns=_columns(cells),
        warned=sum(one.warned for one in cells),
        pairs=reduce(add_pairs, (one.pairs for one in cells), PairSums()),
    )


def traffic_window(summary: Summary, since: Instant, until: Instant) -> TrafficWindow:
    """All live rows, whoever answered."""
    cells = _live(summary, since, until)
    return TrafficWindow(
        since=since,
        until=until,
        rows=sum(one.rows for one in cells),
        errors=sum(one.errors for one in cells),
        statuses=_sum((one.statuses for one in cells), STATUSES),
        latency=_sum((one.latency for one in cells), LATENCY_BINS),
    )


def was_asked(summary: Summary, since: Instant, until: Instant) -> bool:
    """Whether any live request came in [since, until): ask it of a longer time than the traffic
    window, or silence is never news."""
    return any(one.rows for one in _live(summary, since, until))


def quality_window(
    labelled: Labelled, task: Task, rows: int, since: Instant, until: Instant
) -> QualityWindow:
    """labelled: truth and scores of the predictions that have an outcome; rows: how many
    predictions there were in all. Every metric of the task is measured."""
    count = int(labelled.truth.size)
    metrics = {name: find_metric(name, task) for name in names_of(task)} if count else {}
    return QualityWindow(
        since=since,
        until=until,
        rows=rows,
        labelled=count,
        metrics={name: estimate(one, labelled) for name, one in metrics.items() if one},
    )


def _live(summary: Summary, since: Instant, until: Instant) -> list[Cell]:
    return [one for one in window(summary, since, until).cells if one.kind in TRAFFIC]


def _columns(cells: list[Cell]) -> dict[str, ColumnCounts]:
    counted = reduce(add_columns, (one.counted for one in cells), Counted())
    return {
        name: ColumnCounts(one.codes, one.nulls)
        for name, one in counted.columns.items()
        if one.codes
    }


def _sum(counts: Iterable[tuple[int, ...]], width: int) -> tuple[int, ...]:
    total = np.zeros(width, dtype=np.int64)
    for one in counts:
        if one:
            total += np.asarray(one, dtype=np.int64)
    return tuple(total.tolist())
