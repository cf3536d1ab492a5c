"""A compactor with bounds: what is too old goes, told to the ledger once, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import numpy as np
import pytest

from doorstep.core.ids import new_id
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import Column, Layout, PredictionMeta
from doorstep.journal.compactor import Compactor
from doorstep.journal.ledgering import record_dropped
from doorstep.journal.query import predictions
from doorstep.journal.retain import STANDS_S, Bounds, read_notice
from doorstep.journal.tally import no_profiles
from doorstep.journal.writer import BlockWriter
from doorstep.kernel.app import App
from doorstep.kernel.db import Database
from doorstep.kernel.ledger import Filter, read_events

DAY = 86400 * SECOND_US
NOW = 20_000 * DAY
LAYOUT = Layout(
    format=1, service="loans", numbers=(Column("out.yes", "float"),),
    texts=(Column("out.answer", "text"),),
)  # fmt: skip
BOUNDS = Bounds({"loans": 10 * 86400.0}, 1e12)


class Clock:
    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> Instant:
        return self.at

    def monotonic_s(self) -> float:
        return self.at / SECOND_US


class Crash(Exception):
    """The process is gone."""


def write(home: Path, at: Instant) -> None:
    writer = BlockWriter(home / "journal", node="n", boot=new_id().hex[:12], slot="s")
    row = PredictionMeta(
        new_id().bytes, 0, at, 1, 1, 0, 0, "", 0, 0.0, "", "", "u", 1, (), ("yes",)
    )
    writer.predictions(writer.declare(LAYOUT), [row], np.ones(1).tobytes())
    writer.close()


def run(home: Path, clock: Clock) -> None:
    with Compactor(home, "n", no_profiles, bounds=lambda: BOUNDS, clock=clock) as compactor:
        compactor.run_once()


def files(home: Path) -> int:
    return len(list((home / "journal/n/compacted").glob("*.parquet")))


@pytest.mark.parametrize("crashes", [False, True])
def test_old_days_go_when_it_was_said_and_the_ledger_hears_of_each_file_once(
    tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, crashes: bool
) -> None:
    clock = Clock()
    app = cast(App, SimpleNamespace(home=SimpleNamespace(path=tmp_path), database=sqlite_database))
    for days in (30, 20, 1):
        write(tmp_path, NOW - days * DAY)
    run(tmp_path, clock)
    assert len(predictions(tmp_path, "loans", 10)) == 3
    folder = tmp_path / "journal" / "n"
    assert read_notice(folder).services["loans"].rows == 2
    assert record_dropped(app) == 0

    clock.at += STANDS_S * SECOND_US
    if crashes:
        # After the ledger was told and before the list was.
        def die(*_: object) -> None:
            raise Crash

        monkeypatch.setattr("doorstep.journal.retain.append_entry", die)
        with pytest.raises(Crash):
            run(tmp_path, clock)
        monkeypatch.undo()
        assert record_dropped(app) == 2
        assert len(predictions(tmp_path, "loans", 10)) == 3
    run(tmp_path, clock)
    (left,) = predictions(tmp_path, "loans", 10)
    assert left["at"] == NOW - DAY
    assert files(tmp_path) == 3

    assert record_dropped(app) == (0 if crashes else 2)
    assert record_dropped(app) == 0
    with sqlite_database.reading() as connection:
        told = read_events(connection, Filter(kind="journal.dropped"), 10)
    assert sorted(one.data["first"] for one in told) == [NOW - 30 * DAY, NOW - 20 * DAY]
    assert {one.data["why"] for one in told} == {"age"}

    clock.at += 1000 * SECOND_US
    run(tmp_path, clock)
    assert files(tmp_path) == 1
    assert msgspec.to_builtins(read_notice(folder).services) == {}
