"""Commands as a person would type them: real processes, a home and a user of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

WAIT_S = 300


class Said(NamedTuple):
    """out: what was answered. told: what was said along the way."""

    code: int
    out: str
    told: str


class Shell:
    """A person's shell: one folder, one home, one user."""

    def __init__(self, folder: Path, name: str = "loans") -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self._environ = {
            **{name: value for name, value in os.environ.items() if "DOORSTEP" not in name},
            "DOORSTEP_HOME": str(folder / "home"),
            "DOORSTEP_TRUST": str(folder / "trust"),
            "COLUMNS": "200",
        }

    def __call__(self, *words: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "doorstep.cli.main", *words],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def json(self, *words: str) -> Any:
        said = self(*words, "--json")
        assert said.code == 0, said.told
        return json.loads(said.out)
