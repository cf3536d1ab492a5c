"""The command line run in this process, in a folder of its own, with a user of its own."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from cli_case import Run, Said

from doorstep.cli.main import main
from loans_case import write_case


@pytest.fixture(scope="session")
def loans_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its data; not to be written to."""
    folder = tmp_path_factory.mktemp("case") / "loans"
    folder.mkdir()
    write_case(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: empty, named `loans`."""
    folder = tmp_path / "loans"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("DOORSTEP_HOME", str(tmp_path / "home"))
    for name in ("DOORSTEP_URL", "DOORSTEP_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOORSTEP_TRUST", str(tmp_path / "trust"))
    return folder


@pytest.fixture
def loans(here: Path, loans_case: Path) -> Path:
    """The working folder with a model and its data."""
    shutil.copytree(loans_case, here, dirs_exist_ok=True)
    return here


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `doorstep WORDS` as the console script does."""

    def run_words(words: str) -> Said:
        printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["doorstep", *shlex.split(words)])
            patch.setattr(sys, "stdout", printed)
            patch.setattr(sys, "stderr", printed)
            with pytest.raises(SystemExit) as ended:
                main()
                raise SystemExit(0)
        code = ended.value.code
        assert isinstance(code, int | None)
        printed.seek(0)
        return Said(code or 0, printed.read())

    return run_words
