"""A real node's predictions, asked for by the command line and by the SDK, in SQL and as files."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import httpx
import pytest
from control_cases import path_of

from doorstep.core.errors import InputError, MissingExtraError, RefusedError
from doorstep.core.outcome import OutcomeGiven
from doorstep.testing.installation import RunningInstallation, service_file

SERVICE = "asked"
ROWS = 6


@pytest.fixture(scope="module")
def answered(installation: RunningInstallation) -> list[str]:
    """Ids of ROWS predictions of the service; the first two have an outcome."""
    installation.register(SERVICE)
    file = service_file(SERVICE).replace("ids: {key: id}", "ids: {key: id, subject: x0}")
    installation.client.apply(file)
    installation.serve(f"{SERVICE}@1")
    rows = [{"x0": float(i), "x1": 0.5, "x2": 1.0} for i in range(ROWS)]
    found = httpx.post(
        installation.data_url + path_of(SERVICE), json={"rows": rows}, trust_env=False
    )
    ids = [one["id"] for one in found.raise_for_status().json()["predictions"]]
    told = [OutcomeGiven(prediction=one, label="good") for one in ids[:2]]
    assert installation.client.record_outcomes(SERVICE, told) == 2
    return ids


def run(here: RunningInstallation, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "doorstep.cli.main", *words, "--home", os.fspath(here.home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_one_question_by_command_and_by_sdk_has_one_answer(installation, answered):
    asked = f'SELECT id, "in.x0" AS x0 FROM {SERVICE} WHERE kind = 0 ORDER BY x0'
    expected = [[one, float(i)] for i, one in enumerate(answered)]
    assert [list(row) for row in installation.client.query(asked).rows] == expected
    said = run(installation, "journal", "query", asked, "--json")
    assert json.loads(said.stdout)["rows"] == expected
    said = run(installation, "journal", "query", asked, "--csv")
    rows = list(csv.reader(io.StringIO(said.stdout)))
    assert rows[0] == ["id", "x0"]
    assert [row[0] for row in rows[1:]] == answered
    frame = installation.client.query(asked).to_pandas()
    assert frame["x0"].tolist() == [float(i) for i in range(ROWS)]


def test_outcomes_join_in_sql(installation, answered):
    asked = f"SELECT count(*) FROM {SERVICE} p JOIN outcomes o ON o.prediction = p.id"
    assert installation.client.query(asked).rows == ((2,),)


def test_a_table_that_is_cut_says_so_and_a_refusal_ends_with_one(installation, answered):
    said = run(installation, "journal", "query", f"SELECT id FROM {SERVICE}", "--limit", "2")
    assert (said.returncode, len(said.stdout.splitlines())) == (0, 3)
    assert "cut after 2 rows" in said.stderr
    said = run(installation, "journal", "query", f"COPY {SERVICE} TO 'out.csv'")
    assert said.returncode == 1
    assert "sql-not-allowed: found COPY; expected one SELECT" in said.stderr
    with pytest.raises(RefusedError, match="sql-timed-out"):
        installation.client.query("SELECT sleep_ms(100000000)", timeout_s=0.5)


def test_an_export_is_the_predictions_with_what_became_of_them(installation, answered, tmp_path):
    import duckdb

    file = tmp_path / "asked.parquet"
    said = run(installation, "journal", "export", SERVICE, "--to", str(file), "--outcomes")
    assert said.returncode == 0, said.stderr
    columns = 'id, "in.x0", outcome'
    rows = duckdb.sql(f"SELECT {columns} FROM '{file}' WHERE kind = 0 ORDER BY 2").fetchall()
    told = ["good", "good", None, None, None, None]
    assert rows == [(one, float(i), told[i]) for i, one in enumerate(answered)]
    assert [path.name for path in tmp_path.iterdir()] == ["asked.parquet"]
    assert not list((installation.home / "exports").iterdir())


def test_an_export_replaces_nothing_unless_forced_and_a_refused_one_leaves_nothing(
    installation, answered, tmp_path
):
    file = tmp_path / "asked.csv"
    file.write_text("mine")
    with pytest.raises(RefusedError, match="file-exists"):
        installation.client.export(SERVICE, file)
    assert file.read_text() == "mine"
    seen = []
    installation.client.export(SERVICE, file, force=True, told=lambda *one: seen.append(one))
    with file.open() as opened:
        found = [row["id"] for row in csv.DictReader(opened)]
    assert set(answered) <= set(found)
    assert seen[-1] == (file.stat().st_size, file.stat().st_size)
    for words in (
        ["nobody", "--to", "a.parquet"],
        [SERVICE, "--to", "a.xlsx"],
        [SERVICE, "--to", "a.csv", "--kind", "x"],
    ):
        target = [str(tmp_path / one) if one.startswith("a.") else one for one in words]
        assert run(installation, "journal", "export", *target).returncode in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["asked.csv"]


def test_an_arrow_file_without_pyarrow_names_what_is_missing(installation, answered, tmp_path):
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="pyarrow is not installed"):
            installation.client.export(SERVICE, tmp_path / "a.arrow")
    else:
        assert installation.client.export(SERVICE, tmp_path / "a.arrow") > 0


def test_predictions_by_subject_by_answer_and_by_time_with_what_became_of_them(
    installation, answered
):
    client = installation.client
    found = client.predictions(SERVICE, subject="2", kind="live")
    assert [(one.id, one.inputs["x0"]) for one in found] == [(answered[2], 2.0)]
    by_answer = {
        one.id
        for label in ("good", "bad")
        for one in client.predictions(SERVICE, answer=label, kind="live")
    }
    assert by_answer == set(answered)
    outcomes = {one.id: one.outcome for one in client.predictions(SERVICE, kind="live")}
    assert [outcomes[one] for one in answered] == ["good", "good", None, None, None, None]
    assert client.predictions(SERVICE, before=1) == ()
    said = run(installation, "journal", "list", SERVICE, "--subject", "2", "--since", "2020-01-01")
    assert answered[2] in said.stdout
    installation.register("nobodys")
    with pytest.raises(InputError, match="no-subject"):
        client.predictions("nobodys", subject="2")
