"""What history says of a moment, on both databases, however much happened since."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from doorstep.compose.control import ControlPlane
from doorstep.core.instant import SECOND_US, SystemClock
from doorstep.govern import history
from doorstep.govern.history import HISTORY_EVENTS, show_history
from doorstep.govern.surface import ShowHistory
from doorstep.kernel.db import Database
from doorstep.kernel.event import Actor, Object
from doorstep.kernel.home import open_home
from doorstep.register.store import ServiceRow, save_revision
from doorstep.release import store
from doorstep.release.decide import decide_person
from doorstep.release.transition import Beginning, apply, begin
from doorstep.release.types import Evidence, Person, ReleaseSpec
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


def test_history_says_who_answered_at_a_time_and_on_what_it_rests(
    database: Database, tmp_path: Path
):
    clock = HandClock()
    home = open_home(tmp_path / "home", create=True)
    app = ControlPlane(home, database, clock, {}, {}, tmp_path).app()
    app.database._clock = clock
    row = ServiceRow(
        name="loans", revision=1, created_at=0, file=service_file("loans"), applied_at=0, by="t"
    )
    spec = ReleaseSpec(shadow_requests=0, steps=(0.2,), dwell_s=(0.0,), margins=(2.0,), bake_s=5.0)
    release = begin(
        Beginning(id="r2", service="loans", champion=1, challenger=2, spec=spec), clock.at
    )
    first = store.TenureRow(
        service="loans", since=SECOND_US, version=1, until=None, release="r1",
        because="a person", by="ada",
    )  # fmt: skip
    with app.database.transaction(ADA) as unit:
        save_revision(unit.connection, row)
        store.crown(unit.connection, first)
        store.add_release(
            unit.connection, store.ReleaseRow(release=release, by="mira", plan_number=0)
        )
        unit.record("service.applied", Object("service", "loans"), {})
    running = show_history(app, ShowHistory(service="loans"))
    assert running.answering == ((1, 0.8), (2, 0.2))
    before = show_history(app, ShowHistory(service="loans", at=500 * SECOND_US))
    assert before.answering == ((1, 1.0),)
    trial, champion = running.served
    assert (trial.role, trial.share, trial.until) == ("challenger", 0.2, None)
    assert trial.asked_by == "mira"
    assert (champion.role, champion.decided_by, champion.evidence) == (
        "champion", "ada", "a person's word",
    )  # fmt: skip
    clock.at += 60 * SECOND_US
    person = Person("jonas", "rollback", "it is bad")
    decision = decide_person(release, Evidence(), clock.at, person)
    ended = apply(release, decision)
    with app.database.transaction(ADA) as unit:
        store.add_decision(unit.connection, "r2", "jonas", decision)
        store.save_release(
            unit.connection,
            store.ReleaseRow(release=ended, by="mira", plan_number=0, ended_at=clock.at),
        )
        unit.record("service.applied", Object("service", "loans"), {})
    over = show_history(app, ShowHistory(service="loans"))
    assert over.answering == ((1, 1.0),)
    trial = over.served[0]
    assert (trial.decided_by, trial.until) == ("jonas", clock.at)
    assert trial.because == "rolled-back: jonas: it is bad"
    assert show_history(app, ShowHistory(service="loans", at=clock.at - 1)).answering == (
        (1, 0.8), (2, 0.2),
    )  # fmt: skip
    in_waves = msgspec.structs.replace(
        spec, steps=(0.5, 0.2), dwell_s=(0.0, 0.0), margins=(2.0, 2.0),
        segments=("pilot", ""), wave_steps=(1, 1),
    )  # fmt: skip
    later = begin(
        Beginning(id="r3", service="loans", champion=1, challenger=3, spec=in_waves), clock.at
    )
    with app.database.transaction(ADA) as unit:
        store.add_release(
            unit.connection, store.ReleaseRow(release=later, by="mira", plan_number=0)
        )
        about = {"service": "loans", "version": "loans@3", "approved_by": ["bea"]}
        unit.record("release.started", Object("release", "r3"), about)
    carried = show_history(app, ShowHistory(service="loans"))
    assert (carried.answering, carried.answering_in) == (((1, 0.5), (3, 0.5)), "wave pilot")
    approved = {one.version: one.approved_by for one in carried.served}
    assert approved == {3: ("bea",), 2: (), 1: ()}


def test_who_approved_a_champion_is_known_however_many_releases_came_since(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(history, "RELEASES_MAX", 1)
    home = open_home(tmp_path / "home", create=True)
    app = ControlPlane(home, database, HandClock(), {}, {}, tmp_path).app()
    row = ServiceRow(
        name="loans", revision=1, created_at=0, file=service_file("loans"), applied_at=0, by="t"
    )
    with app.database.transaction(ADA) as unit:
        save_revision(unit.connection, row)
        for number in (2, 3, 4):
            begun = Beginning(
                id=f"r{number}", service="loans", champion=1, challenger=number, spec=ReleaseSpec()
            )
            ended = store.ReleaseRow(
                release=begin(begun, number * SECOND_US), by="mira", plan_number=0, ended_at=9
            )
            store.add_release(unit.connection, ended)
            about = {"service": "loans", "version": f"loans@{number}", "approved_by": ["bea"]}
            unit.record("release.started", Object("release", begun.id), about)
        tenure = store.TenureRow(
            service="loans",
            since=SECOND_US,
            version=2,
            until=None,
            release="r2",
            because="",
            by="t",
        )
        store.crown(unit.connection, tenure)
    champion = next(
        one
        for one in show_history(app, ShowHistory(service="loans")).served
        if one.role == "champion"
    )
    assert (champion.asked_by, champion.approved_by) == ("mira", ("bea",))
