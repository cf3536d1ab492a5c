"""Predictions of another service, imported from a real PostgreSQL: typed, spoiled, and resumed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from shell_case import Shell

from doorstep.cli.sources import rows_of_query
from doorstep.core.errors import RefusedError
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.processes import wait_for
from watch_case import FILE, made_rows, weeks_ago

pytestmark = pytest.mark.postgres
QUERY = "select * from answers"


@pytest.fixture
def shell(installation: RunningInstallation, tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made._environ["DOORSTEP_HOME"] = str(installation.home)
    return made


@pytest.fixture
def answers(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A table with the types that such a table has."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE answers (n serial, application text, answered timestamptz, model text, "
            "amount numeric(12, 2), age int, purpose text, p_default double precision, "
            "answer text, defaulted text)"
        )
        yield connection


def fill(connection: psycopg.Connection[Any], rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    values = ", ".join(f"to_timestamp(%({n})s)" if n == "answered" else f"%({n})s" for n in names)
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO answers ({', '.join(names)}) VALUES ({values})", rows)


def test_typed_rows_are_imported_once_and_the_next_run_takes_only_what_is_new(
    installation: RunningInstallation, shell: Shell, answers: Any, postgres_url: str
) -> None:
    service = "pg-loans"
    (shell.folder / "doorstep.yaml").write_text(FILE.format(service=service))
    rows = made_rows(2500, since_s=weeks_ago(3), until_s=weeks_ago(1), prefix="p")
    fill(answers, rows[:2000])
    spoiled = [
        {**rows[0], "application": None},
        {**rows[0], "application": "w1", "answer": "perhaps"},
        {**rows[0], "application": "w2", "p_default": 1.5},
        {**rows[0], "application": "w3", "amount": "NaN", "age": None},
    ]
    fill(answers, spoiled)
    answers.execute("UPDATE answers SET answered = NULL WHERE application = 'p00007'")

    def run() -> dict[str, Any]:
        words = ("--sql", postgres_url, "--query", QUERY, "--watermark", "n")
        return shell.json("journal", "import", service, *words)

    found = run()
    refused = (shell.folder / f"{service}.refused.jsonl").read_text().splitlines()
    reasons = sorted(json.loads(one)["reason"] for one in refused)
    assert reasons == [
        "a score is not from 0 to 1", "amount is missing", "answer 'perhaps' is none of no, yes",
        "no key in column application", "no time in column answered",
    ]  # fmt: skip
    assert (found["rows"], found["imported"], found["refused"]) == (2004, 1999, 5), found
    assert run()["rows"] == 0
    fill(answers, rows[2000:])
    found = run()
    assert (found["rows"], found["imported"], found["known"]) == (500, 500, 0), found
    # Read again from the start, without the watermark: every row is known.
    words = ("--sql", postgres_url, "--query", QUERY)
    again = shell.json("journal", "import", service, *words)
    assert (again["rows"], again["imported"], again["known"]) == (2504, 0, 2499), again
    (one,) = installation.client.predictions(service, key="p00008")
    assert (one.inputs["amount"], one.at) == (rows[8]["amount"], round(rows[8]["answered"] * 1e6))


def test_a_column_that_is_missing_is_named_before_a_row_is_taken(
    installation: RunningInstallation, shell: Shell, answers: Any, postgres_url: str
) -> None:
    service = "pg-missing"
    (shell.folder / "doorstep.yaml").write_text(FILE.format(service=service))
    fill(answers, made_rows(20, since_s=weeks_ago(2), until_s=weeks_ago(1), prefix="m"))

    def run(query: str) -> Any:
        words = ("--sql", postgres_url, "--query", query)
        return shell("journal", "import", service, *words)

    for query, reason in (
        (
            "select application, answer, p_default from answers",
            "no column 'answered', which watch.time",
        ),
        ("select answered, answer, p_default from answers", "'application', which ids.key"),
        ("select application, answered, p_default, model from answers", "watch.prediction names"),
        ("select n from answers where n < 0", "there are none"),
    ):
        said = run(query)
        assert said.code == 1 and reason in said.told, (query, said)
    wrong = run("select *, 'x' as amount from (select application, answered, model, p_default, "
                "answer, age, purpose from answers) q")  # fmt: skip
    assert wrong.code == 0 and "20 of 20 rows imported" in wrong.told, wrong


def test_an_import_that_is_killed_goes_on_and_no_row_is_there_twice(
    installation: RunningInstallation, shell: Shell, answers: Any, postgres_url: str
) -> None:
    service = "pg-killed"
    (shell.folder / "doorstep.yaml").write_text(FILE.format(service=service))
    fill(answers, made_rows(6000, since_s=weeks_ago(3), until_s=weeks_ago(1), prefix="k"))
    words = ["journal", "import", service, "--sql", postgres_url, "--query", QUERY]
    words += ["--watermark", "n"]
    command = [sys.executable, "-m", "doorstep.cli.main", *words]
    killed = subprocess.Popen(
        command, cwd=shell.folder, env=shell._environ,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def imported() -> int:
        sql = f'select count(*) from "{service}"'
        with contextlib.suppress(Exception):  # not there yet
            return int(installation.client.query(sql).rows[0][0])
        return 0

    wait_for(lambda: imported() >= 1000 or killed.poll() is not None, "some rows are there")
    killed.kill()
    killed.wait()
    before = imported()
    rest = shell.json(*words)
    assert rest["refused"] == 0 and rest["imported"] == 6000 - before, (before, rest)
    found = installation.client.query(f'select count(*), count(distinct key) from "{service}"')
    assert tuple(found.rows[0]) == (6000, 6000)


def test_a_query_that_never_ends_is_ended(postgres_url: str) -> None:
    with pytest.raises(RefusedError) as found:
        list(rows_of_query(postgres_url, "select pg_sleep(3600)", wait_s=0.2))
    assert found.value.code == "sql-timed-out"
    assert list(rows_of_query(postgres_url, "select 1 as one", wait_s=60)) == [({"one": 1}, "")]
