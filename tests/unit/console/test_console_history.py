"""The history as a table for spreadsheets: complete, and harmless whoever wrote its reasons."""

from __future__ import annotations

import csv
import io

import pytest
from litestar.testing import TestClient

from doorstep.govern.history_csv import COLUMNS, harmless, to_csv
from doorstep.govern.surface import History, Served
from fakes.console import FakeDoorstep, make_app


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
