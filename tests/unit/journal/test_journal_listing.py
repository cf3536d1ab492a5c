"""The newest predictions, page by page: each once, and the rows of one request in its order."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from journal_samples import LAYOUT, meta

from doorstep.core.errors import InputError
from doorstep.journal.compactor import Compactor
from doorstep.journal.query import predictions
from doorstep.journal.writer import BlockWriter

ROWS = 12
REQUESTS = [(bytes([number]) * 16, 1_700_000_000_000_000 + number // 2) for number in (1, 2, 3)]
"""Of three requests the last two are of one moment."""


@pytest.fixture(params=[True, False], ids=["listed", "open"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    writer = BlockWriter(tmp_path / "journal", node="n1", boot="b1", slot="s")
    number = writer.declare(LAYOUT)
    for name, at in REQUESTS:
        rows = [meta(row=row, request=name, at=at) for row in range(ROWS)]
        writer.predictions(number, rows, struct.pack("<2d", 30.0, 0.5) * ROWS)
    writer.flush()
    if request.param:
        writer.close()
        with Compactor(tmp_path, "n1", lambda _service, _version: None) as compactor:
            compactor.run_once()
    return tmp_path


@pytest.mark.parametrize("limit", [1, 5, 12, 50])
def test_pages_hold_every_row_once_newest_request_first_and_its_rows_in_order(
    home: Path, limit: int
) -> None:
    found: list[tuple[int, str]] = []
    while page := predictions(home, "loans", limit, before=found[-1] if found else None):
        found += [(row["at"], row["id"]) for row in page]
    numbers = [(int(name[:2]), int(name.partition(".")[2])) for _, name in found]
    assert numbers == [(request, row) for request in (3, 2, 1) for row in range(ROWS)]


def test_a_place_that_no_page_gave_is_before_all_of_its_moment(home: Path) -> None:
    at = REQUESTS[1][1]
    assert {row["at"] for row in predictions(home, "loans", before=(at, ""))} == {at - 1}
    for name in (".", ".x"):
        with pytest.raises(InputError, match="bad-prediction-id"):
            predictions(home, "loans", before=(at, name))
