"""Rows and outcomes of a file, as they go over the wire."""

from __future__ import annotations

from pathlib import Path

from doorstep.cli.asking import ids_of, rows_of
from doorstep.core.contract import Contract, Field
from doorstep.register.surface import Service

FILE = """doorstep: 1
service: loans
ids: {key: case, unit: person}
model: {label: risk}
data: {holdout: {path: test.csv}}
"""
SERVICE = Service(
    service="loans",
    revision=1,
    purpose="",
    owner="",
    risk="low",
    task="binary",
    label="risk",
    champion=1,
    last_champion=None,
    file=FILE,
    created_at=0,
)
CONTRACT = Contract(
    inputs=(Field(name="amount", type="int"),), context=(Field(name="region", type="category"),)
)
TABLE = "case,person,amount,region,risk,note\n007,p1,10,north,bad,x\n008,p2,20,south,good,y\n"


def write(folder: Path) -> Path:
    path = folder / "test.csv"
    path.write_text(TABLE)
    return path


def test_a_request_carries_the_key_and_the_unit_of_its_row_as_they_are_written(
    tmp_path: Path,
) -> None:
    rows, contexts = rows_of(str(write(tmp_path)), CONTRACT, 10, ids_of(SERVICE))
    assert rows == [{"amount": 10}, {"amount": 20}]
    assert contexts[0] == {"region": "north", "case": "007", "person": "p1"}


def test_neither_the_label_nor_an_unknown_column_is_sent(tmp_path: Path) -> None:
    rows, contexts = rows_of(str(write(tmp_path)), CONTRACT, 10, ids_of(SERVICE))
    assert not {"risk", "note"} & (rows[0].keys() | contexts[0].keys())


def test_a_key_that_is_an_input_stays_an_input() -> None:
    rows, contexts = rows_of('{"amount": 3}', CONTRACT, 10, {"amount"})
    assert (rows, contexts) == ([{"amount": 3}], [{}])
