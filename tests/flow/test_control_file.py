"""Service files that change while a release begins, and those that another Doorstep accepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from control_cases import body_of, path_of

from doorstep.cli.asking import ids_of
from doorstep.compose.control import ControlPlane
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.instant import SystemClock
from doorstep.core.people import SignedIn
from doorstep.kernel.db import Database
from doorstep.kernel.event import Object
from doorstep.kernel.home import open_home
from doorstep.operations import table
from doorstep.register import store as versions
from doorstep.release import actions
from doorstep.release.surface import Release, StartRelease
from doorstep.testing.installation import RunningInstallation, service_file

STEPS = "{{shadow: {{requests: 0}}, steps: [{}%], dwell: 10m, bake: 10m}}"


@pytest.fixture
def beside(installation: RunningInstallation) -> Iterator[ControlPlane]:
    """A control plane of this process, over the same home."""
    home = open_home(installation.home)
    with closing(Database(home.database_url, SystemClock())) as database:
        yield ControlPlane(home, database, SystemClock(), table(), {}, installation.home)


@pytest.mark.parametrize("changes", [1, 99])
def test_a_release_begins_with_the_file_that_it_was_measured_for(
    installation: RunningInstallation,
    beside: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    changes: int,
) -> None:
    here, name = installation, f"measured-{changes}"
    here.register(name, release=STEPS.format(1))
    here.serve(f"{name}@1")
    here.client.promote(name, "the first")
    here.register(name, seed=2, release=STEPS.format(1))
    here.client.run_gates(f"{name}@2")
    read_traffic, shares = actions.read_traffic, iter(range(2, 2 + changes))

    def meanwhile(*asked):
        if share := next(shares, 0):
            here.client.apply(service_file(name, STEPS.format(share)))
        return read_traffic(*asked)

    monkeypatch.setattr(actions, "read_traffic", meanwhile)
    asked = StartRelease(version=f"{name}@2")
    if changes == 1:
        begun = beside.ask("release.start", asked, by=SignedIn("bea"))
        assert isinstance(begun, Release)
        assert (begun.state, begun.share) == ("step", 0.02)
        return
    with pytest.raises(RefusedError, match="changed while the champion was measured") as refused:
        beside.ask("release.start", asked, by=SignedIn("bea"))
    assert refused.value.code == "service-changed"
    assert [one.challenger for one in here.client.releases(name)] == [1]


def accept(here: RunningInstallation, service: str, file: str) -> None:
    """As a Doorstep does that has other rules."""
    home = open_home(here.home)
    opened = closing(Database(home.database_url, SystemClock()))
    with opened as database, database.transaction() as unit:
        before = versions.get_service(unit.connection, service)
        row = versions.ServiceRow(
            name=service, revision=before.revision + 1, created_at=before.created_at,
            file=file, applied_at=unit.now(), by="another",
        )  # fmt: skip
        versions.save_revision(unit.connection, row)
        unit.record("service.applied", Object("service", service), {"file": file})


def answered_by(here: RunningInstallation, service: str) -> int:
    asked = httpx.post(here.data_url + path_of(service), content=body_of(1), trust_env=False)
    assert asked.status_code == 200, asked.text
    return int(asked.headers["doorstep-version"].rpartition("@")[2])


def found(here: RunningInstallation, service: str, severity: str) -> str:
    """The finding about its file."""

    def look() -> str | None:
        open_now = here.client.findings(service).findings
        said = [f"{one.sentence} {one.next}" for one in open_now if one.severity == severity]
        return next((one for one in said if "service file" in one), None)

    return str(here.wait(look, f"a {severity} finding about {service}"))


def test_a_file_that_cannot_be_read_any_more_stops_no_other_service_and_not_its_rollback(
    tmp_path: Path,
) -> None:
    with RunningInstallation(tmp_path / "home", monitor_s=0.2) as here:
        for name in ("old", "other"):
            here.register(name, release=STEPS.format(50))
            here.serve(f"{name}@1")
            here.client.promote(name, "the first")
            here.register(name, seed=2, release=STEPS.format(50))
        release = here.serve("old@2")
        good = service_file("old", STEPS.format(50))
        accept(here, "old", good + "serve: {timeout: soon}\n")
        here.restart()
        # The other one is released, and what was told of the old one stays.
        assert here.serve("other@2").state == "step"
        said = found(here, "old", "critical")
        assert "cannot be read" in said and "serve.timeout: found soon" in said
        assert said.endswith("correct doorstep.yaml, then: doorstep apply")
        assert here.client.status("other")[0].state == "releasing"
        assert here.client.status("old")[0].state == "broken"
        assert {one.service for one in here.client.services()} == {"old", "other"}
        with pytest.raises(InputError) as refused:
            here.client.run_gates("old@2")
        assert refused.value.code == "unreadable-service-file"
        # Who served when is not the file's, and who serves whom: a bad version goes at once.
        assert [one.version for one in here.client.history("old").served] == [2, 1]
        here.client.rollback("old", "it is bad")
        assert here.settled(release.id).state == "rolled-back"
        assert {answered_by(here, "old") for _ in range(20)} == {1}
        # A rule that is newer than the file: it is in effect, and it is said.
        late = "monitor: {outcomes: {delay: 30d}}\nprivacy: {keep: 7d}\n"
        with pytest.raises(InputError):
            here.client.apply(good + late)
        accept(here, "old", good + late)
        said = found(here, "old", "warning")
        assert "breaks a rule that is newer" in said and "privacy.keep" in said
        assert here.serve("old@2").state == "step"
        assert ids_of(here.client.service("old")) == {"id"}, "commands read it too"
        here.client.apply(good)
        here.wait(
            lambda: (
                not [
                    one
                    for one in here.client.findings("old").findings
                    if one.subject == "service file"
                ]
            ),
            "the finding to end",
        )
        assert here.client.verify_ledger().intact
