"""Watching what another service answers: imported, compared, joined with outcomes; never served."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from shell_case import Shell

import doorstep
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.processes import wait_for
from watch_case import FILE, made_rows, weeks_ago, write_csv, write_lines

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningInstallation]:
    """One whose monitors look often."""
    home = tmp_path_factory.mktemp("watching") / "home"
    with RunningInstallation(home, workers=1, monitor_s=1.0) as running:
        yield running


@pytest.fixture
def shell(installation: RunningInstallation, tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made._environ["DOORSTEP_HOME"] = str(installation.home)
    return made


def test_a_month_of_another_service_is_imported_once_and_its_drift_is_found(
    installation: RunningInstallation, shell: Shell
) -> None:
    folder, service = shell.folder, "watched-loans"
    (folder / "doorstep.yaml").write_text(FILE.format(service=service))
    rows = made_rows(2000, since_s=weeks_ago(6), until_s=weeks_ago(3), prefix="a")
    write_csv(folder / "train.csv", rows)
    shifted = made_rows(
        2000, since_s=weeks_ago(3), until_s=weeks_ago(1), prefix="b", model="v4", amount=1400.0
    )
    spoiled = [{**shifted[0], "application": "x1", "amount": "much"},
               {**shifted[0], "application": "x2", "answer": "perhaps"}]  # fmt: skip
    write_csv(folder / "month.csv", [*rows, *shifted, *spoiled])

    refused = shell("journal", "import", service, "month.csv", "--strict")
    assert refused.code == 1 and "rows-refused" in refused.told
    found = shell.json("journal", "import", service, "month.csv")
    assert (found["imported"], found["refused"], found["known"]) == (4000, 2, 0), found
    reasons = (folder / "month.csv.refused.jsonl").read_text()
    assert "amount: 'much' is no number" in reasons
    assert "answer 'perhaps' is none of no, yes" in reasons
    assert "the first 1,000 rows of month.csv" in found["reference"]

    write_csv(folder / "wrong.csv", [{**shifted[0], "application": "x3", "model": ""}])
    wrong = shell("journal", "import", service, "wrong.csv")
    assert wrong.code == 1 and "the only row of wrong.csv is refused" in wrong.told, wrong
    write_csv(folder / "keyless.csv", [{k: v for k, v in rows[0].items() if k != "application"}])
    keyless = shell("journal", "import", service, "keyless.csv")
    assert keyless.code == 1 and "no-column" in keyless.told, keyless

    again = shell.json("journal", "import", service, "month.csv")
    overlap = write_lines(folder / "overlap.jsonl", shifted[-300:])
    more = shell.json("journal", "import", service, overlap.name)
    assert (again["imported"], again["known"], again["outcomes"]) == (0, 4000, 0)
    assert (more["imported"], more["known"]) == (0, 300)

    client = installation.client
    names = {one.number: one.manifest.lineage.parameters for one in client.versions(service)}
    assert names == {1: {"version": "v3"}, 2: {"version": "v4"}}
    wait_for(lambda: client.monitor(service).quality, "the monitors look")
    status = client.status(service)[0]
    assert "amount" in status.drifted and "age" not in status.drifted, status
    assert (status.champion, status.watched) == (None, 2)
    assert "(v4) is watched, served elsewhere: 2,000 rows" in status.headline
    seen = client.monitor(service)
    assert {one.column for one in seen.columns if one.drifted} == {"amount"}
    assert seen.version == 2 and 0.6 < seen.quality["auc"][0] < 0.95 and seen.labelled > 0.9
    shown = shell("monitor", service)
    assert shown.code == 0 and f"{service}@2" in shown.out, shown

    for words in (("release", "start"), ("gate",)):
        said = shell(*words, f"{service}@2")
        assert said.code == 1 and "only-watched" in said.told, said
    for command in (("show", f"{service}@2"), ("list", service), ("history", service)):
        said = shell(*command)
        assert said.code == 0 and "watched" in said.out, said
    with httpx.Client(follow_redirects=True) as browser:
        browser.get(client.invite()).raise_for_status()
        for path in ("", "/monitor", "/versions/2", "/predictions"):
            page = browser.get(f"{installation.console_url}/services/{service}{path}")
            assert page.status_code == 200 and service in page.text, (path, page.text[:500])
        shown = browser.get(f"{installation.console_url}/services/{service}").text
        assert "is watched, served elsewhere" in shown and "Watched</dt>" in shown
    assert client.verify_ledger().intact


def test_a_column_that_one_row_made_text_is_named(
    installation: RunningInstallation, shell: Shell
) -> None:
    (shell.folder / "doorstep.yaml").write_text(FILE.format(service="watched-mixed"))
    rows = made_rows(100, since_s=weeks_ago(3), until_s=weeks_ago(1), prefix="m")
    write_csv(
        shell.folder / "mixed.csv", [*rows, {**rows[0], "application": "x", "amount": "much"}]
    )
    found = shell("journal", "import", "watched-mixed", "mixed.csv")
    assert found.code == 0 and "! amount is no number in 1 row, such as 'much'" in found.told


def test_one_line_in_an_application_records_what_it_answers(
    installation: RunningInstallation, shell: Shell
) -> None:
    service = "recorded-loans"
    (shell.folder / "doorstep.yaml").write_text(
        FILE.format(service=service).replace("window: 7d", "window: 10s")
        + "contract: {inputs: {amount: float, age: int}}\n"
    )
    assert shell("apply").code == 0
    rows = made_rows(1500, since_s=0, until_s=1, prefix="r")
    app = doorstep.Record(scoring_app, service=service, home=installation.home, version="v9")
    for at, row in enumerate(rows):
        if at % 500 == 0:
            app.flush()  # a test asks faster than any client; what does not fit would be left out
        asked = {name: row[name] for name in ("application", "amount", "age", "p_default")}
        assert json.loads(ask(app, json.dumps(asked).encode()))["answer"] == row["answer"]
    app.flush()
    assert app.counts == {"recorded": 1500}

    client = installation.client
    wait_for(lambda: "1,500 rows" in client.status(service)[0].headline, "all rows are taken")
    ((number, name),) = [
        (one.number, one.manifest.lineage.parameters["version"]) for one in client.versions(service)
    ]
    assert (number, name) == (1, "v9")
    assert (
        "the first 1,000 rows that were recorded" in client.versions(service)[0].findings[0].reason
    )
    one = client.predictions(service, key="r00007")[0]
    assert (one.kind, one.answered_by, one.inputs["amount"]) == ("watched", 1, rows[7]["amount"])
    assert one.scores == pytest.approx(
        {"yes": rows[7]["p_default"], "no": 1 - rows[7]["p_default"]}
    )
    write_csv(shell.folder / "outcomes.csv", rows)
    told = shell("outcome", service, "outcomes.csv", "--key", "application")
    assert told.code == 0, told
    wait_for(lambda: client.monitor(service).labelled_rows == 1500, "outcomes are joined by key")


def test_what_waits_for_a_reference_is_said_and_one_may_be_given_alone(
    installation: RunningInstallation, shell: Shell
) -> None:
    """A service whose rows make no reference is in nobody's way."""
    service, client = "waiting-loans", installation.client
    rows = made_rows(150, since_s=0, until_s=1, prefix="w")
    write_csv(shell.folder / "train.csv", rows)
    for name in ("a-broken-one", service):
        text = FILE.format(service=name).replace("watch: {", "watch: {reference_rows: 100, ")
        (shell.folder / "doorstep.yaml").write_text(text)
        assert shell("apply").code == 0

    def by_age(asked: dict[str, Any], _: Any) -> list[dict[str, Any]]:
        return [{"fields": asked, "answer": asked["age"]}]  # more labels than two

    broken = doorstep.Record(
        scoring_app, service="a-broken-one", home=installation.home, rows=by_age
    )
    for row in rows[:100]:
        ask(broken, json.dumps(row).encode())
    broken.flush()
    app = doorstep.Record(scoring_app, service=service, home=installation.home)
    for row in rows[:7]:
        ask(app, json.dumps(row).encode())
    app.flush()
    said = {one.service: one.headline for one in client.status()}
    assert said[service].startswith("7 rows were recorded; with 100, later"), said
    assert said["a-broken-one"].startswith("100 rows were recorded"), said
    assert "is watched yet" in shell("monitor", service).out

    given = shell("journal", "import", service, "--reference", "train.csv")
    assert given.code == 0 and "compared with 150 rows of train.csv" in given.told, given
    wait_for(lambda: "7 rows, the last" in client.status(service)[0].headline, "they are taken")
    again = shell("journal", "import", service, "--reference", "train.csv")
    assert again.code == 1 and "reference-set" in again.told, again


def scoring_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A model in somebody's WSGI application."""
    asked = json.loads(environ["wsgi.input"].read())
    p = asked["p_default"]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"answer": "yes" if p >= 0.5 else "no", "probability": p}).encode()]


def ask(app: Any, body: bytes) -> bytes:
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/score", "wsgi.input": io.BytesIO(body),
               "CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}  # fmt: skip
    answer = app(environ, lambda _status, _headers: None)
    try:
        return b"".join(answer)
    finally:
        getattr(answer, "close", lambda: None)()


def test_the_guide_is_true(installation: RunningInstallation, shell: Shell) -> None:
    page = (ROOT / "docs" / "guides" / "watch.md").read_text(encoding="utf-8")
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (session,) = re.findall(r"^```console\n(.*?)^```", page, re.M | re.S)
    (shell.folder / "doorstep.yaml").write_text(yaml)
    train = made_rows(2000, since_s=weeks_ago(9), until_s=weeks_ago(5), prefix="t")
    write_csv(shell.folder / "train.csv", train)
    month = made_rows(
        2000, since_s=weeks_ago(5), until_s=weeks_ago(1), prefix="m", model="v4", amount=1300.0
    )
    write_csv(shell.folder / "last-month.csv", month)
    for command, expected in re.findall(r"^\$ doorstep (.*)\n((?:[^$].*\n)*)", session, re.M):
        said = shell(*command.split())
        assert said.code == 0, said
        assert all(line in said.told for line in expected.splitlines()), said
    client = installation.client
    drifted = wait_for(lambda: client.status("loans")[0].drifted, "the drift is found")
    assert drifted == ("amount",)

    space: dict[str, Any] = {}
    os.environ["DOORSTEP_HOME"] = str(installation.home)
    try:
        exec(code, space)  # the page's own words
    finally:
        del os.environ["DOORSTEP_HOME"]
    body = {"application": "new", "amount": 1500.0, "age": 44, "purpose": "car"}
    (_, said) = asyncio.run(answered(space["app"], json.dumps(body).encode()))
    assert json.loads(said["body"])["answer"] == "yes"
    space["app"].flush()
    (one,) = wait_for(lambda: client.predictions("loans", key="new"), "it is recorded")
    assert (one.answer, one.inputs["amount"], one.kind) == ("yes", 1500.0, "watched")


async def answered(app: Any, body: bytes) -> list[Any]:
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        said.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/score", "headers": headers}
    await app(scope, receive, send)
    return said


def test_rows_of_a_database_and_of_parquet_are_read_as_they_come(
    installation: RunningInstallation, shell: Shell
) -> None:
    service = "sql-loans"
    (shell.folder / "doorstep.yaml").write_text(FILE.format(service=service))
    rows = made_rows(1200, since_s=weeks_ago(2), until_s=weeks_ago(1), prefix="q")
    with contextlib.closing(sqlite3.connect(shell.folder / "scores.db")) as connection:
        names = list(rows[0])
        connection.execute(f"CREATE TABLE answers ({', '.join(names)})")
        marks = ", ".join("?" * len(names))
        connection.executemany(
            f"INSERT INTO answers VALUES ({marks})", [tuple(one.values()) for one in rows]
        )
        connection.commit()
    query = ("--sql", "sqlite:///scores.db", "--query", "select * from answers order by answered")
    found = shell.json("journal", "import", service, *query)
    assert (found["imported"], found["refused"]) == (1200, 0), found
    write_csv(shell.folder / "rows.csv", rows)
    stored = "types={'answer': 'VARCHAR', 'defaulted': 'VARCHAR'}"  # no booleans of "yes" and "no"
    duckdb.sql(
        f"COPY (SELECT * FROM read_csv('{shell.folder}/rows.csv', {stored})) TO "
        f"'{shell.folder}/rows.parquet' (FORMAT parquet)"
    )
    again = shell.json("journal", "import", service, "rows.parquet")
    assert (again["imported"], again["known"]) == (0, 1200), again
    wrong = shell(
        "journal", "import", service, "--sql", "sqlite:///scores.db", "--query", "nonsense"
    )
    assert wrong.code == 1 and "bad-sql" in wrong.told
    query = ("--query", "select 1")
    absent = shell("journal", "import", service, "--sql", "sqlite:///absent.db", *query)
    assert absent.code == 5 and not (shell.folder / "absent.db").exists(), absent
    none = shell("journal", "import", service)
    assert none.code == 2 and "which-source" in none.told
