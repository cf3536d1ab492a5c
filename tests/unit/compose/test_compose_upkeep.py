"""What the control plane tidies by itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from doorstep.compose.control import ControlPlane
from doorstep.compose.loops import Slow
from doorstep.compose.upkeep import COMPACT_EVERY_S, UPLOAD_KEPT_S, ControlJournal, Uploads
from doorstep.core.instant import SystemClock
from doorstep.core.record import OutcomeRecord
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.telling import CONTROL_NODE, OutcomeWriter
from doorstep.kernel.db import Database
from doorstep.kernel.home import open_home
from doorstep.kernel.leadership import Leadership


class HandClock(SystemClock):
    at_s = 1000.0

    def monotonic_s(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def control(sqlite_database: Database, tmp_path: Path, clock: HandClock) -> ControlPlane:
    home = open_home(tmp_path / "home", create=True)
    return ControlPlane(home, sqlite_database, clock, {}, {}, tmp_path)


def tell(control: ControlPlane, key: str) -> None:
    kept = control.app().kept
    writer = kept.get(OutcomeWriter, lambda: OutcomeWriter(control.home.journal))
    writer.write([OutcomeRecord(service="loans", at=1, received_at=2, key=key, label="good")])


def finish(journal: ControlJournal) -> None:
    until_s = time.monotonic() + 60
    while journal.is_compacting and time.monotonic() < until_s:
        time.sleep(0.02)
        journal.tick()
    assert not journal.is_compacting


def files(control: ControlPlane, pattern: str) -> list[Path]:
    return list((control.home.journal / CONTROL_NODE).rglob(pattern))


def test_nothing_is_started_where_nothing_was_told(control: ControlPlane):
    journal = ControlJournal(control)
    journal.tick()
    assert not journal.is_compacting
    assert not (control.home.journal / CONTROL_NODE).exists()


def test_closed_blocks_are_compacted_by_a_child_and_read_once(
    control: ControlPlane, clock: HandClock
):
    tell(control, "a")
    journal = ControlJournal(control)
    journal.tick()
    # The open block is ours, and young: it is left alone.
    assert not journal.is_compacting
    control.app().kept.get(OutcomeWriter, _never).close()
    clock.at_s += COMPACT_EVERY_S
    journal.tick()
    assert journal.is_compacting
    finish(journal)
    (snapshot,) = take_snapshots(control.home.path)
    assert [file.holds for file in snapshot.files] == ["outcomes"]
    assert snapshot.tails == ()


def _never() -> OutcomeWriter:
    raise AssertionError("it was made before")


def test_a_block_of_a_control_plane_that_was_killed_is_taken_up(control: ControlPlane):
    pid = os.fork()
    if pid == 0:
        tell(control, "a")
        os._exit(9)
    os.waitpid(pid, 0)
    assert len(files(control, "*.open")) == 1
    journal = ControlJournal(control)
    journal.tick()
    finish(journal)
    assert files(control, "*.open") == []
    assert len(files(control, "*.parquet")) == 1


def test_stopping_closes_the_block_and_ends_the_child(control: ControlPlane):
    tell(control, "a")
    journal = ControlJournal(control)
    journal.stop()
    assert files(control, "*.open") == []
    assert len(files(control, "*.block")) == 1
    journal.tick()
    journal.stop()
    assert not journal.is_compacting


def test_uploads_are_forgotten_after_a_day(control: ControlPlane):
    folder = control.home.path / "uploads"
    for name, age_s in (("new", 0.0), ("old", UPLOAD_KEPT_S + 60)):
        (folder / name).write_bytes(b"x")
        at_s = time.time() - age_s
        os.utime(folder / name, (at_s, at_s))
    Uploads(control).tick()
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_bundles_that_broke_off_or_were_replaced_are_forgotten_after_a_day(control: ControlPlane):
    bundles = control.home.bundles
    old = (".incoming-old", f".broken-{'a' * 64}-old")
    for name in (*old, ".incoming-new", "b" * 64):
        (bundles / name).mkdir()
        (bundles / name / "model.onnx").write_bytes(b"x")
    for name in (*old, "b" * 64):
        at_s = time.time() - UPLOAD_KEPT_S - 60
        os.utime(bundles / name, (at_s, at_s))
    Uploads(control).tick()
    assert {path.name for path in bundles.iterdir()} == {".incoming-new", "b" * 64}


def test_a_task_that_fails_does_not_keep_the_others_from_their_turn(control: ControlPlane):
    done = []

    def fail() -> None:
        raise OSError("the disk is full")

    leader = Leadership(control.database, control.clock, "a", alone=True)
    control.term = leader.tick() or 0
    slow = Slow(control, [fail, lambda: done.append(1)])
    with pytest.raises(OSError, match="the disk is full"):
        slow.tick()
    assert done == [1]
