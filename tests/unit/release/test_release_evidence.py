"""Merging counters of nodes: any order, any number of times, one unit once."""

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from release_cases import at, in_step, started

from doorstep.core.report import FORMAT, UNITS_MAX, Cell, NodeReport
from doorstep.release.decide import decide
from doorstep.release.evidence import cells_of, evidence_of, gather, merge
from doorstep.release.transition import apply
from doorstep.release.types import Advance, Release, Rollback, State


def packed(*units: int) -> bytes:
    return np.array(units, dtype="<u8").tobytes()


def cell(epoch=1, arm="challenger", segment="", release="r1", **counts) -> Cell:
    for name in ("seen", "bad_units"):
        if name in counts:
            counts[name] = packed(*counts[name])
    return Cell(release=release, epoch=epoch, segment=segment, arm=arm, **counts)


def report(*cells: Cell, node="a", boot="1", sequence=1) -> NodeReport:
    return NodeReport(
        format=FORMAT,
        node=node,
        boot=boot,
        sequence=sequence,
        at=0,
        plan_term=1,
        plan_number=1,
        lease_held=True,
        data_url="",
        workers=(),
        loaded=(),
        problems=(),
        services=(),
        cells=cells,
    )


numbers = st.integers(0, 50)
units = st.lists(st.integers(0, 30), max_size=12, unique=True)
raw_cells = st.builds(
    cell,
    epoch=st.integers(1, 3),
    arm=st.sampled_from(["champion", "challenger"]),
    requests=numbers,
    ok=numbers,
    bad=numbers,
    in_flight=numbers,
    plus=numbers,
    zero=numbers,
    seen=units,
    bad_units=units,
)
readings = st.builds(
    lambda node, boot, cells: cells_of(node, boot, cells),
    st.sampled_from("ab"),
    st.sampled_from("12"),
    st.lists(raw_cells, max_size=4),
)


@settings(deadline=None)
@given(readings, readings, readings)
def test_merging_is_associative_commutative_and_idempotent(a, b, c):
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, b) == merge(b, a)
    assert merge(a, a) == a
    assert merge(merge(a, b), b) == merge(a, b)


@settings(deadline=None, max_examples=50)
@given(st.lists(readings, max_size=5), st.randoms())
def test_evidence_is_the_same_in_any_order_with_repeats(parts, rng):
    release = three_epochs()
    forward: dict = {}
    for part in parts:
        forward = merge(forward, part)
    shuffled: dict = {}
    again = parts * 2
    rng.shuffle(again)
    for part in again:
        shuffled = merge(shuffled, part)
    assert evidence_of(release, forward) == evidence_of(release, shuffled)


def three_epochs():
    release = in_step(epoch_s=10.0)
    for tick in (10, 20):
        release = apply(release, decide(release, evidence_of(release, {}), at(tick)))
    assert len(release.epochs) == 3
    return release


def found(release, *reports):
    cells = evidence_of(release, gather("r1", reports)).cells
    return {(c.epoch, c.arm): c for c in cells}


def test_a_later_reading_of_the_same_boot_replaces_and_a_new_boot_adds():
    release = in_step()
    early, late = report(cell(requests=5, ok=5)), report(cell(requests=9, ok=8, bad=1))
    other = report(cell(requests=2, ok=2), boot="2")
    for reports in ((early, late, other), (late, other, early), (late, early, late, other)):
        one = found(release, *reports)[1, "challenger"]
        assert (one.requests, one.successes) == (11, 10)


def test_a_unit_bad_in_two_processes_or_two_epochs_counts_once():
    counts = found(
        three_epochs(),
        report(cell(1, bad_units=[1, 2], seen=[1, 2, 3]), cell(2, bad_units=[2, 9], seen=[2, 9])),
        report(cell(1, bad_units=[2, 4], seen=[2, 4]), node="b"),
        report(cell(2, "champion", bad_units=[1, 7], seen=[1, 7])),
    )
    assert counts[1, "challenger"].bad_units == 3
    assert counts[2, "challenger"].bad_units == 1
    assert counts[2, "champion"].bad_units == 1
    assert counts[1, "challenger"].units == 4
    assert counts[2, "challenger"].units == 1


def test_a_unit_seen_early_and_bad_late_is_a_bad_counted_unit():
    counts = found(three_epochs(), report(cell(1, seen=[1, 2]), cell(3, seen=[1], bad_units=[1])))
    assert counts[1, "challenger"].bad_units_seen == 1
    assert counts[3, "challenger"].units == 0
    assert counts[3, "challenger"].bad_units == 1


def test_a_unit_that_moved_with_the_share_counts_for_the_split_only_where_it_was_first():
    counts = found(three_epochs(), report(cell(1, "champion", seen=[1, 2]), cell(2, seen=[1, 3])))
    assert counts[1, "champion"].first_units == 2
    assert counts[2, "challenger"].units == 2
    assert counts[2, "challenger"].first_units == 1


def test_the_split_is_not_judged_from_sets_that_are_full():
    full = cell(1, "champion", seen=range(UNITS_MAX))
    counts = found(three_epochs(), report(full, cell(1, seen=[9000]), cell(2, seen=[9001])))
    assert [c.first_units for c in counts.values()] == [0, 0, 0]
    assert counts[1, "champion"].units == UNITS_MAX


def test_strangers_are_left_out():
    release = in_step()
    strange = (cell(release="r2", requests=1), cell(epoch=7, requests=1), cell(segment="x"))
    assert found(release, report(*strange)) == {}


def test_warm_up_cells_keep_requests_but_no_units():
    release = started(shadow_requests=0, warmup_s=60.0)
    one = found(release, report(cell(requests=30, bad=30, seen=[1, 2], bad_units=[1, 2])))
    counted = one[1, "challenger"]
    assert (counted.requests, counted.units, counted.bad_units) == (30, 0, 0)


def test_a_torn_set_loses_its_last_unit_only():
    torn = msgspec.structs.replace(cell(), seen=packed(1, 2)[:-3])
    assert found(in_step(), report(torn))[1, "challenger"].units == 1


def test_how_full_the_fullest_set_of_the_current_epoch_is():
    old = cell(1, bad_units=range(UNITS_MAX))
    now = cell(3, bad_units=range(UNITS_MAX // 2))
    reports = [report(old, now)]
    assert evidence_of(three_epochs(), gather("r1", reports)).fullest == 0.5


def test_reports_lead_to_a_rollback():
    release = in_step(steps=(0.5,), dwell_s=(0.0,), margins=(2.0,))
    reports = [
        report(
            cell(arm="champion", requests=100, ok=100, seen=range(100)),
            cell(requests=100, ok=85, bad=15, seen=range(100, 200), bad_units=range(100, 115)),
        )
    ]
    decision = decide(release, evidence_of(release, gather("r1", reports)), at(1))
    assert decision.outcome == Rollback("guardrail")
    assert decision.reason.startswith("errors 15 % against 0.0 % (evidence ")


def after_shadow(method: int) -> Release:
    """In the first step, its second epoch."""
    release = started(
        shadow_requests=1, warmup_s=0.0, steps=(0.5,), dwell_s=(0.0,), margins=(2.0,), method=method
    )
    decision = decide(release, evidence_of(release, {}), at(1))
    moved = msgspec.structs.replace(decision, outcome=Advance(State.STEP, 0, 0.5))
    return apply(release, moved)


def test_what_a_unit_met_in_the_shadow_takes_none_of_either_version_out_of_the_steps():
    """Units 0 to 9 fail with the challenger, 10 to 19 with the champion, wherever they ask."""
    cells = (
        cell(1, seen=range(10, 20), bad_units=range(10), plus=10, minus=10, requests=40),
        cell(2, seen=range(0, 40, 2), bad_units=range(0, 10, 2), requests=20),
        cell(2, "champion", seen=range(1, 40, 2), bad_units=range(11, 20, 2), requests=20),
    )

    def counted(method: int) -> list[tuple[str, int, int, int, int]]:
        found = evidence_of(after_shadow(method), gather("r1", [report(*cells)]))
        return [
            (one.arm, one.units, one.first_units, one.bad_units, one.bad_units_seen)
            for one in found.cells
            if one.epoch == 2
        ]

    assert counted(4) == [("challenger", 20, 20, 5, 5), ("champion", 20, 20, 5, 5)]
    assert counted(3)[0][3] == 0, "what an earlier method began is finished by its rules"
    shadow = evidence_of(after_shadow(4), gather("r1", [report(*cells)])).cells[0]
    assert (shadow.units, shadow.bad_units) == (10, 10)
