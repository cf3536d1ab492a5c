"""The goal of a service, measured per version from what became true of real answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from test_control_quality import as_model, live

from doorstep.testing.installation import RunningInstallation

LONG = "{shadow: {requests: 0}, steps: [50%], dwell: 10m, bake: 10m, deadline: {after: 1h}}"
MORE = 'goal: "accuracy >= 0.9"\nmonitor: {drift: {window: 10s}}'


def test_each_version_keeps_the_goal_or_breaks_it(tmp_path: Path) -> None:
    with RunningInstallation(tmp_path / "home", workers=1, monitor_s=0.5) as here:
        here.register("promised", release=LONG, more=MORE)
        here.serve("promised@1")
        (status,) = here.client.status("promised")
        assert status.objective == "not-yet-known"
        here.client.promote("promised", "the first")
        here.register("promised", seed=7, release=LONG, more=MORE)
        here.serve("promised@2")
        live(here, "promised", as_model(0), 300, 1)

        def both() -> dict[int, str] | None:
            (found,) = here.client.status("promised")
            states = {one.version: one.state for one in found.goal}
            return states if states == {1: "kept", 2: "broken"} else None

        here.wait(both, "a verdict on both versions")
        (status,) = here.client.status("promised")
        assert status.objective == "kept"
        first = next(one for one in status.goal if one.version == 1)
        assert (first.value, first.high) == (1.0, 1.0)
        assert first.low is not None and 0.9 <= first.low < 1.0
        served = {one.version: one.goal for one in here.client.history("promised").served}
        assert served[1].startswith("accuracy >= 0.9: kept, 100 % [")
        assert served[2].startswith("accuracy >= 0.9: broken, ")
        assert "goal accuracy >= 0.9: promised@2 broken" in cli(here, "status", "promised")
        assert "accuracy >= 0.9: kept" in cli(here, "show", "promised@1")
        (shown,) = json.loads(cli(here, "status", "promised", "--json"))
        assert {one["state"] for one in shown["goal"]} == {"kept", "broken"}


def cli(here: RunningInstallation, *words: str) -> str:
    command = [sys.executable, "-m", "doorstep.cli.main", *words, "--home", str(here.home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
