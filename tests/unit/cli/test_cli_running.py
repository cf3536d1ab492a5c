"""Starting `up` in the background: whose words are believed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from cli_case import Run

from doorstep.cli import running
from doorstep.cli.commands_start import say_ready
from doorstep.compose.up import Ready
from doorstep.core.errors import RefusedError
from doorstep.serve import protos


def ready_of(pid: int) -> str:
    ready = Ready(console_url="c", data_url="d", health_url="h", invite="i", home="/h", pid=pid)
    return msgspec.json.encode(ready).decode()


@pytest.mark.parametrize("is_new", [True, False])
def test_up_says_which_home_it_runs_over(is_new: bool, capsys: pytest.CaptureFixture[str]) -> None:
    ready = msgspec.json.decode(ready_of(1), type=Ready)
    say_ready(msgspec.structs.replace(ready, home_is_new=is_new), as_json=False)
    said = capsys.readouterr().err
    assert "  home /h" in said
    assert ("made now" in said) is is_new


def started(output: Path, program: str) -> subprocess.Popen[bytes]:
    with output.open("wb") as out:
        return subprocess.Popen([sys.executable, "-c", program], stdout=out, stderr=out)


def test_the_ready_of_another_process_is_not_taken_for_ours(tmp_path: Path) -> None:
    output = tmp_path / "out"
    child = started(output, f"print({ready_of(1)!r})")
    with pytest.raises(RefusedError, match="ended with code 0"):
        running._wait_ready(child, output)


def test_the_ready_of_the_process_that_was_started_is_believed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    program = f"import os; print({ready_of(777)!r}.replace('777', str(os.getpid())))"
    child = started(output, program)
    assert running._wait_ready(child, output).pid == child.pid
    child.wait()


@pytest.mark.parametrize("how", ["", "-d"])
@pytest.mark.parametrize(("code", "ended"), [("missing-extra", 2), ("not-a-database", 1)])
def test_what_up_refuses_leaves_no_home(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, how: str, code: str, ended: int
) -> None:
    ports = "--data-port 0 --health-port 0 --control-port 0"
    if code == "missing-extra":
        monkeypatch.setattr(protos, "find_spec", lambda _name: None)
        ports += " --grpc-port 0"
    else:
        file = tmp_path / "elsewhere.db"
        file.write_bytes(b"not a database at all" * 100)
        monkeypatch.setenv("DOORSTEP_DATABASE", f"sqlite:///{file}")
    said = run(f"up {how} {ports}")
    assert (said.code, f"{code}: " in said.text) == (ended, True), said.text
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("words", ["--cert mine.pem", "--cert-key mine.key"])
def test_half_a_client_certificate_is_refused(run: Run, words: str) -> None:
    said = run(f"predict loans rows.csv {words}")
    assert (said.code, "half-cert: " in said.text) == (2, True), said.text


def test_what_earlier_attempts_said_is_kept_for_an_hour(tmp_path: Path) -> None:
    for name, age_s in (("up-new.out", 0.0), ("up-old.out", 3700.0), ("up.log", 3700.0)):
        (tmp_path / name).write_text("x")
        at_s = time.time() - age_s
        os.utime(tmp_path / name, (at_s, at_s))
    running._sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"up-new.out", "up.log"}
