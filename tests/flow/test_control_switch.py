"""The kill switch over HTTP and at the command line: who answers then, and what is written down."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

import pytest

from doorstep.core.errors import DoorstepError
from doorstep.testing.installation import RunningInstallation

LONG = "{shadow: {requests: 0}, steps: [50%], dwell: 10m, bake: 10m}"
CHAIN = 'serve: {fallback: [champion, previous, {when: "x0 > 100", answer: bad}, {answer: good}]}'


def refusal(what) -> str:
    with pytest.raises(DoorstepError) as caught:
        what()
    return caught.value.code


class Service:
    """One service of the installation, asked row by row."""

    def __init__(self, here: RunningInstallation, name: str) -> None:
        self.here, self.client, self.name = here, here.client, name

    def answer(self, x0: float = 1.0):
        body = json.dumps({"x0": x0, "x1": 0.5, "x2": 1.0}).encode()
        url = f"{self.here.data_url}/v1/services/{self.name}/predict"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as found:
            return json.load(found)

    def settle(self, plan_number: int) -> None:
        self.here.wait(
            lambda: (self.here.report() or 0) and self.here.report().plan_number >= plan_number,
            f"plan {plan_number}",
        )

    def kill(self, number: int) -> None:
        self.settle(self.client.kill(f"{self.name}@{number}", "it is wrong").plan_number)

    def revive(self, number: int) -> None:
        self.settle(self.client.revive(f"{self.name}@{number}", "it is mended").plan_number)


def test_a_killed_challenger_is_asked_no_more_and_its_release_is_rolled_back(
    installation: RunningInstallation,
) -> None:
    here, client = installation, installation.client
    here.register("switch-a", release=LONG, more=CHAIN)
    here.serve("switch-a@1")
    here.register("switch-a", seed=2, release=LONG, more=CHAIN)
    release = here.serve("switch-a@2").id
    service = Service(here, "switch-a")
    assert {service.answer()["version"] for _ in range(60)} == {1, 2}
    service.kill(2)
    assert {service.answer()["version"] for _ in range(60)} == {1}
    ended = client.release(release)
    assert (ended.state, ended.reason) == (
        "rolled-back", "local: switch-a@2 was killed: it is wrong",
    )  # fmt: skip
    assert client.version("switch-a@2").state == "killed"
    assert refusal(lambda: client.kill("switch-a@2", "again")) == "killed-already"
    assert refusal(lambda: client.start_release("switch-a@2")) == "version-killed"
    service.revive(2)
    assert refusal(lambda: client.revive("switch-a@2", "again")) == "not-killed"
    assert refusal(lambda: client.kill("switch-a@2", " ")) == "no-reason"
    assert refusal(lambda: client.kill("switch-a@9", "x")) == "no-version"
    said = [one.sentence for one in client.events("switch-a").events]
    assert "switch-a@2 may not be asked any more: it is wrong" in said
    assert "switch-a@2 may be asked again: it is mended" in said
    assert client.verify_ledger().intact


def test_a_killed_champion_sends_its_traffic_down_the_chain_and_stops_what_is_compared_with_it(
    installation: RunningInstallation,
) -> None:
    here, client = installation, installation.client
    here.register("switch-b", release=LONG, more=CHAIN)
    here.serve("switch-b@1")
    service = Service(here, "switch-b")
    service.kill(1)
    first = service.answer()
    assert (first["version"], first["fallback"]) == (0, "answer")
    assert first["predictions"][0]["answer"] == "good"
    assert service.answer(101.0)["fallback"] == "rule"
    assert client.release("switch-b").state == "paused"
    seen = client.status("switch-b")[0]
    assert seen.state == "killed"
    assert "switch-b@1 was killed by local at" in seen.headline
    assert "callers get the constant 'bad' where x0 > 100, else the constant 'good'" in (
        seen.headline
    )
    assert 'doorstep revive switch-b@1 --why "..."' in seen.headline
    service.revive(1)
    assert client.status("switch-b")[0].state == "releasing"
    client.resume("switch-b", "it is mended")
    here.register("switch-b", seed=2, release=LONG, more=CHAIN)
    here.serve("switch-b@2")
    service.kill(1)
    # Rolled back, the release would give the service to what nobody may ask.
    assert refusal(lambda: client.rollback("switch-b", "back")) == "version-killed"
    assert client.release("switch-b").state == "paused"
    service.revive(1)
    client.resume("switch-b", "it is mended")
    promoted = client.promote("switch-b", "go")
    service.settle(promoted.plan_number)
    assert service.answer()["version"] == 2
    service.kill(2)
    previous = service.answer()
    assert (previous["version"], previous["fallback"]) == (1, "switch-b@1")
    assert "callers get switch-b@1;" in client.status("switch-b")[0].headline
    assert client.status()[0].state == "killed"
    service.kill(1)
    assert service.answer()["fallback"] == "answer"
    assert refusal(lambda: client.rollback("switch-b", "back")) == "version-killed"
    service.revive(1)
    service.revive(2)
    assert service.answer()["version"] == 2
    assert client.verify_ledger().intact


def test_the_command_line_says_when_every_node_has_heard_it(
    installation: RunningInstallation,
) -> None:
    installation.register("switch-c", release=LONG, more=CHAIN)
    installation.serve("switch-c@1")
    service = Service(installation, "switch-c")

    def doorstep(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "doorstep.cli.main", *words]
        command += ["--home", str(installation.home)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    killed = doorstep("kill", "switch-c@1", "--why", "it is wrong")
    assert (killed.returncode, killed.stdout) == (0, "switch-c@1\n"), killed.stderr
    assert "every node confirmed" in killed.stderr
    assert "callers get the constant 'bad' where x0 > 100, else the constant" in killed.stderr
    undo = f"doorstep revive --home {installation.home} switch-c@1 --why"
    assert f"next: {undo}" in killed.stderr
    assert service.answer()["version"] == 0
    assert ", but killed by local at " in doorstep("history", "switch-c").stdout
    assert "nothing is open" not in doorstep("alerts", "switch-c").stdout
    asked = doorstep("predict", "switch-c", '{"x0": 1, "x1": 1, "x2": 1}')
    assert f"next: doorstep status --home {installation.home} switch-c" in asked.stdout, asked
    doctor = doorstep("doctor")
    assert doctor.returncode == 1
    assert undo in doctor.stdout, doctor.stdout
    again = doorstep("kill", "switch-c@1", "--why", "it is wrong")
    assert again.returncode == 1
    assert "was killed by local: it is wrong" in again.stderr
    revived = doorstep("revive", "switch-c@1", "--why", "mended", "--json")
    assert json.loads(revived.stdout)["version"] == "switch-c@1"
    release = installation.client.release("switch-c").id
    assert f"next: doorstep release resume --home {installation.home} {release}" in revived.stderr
    assert ", but killed" not in doorstep("history", "switch-c").stdout
    assert service.answer()["version"] == 1
