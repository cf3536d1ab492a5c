"""`doorstep bench` on a real installation: what it says and sends, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from doorstep.testing.installation import RunningInstallation

PROMISE = 'monitor: {slo: ["p99 <= 60 s"]}\nserve: {timeout: 60s}'
QUICK = ("--seconds", "0.3", "--connections", "4")


def bench(here: RunningInstallation, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "doorstep.cli.main", "bench", *words, "--home", str(here.home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def code_of(said: subprocess.CompletedProcess[str]) -> str:
    return str(json.loads(said.stdout)["error"]["code"])


def served(here: RunningInstallation, name: str, **words: Any) -> None:
    here.register(name, **words)
    here.client.promote(here.serve(f"{name}@1").id, "to be loaded")


def test_a_service_is_loaded_with_rehearsals_and_sized(
    installation: RunningInstallation, tmp_path: Path
) -> None:
    served(installation, "bench-a", more=PROMISE)
    file = tmp_path / "rows.csv"
    file.write_text("x0,x1,x2\n" + "".join(f"{at},0.5,1.0\n" for at in range(20)))
    plot = tmp_path / "plot.html"
    said = bench(installation, "bench-a", str(file), *QUICK, "--json", "--plot", str(plot))
    found = json.loads(said.stdout)
    assert said.returncode in (0, 1), said.stderr  # 1: a busy machine held no rate
    steps = found["measured"]["steps"]
    rates = [one["offered"] for one in steps]
    assert len(steps) == 8
    assert rates == sorted(rates)
    assert all(one["errors"] == 0 and one["cpu_ms"] > -1 for one in steps)
    assert all(set(one["statuses"]) == {"200"} for one in steps)
    assert found["sent"] == "20 rows of rows.csv as rehearsals"
    assert [one["load"] for one in found["sizing"]] == ["1000 users", "1000000 users"]
    assert found["measured"]["calibration"]["cpu_ms"] > 0
    assert "plotly" in plot.read_text()
    live = installation.client.traffic("bench-a", kind="live")
    rehearsed = installation.client.traffic("bench-a", kind="rehearsal")
    assert sum(one.requests for one in live.buckets) == 0
    assert sum(one.requests for one in rehearsed.buckets) > 0
    assert installation.client.monitor("bench-a").errors is None
    assert sum(installation.client.status("bench-a")[0].requests) == 0

    there = tmp_path / "there.json"
    there.write_text(said.stdout)
    words = ("--calibration", str(there), "--load", "50/s", "--price", "0.5", "--live")
    said = bench(installation, "bench-a", *QUICK, *words)
    assert said.returncode in (0, 1), said.stderr
    assert "made from the contract as live requests" in said.stdout
    assert "offered/s  answered/s" in said.stdout
    assert "SLO p99 <= 60000 ms: kept" in said.stdout
    live = installation.client.traffic("bench-a", kind="live")
    assert sum(one.requests for one in live.buckets) > 0


def test_what_cannot_be_loaded_is_refused_with_the_next_command(
    installation: RunningInstallation, tmp_path: Path
) -> None:
    assert code_of(bench(installation, "nobody", "--json")) == "no-service"
    installation.register("bench-b")
    said = bench(installation, "bench-b", "--json")
    assert (said.returncode, code_of(said)) == (1, "nothing-released")
    assert "doorstep release start" in said.stderr
    installation.serve("bench-b@1")
    assert code_of(bench(installation, "bench-b", "--json")) == "release-running"
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    said = bench(installation, "bench-b", "--calibration", str(bad), "--json")
    assert code_of(said) == "bad-calibration"
    assert bench(installation, "bench-b", "--load", "many").returncode == 2
    assert bench(installation).returncode == 2


def test_production_wants_live_to_be_said(tmp_path: Path) -> None:
    environ = {"DOORSTEP_ENVIRONMENT": "production"}
    with RunningInstallation(tmp_path / "home", environ=environ) as here:
        served(here, "loans")
        said = bench(here, "loans", "--json")
        assert code_of(said) == "rehearsal-in-production"
        assert "--live" in said.stderr


def test_without_a_server_the_hint_starts_one(tmp_path: Path) -> None:
    said = bench(RunningInstallation(tmp_path / "home"), "loans")
    assert said.returncode == 5
    assert "doorstep up" in said.stderr
