"""`doorstep demo`, once: every step goes as told, on real data, with processes that really run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 900
"""Of a machine that is busy with other tests; alone it takes about two minutes."""


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("demo") / "home"
    ran = subprocess.run(
        [sys.executable, "-m", "doorstep.cli.main", "demo", "--no-wait", "--json", "--home", home],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 0, f"{ran.stderr}\n{_logs(home)}"
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def _logs(home: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-3000:] for path in home.glob("run/*.log"))


def numbers(summary: dict[str, Any], step: int) -> dict[str, Any]:
    found: dict[str, Any] = summary["steps"][step - 1]["numbers"]
    return found


def test_every_step_goes_as_told(summary: dict[str, Any]) -> None:
    assert summary["told"]
    verdicts = {one["number"]: one["verdict"] for one in summary["steps"]}
    assert verdicts == dict.fromkeys(range(1, 8), "pass")


def test_the_models_are_as_good_and_bad_as_their_story(summary: dict[str, Any]) -> None:
    found = numbers(summary, 1)
    assert found["held_out"] == 400
    assert found["auc"]["wrong-unit"] < 0.6 < found["auc"]["first"] < found["auc"]["better"]


def test_onnx_serves_because_every_row_agrees(summary: dict[str, Any]) -> None:
    found = numbers(summary, 2)
    assert found["form"] == "onnx"
    assert found["parity_rows"] > 1000


def test_outcomes_are_joined_and_no_request_fails(summary: dict[str, Any]) -> None:
    assert numbers(summary, 3)["outcomes_joined"] >= 300
    for step in (3, 4, 5, 6):
        assert numbers(summary, step)["failed"] == 0
        assert numbers(summary, step)["requests"] > 0


def test_one_bad_version_is_refused_and_the_other_comes_back(summary: dict[str, Any]) -> None:
    found = numbers(summary, 4)
    assert "auc >= champion - 0.005" in found["refused"]
    assert found["rolled_back_from"] in ("shadow", "step")
    assert "errors" in found["reason"]
    assert found["fallbacks"] > 0


def test_the_better_version_goes_through_every_stage(summary: dict[str, Any]) -> None:
    assert numbers(summary, 5)["states"][:3] == ["shadow", "step", "bake"]


def test_the_drift_is_told_and_the_way_back_is_timed(summary: dict[str, Any]) -> None:
    found = numbers(summary, 6)
    assert found["alert"]
    assert found["severity"] in ("warning", "critical")
    assert found["rollback_s"] > 0


def test_the_reasons_add_up_to_the_score(summary: dict[str, Any]) -> None:
    found = numbers(summary, 7)
    total = found["base"] + sum(found["contributions"].values())
    assert total == pytest.approx(found["score"], abs=1e-6)
    assert found["champions"] == [1, 4, 1]


def test_nothing_is_left_running(summary: dict[str, Any]) -> None:
    home = Path(summary["home"])
    assert not (home / "run" / "control.json").exists()
    held = [
        path.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(home).encode() in _command(path)
    ]
    assert held == []


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
