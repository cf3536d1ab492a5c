"""When a version is not asked any more, when it is tried again, and what is said about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.record import Status
from doorstep.serve.breaker import WHOLE, Breaker, Breakers
from doorstep.serve.limits import (
    BREAKER_KEPT,
    BREAKER_OPEN_S,
    BREAKER_ROWS,
    BREAKER_WHOLE,
    BREAKER_WINDOW_S,
)


def opened(status: Status = Status.TIMED_OUT, at: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(BREAKER_WHOLE):
        breaker.note(at, status)
    assert breaker.is_open
    return breaker


@pytest.mark.parametrize("status", WHOLE)
def test_whole_failures_open_it_unless_more_requests_went_well(status: Status) -> None:
    opened(status)
    breaker = Breaker()
    for _ in range(2 * BREAKER_WHOLE):
        breaker.note(100.0, Status.OK)
        breaker.note(100.0, Status.OK)
        breaker.note(100.0, status)
    assert not breaker.is_open


def test_failures_that_lie_apart_open_nothing() -> None:
    breaker = Breaker()
    for at in range(50):
        breaker.note(at * BREAKER_WINDOW_S, Status.DIED)
    assert not breaker.is_open
    assert breaker.is_quiet(51 * BREAKER_WINDOW_S)


def test_rows_that_fail_for_themselves_open_it_only_if_nearly_all_do() -> None:
    breaker = Breaker()
    for _ in range(BREAKER_KEPT // 10):
        for _ in range(9):
            breaker.note(100.0, Status.FAILED)
        breaker.note(100.0, Status.OK)
    assert not breaker.is_open
    breaker = Breaker()
    for _ in range(BREAKER_ROWS):
        breaker.note(100.0, Status.INVALID)
    assert breaker.is_open


def test_it_lets_one_try_after_a_while_and_then_a_longer_while() -> None:
    breaker, first = opened(), BREAKER_OPEN_S[0]
    assert not breaker.take_trial(100.0 + first / 2)
    assert [breaker.take_trial(100.0 + first) for _ in range(3)] == [True, False, False]
    breaker.note(100.5 + first, Status.TIMED_OUT)
    assert not breaker.take_trial(100.0 + 2 * first)
    assert breaker.take_trial(100.5 + 3 * first)
    breaker.note(101.0 + 3 * first, Status.OK)
    assert not breaker.is_open


def test_a_trial_of_which_nothing_is_heard_is_not_the_last() -> None:
    breaker, first = opened(), BREAKER_OPEN_S[0]
    assert breaker.take_trial(100.0 + first)
    assert breaker.take_trial(100.0 + 2 * first)


@given(st.lists(st.sampled_from([Status.TIMED_OUT, Status.OK, Status.FAILED]), max_size=200))
def test_the_wait_never_grows_over_its_limit_and_one_success_ends_it(
    outcomes: list[Status],
) -> None:
    breaker, now = Breaker(), 0.0
    for status in outcomes:
        now += 1.0
        if not breaker.is_open or breaker.take_trial(now):
            breaker.note(now, status)
            assert status is not Status.OK or not breaker.is_open
    assert not breaker.is_open or breaker.take_trial(now + BREAKER_OPEN_S[1])


def test_it_is_told_when_it_opens_and_when_it_is_over_and_forgotten_with_its_version() -> None:
    said: list[tuple[str, str]] = []
    breakers = Breakers(lambda topic, what: said.append((topic, what)))
    breakers.note(("loans", 3), Status.OK)
    assert breakers.known == {}
    for _ in range(BREAKER_WHOLE):
        breakers.note(("loans", 3), Status.DIED)
        breakers.note(("loans", 4), Status.DIED)
    assert breakers.admits(("loans", 3), 5) == 0
    assert breakers.admits(("loans", 5), 5) == 5
    breakers.note(("loans", 3), Status.OK)
    breakers.keep({("loans", 3)})
    assert [topic for topic, _ in said] == ["breaker loans@3", "breaker loans@4"] * 2
    assert ["not asked" in what for _, what in said] == [True, True, False, False]
    assert list(breakers.known) == [("loans", 3)]
