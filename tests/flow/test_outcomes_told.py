"""Outcomes from databases and streams, into a real control plane, from real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from shell_case import Shell

from doorstep.core.instant import parse_instant
from doorstep.kernel.server import find_server
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.processes import wait_for
from fakes.faults import Missing
from fakes.nats import RunningNats, restartable_nats

VALUED = "monitor: {outcomes: {unit: EUR}}"
MADE = """
CREATE TABLE told ("case" text, outcome text, value numeric, became timestamptz, changed bigint);
INSERT INTO told SELECT 'c' || n, CASE WHEN n % 3 = 0 THEN 'bad' ELSE 'good' END, n / 4.0,
  timestamptz '2026-11-01 10:00+02' + n * interval '1 second', n FROM generate_series(1, 2500) n
"""
QUERY = 'select "case", outcome, value, became::timestamptz, changed from told'
COLUMNS = ("--key", "case", "--column", "outcome", "--at", "became")


@pytest.fixture
def shell(installation: RunningInstallation, tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made._environ["DOORSTEP_HOME"] = str(installation.home)
    return made


def kept(here: RunningInstallation, service: str, what: str = "count(*)") -> Any:
    found = here.client.query(f"select {what} from outcomes where service = '{service}'")
    return found.rows[0][0]


@pytest.mark.postgres
def test_outcomes_of_postgresql_are_read_once_and_go_on_where_the_last_run_stopped(
    installation: RunningInstallation, shell: Shell, postgres_url: str
) -> None:
    import psycopg

    service = "told-by-postgres"
    installation.register(service, more=VALUED)

    def run() -> dict[str, Any]:
        words = ("--query", QUERY, "--watermark", "changed", *COLUMNS)
        found = shell.json("outcomes", "import", service, postgres_url, *words)
        return {key: found[key] for key in ("recorded", "repeated", "refused", "unknown")}

    def change(sql: str) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(sql)

    change(MADE)
    change("INSERT INTO told VALUES ('x', 'perhaps', 1, now(), 2501), ('y', null, null, now(), 2)")
    assert run() == {"recorded": 2500, "repeated": 0, "refused": 1, "unknown": 1}
    refused = json.loads((shell.folder / f"{service}.refused.jsonl").read_text())
    assert "found label 'perhaps'" in refused["reason"] and refused["values"]["case"] == "x"
    first = parse_instant("2026-11-01T08:00:01Z")
    assert kept(installation, service, 'min("at")') == first
    assert kept(installation, service, "sum(value)") == 2500 * 2501 / 2 / 4
    assert run() == {"recorded": 0, "repeated": 0, "refused": 0, "unknown": 0}
    # Newer ones, one with the watermark that was the last, and a correction.
    change("INSERT INTO told VALUES ('z', 'bad', 1, now(), 2501), ('w', 'bad', 2, now(), 2502)")
    change("UPDATE told SET outcome = 'bad', became = now(), changed = 2503 WHERE value = 0.25")
    change("INSERT INTO told VALUES ('v', 'maybe', 1, now(), 2504)")
    assert run() == {"recorded": 3, "repeated": 0, "refused": 1, "unknown": 0}
    assert kept(installation, service) == 2503
    refused_rows = (shell.folder / f"{service}.refused.jsonl").read_text().splitlines()
    assert [json.loads(one)["values"]["case"] for one in refused_rows] == ["x", "v"]


@pytest.mark.postgres
@pytest.mark.parametrize(
    "sql",
    ["delete from told", "with gone as (delete from told returning *) select * from gone",
     "select * from nowhere", "select 'a:b', '50 %' as x, 1::text; drop table told"],
)  # fmt: skip
def test_a_query_that_is_no_question_changes_nothing(
    installation: RunningInstallation, shell: Shell, postgres_url: str, sql: str
) -> None:
    import psycopg

    installation.register("told-nothing")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute('CREATE TABLE told ("case" text, outcome text)')
        connection.execute("INSERT INTO told VALUES ('1', 'bad')")
        said = shell("outcome", "told-nothing", postgres_url, "--query", sql)
        assert said.code == 1 and "bad-sql" in said.told, said
        assert connection.execute("SELECT count(*) FROM told").fetchone() == (1,)


def test_colons_and_percents_of_a_query_are_the_users_own(
    installation: RunningInstallation, shell: Shell
) -> None:
    installation.register("told-by-sqlite")
    with contextlib.closing(sqlite3.connect(shell.folder / "x.db")) as connection:
        connection.execute('CREATE TABLE told ("case" text, outcome text, n text)')
        rows = [("a:x", "bad", "2026-11-01 10:00"), ("50 %", "good", "2026-11-02 10:00")]
        connection.executemany("INSERT INTO told VALUES (?, ?, ?)", rows)
        connection.commit()
    sql = """select * from told where outcome <> ' :no' and "case" like '%' and n <> '% :mark'"""
    words = ("--query", sql, "--watermark", "n", "--key", "case", "--column", "outcome")
    for expected in (2, 0):
        found = shell.json("outcome", "told-by-sqlite", "sqlite:///x.db", *words)
        assert (found["recorded"], found["refused"]) == (expected, 0), found
    missing = shell("outcome", "told-by-sqlite", "sqlite:///y.db", *words)
    assert missing.code != 0 and not (shell.folder / "y.db").exists()


def lines_of(count: int, prefix: str) -> Iterator[bytes]:
    for at in range(count):
        yield b'{"key": "%s%d", "label": "bad"}\n' % (prefix.encode(), at)


def test_a_stream_of_any_length_is_recorded_while_it_arrives(
    installation: RunningInstallation,
) -> None:
    service, client = "streamed", installation.client
    installation.register(service)
    seen: list[int] = []

    def watched() -> Iterator[bytes]:
        yield from lines_of(3000, "s")
        # The body is not over, and what came is there already.
        wait_for(lambda: kept(installation, service) >= 2000, "the first lines are recorded")
        seen.append(kept(installation, service))
        yield b'{"key": "s0", "label": "never"}\n\n{"key": 1, "label": bad}\n'
        yield b'{"key": "' + b"x" * 200_000 + b'", "label": "bad"}\n{"key": "last", "label": "bad"}'

    told = client.stream_outcomes(service, watched())
    assert seen and (told.recorded, told.refused_rows) == (3001, 3)
    reasons = {one.index: one.reason for one in told.refused}
    assert set(reasons) == {3001, 3003, 3004}
    assert "found label 'never'" in reasons[3001] and "65,536 bytes" in reasons[3004]
    again = client.stream_outcomes(service, lines_of(3000, "s"))
    assert (again.recorded, again.known) == (0, 3000)
    assert kept(installation, service) == 3001


def test_a_stream_that_breaks_off_keeps_what_came_and_needs_the_token(
    installation: RunningInstallation,
) -> None:
    service, client = "broken-off", installation.client
    installation.register(service)

    def broken() -> Iterator[bytes]:
        yield from lines_of(2500, "b")
        wait_for(lambda: kept(installation, service) == 2000, "whole batches are recorded")
        raise RuntimeError("the sender dies")

    with pytest.raises(RuntimeError, match="the sender dies"):
        client.stream_outcomes(service, broken())
    told = client.stream_outcomes(service, lines_of(2500, "b"))
    assert (told.recorded, told.known) == (500, 2000)
    url, token = find_server(None, None, installation.home, {}, Path.cwd())
    where = f"{url}/api/v1/services/{service}/outcomes"
    assert httpx.post(where, content=b'{"key": "b0", "label": "bad"}').status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    unknown = httpx.post(f"{url}/api/v1/services/no-such/outcomes", content=b"", headers=headers)
    assert unknown.json()["error"]["code"] == "no-service"


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[RunningNats]:
    try:
        with restartable_nats(tmp_path / "nats") as server:
            yield server
    except Missing as missing:
        pytest.skip(str(missing))


def publish(url: str, bodies: list[bytes], stream: str = "OUTCOMES") -> None:
    async def send() -> None:
        import nats

        connection = await nats.connect(url)
        jetstream = connection.jetstream()
        await jetstream.add_stream(name=stream, subjects=["outcomes.>"])
        for body in bodies:
            await jetstream.publish("outcomes.loans", body)
        await connection.close()

    asyncio.run(send())


def test_messages_are_acknowledged_once_they_are_recorded_and_poison_is_kept(
    installation: RunningInstallation, shell: Shell, nats: RunningNats
) -> None:
    service = "followed"
    installation.register(service)
    good = [json.dumps({"key": f"n{at}", "label": "bad"}).encode() for at in range(1200)]
    publish(nats.url, [*good[:600], b"{poison", b'{"key": "n1", "label": "never"}', *good[600:]])
    words = ("outcomes", "follow", service, nats.url, "--stream", "OUTCOMES", "--drain")
    found = shell.json(*words, "--subject", "outcomes.loans")
    assert found == {"recorded": 1200, "refused": 2}
    poison = (shell.folder / f"{service}.refused.jsonl").read_text().splitlines()
    assert [json.loads(one)["row"] for one in poison] == [601, 602]
    assert json.loads(poison[0])["values"]["message"] == "{poison"
    assert shell.json(*words) == {"recorded": 0, "refused": 0}
    assert kept(installation, service) == 1200
    # What no request may say, or what makes one too long, must not stop those behind it.
    poison = [b"poison", b'{"key": "\\u0000", "label": "good"}', b'{"key": "%s"}' % (b"x" * 40_000)]
    publish(nats.url, [*poison, b'{"key": "late", "label": "good"}'])
    assert shell.json(*words) == {"recorded": 1, "refused": 3}
    assert len((shell.folder / f"{service}.refused.jsonl").read_text().splitlines()) == 5


def test_a_follower_outlives_the_broker_and_the_control_plane(
    tmp_path: Path, nats: RunningNats
) -> None:
    with RunningInstallation(tmp_path / "home", workers=1) as here:
        here._ports["control"] = int(here.console_url.rpartition(":")[2])  # for the next start
        here.register("outlived")
        publish(nats.url, [b'{"key": "a", "label": "bad"}'])
        command = [sys.executable, "-m", "doorstep.cli.main", "outcomes", "follow", "outlived"]
        command += [nats.url, "--stream", "OUTCOMES", "--home", str(here.home), "--json"]
        follower = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: kept(here, "outlived") == 1, "the first is recorded")
            nats.end()
            nats.start()
            publish(nats.url, [b'{"key": "b", "label": "bad"}'])
            wait_for(lambda: kept(here, "outlived") == 2, "it connects again")
            here.end()
            publish(nats.url, [b'{"key": "c", "label": "bad"}'])
            here.start()
            wait_for(lambda: kept(here, "outlived", "count(distinct key)") == 3, "and is heard")
            follower.terminate()
            out, _ = follower.communicate(timeout=120)
            assert follower.returncode == 0 and json.loads(out)["refused"] == 0
        finally:
            follower.kill()
            follower.wait()


def test_a_broker_or_stream_that_is_not_there_is_named(
    installation: RunningInstallation, shell: Shell, nats: RunningNats
) -> None:
    installation.register("lonely")
    missing = shell("outcomes", "follow", "lonely", nats.url, "--stream", "NOTHING", "--drain")
    assert missing.code == 1 and "no-stream" in missing.told, missing
    nats.end()
    gone = shell("outcomes", "follow", "lonely", nats.url, "--stream", "NOTHING", "--drain")
    assert gone.code == 5 and "no-broker" in gone.told, gone
