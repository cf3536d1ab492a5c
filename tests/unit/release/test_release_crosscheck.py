from __future__ import annotations

import msgspec
import pytest
from release_cases import at, in_step

from doorstep.core.report import Cell as NodeCell
from doorstep.journal.summary import ReleaseCount
from doorstep.release.crosscheck import compare
from doorstep.release.evidence import Gathered, cells_of, evidence_of, merge
from doorstep.release.types import Cell, Epoch, State

NOW = at(7200)


def recorded(ok: int, failed: int = 0, passed: int = 0, **place: object) -> ReleaseCount:
    where = {"release": "r1", "epoch": 1, "segment": "", "assigned": 2, "kind": 0} | place
    return ReleaseCount(ok=ok, failed=failed, passed=passed, **where)


def counted(ok: int, failed: int = 0, epoch: int = 1) -> Cell:
    return Cell(epoch=epoch, segment="", arm="challenger", requests=ok + failed, successes=ok)


def two_epochs(second_at: int = at(3600)):
    release = in_step()
    first = release.epochs[0]
    second = Epoch(
        number=2,
        share=0.05,
        state=State.STEP,
        step=1,
        measured=True,
        opened="hour",
        started_at=second_at,
    )
    return msgspec.structs.replace(release, epochs=(first, second))


def compared(cell: Cell, *counts: ReleaseCount, release=None, kept_since: int = 0):
    return compare(release or two_epochs(), [cell], counts, NOW, kept_since)[0]


def test_equal_counts_say_nothing() -> None:
    found = compared(counted(90, 10), recorded(90, 7, 3))
    assert (found.counted, found.recorded) == ((100, 10), (100, 10))
    assert (found.said, found.explained) == ("", True)


def test_an_answer_that_is_not_in_the_journal_is_never_explained() -> None:
    for release in (two_epochs(), in_step()):
        found = compared(counted(90), recorded(88), release=release)
        assert not found.explained
        assert found.said == "2 answers were counted and are not in the journal"


def test_what_was_in_flight_when_its_process_died_is_a_failure_without_a_record() -> None:
    found = compared(counted(90, 5), recorded(90, 2))
    assert found.explained
    assert found.said == "3 failures without a record: in flight when their process died"


def test_more_failures_without_a_record_than_could_be_in_flight_are_not_explained() -> None:
    assert compared(counted(1000, 256), recorded(1000)).explained
    assert not compared(counted(1000, 257), recorded(1000)).explained
    assert compared(counted(100_000, 1000), recorded(100_000)).explained


def test_requests_for_which_the_version_was_not_asked_are_no_evidence() -> None:
    found = compared(counted(90, 2), recorded(90, 1, 8))
    assert found.explained
    assert found.said.startswith("7 were not asked")


@pytest.mark.parametrize(("ended", "explained"), [(-60, False), (-5, True)])
def test_more_records_than_counts_are_explained_only_while_reports_are_under_way(
    ended: int, explained: bool
) -> None:
    found = compared(counted(90), recorded(91, 1), release=two_epochs(at(7200 + ended)))
    assert found.explained is explained
    assert found.said.startswith("2 came in" if explained else "2 are recorded, and no node")
    now = compare(two_epochs(), [], [recorded(3, epoch=2)], NOW, 0)[0]
    assert (now.counted, now.recorded, now.explained) == ((0, 0), (3, 0), True)


def test_records_that_are_too_old_to_be_kept_are_not_missed() -> None:
    gone = compared(counted(90), kept_since=at(3601))
    assert (gone.said, gone.explained) == ("older than records are kept", True)
    assert not compared(counted(90), kept_since=at(3599)).explained
    over = msgspec.structs.replace(in_step(), state=State.ROLLED_BACK)
    assert compared(counted(90), release=over, kept_since=NOW + 1).explained
    assert not compared(counted(90), release=over, kept_since=NOW).explained
    assert not compared(counted(90), release=in_step(), kept_since=NOW + 1).explained


def test_what_several_nodes_counted_is_held_against_what_they_recorded_together() -> None:
    """Each reports when it likes; a report that is read again adds nothing."""
    place = {"release": "r1", "epoch": 1, "segment": "", "arm": "challenger"}
    reports = [
        cells_of("one", "a", [NodeCell(**place, requests=40, ok=38, bad=2)]),
        cells_of("two", "b", [NodeCell(**place, requests=50, ok=50)]),
        cells_of("two", "b", [NodeCell(**place, requests=30, ok=30)]),
    ]
    gathered: Gathered = {}
    for one in reports:
        gathered = merge(gathered, one)
    cells = evidence_of(in_step(), gathered).cells
    journals = [recorded(38, 2), recorded(50)]
    (found,) = compare(in_step(), cells, journals, NOW, 0)
    assert (found.counted, found.recorded) == ((90, 2), (90, 2))
    assert (found.said, found.explained) == ("", True)
    (lost,) = compare(in_step(), cells, journals[:1], NOW, 0)
    assert not lost.explained
    assert lost.said == "50 answers were counted and are not in the journal"


def test_shadows_are_of_the_challenger_and_other_places_of_nobody() -> None:
    counts = [recorded(5, kind=1), recorded(7, segment="north"), recorded(7, epoch=9)]
    counts += [recorded(4, assigned=1), recorded(1, failed=2)]
    found = compare(two_epochs(), [], counts, NOW, 0)
    assert [(one.arm, one.recorded) for one in found] == [
        ("challenger", (8, 2)),
        ("champion", (4, 0)),
    ]
