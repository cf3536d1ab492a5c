"""Who served before, and where a rollback goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.kernel.db import Database
from doorstep.kernel.event import Object
from doorstep.register import store as versions
from doorstep.release import store
from doorstep.release.back import others_alive
from doorstep.release.store import TenureRow
from doorstep.release.tenures import is_way_back, previous_champion, standing


def tenure(since: int, version: int, release: str, until: int | None = None) -> TenureRow:
    return TenureRow(
        service="loans", since=since, version=version, until=until, release=release,
        because="", by="t",
    )  # fmt: skip


def history(*crowned: tuple[int, str]) -> list[TenureRow]:
    """Oldest first in, newest first out."""
    rows = [tenure(at, version, release) for at, (version, release) in enumerate(crowned)]
    return rows[::-1]


@pytest.mark.parametrize(
    ("crowned", "expected"),
    [
        ([], None),
        ([(1, "a")], None),
        ([(1, "a"), (2, "b")], 1),
        ([(1, "a"), (2, "b"), (3, "c")], 2),
        # 2 was taken back: a second rollback does not bring it up again.
        ([(1, "a"), (2, "b"), (1, "b")], None),
        ([(1, "a"), (2, "b"), (3, "c"), (2, "c")], 1),
        ([(1, "a"), (2, "b"), (3, "c"), (2, "c"), (1, "c")], None),
        ([(1, "a"), (2, "b"), (1, "b"), (3, "d")], 1),
        # 1 was released again, as any version can be.
        ([(1, "a"), (2, "b"), (1, "c")], 2),
        ([(1, "a"), (2, "b"), (1, "c"), (3, "d"), (1, "d")], 2),
    ],
)
def test_a_rollback_goes_to_the_champion_before_that_still_stands(crowned, expected):
    assert previous_champion(history(*crowned)) == expected


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 12))
def test_rollbacks_in_a_row_walk_back_and_end(released: list[int], times: int):
    rows: list[tuple[int, str]] = []
    for number, version in enumerate(released):
        if not rows or rows[-1][0] != version:
            rows.append((version, f"r{number}"))
    stood = [version for version, _ in rows]
    for _ in range(times):
        back = previous_champion(history(*rows))
        if back is None:
            break
        rows.append((back, rows[-1][1]))
        stood.pop()
        assert back == stood[-1]
    if times > len(released):
        assert previous_champion(history(*rows)) is None


def test_a_clock_that_was_set_back_does_not_hide_the_champion(database: Database):
    with database.transaction() as unit:
        row = versions.ServiceRow(
            name="loans", revision=1, created_at=0, file="", applied_at=0, by="t"
        )
        versions.save_revision(unit.connection, row)
        store.crown(unit.connection, tenure(1_000, 1, "a"))
        store.crown(unit.connection, tenure(10, 2, "b"))
        unit.record("service.applied", Object("service", "loans"), {})
    with database.reading() as connection:
        newest, oldest = store.list_tenures(connection, "loans")
        assert store.champions(connection) == {"loans": 2}
    assert (newest.version, newest.until) == (2, None)
    assert oldest.until == newest.since > oldest.since


@pytest.mark.parametrize(
    ("crowned", "killed", "expected"),
    [
        ([(1, "a"), (2, "b"), (3, "c")], (), [2, 1]),
        ([(1, "a"), (2, "b"), (3, "c")], (2, 3), [1]),
        # 2 was taken back and may be gone back to, on a person's word.
        ([(1, "a"), (2, "b"), (1, "b")], (), [2]),
        ([(1, "a"), (2, "b"), (1, "b")], (2,), []),
        ([(1, "a")], (1,), []),
    ],
)
def test_a_way_back_is_suggested_to_versions_that_served_and_may_be_asked(
    crowned, killed, expected
):
    assert others_alive(history(*crowned), killed) == expected


@pytest.mark.parametrize(
    ("crowned", "stands", "way_back"),
    [
        ([(1, "a"), (2, "b"), (3, "c")], [1, 2, 3], False),
        ([(1, "a"), (2, "b"), (3, "c"), (2, "c")], [1, 2], True),
        # Two steps at once, on a person's word; and forward again, to what was taken back.
        ([(1, "a"), (2, "b"), (3, "c"), (1, "c")], [1], True),
        ([(1, "a"), (2, "b"), (3, "c"), (2, "c"), (3, "c")], [1, 2, 3], True),
        ([(1, "a"), (2, "b"), (1, "b"), (4, "d")], [1, 4], False),
        # 1 twice: the way back leads to its second time.
        ([(1, "a"), (2, "b"), (1, "c"), (3, "d"), (1, "d")], [1, 2, 1], True),
    ],
)
def test_a_way_back_cuts_off_what_came_after(crowned, stands, way_back):
    rows = history(*crowned)
    assert (standing(rows), is_way_back(rows)) == (stands, way_back)


def test_nothing_that_served_before_a_service_was_vacated_stands(database: Database):
    with database.transaction() as unit:
        row = versions.ServiceRow(
            name="loans", revision=1, created_at=0, file="", applied_at=0, by="t"
        )
        versions.save_revision(unit.connection, row)
        store.crown(unit.connection, tenure(10, 1, "a"))
        # At the same moment, and by a clock that was set back: time still goes on.
        store.vacate(unit.connection, "loans", 10)
        assert store.champions(unit.connection) == {}
        gone = store.list_tenures(unit.connection, "loans")
        store.crown(unit.connection, tenure(3, 2, "b"))
        unit.record("service.applied", Object("service", "loans"), {})
        found = store.list_tenures(unit.connection, "loans")
    assert (gone[0].until, previous_champion(gone)) == (11, None)
    assert [(one.version, one.since, one.until) for one in found] == [(2, 12, None), (1, 10, 11)]
    assert (standing(found), previous_champion(found)) == ([2], None)
