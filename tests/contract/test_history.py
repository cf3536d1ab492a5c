"""What history says of a moment, on both databases, however much happened since."""

from __future__ import annotations

from pathlib import Path

from doorstep.compose.control import ControlPlane
from doorstep.core.instant import SECOND_US, SystemClock
from doorstep.govern.history import HISTORY_EVENTS, show_history
from doorstep.govern.surface import ShowHistory
from doorstep.kernel.db import Database
from doorstep.kernel.event import Actor, Object
from doorstep.kernel.home import open_home
from doorstep.register.store import ServiceRow, save_revision
from doorstep.release import store
from doorstep.testing.installation import service_file

ADA = Actor("user", "ada")


class HandClock(SystemClock):
    at = 1_000 * SECOND_US

    def now(self) -> int:
        return self.at


def test_a_kill_that_is_over_is_said_of_its_time_however_long_ago_it_was(
    database: Database, tmp_path: Path
):
    clock = HandClock()
    home = open_home(tmp_path / "home", create=True)
    app = ControlPlane(home, database, clock, {}, {}, tmp_path).app()
    app.database._clock = clock
    version = Object("version", "loans@1")
    row = ServiceRow(
        name="loans", revision=1, created_at=0, file=service_file("loans"), applied_at=0, by="t"
    )
    tenure = store.TenureRow(
        service="loans", since=SECOND_US, version=1, until=None, release="r", because="", by="t"
    )
    said = {"service": "loans", "why": "it is wrong"}
    with app.database.transaction(ADA) as unit:
        save_revision(unit.connection, row)
        store.crown(unit.connection, tenure)
        unit.record("version.killed", version, said)
    killed_at, clock.at = clock.at, clock.at + SECOND_US
    with app.database.transaction(ADA) as unit:
        unit.record("version.revived", version, said)
    with app.database.transaction(ADA) as unit:
        for _ in range(HISTORY_EVENTS):
            unit.record("service.applied", Object("service", "loans"), {})
    then = show_history(app, ShowHistory(service="loans", at=killed_at))
    assert then.killed.startswith("killed by ada at ")
    assert then.killed.endswith(": it is wrong")
    assert show_history(app, ShowHistory(service="loans")).killed == ""
