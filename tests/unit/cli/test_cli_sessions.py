"""What the commands that need no server say, word by word.

Every file of tests/golden/cli is a session: `$ doorstep ...`, what it prints, and `[exit N]` unless
it ends with 0. DOORSTEP_WRITE_GOLDEN=1 writes what is said now.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from cli_case import Run

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "cli"
SESSIONS = sorted(GOLDEN.glob("*.txt"))
BROKEN = """doorstep: 1
service: Loans
model: {label: default, tsak: binary}
data: {holdout: test.csv}
gates: {quality: ["auc >= lots"]}
release: {steps: [5%, 1%]}
"""


def commands_of(session: str) -> list[str]:
    return [line[2:] for line in session.splitlines() if line.startswith("$ ")]


def steady(text: str, folder: Path) -> str:
    """Without what differs between machines and versions of the libraries."""
    text = text.replace(str(folder.parent), "").replace(os.fspath(folder), ".")
    text = re.sub(r"sha256 [0-9a-f]{12}", "sha256 0123456789ab", text)
    return re.sub(r"signed by \S+@\S+", "signed by me@here", text)


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_session_says_what_its_golden_file_has(path: Path, loans: Path, run: Run) -> None:
    (loans / "broken.yaml").write_text(BROKEN)
    said = []
    for command in commands_of(path.read_text()):
        code, text = run(command.removeprefix("doorstep "))
        said.append(f"$ {command}\n{text.rstrip()}\n" + (f"[exit {code}]\n" if code else ""))
    found = steady("".join(said), loans)
    if os.environ.get("DOORSTEP_WRITE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize(
    "words", ["trust model.pkl", "init model.pkl", "up --data-port 70000", "register", "nothing"]
)
def test_words_that_are_off_end_with_two(words: str, run: Run) -> None:
    assert run(words).code == 2


def test_there_are_sessions() -> None:
    assert len(SESSIONS) >= 5
