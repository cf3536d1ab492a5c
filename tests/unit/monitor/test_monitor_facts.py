from __future__ import annotations

import numpy as np
from monitor_cases import T0

from doorstep.core.record import Kind
from doorstep.gate.metrics import Labelled
from doorstep.journal.summary import LATENCY_BINS, Cell, ColumnCount, Summary, keep_columns
from doorstep.monitor.decide import evaluate
from doorstep.monitor.facts import drift_window, quality_window, traffic_window, was_asked
from doorstep.monitor.types import ServiceFacts

MINUTE = 60_000_000


def cell(minute: int, version: int, kind: Kind = Kind.LIVE, rows: int = 10) -> Cell:
    codes = (rows - 1,) + (0,) * 31
    return Cell(
        at=T0 + minute * MINUTE,
        version=version,
        assigned=version,
        kind=int(kind),
        segment="",
        rows=rows,
        statuses=(rows, 0, 0, 0, 0, 0),
        errors=1,
        warned=2,
        latency=(rows,) + (0,) * (LATENCY_BINS - 1),
        counted=keep_columns({"in.age": ColumnCount(1, codes), "in.unknown": ColumnCount(rows)}),
    )


SUMMARY = Summary(
    service="loans",
    cells=(cell(0, 1), cell(1, 1), cell(1, 2), cell(1, 1, Kind.SHADOW), cell(2, 1)),
)


def test_a_drift_window_is_the_live_rows_of_one_version() -> None:
    found = drift_window(SUMMARY, 1, T0, T0 + 2 * MINUTE)
    assert (found.rows, found.warned) == (20, 4)
    assert list(found.columns) == ["in.age"]
    assert (found.columns["in.age"].codes[0], found.columns["in.age"].missing) == (18, 2)


def test_a_traffic_window_is_all_live_rows() -> None:
    found = traffic_window(SUMMARY, T0, T0 + 2 * MINUTE)
    assert (found.rows, found.errors, found.statuses[0], found.latency[0]) == (30, 3, 30, 30)


def test_an_empty_window_has_no_rows_and_no_columns() -> None:
    assert drift_window(SUMMARY, 1, T0 - MINUTE, T0).columns == {}
    assert sum(traffic_window(SUMMARY, T0 - MINUTE, T0).latency) == 0


def test_quality_is_measured_on_what_has_an_outcome() -> None:
    truth = np.array([0.0, 1.0] * 100)
    scores = np.column_stack([1 - 0.5 * truth, 0.5 * truth])
    one = Labelled(truth=truth, scores=scores, positive=1, threshold=0.5)
    found = quality_window(one, "binary", 1000, T0, T0 + MINUTE)
    assert (found.rows, found.labelled) == (1000, 200)
    assert found.metrics["accuracy"].value == 1.0
    nothing = Labelled(truth=truth[:0], scores=scores[:0], positive=1, threshold=0.5)
    assert quality_window(nothing, "binary", 1000, T0, T0 + MINUTE).metrics == {}


def test_silence_after_traffic_is_seen_and_silence_after_silence_is_not() -> None:
    hour = 60 * MINUTE
    now = T0 + 3 * hour
    quiet = traffic_window(SUMMARY, now - hour, now)
    asked = was_asked(SUMMARY, now - 24 * hour, now)
    assert (quiet.rows, asked) == (0, True)
    facts = ServiceFacts(service="loans", version=1, traffic=quiet, had_traffic=asked)
    assert [one.subject for one in evaluate(facts, now)] == ["traffic"]
    assert not was_asked(SUMMARY, now - hour, now)
    rehearsed = Summary(service="loans", cells=(cell(1, 1, Kind.REHEARSAL),))
    assert not was_asked(rehearsed, now - 24 * hour, now)
