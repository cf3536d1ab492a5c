"""A person's SQL over the journal: what it sees, and what it cannot do."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import pytest
from journal_samples import meta

from doorstep.core.errors import DoorstepError, InputError, MissingExtraError, RefusedError
from doorstep.core.ids import new_id
from doorstep.core.record import Column, Layout, OutcomeRecord
from doorstep.journal import sql as journal_sql
from doorstep.journal.compactor import Compactor
from doorstep.journal.snapshot import NO_END
from doorstep.journal.sql import SqlQuestion, ask_sql
from doorstep.journal.surface import JournalTable
from doorstep.journal.tables import Span
from doorstep.journal.writer import BlockWriter

AT = 1_700_000_000_000_000
OLD = Layout(
    format=1,
    service="loans",
    numbers=(Column("in.age", "int"), Column("out.yes", "float")),
    texts=(Column("out.answer", "text"),),
)
NEW = Layout(
    format=1,
    service="loans",
    numbers=(Column("out.yes", "float"),),
    texts=(
        Column("in.age", "category"),
        Column("in.job", "category"),
        Column("out.answer", "text"),
    ),
)
OTHER = Layout(format=1, service="rent-price", numbers=(Column("out.value", "float"),), texts=())


class Writing:
    """A node's journal that grows by what `add` is given."""

    def __init__(self, home: Path) -> None:
        self.home, self.boots = home, 0

    def add(
        self,
        layout: Layout,
        at: int,
        numbers: tuple[float, ...],
        texts: tuple[str, ...],
        key: str = "",
        told: bool = True,
    ):
        self.boots += 1
        folder = self.home / "journal"
        writer = BlockWriter(folder, node="n1", boot=f"b{self.boots}", slot="s")
        row = meta(request=new_id().bytes, at=at, texts=texts, key=key or f"k{self.boots}")
        packed = struct.pack(f"<{len(numbers)}d", *numbers)
        writer.predictions(writer.declare(layout), [row], packed)
        if told:
            writer.outcome(
                OutcomeRecord(
                    service=layout.service, at=at + 5, received_at=at + 9, key=row.key, label="yes"
                )
            )
        writer.flush()
        return f"{UUID(bytes=row.request)}.{row.row}", writer

    def compact(self) -> None:
        with Compactor(self.home, "n1", lambda _service, _version: None) as compactor:
            compactor.run_once()


@pytest.fixture
def home(tmp_path: Path):
    """Two layouts of one service, one of them listed; another service, not listed."""
    writing = Writing(tmp_path)
    writing.add(OLD, AT, (30.0, 0.25), ("no",))[1].close()
    writing.compact()
    open_ones = [writing.add(NEW, AT + 10, (0.75,), ("forty", "nurse", "yes"))[1]]
    open_ones.append(writing.add(OTHER, AT + 20, (900.0,), ())[1])
    yield tmp_path
    for one in open_ones:
        one.close()


def run(home: Path, text: str, limit: int = 100, since: int = 0, until: int = NO_END):
    temp = home / "spill"
    asked = SqlQuestion(
        home=str(home), temp=str(temp), sql=text, services=("empty",), span=Span(since, until),
        limit=limit,
    )  # fmt: skip
    return journal_sql.query(asked)


def test_a_service_whose_schema_changed_is_one_table_listed_or_not(home):
    found = run(home, 'SELECT "in.age", "in.job", "out.yes" FROM loans ORDER BY "at"')
    assert found.rows == (("30.0", None, 0.25), ("forty", "nurse", 0.75))
    assert not found.is_cut


def test_predictions_has_all_services_and_outcomes_what_was_told(home):
    found = run(home, "SELECT service, count(*) FROM predictions GROUP BY ALL ORDER BY ALL")
    assert found.rows == (("loans", 2), ("rent-price", 1))
    assert run(home, 'SELECT "out.value" FROM "rent-price"').rows == ((900.0,),)
    joined = "SELECT count(*) FROM Predictions p JOIN outcomes o USING (service, key)"
    assert run(home, joined).rows == ((3,),)


def test_the_same_rows_before_and_after_compaction(tmp_path):
    writing = Writing(tmp_path)
    writers = [writing.add(OLD, AT + i, (float(i), 0.5), ("no",))[1] for i in range(3)]
    asked = "SELECT * EXCLUDE (leaf_hash) FROM loans ORDER BY id"
    before = run(tmp_path, asked)
    for one in writers:
        one.close()
    writing.compact()
    assert not list(tmp_path.glob("journal/n1/*.block"))
    assert run(tmp_path, asked) == before
    assert len(before.rows) == 3


def test_times_outside_the_span_are_left_out_and_their_files_not_opened(home):
    (listed,) = home.glob("journal/n1/**/*loans.[0-9a-f]*.parquet")
    listed.write_bytes(b"not a Parquet file")
    assert run(home, "SELECT count(*) FROM loans", since=AT + 1).rows == ((1,),)
    assert run(home, "SELECT count(*) FROM predictions", since=AT + 1, until=AT + 20).rows == (
        (1,),
    )
    with pytest.raises(InputError, match="bad-sql"):
        run(home, "SELECT count(*) FROM loans")


def test_a_service_without_predictions_is_an_empty_table(home):
    assert run(home, "SELECT count(*), max(version) FROM empty").rows == ((0, None),)


def test_what_is_cut_says_so(home):
    found = run(home, "SELECT range FROM range(10)", limit=4)
    assert (found.rows, found.is_cut) == (((0,), (1,), (2,), (3,)), True)
    assert not run(home, "SELECT range FROM range(4)", limit=4).is_cut
    wide = run(home, "SELECT repeat('x', 100000) FROM range(5000)", limit=5000)
    assert wide.is_cut
    assert 0 < len(wide.rows) * 100_000 <= journal_sql.TABLE_BYTES_MAX


def test_an_answer_too_large_to_send_is_refused(home):
    with pytest.raises(RefusedError, match="sql-too-large"):
        run(home, "SELECT repeat('x', 40000000)")


@pytest.mark.parametrize(
    "text",
    [
        "COPY loans TO '{out}'",
        "COPY (SELECT 1) TO '{out}' (FORMAT parquet)",
        "EXPORT DATABASE '{out}'",
        "IMPORT DATABASE '{out}'",
        "ATTACH '{out}' AS other",
        "DETACH memory",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET threads = 4",
        "SET GLOBAL enable_external_access = true",
        "RESET lock_configuration",
        "CALL pragma_version()",
        "CHECKPOINT",
        "CREATE TABLE t AS SELECT 1",
        "CREATE MACRO m() AS 1",
        "CREATE SECRET s (TYPE s3)",
        "INSERT INTO loans SELECT * FROM loans",
        "UPDATE loans SET version = 1",
        "DELETE FROM loans",
        "DROP VIEW loans",
        "EXPLAIN ANALYZE SELECT 1",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "USE memory",
        "VACUUM",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY loans TO '{out}'",
        "",
        "-- nothing",
        "FROM read_text('{secret}')",
        "FROM read_blob('{secret}')",
        "FROM read_csv('{secret}')",
        "FROM read_json('{secret}')",
        "FROM read_parquet('{secret}')",
        "FROM parquet_schema('{secret}')",
        "FROM sniff_csv('{secret}')",
        "FROM glob('{secret}')",
        "FROM read_duckdb('{out}')",
        "FROM read_csv('http://127.0.0.1:1/x')",
        "FROM duckdb_secrets()",
        "FROM enable_logging(storage = 'file')",
        "FROM query('SELECT 1')",
        "FROM query_table('loans')",
        "FROM json_execute_serialized_sql('x')",
        "FROM seq_scan('loans')",
        "SELECT (SELECT max(content) FROM read_text('{secret}'))",
        "WITH a AS (FROM read_text('{secret}')) FROM a",
        "SELECT 1 UNION ALL SELECT 1 FROM READ_TEXT('{secret}')",
        "SELECT * FROM loans WHERE id IN (SELECT content FROM \"read_text\"('{secret}'))",
        "FROM range(3) r, LATERAL (FROM read_text('{secret}'))",
    ],
)
def test_what_is_not_one_select_over_the_journal_is_refused_and_does_nothing(home, text):
    secret, out = home / "secret.txt", home / "out"
    secret.write_text("hunter2")
    with pytest.raises(RefusedError, match="sql-not-allowed") as refused:
        run(home, text.format(secret=secret, out=out))
    assert "hunter2" not in str(refused.value)
    assert not out.exists()


@pytest.mark.parametrize(
    "text",
    ["FROM '{secret}'", "FROM 'https://127.0.0.1:1/x.parquet'", "FROM asked", "FROM nowhere",
     "SELECT getenv('HOME')"],
)  # fmt: skip
def test_a_file_an_address_or_a_variable_of_ours_is_no_table(home, text):
    secret = home / "secret.csv"
    secret.write_text("a\nhunter2\n")
    with pytest.raises(DoorstepError) as refused:
        run(home, text.format(secret=secret))
    assert refused.value.code in ("no-such-table", "sql-not-allowed", "bad-sql")
    assert "hunter2" not in str(refused.value)


def test_the_files_that_duckdb_itself_may_read_are_the_listed_ones(home):
    """The check of functions is the first wall; this is the one behind it."""
    import duckdb

    from doorstep.journal import duck

    secret = home / "secret.csv"
    secret.write_text("a\n1\n")
    con = duck.connect(home / "spill")
    duck.confine(con, [])
    for text in (f"FROM read_csv('{secret}')", f"COPY (SELECT 1) TO '{home / 'out.csv'}'"):
        with pytest.raises(duckdb.PermissionException):
            con.execute(text)
    with pytest.raises(duckdb.Error):
        con.execute("SET enable_external_access = true")


def test_words_that_are_wrong_name_what_is_there(home):
    with pytest.raises(InputError, match="does not exist") as refused:
        run(home, "SELECT * FROM laons")
    assert refused.value.code == "no-such-table"
    assert 'predictions, outcomes, "empty", "loans", "rent-price"' in refused.value.hint
    with pytest.raises(InputError, match="bad-sql"):
        run(home, "SELECT nothing FROM loans")
    with pytest.raises(InputError, match=r"bad-sql: .*getenv"):
        run(home, "SELECT getenv('HOME')")
    with pytest.raises(InputError, match="bad-sql"):
        run(home, "SELEKT 1")
    with pytest.raises(InputError, match=r"bad-sql: .*syntax error") as refused:
        run(home, "SELECT at FROM loans")
    assert refused.value.hint.endswith("or use the column time")
    with pytest.raises(InputError, match="bad-sql") as refused:
        run(home, "SELEKT 'look at' AT TIME ZONE 'UTC' -- at")
    assert "there are: predictions" in refused.value.hint
    assert run(home, 'SELECT "at", time FROM loans LIMIT 1').rows


def test_a_query_without_end_is_ended_and_leaves_nothing_behind(home, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(home))
    endless = (
        "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t"
    )
    for text in (endless, "SELECT sleep_ms(100000000)"):
        with pytest.raises(RefusedError, match="sql-timed-out"):
            ask_sql(home, text, (), Span(), limit=10, timeout_s=2.0)
    assert not list(home.glob("doorstep-sql-*"))


def test_a_query_that_wants_too_much_memory_is_refused(home):
    with pytest.raises(RefusedError, match="sql-too-large"):
        ask_sql(
            home, "SELECT list(range) FROM range(500000000)", (), Span(), limit=10, timeout_s=60.0
        )


def test_a_child_answers_as_we_do(home):
    asked = 'SELECT * FROM predictions ORDER BY "at"'
    assert ask_sql(home, asked, (), Span(), limit=10, timeout_s=60.0) == run(home, asked)


def test_the_answer_as_a_frame_or_the_line_that_installs_one(home, monkeypatch):
    found = run(home, 'SELECT "time", version, "out.yes" FROM loans ORDER BY ALL')
    frame = found.to_pandas()
    assert list(frame.columns) == ["time", "version", "out.yes"]
    assert str(frame["time"].dtype).startswith("datetime64")
    assert frame["out.yes"].tolist() == [0.25, 0.75]
    empty = JournalTable(columns=("a",), types=("BIGINT",), rows=(), is_cut=False)
    assert len(empty.to_pandas()) == 0
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(MissingExtraError, match="polars is not installed") as missing:
        found.to_polars()
    assert missing.value.hint == "pip install polars"
