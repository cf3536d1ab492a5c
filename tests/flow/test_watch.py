"""Watching what another service answers: imported, compared, joined with outcomes; never served."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell_case import Shell
from watch_case import FILE, made_rows, weeks_ago, write_csv, write_lines

from doorstep.testing.installation import RunningInstallation
from doorstep.testing.processes import wait_for


@pytest.fixture
def shell(installation: RunningInstallation, tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made._environ["DOORSTEP_HOME"] = str(installation.home)
    return made


def test_a_month_of_another_service_is_imported_once_and_its_drift_is_found(
    installation: RunningInstallation, shell: Shell
) -> None:
    folder, service = shell.folder, "watched-loans"
    (folder / "doorstep.yaml").write_text(FILE.format(service=service))
    rows = made_rows(2000, since_s=weeks_ago(6), until_s=weeks_ago(3), prefix="a")
    write_csv(folder / "train.csv", rows)
    shifted = made_rows(
        2000, since_s=weeks_ago(3), until_s=weeks_ago(1), prefix="b", model="v4", amount=1400.0
    )
    spoiled = [{**shifted[0], "application": "x1", "amount": "much"},
               {**shifted[0], "application": "x2", "answer": "perhaps"}]  # fmt: skip
    write_csv(folder / "month.csv", [*rows, *shifted, *spoiled])

    refused = shell("journal", "import", service, "month.csv", "--strict")
    assert refused.code == 1 and "rows-refused" in refused.told
    found = shell.json("journal", "import", service, "month.csv")
    assert (found["imported"], found["refused"], found["known"]) == (4000, 2, 0), found
    reasons = (folder / "month.csv.refused.jsonl").read_text()
    assert "amount: 'much' is no number" in reasons
    assert "answer 'perhaps' is none of no, yes" in reasons
    assert "the first 1,000 rows of month.csv" in found["reference"]

    again = shell.json("journal", "import", service, "month.csv")
    overlap = write_lines(folder / "overlap.jsonl", shifted[-300:])
    more = shell.json("journal", "import", service, overlap.name)
    assert (again["imported"], again["known"], again["outcomes"]) == (0, 4000, 0)
    assert (more["imported"], more["known"]) == (0, 300)

    client = installation.client
    names = {one.number: one.manifest.lineage.parameters for one in client.versions(service)}
    assert names == {1: {"version": "v3"}, 2: {"version": "v4"}}
    wait_for(lambda: client.findings(service).findings, "the monitors look")
    status = client.status(service)[0]
    assert "amount" in status.drifted and "age" not in status.drifted, status
    assert (status.champion, status.watched) == (None, 2)
    assert "(v4) is watched, served elsewhere: 2,000 rows" in status.headline
    seen = client.monitor(service)
    assert {one.column for one in seen.columns if one.drifted} == {"amount"}
    assert seen.version == 2 and 0.6 < seen.quality["auc"][0] < 0.95 and seen.labelled > 0.9
    shown = shell("monitor", service)
    assert shown.code == 0 and f"{service}@2" in shown.out, shown

    for words in (("release", "start"), ("gate",)):
        said = shell(*words, f"{service}@2")
        assert said.code == 1 and "only-watched" in said.told, said
    assert client.verify_ledger().ok
