from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doorstep.core.errors import InputError
from doorstep.kernel.files import PART_LENGTH_MAX, confine, sha256_of, write_atomic

ROOT = Path("/nowhere/root")
PIECES = [
    "..",
    ".",
    "",
    "/",
    "\\",
    "\0",
    "a",
    "C:",
    "~",
    "%2e%2e",
    "\u2025",
    " ",
    "\n",
    "é",
    "\ud800",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=8).map("".join) | st.text())
@example("../../etc/passwd")
@example("a/../../b")
@example("/etc/passwd")
@example("C:\\windows")
@example("\\\\host\\share")
@example("a/./b")
@example("a\0.onnx")
def test_whatever_is_let_through_stays_inside_the_folder(relative: str):
    try:
        path = confine(ROOT, relative)
    except InputError as error:
        assert error.code == "unsafe-path"
        return
    assert Path(os.path.normpath(path)) == path
    assert path.is_relative_to(ROOT) and path != ROOT
    assert path.relative_to(ROOT).as_posix() == relative


@pytest.mark.parametrize(
    "relative",
    [
        "", ".", "..", "../a", "a/..", "a/../b", "/a", "//a", "a//b", "a/", "./a", "a\\b", "..\\a",
        "C:", "C:/a", "c:a", "a\0b", "a\nb", "a\x7fb", "\ud800", "a" * (PART_LENGTH_MAX + 1),
        "a/" * 600 + "b",
    ],
)  # fmt: skip
def test_hostile_paths_are_refused(relative: str):
    with pytest.raises(InputError) as refused:
        confine(ROOT, relative)
    assert refused.value.code == "unsafe-path"


@pytest.mark.parametrize(
    "relative", ["a", "model/onnx/model.onnx", "...", "..a", "a..", "%2e%2e", "~", "ü/é", "a b"]
)
def test_plain_paths_are_let_through(relative: str):
    assert confine(ROOT, relative) == ROOT / relative


def test_a_path_through_a_symbolic_link_is_refused(tmp_path: Path):
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "file").symlink_to("/etc/passwd")
    (tmp_path / "dangling").symlink_to("/nowhere/at/all")
    for relative in ("out/passwd", "out", "file", "dangling"):
        with pytest.raises(InputError, match="symbolic link"):
            confine(tmp_path, relative)


def test_the_root_itself_may_be_reached_by_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert confine(tmp_path / "link", "a") == tmp_path / "link" / "a"


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path):
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", b"new", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_failed_atomic_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_digest_is_of_what_is_left_in_the_stream():
    stream = io.BytesIO(b"xabc")
    stream.read(1)
    assert sha256_of(stream).startswith("ba7816bf8f01cfea")
