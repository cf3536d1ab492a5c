"""Cells: what is counted survives its process, and is summed once."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import numpy as np
import pytest

from doorstep.core.report import UNITS_MAX
from doorstep.serve.cells import (
    SLOTS_MAX,
    TIMED_UNITS_MAX,
    CellKey,
    CellWriter,
    create_cells,
    has_writer,
    read_cells,
    read_dead,
)
from doorstep.serve.counters import BUCKETS, LATENCY_EDGES_US
from doorstep.serve.evidence import Evidence, quantile_ms
from doorstep.stats import eprocess

KEY = CellKey("r1", 1, "north", "challenger")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "front-0.cells"
    create_cells(found)
    return found


def test_a_request_counts_once_for_its_cell_and_its_unit(path: Path) -> None:
    writer = CellWriter(path)
    slot = writer.slot(KEY)
    for ok in (True, True, False):
        writer.end(slot, [7], writer.begin(slot, [7]), ok)
    cell = read_cells(path).cells[KEY]
    assert (cell.requests, cell.ok, cell.bad, cell.in_flight) == (3, 2, 1, 0)
    assert (list(cell.seen), list(cell.bad_units)) == ([7], [7])


def test_what_was_in_flight_in_a_dead_process_is_an_error_of_its_arm(path: Path) -> None:
    writer = CellWriter(path)
    slot = writer.slot(KEY)
    writer.begin(slot, [1, 2**64 - 1])
    writer.end(slot, [3], writer.begin(slot, [3]), True)
    assert has_writer(path)
    writer.close()
    assert not has_writer(path)
    cell = read_dead(path).cells[KEY]
    assert (cell.requests, cell.ok, cell.bad, cell.in_flight) == (2, 1, 1, 0)
    assert len(cell.bad_units) == 1, "one end is one event, however many units waited"
    assert set(cell.bad_units) <= {1, 2**64 - 1}
    assert set(cell.seen) == {1, 3, 2**64 - 1}


def test_units_are_kept_up_to_the_limit_first_come(path: Path) -> None:
    writer = CellWriter(path)
    slot = writer.slot(KEY)
    units = list(range(UNITS_MAX + 5))
    writer.end(slot, units, writer.begin(slot, units), False)
    cell = read_cells(path).cells[KEY]
    assert list(cell.seen) == list(cell.bad_units) == units[:UNITS_MAX]


def test_of_each_unit_one_latency_an_epoch_is_taken(path: Path) -> None:
    writer = CellWriter(path)
    for epoch, unit in ((1, 7), (1, 7), (1, 8), (2, 7), (1, 9)):
        slot = writer.slot(KEY._replace(epoch=epoch))
        writer.time(slot, [unit], 30, (10, 20, 30, 40), once=True)
    writer.time(writer.slot(KEY), [7], 5, (10, 20, 30, 40), once=False)
    cells = read_cells(path).cells
    assert (cells[KEY].timed, cells[KEY].slow) == (3, (2, 2, 0, 0))
    assert cells[KEY._replace(epoch=2)].timed == 1


def test_latencies_of_both_arms_are_taken_for_equally_long(path: Path) -> None:
    """Also where units come once and an arm has most of them: else the other would seem slower."""
    writer = CellWriter(path)
    slots = [writer.slot(KEY._replace(arm=arm)) for arm in ("champion", "challenger")]
    for unit in range(2 * TIMED_UNITS_MAX):
        writer.time(slots[unit % 20 == 0], [unit], 30, (10,), once=True)
    cells = read_cells(path).cells
    champion, challenger = (cells[KEY._replace(arm=arm)] for arm in ("champion", "challenger"))
    assert champion.timed + challenger.timed == TIMED_UNITS_MAX
    assert challenger.timed == pytest.approx(TIMED_UNITS_MAX / 20, abs=1)


def test_a_full_file_has_no_slot_for_one_more_cell(path: Path) -> None:
    writer = CellWriter(path)
    keys = [CellKey("r", epoch, "", "champion") for epoch in range(SLOTS_MAX // 2)]
    assert [writer.slot(key) for key in keys] == list(range(0, SLOTS_MAX, 2))
    assert writer.slot(KEY) is None
    assert writer.slot(keys[3]._replace(arm="challenger")) == 7, "both arms have room, or none"


def test_of_a_unit_one_latency_is_taken_by_all_workers_together(tmp_path: Path) -> None:
    workers = []
    for place in range(4):
        create_cells(tmp_path / str(place))
        workers.append(CellWriter(tmp_path / str(place), (place, 4)))
    generator = random.Random(1)
    units = [generator.getrandbits(64) for _ in range(100)]
    for _ in range(40):
        for unit in units:
            writer = generator.choice(workers)
            writer.time(writer.slot(KEY), [unit], 30, (10,), once=True)
    assert sum(read_cells(tmp_path / str(place)).cells[KEY].timed for place in range(4)) == 100


def test_few_slow_units_that_ask_often_send_no_equal_version_back() -> None:
    """400 fair splits of 400 units of which a tenth is slow, each asking all of 4 workers: counted
    by each worker the slow ones look like four times the evidence."""
    rng = np.random.default_rng(7)
    slow = rng.binomial(400, 0.1, 400)
    of_challenger = rng.binomial(slow, 0.5)
    gone = {
        times: sum(
            eprocess.share_log_e([(0.5, times * int(b), times * int(n - b))], 1.0, +1)
            >= math.log(20)
            for n, b in zip(slow, of_challenger, strict=True)
        )
        for times in (1, 4)
    }
    assert gone[1] <= 20 < gone[4], gone


def test_one_file_has_one_writer(path: Path) -> None:
    writer = CellWriter(path)
    with pytest.raises(BlockingIOError):
        CellWriter(path)
    writer.close()


def test_a_quantile_is_the_upper_edge_of_its_bucket() -> None:
    buckets = [0] * BUCKETS
    assert quantile_ms(buckets, 0.5) == 0.0
    buckets[3], buckets[10] = 99, 1
    assert quantile_ms(buckets, 0.5) == LATENCY_EDGES_US[3] / 1000
    assert quantile_ms(buckets, 0.99) == LATENCY_EDGES_US[3] / 1000
    assert quantile_ms(buckets, 0.995) == LATENCY_EDGES_US[10] / 1000


def test_a_file_that_is_no_cell_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(os.urandom(8192))
    with pytest.raises(ValueError, match="not a cell file"):
        read_cells(tmp_path / "x")


def write_one(state: Path, name: str) -> CellWriter:
    (state / "cells").mkdir(exist_ok=True)
    path = state / "cells" / f"{name}.cells"
    create_cells(path)
    writer = CellWriter(path)
    slot = writer.slot(KEY)
    writer.end(slot, [5], writer.begin(slot, [5]), True)
    writer.counters.answered("loans", "1", "native", 200, 100)
    os.utime(path, (0, 0))
    return writer


def test_live_and_dead_processes_are_summed_and_the_dead_folded_once(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    live, dead = write_one(tmp_path, "a"), write_one(tmp_path, "b")
    dead.close()
    for _ in range(3):
        evidence.collect(set(), {"r1"})
        (cell,) = evidence.cells()
        assert (cell.requests, len(cell.seen)) == (2, 8)
        assert evidence.services()[0].requests == 2
    assert not (tmp_path / "cells" / "b.cells").exists()
    live.close()
    again = Evidence(tmp_path)
    assert again.boot == evidence.boot
    again.collect(set(), {"r1"})
    assert again.cells()[0].requests == 2


def test_a_file_that_nobody_has_locked_yet_is_counted_and_not_removed(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    write_one(tmp_path, "a").close()
    path = tmp_path / "cells" / "a.cells"
    os.utime(path)
    for _ in range(2):
        evidence.collect(set(), {"r1"})
        assert evidence.cells()[0].requests == 1
    assert path.exists()


def test_a_crash_between_folding_and_removing_counts_nothing_twice(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    write_one(tmp_path, "a").close()
    kept = (tmp_path / "cells" / "a.cells").read_bytes()
    evidence.collect(set(), {"r1"})
    (tmp_path / "cells" / "a.cells").write_bytes(kept)
    os.utime(tmp_path / "cells" / "a.cells", (0, 0))
    again = Evidence(tmp_path)
    again.collect(set(), {"r1"})
    assert again.cells()[0].requests == 1


def test_cells_of_a_release_that_is_not_in_the_plan_are_not_reported(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    write_one(tmp_path, "a")
    evidence.collect(set(), {"other"})
    assert evidence.cells() == ()
