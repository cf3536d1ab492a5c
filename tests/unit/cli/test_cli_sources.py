"""Files and queries that are no rows of ours: what is said, and that nothing waits for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from doorstep.cli.importing import _first_version, _with_columns
from doorstep.cli.sources import rows_of_file, rows_of_query
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.servicefile import parse_service_file
from watch_case import FILE, made_rows

ENDLESS = (
    "with recursive t(n) as (select 1 union all select n + 1 from t) select max(n) as n from t"
)
ROWS = made_rows(3, since_s=1.7e9, until_s=1.8e9, prefix="a")
SCORED = FILE.replace("prediction: answer, ", "")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("rows.json", b' [{"a": 1}]', "is one JSON list; expected an object on each line"),
        ("rows.csv.gz", b"\x1f\x8b\x08\x00", "is compressed; expected CSV, Parquet or JSON lines"),
        ("rows.parquet", b"PAR1" + bytes(100), "cannot be read: Invalid Input Error"),
    ],
)
def test_a_file_of_another_form_is_named_with_what_to_do(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as found:
        list(rows_of_file(tmp_path / name))
    assert said in found.value.message and "\n" not in found.value.message


def test_a_query_that_never_ends_is_ended(tmp_path: Path) -> None:
    (tmp_path / "some.db").touch()
    with pytest.raises(RefusedError) as found:
        list(rows_of_query(f"sqlite:///{tmp_path}/some.db", ENDLESS, wait_s=0.05))
    assert found.value.code == "sql-timed-out"


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("application", "ids.key names"),
        ("answer", "watch.prediction names"),
        ("p_default", "watch.score names"),
        ("answered", "watch.time names"),
        ("model", "watch.version names"),
    ],
)
def test_a_column_that_the_service_file_names_must_be_there(left_out: str, said: str) -> None:
    rows: list[dict[str, Any]] = [{k: v for k, v in one.items() if k != left_out} for one in ROWS]
    file = parse_service_file(FILE.format(service="loans"))
    with pytest.raises(InputError) as found:
        _with_columns(iter([(one, "") for one in rows]), file, "rows.csv")
    assert found.value.code == "no-column" and said in found.value.message


def test_an_answer_that_no_file_names_is_made_of_the_score() -> None:
    """All rows come through, those that were looked at too."""
    rows = [({k: v for k, v in one.items() if k != "answer"}, "") for one in ROWS]
    file = parse_service_file(SCORED.format(service="loans"))
    assert list(_with_columns(iter(rows), file, "rows.csv")) == rows


def test_a_column_that_only_late_rows_of_json_have_is_seen(tmp_path: Path) -> None:
    lines = [msgspec.json.encode({k: v for k, v in ROWS[0].items() if k != "model"})] * 1001
    late = msgspec.json.encode(ROWS[1])
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"no object\n" + b"\n".join([*lines, late]))
    file = parse_service_file(FILE.format(service="loans"))
    rows = list(_with_columns(rows_of_file(path), file, path.name))
    assert len(rows) == 1003
    assert (rows[0][1][:17], rows[1][0]["model"], "model" in rows[2][0]) == (
        "not a JSON object", None, False,
    )  # fmt: skip
    assert _first_version(iter(rows), file, "digest") == ROWS[1]["model"]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match="no column 'model'"):
        _with_columns(rows_of_file(path), file, path.name)
