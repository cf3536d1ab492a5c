"""Tables read from hostile and honest files: types from every value, refusals that say the line."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import DoorstepError, InputError, RefusedError
from doorstep.formats import table as table_module
from doorstep.formats.columns import Table, row_hashes, table_digest
from doorstep.formats.table import read_table, to_batch, write_parquet
from fakes.tables import column_of


def csv_file(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def kinds(table: Table) -> dict[str, str]:
    return {column.name: column.kind for column in table.columns}


def test_a_kind_is_decided_by_every_value_not_the_first(tmp_path: Path) -> None:
    rows = "\n".join(f"{n},{n},{n}" for n in range(1, 30_001))
    table = read_table(csv_file(tmp_path, f"a,b,c\n{rows}\n1,1.5,007\n"))
    assert kinds(table) == {"a": "int", "b": "float", "c": "text"}
    assert table.rows == 30_001
    assert table.column("c").values[-1] == "007"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "0"], "int"),
        (["1", "", "3"], "int"),
        (["1", "NA", "nan"], "int"),
        ([" 1", " 2"], "int"),
        (["1.5", "2", "1e-3", ".5", "-inf"], "float"),
        (["", ""], "float"),
        (["true", "False", ""], "bool"),
        (["0", "1"], "int"),
        (["yes", "no"], "text"),
        (["007", "8"], "text"),
        (["+49151", "1"], "text"),
        (["1234567890123456789012"], "text"),
        (["1,5"], "text"),
        (["2024-01-31", "2024-02-01 10:00:00+02:00"], "time"),
        (["2024-01-31", "2024-02-31"], "text"),
        (["12:30", "13:00"], "text"),
    ],
)
def test_what_values_look_like_is_their_kind(tmp_path: Path, values: list[str], kind: str) -> None:
    text = "x,y\n" + "".join(f'"{value}",1\n' for value in values)
    assert read_table(csv_file(tmp_path, text)).columns[0].kind == kind


def test_missing_values_are_masked_and_have_one_form(tmp_path: Path) -> None:
    table = read_table(csv_file(tmp_path, "i,f,b,t,x\n1,2.5,true,2024-01-01,NA\n,,,,\n"))
    assert [column.missing.tolist() for column in table.columns] == [[False, True]] * 4 + [
        [True, True]
    ]
    assert table.column("i").values.tolist() == [1, 0]
    assert np.isnan(table.column("i").as_numbers()[1])
    assert table.column("t").as_numbers()[0] == 1_704_067_200_000_000


def test_words_read_as_missing_are_said(tmp_path: Path) -> None:
    table = read_table(csv_file(tmp_path, "garage,price\nNA,1\nattached,2\n"))
    assert table.column("garage").values.tolist() == [None, "attached"]
    assert table.notes == (
        "1 values such as NA in column 'garage' are read as missing, as pandas does",
    )


def test_a_column_can_be_kept_as_text(tmp_path: Path) -> None:
    table = read_table(csv_file(tmp_path, "zip,n\n12,1\n13,2\n"), texts={"zip"})
    assert kinds(table) == {"zip": "text", "n": "int"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_delimiter_and_line_ends_are_found(
    tmp_path: Path, delimiter: str, newline: str
) -> None:
    text = newline.join([delimiter.join(row) for row in (["a", '"b, c;d"'], ["1", '"x\ny"'])])
    table = read_table(csv_file(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert table.names == ("a", "b, c;d")
    assert table.column("b, c;d").values.tolist() == ["x\ny"]


def test_one_column_is_a_table(tmp_path: Path) -> None:
    assert read_table(csv_file(tmp_path, "text\nhello\nwell, hello\n".replace(",", " "))).rows == 2


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "empty-table", "is empty"),
        ("a,b\n", "empty-table", "no rows"),
        ("a,b\n1,2\n1,2,3\n", "bad-table", "line 3 has 3 values, expected 2"),
        ("a,b\n1,2\n1\n", "bad-table", "line 3 has 1 values, expected 2"),
        ('a,b\n1,2\n"1,2\n', "bad-table", "quote that is never closed"),
        (b"a,b\n1,\xff\n", "bad-table", "not UTF-8"),
        (b"a,b\n" + b"1,2\n" * 5000 + b"1,\xff\n", "bad-table", "not UTF-8"),
        ("a,b,a\n1,2,3\n", "duplicate-columns", "two columns named a"),
        ("Age,age\n1,2\n", "duplicate-columns", "'Age' and 'age'"),
        (b"\x89PNG\r\n\x00\x00\x00", "bad-table", "not a table"),
        (b"PAR1 and then nothing of the kind", "bad-table", "cannot be read"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused_in_words(
    tmp_path: Path, text: str | bytes, code: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_table(csv_file(tmp_path, text))
    assert caught.value.code == code


def test_a_file_that_is_not_there_and_one_that_is_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DoorstepError, match="no file"):
        read_table(tmp_path / "none.csv")
    path = csv_file(tmp_path, "a,b\n1,2\n1,2\n")
    monkeypatch.setattr(table_module, "CELLS_MAX", 3)
    with pytest.raises(RefusedError, match="at most 3 values"):
        read_table(path)
    assert read_table(path, rows_max=1).rows == 1
    monkeypatch.setattr(table_module, "FILE_BYTES_MAX", 4)
    with pytest.raises(RefusedError, match="GB"):
        read_table(path)


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": 2,\n', "hello\n", '{"a": [1, 2]}\n'])
def test_json_lines_that_are_not_flat_rows_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        read_table(csv_file(tmp_path, text, "t.jsonl"))


def test_json_lines_keep_text_as_text(tmp_path: Path) -> None:
    rows = [{"i": 1, "t": "007", "n": "5"}, {"i": None, "t": "x", "b": True, "n": "6"}]
    text = "\n".join(json.dumps(row) for row in rows)
    table = read_table(csv_file(tmp_path, text, "t.jsonl"))
    assert kinds(table) == {"i": "int", "t": "text", "b": "bool", "n": "text"}
    assert table.column("b").missing.tolist() == [True, False]


def test_parquet_of_others_keeps_its_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    duckdb.execute(
        "COPY (SELECT 1::UTINYINT AS i, 1.5::DECIMAL(5,2) AS d, DATE '2024-01-01' AS t, NULL AS n, "
        f"'a'::ENUM('a','b') AS e, TIMESTAMPTZ '2024-01-01 00:00:00+00' AS z) TO '{path}'"
    )
    table = read_table(path)
    expected = {"i": "int", "d": "float", "t": "time", "e": "text", "z": "time"}
    assert expected.items() <= kinds(table).items()
    assert table.column("t").values.tolist() == table.column("z").values.tolist()


CELLS = {
    "int": st.integers(-(2**53), 2**53),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "time": st.integers(0, 2**50),
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    rows = draw(st.integers(1, 6))
    chosen = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4))
    made = []
    for at, kind in enumerate(chosen):
        cells = st.lists(st.none() | CELLS[kind], min_size=rows, max_size=rows)
        made.append(column_of(f"c{at}", draw(cells), kind))  # type: ignore[arg-type]
    return Table(tuple(made), rows)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tables())
def test_writing_and_reading_back_changes_nothing(tmp_path: Path, table: Table) -> None:
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_parquet(table, first)
    write_parquet(table, second)
    assert first.read_bytes() == second.read_bytes()
    read = read_table(first)
    assert table_digest(read) == table_digest(table)
    assert (row_hashes(read) == row_hashes(table)).all()


def test_text_after_a_thousand_missing_ones_survives(tmp_path: Path) -> None:
    table = Table((column_of("x", [None] * 3000 + ["late"], "text"),), 3001)
    write_parquet(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").column("x").values[-1] == "late"


def test_the_digest_depends_on_content_not_on_the_file_format(tmp_path: Path) -> None:
    from_csv = read_table(csv_file(tmp_path, "a,b\n1,x\n,y\n"))
    from_json = read_table(
        csv_file(tmp_path, '{"a": 1, "b": "x"}\n{"a": null, "b": "y"}\n', "t.jsonl")
    )
    other = read_table(csv_file(tmp_path, "a,b\n1,x\n2,y\n"))
    assert table_digest(from_csv) == table_digest(from_json) != table_digest(other)


def test_equal_rows_have_equal_hashes_whatever_the_column_order(tmp_path: Path) -> None:
    one = read_table(csv_file(tmp_path, "a,b\n1,x\n2,y\n2,y\n"))
    two = read_table(csv_file(tmp_path, "b,a\ny,2.0\nx,1.5\n", "u.csv"))
    hashes = row_hashes(one)
    assert hashes[1] == hashes[2] != hashes[0]
    assert row_hashes(two)[0] == hashes[1]


CONTRACT = Contract(
    inputs=(
        Field(name="a", type="int"),
        Field(name="x", type="category"),
        Field(name="b", type="float", required=False),
        Field(name="y", type="text", required=False),
    )
)


def test_a_batch_has_the_inputs_in_contract_order(tmp_path: Path) -> None:
    batch = to_batch(read_table(csv_file(tmp_path, "x,z,a\n1,9,3\n2,9,\n")), CONTRACT)
    np.testing.assert_array_equal(batch.numbers, [[3, np.nan], [np.nan, np.nan]])
    assert batch.texts == [["1", "2"], [None, None]]


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [("x,aa\n1,1\n", "no-column", "did you mean"), ("a,x\nq,1\n", "bad-column", "")],
)
def test_a_table_that_does_not_fit_the_contract_is_refused(
    tmp_path: Path, text: str, code: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        to_batch(read_table(csv_file(tmp_path, text)), CONTRACT)
    assert caught.value.code == code
    assert hint in caught.value.hint
