from __future__ import annotations

import pytest

from doorstep.core.errors import RefusedError
from doorstep.kernel.db import Database
from doorstep.kernel.leadership import Leadership
from doorstep.kernel.leases import LEASE_S


class HandClock:
    def __init__(self) -> None:
        self.at_s = 1000.0

    def now(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return self.at_s


def test_the_first_leads_and_the_second_waits(database: Database):
    clock = HandClock()
    first = Leadership(database, clock, "a", alone=False)
    second = Leadership(database, clock, "b", alone=False)
    assert (first.tick(), second.tick()) == (1, None)
    for _ in range(5):
        clock.at_s += LEASE_S / 3
        assert (first.tick(), second.tick()) == (1, None)


def test_a_leader_that_fell_silent_is_replaced_and_notices(database: Database):
    clock = HandClock()
    first = Leadership(database, clock, "a", alone=False)
    second = Leadership(database, clock, "b", alone=False)
    assert (first.tick(), second.tick()) == (1, None)
    clock.at_s += LEASE_S
    assert second.tick() == 2
    with database.led(2).transaction():
        pass
    with pytest.raises(RefusedError, match="another control plane"), database.led(1).transaction():
        pass
    assert (first.tick(), second.tick()) == (None, 2)
    first.step_down()
    assert second.tick() == 2


def test_a_leader_that_steps_down_is_replaced_at_once(database: Database):
    first = Leadership(database, HandClock(), "a", alone=False)
    second = Leadership(database, HandClock(), "b", alone=False)
    first.tick()
    first.step_down()
    assert (second.tick(), first.tick()) == (2, None)


def test_whoever_holds_the_home_alone_does_not_wait_for_a_killed_leader(database: Database):
    Leadership(database, HandClock(), "killed", alone=True).tick()
    assert Leadership(database, HandClock(), "restarted", alone=True).tick() == 2


def test_two_restarts_under_one_name_are_two_terms(database: Database):
    before = Leadership(database, HandClock(), "a", alone=True)
    assert before.tick() == 1
    assert Leadership(database, HandClock(), "a", alone=True).tick() == 2
    assert before.tick() is None
