"""A query that goes on from its watermark."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from doorstep.cli.marked import MarkedQuery
from doorstep.core.errors import NotFoundError
from doorstep.journal.surface import Mark


class Marks:
    """A client that keeps marks."""

    def __init__(self) -> None:
        self.kept = Mark()

    def mark(self, service: str, source: str) -> Mark:
        return self.kept

    def keep_mark(self, service: str, source: str, mark: Mark) -> None:
        self.kept = mark


def asked(path: Path, client: Marks, column: str = "at") -> MarkedQuery:
    return MarkedQuery(client, "loans", f"sqlite:///{path}", "select * from told", column)  # type: ignore[arg-type]


def test_rows_of_the_same_watermark_that_come_later_are_found_and_no_other_twice(
    tmp_path: Path,
) -> None:
    path, client = tmp_path / "told.db", Marks()
    with sqlite3.connect(path) as connection:
        connection.execute("create table told (name text, at int)")
        connection.execute("insert into told values ('a', 1), ('b', 2), ('none', null)")
    query = asked(path, client)
    assert [(row["name"], bool(fault)) for row, fault in query.rows()] == [
        ("none", True), ("a", False), ("b", False),
    ]  # fmt: skip
    query.keep()
    with sqlite3.connect(path) as connection:
        connection.execute("insert into told values ('c', 2), ('too late', 1)")
    query = asked(path, client)
    assert [row["name"] for row, _ in query.rows()] == ["c"]
    query.keep()
    assert list(asked(path, client).rows()) == []


def test_a_relative_file_has_the_mark_of_the_file_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        for path in (Path("told.db"), Path("../one/told.db"), tmp_path / "one" / "told.db"):
            names.append(asked(path, Marks())._source)
    assert len(set(names)) == 2
    assert names[0] == names[1] == names[2] == names[4] == names[5]


def test_a_watermark_that_the_query_has_not_is_named(tmp_path: Path) -> None:
    path = tmp_path / "told.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table told (name text, at int)")
        connection.execute("insert into told values ('a', 1)")
    for column in ("changed", "AT"):
        with pytest.raises(NotFoundError, match=f"no column {column}; it has name, at"):
            list(asked(path, Marks(), column).rows())
