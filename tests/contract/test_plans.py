"""Rows of plans: a bounded number of them is kept, on both databases."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from doorstep.core.ids import digest_of
from doorstep.core.instant import SECOND_US
from doorstep.core.plan import FORMAT, PlanRoot
from doorstep.kernel.db import Database
from doorstep.kernel.event import Object
from doorstep.release import store
from doorstep.release.transition import Beginning, begin
from doorstep.release.types import ReleaseSpec


def body(service: str, number: int) -> bytes:
    return f"{service} {number}".encode()


def add(connection: Connection, number: int) -> None:
    """A plan of a service that changes every time and of one that never does."""
    bodies = {digest_of(one): one for one in (body("loans", number), body("fraud", 0))}
    root = PlanRoot(
        format=FORMAT, environment="test", term=1, number=number, made_at=0,
        services=dict(zip(("loans", "fraud"), bodies, strict=True)),
    )  # fmt: skip
    row = store.PlanRow(
        number=number, term=1, made_at=0, root=msgspec.json.encode(root), basis=str(number)
    )
    store.add_plan(connection, row, bodies)


def test_the_newest_plans_are_kept_and_those_that_a_running_release_names(database: Database):
    count, named = store.PLANS_KEPT + 30, 7
    what = Beginning(id="r", service="loans", champion=1, challenger=2, spec=ReleaseSpec())
    with database.transaction() as unit:
        for number in range(1, count + 1):
            add(unit.connection, number)
        row = store.ReleaseRow(release=begin(what, SECOND_US), by="t", plan_number=named)
        store.add_release(unit.connection, row)
        unit.record("release.started", Object("release", "r"), {"service": "loans"})
    kept = [named, *range(count - store.PLANS_KEPT + 1, count + 1)]
    for _ in range(2):
        with database.transaction() as unit:
            store.prune_plans(unit.connection)
        with database.reading() as connection:
            numbers = connection.scalars(select(store.plans.c.number)).all()
            found = connection.scalars(select(store.documents.c.body)).all()
        assert sorted(numbers) == kept
        wanted = [body("fraud", 0), *(body("loans", number) for number in kept)]
        assert sorted(bytes(one) for one in found) == sorted(wanted)


def test_pruning_where_there_is_little_changes_nothing(database: Database):
    with database.transaction() as unit:
        store.prune_plans(unit.connection)
        add(unit.connection, 1)
        store.prune_plans(unit.connection)
        newest = store.newest_plan(unit.connection)
        assert newest is not None
        root = msgspec.json.decode(newest.root, type=PlanRoot)
        assert len(store.read_documents(unit.connection, root)) == 2
