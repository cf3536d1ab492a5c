"""`doorstep up` that must not start says why, and changes nothing."""

from __future__ import annotations

import hashlib
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from control_cases import last_asked_for

from doorstep.kernel.home import open_home
from doorstep.serve.statelock import holder_of_state
from doorstep.testing.installation import RunningInstallation

TIMEOUT_S = 60


def refusal(home: Path, **ports: int) -> str:
    """What an `up` said that ended by itself."""
    command = RunningInstallation(home).command(**ports)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip()


def test_a_second_up_on_one_home_is_refused_and_the_first_goes_on(
    installation: RunningInstallation,
):
    before, seen = installation.client.installation(), last_asked_for(installation)
    said = refusal(installation.home)
    assert said.startswith("home-in-use")
    assert str(installation.ready.pid) in said
    after = installation.client.installation()
    assert (after.started_at, last_asked_for(installation)) == (before.started_at, seen)
    assert installation.pids("node")


@pytest.mark.parametrize("name", ["data", "health", "control"])
def test_a_named_port_in_use_is_refused_by_name_before_a_home_is_made(tmp_path: Path, name: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        said = refusal(tmp_path / "home", **{name: number})
    assert said.startswith("port-in-use")
    assert f"the {name} port {number}" in said
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("how", [[], ["-d"]])
def test_what_cannot_start_leaves_no_home_and_says_a_command_that_works(
    tmp_path: Path, how: list[str]
):
    home = tmp_path / "home"
    command = [sys.executable, "-m", "doorstep.cli.main", "up", *how, "--home", str(home)]
    (tmp_path / "none.pem").write_text("no certificate")
    more = {"bad-tls": [f"--tls-cert={tmp_path}/none.pem", f"--tls-key={tmp_path}/none.pem"]}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        more["port-in-use"] = ["--data-port", str(taken.getsockname()[1])]
        for code, words in more.items():
            ended = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
            assert ended.returncode == 1
            assert f"{code}: " in ended.stderr
            assert not home.exists()
    assert f"hint: doorstep up --home {home} --data-port 0 takes" in ended.stderr


@pytest.mark.parametrize("where", ["a-file", "a-file/below", "a-file/deep/below"])
def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path, where: str):
    (tmp_path / "a-file").write_text("here first")
    said = refusal(tmp_path / where)
    assert said.startswith("home-not-writable")
    assert str(tmp_path / where) in said
    assert (tmp_path / "a-file").read_text() == "here first"


def test_a_home_of_a_newer_format_is_refused(tmp_path: Path):
    home = open_home(tmp_path / "home", create=True)
    marker = home.path / "doorstep.toml"
    marker.write_text(marker.read_text().replace("format = 1", "format = 2"))
    assert refusal(home.path).startswith("home-too-new")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_database_of_a_newer_release_is_refused_and_left_as_it_is(tmp_path: Path):
    home = open_home(tmp_path / "home", create=True)
    file = home.path / "doorstep.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('v9999')")
    connection.close()
    before = digest(file)
    said = refusal(home.path)
    assert said.startswith("database-too-new")
    assert "v9999" in said
    assert digest(file) == before
    assert holder_of_state(home.run / "node") is None


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"x" * 4096]
)
def test_a_database_file_that_is_not_one_is_refused_and_left_as_it_is(
    tmp_path: Path, content: bytes
):
    home = open_home(tmp_path / "home", create=True)
    file = home.path / "doorstep.db"
    file.write_bytes(content)
    said = refusal(home.path)
    assert said.startswith("not-a-database")
    assert str(file) in said
    assert file.read_bytes() == content
