"""Edits of the service file: what they would change, and that they take effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from control_cases import Unchanged, newest_plan

from doorstep.core.errors import InputError
from doorstep.core.plan import ServicePlan
from doorstep.testing.installation import RunningInstallation, service_file

LONG = "{shadow: {requests: 0}, steps: [20%, 50%], dwell: 10m, bake: 10m}"


def described(here: RunningInstallation, service: str) -> dict[str, Any]:
    answer = httpx.get(f"{here.data_url}/v1/services/{service}", trust_env=False, timeout=30)
    found: dict[str, Any] = answer.json()
    return found


def planned(here: RunningInstallation, service: str) -> ServicePlan:
    """The service as the newest published plan has it."""
    document = here.home / "plan" / f"{newest_plan(here).services[service]}.json"
    return msgspec.json.decode(document.read_bytes(), type=ServicePlan)


def test_a_service_that_has_versions_keeps_its_label(installation: RunningInstallation):
    client, service = installation.client, "labelled"
    other = service_file(service).replace("label: label", "label: other")
    for text in (other, service_file(service)):
        assert client.apply(text).created, "without a version any label will do"
    installation.register(service)
    for ask in (client.diff, client.apply):
        with Unchanged(installation), pytest.raises(InputError, match="predicts 'label'") as caught:
            ask(other)
        assert caught.value.code == "wrong-label"


def test_an_edit_is_shown_and_takes_effect_when_it_is_applied(installation: RunningInstallation):
    here, client, service = installation, installation.client, "edited"
    here.register(service, release=LONG)
    here.serve(f"{service}@1")
    assert described(here, service)["timeout_ms"] == 1000
    more = 'serve: {timeout: 2s}\nmonitor: {quality: ["auc >= 0.5"]}'
    edited = service_file(service, LONG, more)
    with Unchanged(here):
        found = client.diff(edited)
    assert (found.service, found.revision, found.is_same) == (service, 1, False)
    said = {one.key: (one.now, one.after) for one in found.changes}
    assert said == {"serve.timeout": ("1s", "2s"), "monitor.quality": ("[]", '["auc >= 0.5"]')}
    applied = client.apply(edited)
    assert (applied.revision, applied.created) == (2, True)
    assert set(applied.changed) == set(said)
    event = client.history(service).events[0]
    assert event.kind == "service.applied"
    assert "revision 2" in event.sentence
    here.wait(lambda: described(here, service)["timeout_ms"] == 2000, "the timeout on the node")
    promises = [one.text for one in client.monitor(service).promises]
    assert "auc >= 0.5" in promises
    # The same file again changes nothing, and says so.
    with Unchanged(here):
        again, same = client.apply(edited), client.diff(edited)
    assert (again.revision, again.created, again.changed) == (2, False, ())
    assert (same.is_same, same.changes) == (True, ())


def test_a_file_that_is_wrong_is_refused_by_both_and_changes_nothing(
    installation: RunningInstallation,
):
    wrong = service_file("edited-wrong", more="serve: {timeuot: 2s}")
    with Unchanged(installation):
        for ask in (installation.client.diff, installation.client.apply):
            with pytest.raises(InputError, match="did you mean timeout") as refused:
                ask(wrong)
            assert refused.value.code == "bad-service-file"


def test_a_release_in_flight_keeps_what_it_began_with(installation: RunningInstallation):
    here, client, service = installation, installation.client, "in-flight"
    here.register(service, release=LONG)
    here.serve(f"{service}@1")
    here.register(service, seed=2, release=LONG)
    begun = here.serve(f"{service}@2")
    other = "{shadow: {requests: 0}, steps: [90%], dwell: 1s, bake: 1s, waves: "
    other += '[{name: north, match: {region: "north"}}]}'
    edited = service_file(service, other, "serve: {timeout: 3s}").replace(
        "{key: id}", "{key: id, unit: customer}"
    )
    client.apply(edited)
    here.wait(lambda: planned(here, service).timeout_ms == 3000, "the plan of the revision")
    plan = planned(here, service)
    assert (plan.key, plan.unit, plan.segments) == ("id", "", ())
    assert plan.release is not None
    assert plan.release.shares == {"": 0.2}
    assert client.release(begun.id).shares == (0.2, 0.5)
    here.settled(client.rollback(service, "enough").id)
    plan = here.wait(
        lambda: found if (found := planned(here, service)).unit else None, "the edited unit"
    )
    assert (plan.unit, [one.name for one in plan.segments]) == ("customer", ["north"])


def test_an_edit_of_what_is_recorded_is_no_evidence_against_a_challenger(
    installation: RunningInstallation,
):
    here, client, service = installation, installation.client, "unrecorded"
    release = "{shadow: {requests: 5000}, steps: [50%], dwell: 10m, bake: 10m}"
    here.register(service, release=release)
    here.serve(f"{service}@1")
    here.register(service, seed=2, release=release)
    here.serve(f"{service}@2")
    plan = planned(here, service)
    assert plan.release is not None
    assert (plan.release.state, plan.release.sample) == ("shadow", 1.0)
    client.apply(service_file(service, release, "serve: {record: no-inputs}"))
    here.wait(lambda: planned(here, service).record == "no-inputs", "the plan of the revision")
    plan = planned(here, service)
    assert plan.release is not None
    assert (plan.release.state, plan.release.sample) == ("shadow", 0.0)
    client.rollback(service, "enough")


def test_the_commands_say_what_changes_and_what_it_loosens(
    installation: RunningInstallation, tmp_path: Path
):
    here, service = installation, "commanded"
    gates = 'gates: {quality: ["auc >= 0.6"]}'
    here.client.apply(service_file(service, more=gates))
    file = tmp_path / "doorstep.yaml"
    file.write_text(service_file(service, more=gates.replace("0.6", "0.5")))

    def run(*words: str) -> tuple[int, str, str]:
        said = subprocess.run(
            [sys.executable, "-m", "doorstep.cli.main", *words, str(file), "--home", here.home],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return said.returncode, said.stdout, said.stderr

    code, out, err = run("diff")
    assert code == 0
    line = next(one for one in out.splitlines() if one.startswith("gates.quality"))
    assert line.split() == [
        *("gates.quality", '["auc', ">=", '0.6"]', '["auc', ">=", '0.5"]'),
        *("when", "gates", "run", "next", "loosens"),
    ]
    assert "loosens what a version must show, or who may: gates.quality" in err
    assert "next: doorstep apply" in err
    code, out, err = run("apply")
    assert (code, "revision 2 of commanded is in effect" in err) == (0, True)
    for command in ("apply", "diff"):
        code, out, err = run(command)
        assert (code, out) == (0, "commanded: no key changes\n")
        assert "revision 2 of commanded is this file already: nothing changes" in err
    file.write_text("# a word\n" + file.read_text())
    assert "only comments and layout differ" in run("diff")[2]
    file.write_bytes(b"\xff")
    assert run("diff")[0] == 1
