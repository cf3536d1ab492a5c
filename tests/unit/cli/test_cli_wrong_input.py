"""Wrong input: what it is, what was expected, what to do. Never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_case import Run

INIT = "init model.pkl --train {} --label default"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (INIT.format("gone.csv"), "no-file: there is no file gone.csv"),
        (INIT.format("folder"), "no-file: folder is a folder, not a file"),
        (INIT.format("empty.csv"), "empty-table: empty.csv is empty (0 bytes)"),
        (INIT.format("train.csv --out folder --force"), "not-a-file: folder is a folder"),
        ("list --url nonsense", "bad-url: the server 'nonsense' is not a URL"),
        ("status", "hint: start one: doorstep up -d"),
        ("journal restore --from s3://b/p", "hint: doorstep up --store s3://b/p"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    loans: Path, run: Run, words: str, said: str
) -> None:
    (loans / "folder").mkdir()
    (loans / "empty.csv").touch()
    found = run(words)
    assert said in found.text
    assert found.code in (1, 2, 5)
    assert "Traceback" not in found.text
    assert "hint: " in found.text or "expected" in found.text


def test_a_table_that_is_not_utf8_says_how_to_save_it(loans: Path, run: Run) -> None:
    run("trust model.pkl --why mine")
    (loans / "latin.csv").write_bytes("name,default\nCafé,yes\n".encode("latin1"))
    said = run(INIT.format("latin.csv"))
    assert "latin.csv cannot be read: it is not UTF-8 text" in said.text
    assert "hint: save it as UTF-8: iconv -f latin1 -t utf-8 latin.csv > utf8.csv" in said.text


def test_a_file_that_the_system_refuses_is_no_fault_of_ours(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from doorstep.cli import checking

    (here / "doorstep.yaml").write_text("doorstep: 1\n")
    # Not chmod: who is root may read it all the same.
    (here / "loop.yaml").symlink_to("loop.yaml")
    monkeypatch.setattr(checking, "read_text", lambda path: path.read_bytes())
    said = run("check loop.yaml")
    assert "bad-file: loop.yaml cannot be used" in said.text
    assert said.code == 1
