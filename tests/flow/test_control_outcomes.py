"""Outcomes that are told to the control plane."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from doorstep.core.errors import InputError
from doorstep.core.outcome import OutcomeGiven
from doorstep.core.record import OutcomeRecord
from doorstep.journal.rows import tail_parts
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.telling import CONTROL_NODE
from doorstep.testing.installation import RunningInstallation


def recorded(here: RunningInstallation) -> int:
    """Outcomes in the control plane's journal, wherever its compactor has brought them."""
    snapshots = [one for one in take_snapshots(here.home) if one.folder.name == CONTROL_NODE]
    parts = [one.part for one in tail_parts(snapshots)]
    kept = sum(file.rows for one in snapshots for file in one.files if file.holds == "outcomes")
    return kept + sum(isinstance(one, OutcomeRecord) for one in parts)


def test_outcomes_that_the_service_cannot_have_are_refused_whole(
    installation: RunningInstallation,
):
    client = installation.client
    installation.register("told")
    good = OutcomeGiven(key="k1", label="good")
    assert client.record_outcomes("told", [good]) == 1
    before = recorded(installation)
    for bad in (OutcomeGiven(key="k2", label="gut"), OutcomeGiven(key="k2", value=1.0)):
        with pytest.raises(InputError, match=r"outcome 1: found .*told knows: 'bad', 'good'") as no:
            client.record_outcomes("told", [good, bad])
        assert (no.value.code, "none was recorded" in no.value.hint) == ("bad-outcome", True)
    assert recorded(installation) == before


def test_a_batch_that_was_recorded_is_not_recorded_again(installation: RunningInstallation):
    client = installation.client
    installation.register("batched")
    given = [OutcomeGiven(key="k1", label="good"), OutcomeGiven(key="k2", label="bad")]
    before = recorded(installation)
    assert client.record_outcomes("batched", given, "0a" * 32) == 2
    assert client.record_outcomes("batched", given, "0a" * 32) == 0
    assert recorded(installation) == before + 2
    assert client.record_outcomes("batched", given, "0b" * 32) == 2
    with pytest.raises(InputError, match="SHA-256"):
        client.record_outcomes("batched", given, "../x")


def test_a_file_is_told_once_and_its_odd_rows_are_kept_beside(
    installation: RunningInstallation, tmp_path: Path
):
    installation.register("filed")
    path = tmp_path / "repaid.csv"
    rows = "c1,good,2026-11-22\nc2,gut,2026-11-22\nc3,bad,2026-11-23\nc4,,\n"
    path.write_text("case,said,at\n" + rows)

    def tell(*words: str) -> tuple[int, Any]:
        command = [sys.executable, "-m", "doorstep.cli.main", "outcome", "filed", str(path)]
        command += ["--key", "case", "--column", "said", "--json", *words]
        command += ["--home", str(installation.home)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr

    before = recorded(installation)
    code, said = tell("--strict")
    assert code != 0
    assert "none was recorded" in said
    assert recorded(installation) == before
    for expected in ((2, 0), (0, 2)):
        code, said = tell()
        assert (code, said["refused"], said["unknown"]) == (0, 1, 1)
        assert (said["recorded"], said["repeated"]) == expected
    assert recorded(installation) == before + 2
    kept = json.loads(Path(said["kept"]).read_text())
    assert (kept["row"], kept["values"]["case"]) == (2, "c2")


def test_values_of_cases_reach_the_journal_by_both_planes_where_a_unit_is_declared(
    installation: RunningInstallation,
):
    client, unit = installation.client, "monitor: {outcomes: {unit: EUR}}"
    for service, more in (("worth", unit), ("worthless", "")):
        installation.register(service, more=more)
        installation.serve(f"{service}@1")
    body = {"rows": [{"id": "w1", "x0": 1.0, "x1": 0.0, "x2": 0.0}]}
    data_url = client.installation().data_url

    def post(service: str, what: str, sent: Any) -> httpx.Response:
        return httpx.post(f"{data_url}/v1/services/{service}/{what}", json=sent)

    post("worth", "predict", body).raise_for_status()
    valued = {"outcomes": [{"key": "w1", "value": 12.5}]}
    assert post("worth", "outcomes", valued).json() == {"recorded": 1}
    refused = post("worthless", "outcomes", valued)
    assert refused.status_code == 422
    assert "or monitor.outcomes.unit in the service file" in refused.text
    assert client.record_outcomes("worth", [OutcomeGiven(key="w1", label="good")]) == 1
    (one,) = client.predictions("worth", key="w1")
    assert (one.outcome, one.value) == ("good", 12.5)
