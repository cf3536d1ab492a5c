"""When an engine waits for callers whom it has just answered."""

from __future__ import annotations

import pytest

from doorstep.serve.gathering import TRIES, TRY_EVERY, WAIT_NS_MAX, WAIT_SHARE, Gathering

MS = 1_000_000


def after(batches: list[tuple[int, int]], now_ns: int = 0) -> Gathering:
    """batches: (calls of one row, what it took)."""
    found = Gathering()
    for calls, took_ns in batches:
        found.note_batch(calls, calls, took_ns, now_ns)
    return found


def costly_calls(calls: int) -> list[tuple[int, int]]:
    """A call of 2 ms, a row of 10 us."""
    return [(count, 2 * MS + count * 10_000) for count in (1, 3, 8, 2, 16, calls)]


def test_nobody_is_waited_for_before_the_first_batch() -> None:
    assert Gathering().wait_ns(3, 0, 0) == 0


def test_what_a_call_costs_is_told_from_what_a_row_costs() -> None:
    assert after(costly_calls(8)).call_ns == pytest.approx(2 * MS, rel=1e-6)
    rows_only = [(count, count * 300_000) for count in (1, 4, 9, 2)]
    assert after(rows_only).call_ns == pytest.approx(0, abs=1)


def test_those_who_were_answered_are_waited_for_while_others_wait() -> None:
    found = after(costly_calls(8), now_ns=5 * MS)
    assert found.wait_ns(8, 0, 5 * MS) == pytest.approx(WAIT_SHARE * 2 * MS, rel=1e-3)
    assert found.wait_ns(8, 7, 5 * MS) > 0
    assert found.wait_ns(0, 1, 5 * MS) > 0
    assert found.wait_ns(8, 8, 5 * MS) == 0, "all are back"
    assert found.wait_ns(0, 0, 5 * MS) == 0, "nobody waits: there is nothing to delay"
    assert found.wait_ns(8, 0, 8 * MS) == 0, "they had their time"


def test_a_single_caller_never_waits() -> None:
    assert after(costly_calls(1)).wait_ns(0, 1, 0) == 0


def test_the_wait_is_bounded_however_dear_a_call_is() -> None:
    slow = [(count, 1000 * MS + count) for count in (1, 8, 4, 8)]
    assert after(slow).wait_ns(8, 0, 0) == WAIT_NS_MAX


def test_where_rows_cost_and_calls_do_not_nobody_waits() -> None:
    assert after([(count, count * 300_000) for count in (1, 4, 9, 8)]).wait_ns(8, 0, 0) == 0


def test_waiting_that_brings_nothing_is_given_up_and_tried_again() -> None:
    found = after(costly_calls(8))

    def batches(came: int) -> list[bool]:
        """Whether it was waited after each batch, of TRY_EVERY, when so many come."""
        waited = []
        for _ in range(TRY_EVERY):
            found.note_batch(8, 8, 2 * MS + 80_000, 0)
            waited.append(bool(found.wait_ns(8, 0, 0)))
            if waited[-1]:
                found.note_wait(came)
        return waited

    batches(5)
    assert sum(batches(5)) == TRIES
    batches(8)
    assert all(batches(8))
