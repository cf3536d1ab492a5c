"""A service's predictions as one file, with what became of them."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import duckdb
import pytest
from test_journal_sql import AT, NEW, OLD, Writing

from doorstep.core.errors import RefusedError
from doorstep.core.record import OutcomeRecord
from doorstep.journal import exported
from doorstep.journal.export import TIMEOUT_S, export_file
from doorstep.journal.query import outcomes_joined
from doorstep.journal.tables import Span

ALL = Span()


def read(home: Path, tmp_path: Path, span: Span = ALL, **changes):
    asked = {"kinds": (0,), "format": "parquet", "outcomes": True} | changes
    with export_file(home, "loans", span, **asked) as file:
        made = tmp_path / "made.parquet"
        made.write_bytes(file.read())
    return duckdb.sql(f"SELECT * FROM '{made}' ORDER BY \"at\"")


@pytest.fixture
def home(tmp_path: Path):
    """Three predictions of one key at AT, AT + 10, AT + 20; the first is listed. One outcome by
    key is about the second, one that came later about the third."""
    writing = Writing(tmp_path / "home")
    writers = [
        writing.add(OLD, AT, (30.0, 0.25), ("no",), key="k", told=False)[1],
        writing.add(NEW, AT + 10, (0.75,), ("forty", "nurse", "yes"), key="k", told=False)[1],
        writing.add(NEW, AT + 20, (0.5,), ("ten", "nurse", "yes"), key="k", told=False)[1],
    ]
    writers[0].close()
    writing.compact()
    for at, label in ((AT + 15, "no"), (AT + 12, "yes"), (AT + 90, "yes")):
        told = OutcomeRecord(service="loans", at=at, received_at=at, key="k", label=label)
        writers[1].outcome(told)
    writers[1].flush()
    yield tmp_path / "home"
    for one in writers[1:]:
        one.close()


def test_each_prediction_has_the_outcome_that_the_join_gives_it(home, tmp_path):
    rows = read(home, tmp_path).project('"at", "in.age", outcome, outcome_at').fetchall()
    assert rows == [
        (AT, "30.0", None, None),
        (AT + 10, "forty", "no", AT + 15),
        (AT + 20, "ten", "yes", AT + 90),
    ]
    joined = outcomes_joined(home, "loans", 0, AT + 100)
    found = read(home, tmp_path).filter("outcome IS NOT NULL").project("id, outcome").fetchall()
    assert found == list(zip(joined.id, joined.label, strict=True))


def test_a_prediction_after_the_span_still_takes_the_outcome_that_is_its(home, tmp_path):
    rows = read(home, tmp_path, Span(AT + 5, AT + 20)).project('"at", outcome').fetchall()
    assert rows == [(AT + 10, "no")]


def test_kinds_and_formats(home, tmp_path):
    assert read(home, tmp_path, kinds=(2,)).fetchall() == []
    with export_file(home, "loans", Span(), kinds=(0,), format="csv", outcomes=False) as file:
        lines = file.read().decode().splitlines()
    assert (len(lines), lines[0].split(",")[:2]) == (4, ["service", "time"])
    leaves = [one["leaf_hash"] for one in csv.DictReader(lines)]
    assert all(re.fullmatch("[0-9a-f]{64}|", one) for one in leaves) and any(leaves)


def test_nothing_of_an_export_stays_in_the_home(home, tmp_path):
    old = home / "exports" / "left"
    old.mkdir(parents=True)
    past = old.stat().st_mtime - 3 * TIMEOUT_S
    os.utime(old, (past, past))
    read(home, tmp_path)
    assert not list((home / "exports").iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("mine")
    with pytest.raises(RefusedError, match="file-exists"):
        exported.check(target, force=False)
    with pytest.raises(ZeroDivisionError), exported.written(target, ".csv") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "mine"
    with exported.written(target, exported.check(target, force=True)) as part:
        part.write_text("whole")
    assert target.read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 1
