"""The access log and traces: a sample, bounded, and nothing that nobody may read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.errors import UsageError
from doorstep.serve import observe as module
from doorstep.serve.node import parse_options
from doorstep.serve.observe import AccessLog, Seen, observers_of
from doorstep.serve.observe_options import ObserveOptions, observe_options, sample_of
from doorstep.serve.traces import parent_of

SEEN = Seen(1_764_000_000_000_000, 1500, "loans", "3", "native", 200, 2, "r1", key="0a1b2c3d4e5f")
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(one) for one in path.read_text().splitlines()]


def test_a_line_has_what_happened_and_no_empty_words(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log", 1.0)
    log.note(SEEN)
    log.flush()
    assert lines(tmp_path / "access.log") == [
        {
            "at": "2025-11-24T16:00:00.000000Z", "latency_us": 1500, "service": "loans",
            "version": "3", "protocol": "native", "status": 200, "rows": 2, "request": "r1",
            "key": "0a1b2c3d4e5f",
        }
    ]  # fmt: skip
    assert (tmp_path / "access.log").stat().st_mode & 0o007 == 0


def test_a_sample_is_about_its_share(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log", 0.25)
    for _ in range(4000):
        log.note(SEEN)
    log.flush()
    assert 800 < len(lines(tmp_path / "access.log")) < 1200


def test_what_does_not_fit_between_two_writes_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINES_MAX", 3)
    log = AccessLog(tmp_path / "access.log", 1.0)
    for _ in range(5):
        log.note(SEEN)
    log.flush()
    assert len(lines(tmp_path / "access.log")) == 4
    assert lines(tmp_path / "access.log")[-1] == {"left_out": 2}


def test_two_workers_share_a_file_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    logs = [AccessLog(path, 1.0, bytes_max=10_000) for _ in range(2)]
    for number in range(400):
        log = logs[number % 2]
        log.note(SEEN._replace(request=f"r{number}"))
        log.flush()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["access.log", "access.log.1"]
    kept = lines(tmp_path / "access.log.1") + lines(path)
    numbers = [int(str(one["request"])[1:]) for one in kept]
    assert numbers == list(range(numbers[0], 400)), "what was kept has no gap"
    assert path.stat().st_size < 10_500
    for log in logs:
        log.close()


def test_a_log_that_was_taken_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(path, 1.0)
    log.note(SEEN)
    log.flush()
    path.rename(tmp_path / "moved")
    log.note(SEEN)
    log.close()
    assert len(lines(path)) == len(lines(tmp_path / "moved")) == 1


def test_a_log_that_cannot_be_written_gives_its_lines_up(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "none" / "access.log", 1.0)
    log.note(SEEN)
    with pytest.raises(FileNotFoundError):
        log.flush()
    log.flush()
    (tmp_path / "none").mkdir()
    log.note(SEEN)
    log.flush()
    assert len(lines(tmp_path / "none" / "access.log")) == 1


def test_a_full_disk_is_an_os_error_for_whoever_flushes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = AccessLog(tmp_path / "access.log", 1.0)
    log.note(SEEN)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        log.flush()


def test_nobody_looks_on_by_default(tmp_path: Path) -> None:
    assert observers_of(ObserveOptions()) == ()
    options = parse_options(["--home", str(tmp_path), "--state", str(tmp_path)])
    assert options.observe == ObserveOptions()


def test_options_go_to_the_node_and_come_back(tmp_path: Path) -> None:
    asked = observe_options(str(tmp_path / "a.log"), "0.25%", "http://127.0.0.1:4318", "100%")
    words = ["--home", str(tmp_path), "--state", str(tmp_path), *asked.words]
    assert parse_options(words).observe == asked
    assert (asked.access_share, asked.trace_share) == (0.0025, 1.0)


@pytest.mark.parametrize("text", ["0%", "101%", "x", "", "5", "-1%", "nan%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        sample_of(text, "--access-sample")
    assert caught.value.code == "bad-sample"


def test_a_trace_goes_on_where_its_caller_says() -> None:
    for flags, is_sampled in ((b"01", True), (b"00", False), (b"03", True), (b"02", False)):
        found = parent_of(b"00-%b-%b-%b" % (TRACE, SPAN, flags))
        assert found is not None
        assert (found.trace, found.span) == (int(TRACE, 16), int(SPAN, 16))
        assert found.is_sampled is is_sampled


@given(st.one_of(st.binary(max_size=80), st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}")))
def test_what_is_no_trace_context_begins_a_new_trace(header: bytes) -> None:
    assert parent_of(header) is None


def test_zeros_are_no_trace() -> None:
    assert parent_of(b"00-%b-%b-01" % (b"0" * 32, SPAN)) is None
    assert parent_of(b"00-%b-%b-01" % (TRACE, b"0" * 16)) is None
