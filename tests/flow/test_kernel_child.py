"""Children end with the process that started them, in time, and answer as soon as they have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorstep.core.errors import InputError, RefusedError
from doorstep.kernel.child import allow_children, end_children, run_child

PATIENCE_S = 60.0
SUBJECT = """
import os, pathlib, sys, time
from doorstep.core.errors import InputError

def main(request):
    what, _, name = request.decode().partition(" ")
    if what == "pid":
        return str(os.getpid()).encode()
    if what == "echo":
        return request
    if what == "where":
        return repr((sys.path, sys.stdin.read())).encode()
    if what == "refuse":
        raise InputError("bad-thing", "it is bad", "mend it")
    if what == "break":
        raise RuntimeError("it is broken from now on")
    if what == "exit":
        print("last words", file=sys.stderr, flush=True)
        os._exit(7)
    if what == "leave":
        if os.fork() == 0:
            os.setsid()
            pathlib.Path(name).write_text(str(os.getpid()))
            time.sleep(600)
        while not (pathlib.Path(name).exists() and pathlib.Path(name).read_text()):
            time.sleep(0.01)
        return b"answered"
    if what == "leave-and-exit":
        if os.fork() == 0:
            os.setsid()
            pathlib.Path(name).write_text(str(os.getpid()))
            time.sleep(600)
        while not (pathlib.Path(name).exists() and pathlib.Path(name).read_text()):
            time.sleep(0.01)
        os._exit(7)
    if os.fork() == 0:
        time.sleep(600)
    pathlib.Path(name).write_text(str(os.getpid()))
    time.sleep(600)
"""
PARENT = """
import sys
from doorstep.kernel.child import run_child
run_child("subject", b"hang " + sys.argv[1].encode(), timeout_s=600)
"""


@pytest.fixture(autouse=True)
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "subject.py").write_text(SUBJECT)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def pid_in(path: Path) -> int:
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.02)
    raise TimeoutError("the child did not begin")


def wait_group_gone(group: int) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while _members(group):
        assert time.monotonic() < until_s, "somebody of the group is still there"
        time.sleep(0.02)


def _members(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_requests_and_answers_of_any_size_pass() -> None:
    for size in (0, 1, 70_000, 3_000_000):
        request = b"echo " + b"x" * size
        assert run_child("subject", request, timeout_s=60) == request


def test_a_childs_refusal_is_raised_here() -> None:
    with pytest.raises(InputError) as refused:
        run_child("subject", b"refuse", timeout_s=60)
    assert (refused.value.code, refused.value.hint) == ("bad-thing", "mend it")


def test_a_child_that_ends_without_an_answer_is_named_with_its_last_words() -> None:
    with pytest.raises(RefusedError, match="code 7: last words") as refused:
        run_child("subject", b"exit", timeout_s=60)
    assert refused.value.code == "child-died"


def test_a_child_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    for timeout_s in (3, 10, 30):  # on a busy machine it may not have begun by then
        with pytest.raises(RefusedError) as refused:
            run_child("subject", b"hang " + os.fsencode(path), timeout_s=timeout_s)
        assert refused.value.code == "child-timed-out"
        if path.exists():
            break
    wait_group_gone(pid_in(path))


def test_what_a_child_left_behind_holds_no_answer_back(tmp_path: Path) -> None:
    """The timeout is far longer than the suite may take."""
    left = tmp_path / "left"
    assert run_child("subject", b"leave " + os.fsencode(left), timeout_s=600) == b"answered"
    os.kill(pid_in(left), signal.SIGKILL)


def test_what_a_dead_child_left_behind_holds_its_end_not_back(tmp_path: Path) -> None:
    left = tmp_path / "left"
    with pytest.raises(RefusedError, match="code 7"):
        run_child("subject", b"leave-and-exit " + os.fsencode(left), timeout_s=600)
    os.kill(pid_in(left), signal.SIGKILL)


def test_a_hanging_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "pid")])
    child = pid_in(tmp_path / "pid")
    assert len(_members(child)) == 2
    parent.kill()
    parent.wait()
    wait_group_gone(child)


def asked_pid(kept_s: float = PATIENCE_S) -> int:
    return int(run_child("subject", b"pid", timeout_s=60, kept_s=kept_s))


@pytest.fixture
def ended() -> Iterator[None]:
    yield
    end_children()
    allow_children()


@pytest.mark.usefixtures("ended")
def test_a_child_that_is_kept_answers_again_also_after_a_refusal() -> None:
    first = asked_pid()
    with pytest.raises(InputError):
        run_child("subject", b"refuse", timeout_s=60, kept_s=PATIENCE_S)
    assert asked_pid() == first
    assert int(run_child("subject", b"pid", timeout_s=60)) != first


@pytest.mark.usefixtures("ended")
def test_a_kept_child_that_died_in_the_meantime_is_replaced() -> None:
    first = asked_pid()
    os.kill(first, signal.SIGKILL)
    assert asked_pid() != first


@pytest.mark.usefixtures("ended")
def test_a_kept_child_that_failed_is_replaced() -> None:
    first = asked_pid()
    with pytest.raises(RefusedError, match="broken from now on"):
        run_child("subject", b"break", timeout_s=60, kept_s=PATIENCE_S)
    assert asked_pid() != first


def test_a_kept_child_ends_by_itself_when_nobody_asks() -> None:
    wait_group_gone(asked_pid(kept_s=0.01))


def test_a_kept_child_ends_with_the_children() -> None:
    first = asked_pid()
    end_children()
    allow_children()
    wait_group_gone(first)


@pytest.mark.usefixtures("ended")
def test_a_kept_child_that_takes_too_long_is_ended_and_replaced(tmp_path: Path) -> None:
    first, path = asked_pid(), tmp_path / "pid"
    with pytest.raises(RefusedError) as refused:
        run_child("subject", b"hang " + os.fsencode(path), timeout_s=3, kept_s=PATIENCE_S)
    assert refused.value.code == "child-timed-out"
    wait_group_gone(first)
    assert asked_pid() != first


def test_ending_the_children_frees_who_waits_and_starts_no_more(tmp_path: Path) -> None:
    found: list[BaseException] = []

    def ask() -> None:
        try:
            run_child("subject", b"hang " + os.fsencode(tmp_path / "pid"), timeout_s=600)
        except RefusedError as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    child = pid_in(tmp_path / "pid")
    end_children()
    try:
        asking.join(PATIENCE_S)
        assert [one.code for one in found] == ["child-died"]  # type: ignore[attr-defined]
        assert "stopping" in str(found[0])
        wait_group_gone(child)
        with pytest.raises(RefusedError, match="stopping"):
            run_child("subject", b"echo", timeout_s=60)
    finally:
        allow_children()
    assert run_child("subject", b"echo", timeout_s=60) == b"echo"


def test_the_working_folder_is_not_imported_from_and_standard_input_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("queue", "resource", "json", "traceback", "selectors"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    path, standard_input = eval(run_child("subject", b"where", timeout_s=60))
    assert not {"", ".", str(tmp_path)} & set(path)
    assert standard_input == ""
    assert not (tmp_path / "mark").exists()
