"""The loops of a control plane that leads no longer, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from doorstep.compose.control import ControlPlane
from doorstep.compose.loops import Quick, Slow
from doorstep.core.errors import RefusedError
from doorstep.core.instant import SystemClock
from doorstep.kernel.checkpoints import read_checkpoint
from doorstep.kernel.db import Database
from doorstep.kernel.event import Object
from doorstep.kernel.home import open_home
from doorstep.kernel.keys import create_keys
from doorstep.kernel.leadership import Leadership
from doorstep.kernel.leases import read_lease, take_lease
from doorstep.kernel.ledger import read_head
from doorstep.monitor.loop import Monitors
from doorstep.release.store import newest_plan


class StoppedClock(SystemClock):
    """It never comes to the next renewal of the lease."""

    def monotonic_s(self) -> float:
        return 1000.0


def test_loops_of_a_term_that_is_over_save_nothing_and_publish_nothing(
    database: Database, tmp_path: Path
):
    home = open_home(tmp_path / "home", create=True)
    create_keys(home.keys, home.id)
    clock = StoppedClock()
    control = ControlPlane(home, database, clock, {}, {}, tmp_path)
    quick = Quick(control, Leadership(database, clock, "a", alone=False))
    quick.tick()
    with database.reading() as connection:
        seen, plan = read_lease(connection), newest_plan(connection)
    assert (control.term, plan and plan.number) == (1, 1)
    with database.transaction() as unit:
        take_lease(unit.connection, "b", seen)
        unit.record("service.applied", Object("service", "loans"), {})
    pointer = (home.plan / "current").read_bytes()
    loops: list[Callable[[], object]] = [
        quick.tick,
        Slow(control, []).tick,
        Monitors(control.leading, 15.0).tick,
        lambda: control.leading().database.run(lambda unit: unit.now()),
    ]
    for loop in loops:
        with pytest.raises(RefusedError) as refused:
            loop()
        assert refused.value.code == "not-leader"
    with database.reading() as connection:
        assert read_checkpoint(connection) is None
        assert (newest_plan(connection), read_head(connection).size) == (plan, 1)
    assert (home.plan / "current").read_bytes() == pointer
