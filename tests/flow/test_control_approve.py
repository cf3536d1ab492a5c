"""Four eyes over HTTP: who registered or asks does not say yes; a yes is for what was seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doorstep.compose.control import ControlPlane
from doorstep.core.errors import RefusedError
from doorstep.core.instant import SystemClock
from doorstep.kernel.db import Database
from doorstep.kernel.home import open_home
from doorstep.operations import table
from doorstep.release.surface import Approvals, ApproveVersion, ChangeRelease, Release, StartRelease
from doorstep.testing.installation import RunningInstallation

LONG = "{shadow: {requests: 0}, steps: [20%, 50%], dwell: 10m, bake: 10m}"
FOUR_EYES = "approve: {people: 2}"


@pytest.fixture
def people(installation: RunningInstallation) -> Iterator[ControlPlane]:
    """The same installation, for people who come another way than by the local token."""
    home = open_home(installation.home)
    clock = SystemClock()
    database = Database(home.database_url, clock)
    try:
        yield ControlPlane(home, database, clock, table(), {}, installation.home)
    finally:
        database.close()


def approve(people: ControlPlane, version: str, by: str) -> Approvals:
    found = people.ask("version.approve", ApproveVersion(version=version, why="seen"), by=by)
    assert isinstance(found, Approvals)
    return found


def refused(what, code: str) -> str:
    with pytest.raises(RefusedError) as caught:
        what()
    assert caught.value.code == code
    return caught.value.message


def test_a_release_waits_for_people_who_neither_registered_nor_ask(
    installation: RunningInstallation, people: ControlPlane
):
    here, client, version = installation, installation.client, "eyes@1"
    here.register("eyes", release=LONG, more=FOUR_EYES)
    refused(lambda: approve(people, version, "bea"), "gate-not-passed")
    client.run_gates(version)
    said = refused(lambda: client.start_release(version), "not-approved")
    assert said == (
        "eyes@1 needs the yes of 2 people who neither registered it (local) nor ask for its "
        "release (local); nobody gave it"
    )
    refused(lambda: client.approve(version, "my own"), "own-version")
    refused(lambda: client.approve(version, " "), "no-reason")
    for _ in range(2):
        given = approve(people, version, "bea")
        assert [one.by for one in given.given] == ["bea"], "twice is once"
    assert refused(lambda: client.start_release(version), "not-approved").endswith("1 gave it: bea")
    assert [one.by for one in approve(people, version, "cem").given] == ["bea", "cem"]
    asked = StartRelease(version=version)
    said = refused(lambda: people.ask("release.start", asked, by="cem"), "not-approved")
    assert said.endswith("1 gave it: bea"), "who asks does not count"
    here.settled(client.start_release(version).id)
    first = client.history("eyes").served[0]
    assert (first.asked_by, first.approved_by) == ("local", ("bea", "cem"))


def test_a_yes_dies_with_what_the_gates_rested_on_and_holds_back_a_promotion(
    installation: RunningInstallation, people: ControlPlane
):
    here, client = installation, installation.client
    here.register("dies", release=LONG)
    here.serve("dies@1")
    client.promote("dies", "the first")
    here.register("dies", seed=2, release=LONG, more="approve: {people: 1}")
    client.run_gates("dies@2")
    approve(people, "dies@2", "bea")
    here.register(
        "dies", seed=3, release=LONG, more='approve: person\ngates: {quality: ["auc >= 0.01"]}'
    )
    refused(lambda: client.start_release("dies@2"), "gate-outdated")
    client.run_gates("dies@2")
    refused(lambda: client.start_release("dies@2"), "not-approved")
    approve(people, "dies@2", "bea")
    release = here.settled(client.start_release("dies@2").id)
    promote = ChangeRelease(release=release.id, why="enough")
    refused(lambda: people.ask("release.promote", promote, by="bea"), "not-approved")
    assert client.release(release.id).state == "step"
    found: Release = client.promote(release.id, "enough")
    assert found.state == "done"
    assert client.verify_ledger().intact
