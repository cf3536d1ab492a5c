"""A version that cannot be loaded: its service's fallback chain answers, says so, and gives way."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doorstep.cli.doctoring import examine
from doorstep.core.plan import FallbackStep, ReleasePlan, ServicePlan
from doorstep.core.record import Status
from doorstep.core.report import NodeReport
from doorstep.testing.home import TestHome
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.node import RunningNode
from fakes.faults import Corrupted, broken_model

CHAMPION = FallbackStep(kind="version")
PREVIOUS = FallbackStep(kind="version", version=1)
REFER = FallbackStep(kind="answer", answer="refer")
RULE = FallbackStep(kind="answer", answer="large", when="x0 > 10")


@pytest.fixture
def home(tmp_path: Path) -> TestHome:
    return TestHome(tmp_path / "home")


@pytest.fixture
def node(home: TestHome, tmp_path: Path) -> Iterator[RunningNode]:
    with RunningNode(home.path, tmp_path / "state", workers=2) as running:
        yield running


def predict(node: RunningNode, x0: float = 1.0) -> tuple[int, int, str | None]:
    """(status, version that answered, who stood in)"""
    body = json.dumps({"x0": x0, "x1": 1, "x2": 1}).encode()
    request = urllib.request.Request(f"{node.data_url}/v1/services/loans/predict", data=body)
    try:
        with urllib.request.urlopen(request) as answer:
            found = json.loads(answer.read())
            return answer.status, found["version"], found["fallback"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, -1, None


def post(node: RunningNode, path: str, body: object) -> Any:
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    request = urllib.request.Request(node.data_url + path, data=data, headers=headers)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def is_served_without(report: NodeReport, number: int, name: str = "loans@2") -> bool:
    return report.plan_number == number and set(report.unloaded) == {name}


def two(home: TestHome, **changes: object) -> tuple[ServicePlan, str]:
    """A service whose champion is version 2, with the last champion beside it."""
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    plan = {"champion": 2, "fallback": (CHAMPION, PREVIOUS)}
    return home.service("loans", bundles, **(plan | changes)), bundles[2]


def test_a_corrupt_champion_is_stood_in_for_at_the_start_and_answers_once_its_bundle_is_mended(
    home: TestHome, node: RunningNode
) -> None:
    service, digest = two(home)
    corrupted = Corrupted(home.path, digest)
    number = home.publish(service)
    report = node.wait(lambda found: is_served_without(found, number))
    assert "the manifest says" in report.unloaded["loans@2"]
    assert any("loans@2 cannot be loaded" in one for one in report.problems)
    assert report.held_back == ("loans",)
    assert "loans@2" not in report.loaded
    assert predict(node) == (200, 1, "loans@1")
    (record,) = [meta for _, meta in node.journaled()]
    assert (record.version, record.assigned, record.status) == (1, 2, Status.UNAVAILABLE)
    with urllib.request.urlopen(f"{node.health_url}/readyz") as answer:
        assert json.loads(answer.read())["unloaded"] == report.unloaded
    corrupted.mend()
    report = node.wait_plan(number)
    assert not report.unloaded
    assert not report.problems
    assert predict(node) == (200, 2, None)


def test_a_declared_answer_stands_in_where_no_version_can_and_a_rule_for_its_rows(
    home: TestHome, node: RunningNode
) -> None:
    digest = home.bundle(home.contract(3))
    corrupted = Corrupted(home.path, digest)
    number = home.publish(home.service("loans", {1: digest}, fallback=(CHAMPION, RULE)))
    node.wait(lambda found: is_served_without(found, number, "loans@1"))
    assert predict(node, 11.0) == (200, 0, "rule")
    assert predict(node, 9.0)[0] == 503
    number = home.publish(home.service("loans", {1: digest}, fallback=(CHAMPION, RULE, REFER)))
    node.wait(lambda found: is_served_without(found, number, "loans@1"))
    assert predict(node, 9.0) == (200, 0, "answer")
    # Also for who asks for what only a model says: whether it has labels is not known now.
    instance = {"x0": 9, "x1": 1, "x2": 1}
    method = {"dataframe_records": [instance], "params": {"predict_method": "predict_proba"}}
    assert post(node, "/invocations", method) == {"predictions": [None]}
    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "data": [9.0]} for name in instance]
    for asked, count in (("answer", 1), ("probabilities", 0), ("value", 0)):
        body = {"inputs": inputs, "outputs": [{"name": asked}]}
        assert len(post(node, "/v2/models/loans/infer", body)["outputs"]) == count
    corrupted.mend()
    node.wait_plan(number)
    assert predict(node, 9.0) == (200, 1, None)


def test_a_node_that_starts_again_with_a_bundle_that_was_spoilt_meanwhile_falls_back(
    home: TestHome, tmp_path: Path
) -> None:
    service, digest = two(home)
    home.publish(service)
    node = RunningNode(home.path, tmp_path / "state", workers=2)
    with node:
        node.wait_plan(1)
        assert predict(node) == (200, 2, None)
    corrupted = Corrupted(home.path, digest)
    with node:
        node.wait(lambda found: is_served_without(found, 1))
        assert predict(node) == (200, 1, "loans@1")
        corrupted.mend()
        node.wait(lambda found: not found.unloaded and not found.held_back)
        assert predict(node) == (200, 2, None)


@pytest.mark.parametrize("placement", ["inline", "engine"])
def test_a_challenger_that_no_process_can_load_counts_against_itself_and_the_champion_answers(
    home: TestHome, node: RunningNode, placement: str
) -> None:
    contract = home.contract(3)
    one = home.bundle(contract)
    home.publish(home.service("loans", {1: one}))
    node.wait_plan(1)
    release = ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": 1.0})
    both = {1: one, 2: broken_model(home, one)}
    number = home.publish(home.service("loans", both, placement=placement, release=release))
    node.wait(lambda found: is_served_without(found, number))
    assert predict(node) == (200, 1, "champion")
    report = node.wait(lambda found: sum(cell.requests for cell in found.cells) == 1)
    (cell,) = report.cells
    assert (cell.arm, cell.ok, cell.bad) == ("challenger", 0, 1)
    assert cell.bad_units
    assert report.held_back == ("loans",)


def test_without_a_champion_that_is_loaded_nothing_is_evidence(
    home: TestHome, node: RunningNode
) -> None:
    release = ReleasePlan(id="r1", challenger=1, state="step", epoch=1, shares={"": 0.5})
    service, digest = two(home, release=release, fallback=(CHAMPION, REFER))
    Corrupted(home.path, digest)
    number = home.publish(service)
    node.wait(lambda found: is_served_without(found, number))
    assert {predict(node) for _ in range(40)} == {(200, 0, "answer"), (200, 1, None)}
    report = node.wait(lambda found: sum(one.requests for one in found.services) == 40)
    assert report.cells == ()


def test_a_change_to_an_unloadable_champion_takes_no_healthy_service_down(
    home: TestHome, node: RunningNode
) -> None:
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    home.publish(home.service("loans", {1: bundles[1]}))
    node.wait_plan(1)
    Corrupted(home.path, bundles[2])
    # Nobody else is in the chain; a declared answer is no reason to give a healthy model up.
    for fallback in ((CHAMPION,), (CHAMPION, REFER)):
        only = home.service("loans", {2: bundles[2]}, fallback=fallback)
        home.publish(only)
        report = node.wait(
            lambda found: any("loans@2 cannot be loaded" in one for one in found.problems)
        )
        assert report.plan_number == 1
        assert predict(node) == (200, 1, None)
    # That one was killed: the declared answer is what is left.
    both = home.service("loans", bundles, champion=2, fallback=(CHAMPION, REFER), killed=(1,))
    number = home.publish(both)
    node.wait(lambda found: is_served_without(found, number))
    assert predict(node) == (200, 0, "answer")
    # A model of the chain gives way to nobody.
    back = home.service("loans", bundles, champion=2, fallback=(CHAMPION, PREVIOUS, REFER))
    number = home.publish(back)
    node.wait(lambda found: is_served_without(found, number) and found.plan_number == number)
    node.wait(lambda _found: predict(node) == (200, 1, "loans@1"))


def test_a_version_that_nobody_is_assigned_to_holds_nothing_back(
    home: TestHome, node: RunningNode
) -> None:
    service, digest = two(home, champion=1, fallback=(CHAMPION,))
    Corrupted(home.path, digest)
    number = home.publish(service)
    report = node.wait(lambda found: is_served_without(found, number))
    assert report.held_back == ()
    assert predict(node) == (200, 1, None)


def test_a_service_that_does_without_a_challenger_holds_no_later_plan_back(
    home: TestHome, node: RunningNode
) -> None:
    release = ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": 0.5})
    service, digest = two(home, champion=1, release=release, fallback=(REFER,))
    Corrupted(home.path, digest)
    for _ in range(2):
        number = home.publish(service)
        node.wait(lambda found, number=number: is_served_without(found, number))


def test_workers_are_not_replaced_by_those_that_cannot_load_what_they_have(
    home: TestHome, node: RunningNode
) -> None:
    digests = [home.bundle(home.contract(3), seed=seed) for seed in (1, 2)]
    home.publish(home.service("loans", {1: digests[0]}), home.service("other", {1: digests[1]}))
    before = node.wait_plan(1)
    Corrupted(home.path, digests[0])
    node.signal(signal.SIGHUP)
    node.wait(lambda found: any("the old one stays" in one for one in found.problems))
    report = node.wait(lambda found: fronts(found) == fronts(before))
    assert "loans@1" in report.loaded
    assert predict(node) == (200, 1, None)


def fronts(report: NodeReport) -> set[int]:
    return {one.pid for one in report.workers if one.kind == "front"}


def test_status_of_an_installation_says_which_version_cannot_be_loaded_and_why(
    tmp_path: Path,
) -> None:
    with RunningInstallation(tmp_path / "home", workers=1) as here:
        for seed in (1, 2):
            here.register("loans", seed=seed, more="serve: {fallback: [champion, previous]}")
            here.serve(f"loans@{seed}")
            here.client.promote("loans", "for the test")
        digest = here.client.version("loans@2").digest
        here.wait(lambda: (found := here.report()) and "loans@2" in found.loaded, "loans@2")
        corrupted = Corrupted(here.home, digest)
        here.kill("node")
        broken = here.wait(lambda: said(here, "broken"), "a status that says broken")
        assert broken.startswith("loans@2 cannot be loaded")
        assert "has served" not in broken
        assert "the manifest says" in broken
        assert here.client.version("loans@2").state == "not loadable"
        states = {one.number: one.state for one in here.client.versions("loans")}
        assert states == {1: "retired", 2: "not loadable"}
        lines = [one for one in examine(str(here.home)) if one.subject == "version loans@2"]
        assert [one.state for one in lines] == ["fail"]
        corrupted.mend()
        assert "cannot be loaded" not in here.wait(lambda: said(here, "healthy"), "a healthy one")


def said(here: RunningInstallation, state: str) -> str:
    """The headline, once the service is in this state."""
    (status,) = here.client.status("loans")
    return status.headline if status.state == state else ""


def test_a_worker_that_starts_again_with_a_spoilt_bundle_takes_no_service_from_the_other(
    home: TestHome, node: RunningNode
) -> None:
    digest = home.bundle(home.contract(3))
    home.publish(home.service("loans", {1: digest}))
    report = node.wait_plan(1)
    corrupted = Corrupted(home.path, digest)
    os.kill(next(one.pid for one in report.workers if one.kind == "front"), signal.SIGKILL)
    report = node.wait(lambda found: any("the manifest says" in one for one in found.problems))
    # Also once the supervisor has acted on it.
    report = node.wait(lambda found, at=report.sequence: found.sequence > at + 1)
    assert report.loaded == ("loans@1",)
    assert predict(node) == (200, 1, None)
    corrupted.mend()
    node.wait(lambda found: found.plan_number == 1 and not found.problems)
