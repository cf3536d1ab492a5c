"""The history as a table for spreadsheets: complete, and harmless whoever wrote its reasons."""

from __future__ import annotations

import csv
import io
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from litestar.testing import TestClient

from doorstep.console.asking import Query
from doorstep.console.records import history
from doorstep.govern.history_csv import COLUMNS, harmless, to_csv
from doorstep.govern.surface import History, Served
from fakes.console import CSRF, FakeDoorstep, make_app


def shown(because: str) -> History:
    served = Served(
        version=2,
        role="challenger",
        share=0.05,
        since=1_000_000,
        until=None,
        release="abc",
        asked_by="mira",
        decided_by="doorstep",
        because=because,
        evidence="errors 0.4 % against 0.4 %",
        approved_by=("ada", "jonas"),
    )
    return History(
        service="loans", at=0, live=1, killed="", tenures=(), events=(), served=(served,)
    )


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r=", "\n="])
def test_no_cell_is_a_formula(sign: str) -> None:
    cell = harmless(f"{sign}HYPERLINK(1)")
    assert cell[0] not in "=+-@\t\r\n"
    assert "\n" not in cell and "\r" not in cell


def test_a_row_says_who_asked_approved_and_decided_and_on_what() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(shown('=cmd|"/c calc"!A1')))))
    assert tuple(rows[0]) == COLUMNS
    found = dict(zip(rows[0], rows[1], strict=True))
    assert found["because"] == '\'=cmd|"/c calc"!A1'
    assert (found["version"], found["role"], found["share"]) == ("loans@2", "challenger", "0.05")
    assert (found["from"], found["until"]) == ("1970-01-01T00:00:01.000000Z", "")
    assert (found["asked_by"], found["approved_by"]) == ("mira", "ada, jonas")
    assert found["evidence"].startswith("errors")


def test_the_page_gives_the_table_as_a_file() -> None:
    with TestClient(make_app(FakeDoorstep())) as client:
        answer = client.get("/services/loans/history.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    assert [row[1] for row in csv.reader(io.StringIO(answer.text))][1:] == [
        "loans@4", "loans@2", "loans@1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "versions"),
    [
        ("role=champion", ["loans@2", "loans@1"]),
        ("role=challenger", ["loans@4"]),
        ("to=2020-01-01T00:00", []),
        ("from=2100-01-01T00:00", ["loans@4", "loans@2"]),
    ],
)
def test_page_and_table_are_cut_to_a_role_and_a_time(query: str, versions: list[str]) -> None:
    with TestClient(make_app(FakeDoorstep())) as client:
        table = client.get(f"/services/loans/history.csv?{query}").text
        page = client.get(f"/services/loans/history?{query}").text
    assert [row[1] for row in csv.reader(io.StringIO(table))][1:] == versions
    named = "Nothing served then" if not versions else f"history.csv?{query.replace(':', '%3A')}"
    assert named in page


def test_another_service_is_chosen_with_the_same_filters() -> None:
    with TestClient(make_app(FakeDoorstep())) as client:
        answer = client.get("/history?service=triage&role=champion&to=", follow_redirects=False)
    assert answer.headers["location"] == "/services/triage/history?role=champion"


def test_a_long_history_is_shown_by_pages_that_cover_it() -> None:
    one = shown("it goes on").served[0]
    many = tuple(msgspec.structs.replace(one, version=n) for n in range(1000, 0, -1))
    fake = FakeDoorstep()

    def ask(name: str, given: Any) -> msgspec.Struct:
        found = fake.ask(name, given)
        return msgspec.structs.replace(found, served=many) if isinstance(found, History) else found

    versions: list[int] = []
    where = "/services/loans/history"
    for _ in range(10):
        query = dict(parse_qsl(where.partition("?")[2]))
        path = {"service": "loans"}
        page = history(ask, Query(path=path, given=query, now=fake.now, csrf=CSRF))
        versions += [found.version for found in page.found["served"]]
        where = f"?start={page.found['start'] + page.found['per_page']}"
    assert versions == list(range(1000, 0, -1))
