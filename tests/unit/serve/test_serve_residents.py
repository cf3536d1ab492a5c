"""What a front worker has loaded: a plan that is refused touches nothing that serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from doorstep.core.contract import Contract, Field
from doorstep.core.plan import FallbackStep, ReleasePlan, ServicePlan
from doorstep.serve.models import Models
from doorstep.serve.nodeplan import NodePlan
from doorstep.serve.residents import Residents
from doorstep.testing.home import TestHome
from fakes.faults import broken_model

A, B = Field(name="a", type="float"), Field(name="b", type="float")


def plan_of(home: TestHome, *services: ServicePlan) -> NodePlan:
    return NodePlan(
        format=1, generation=1, term=1, number=1, environment="t",
        bundles=str(home.path / "bundles"), lease_s=60.0, services=services, engines={},
    )  # fmt: skip


def make_residents(budget_bytes: int = 1 << 30) -> Residents:
    loop = asyncio.get_running_loop()
    return Residents(loop, lambda _layout: 1, lambda _key: 0, Models(loop, budget_bytes))


def test_a_plan_with_another_contract_leaves_the_reader_of_the_one_that_serves(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    one = home.bundle(Contract(inputs=(A, B)), labels=())
    two = home.bundle(Contract(inputs=(B, A)), labels=(), seed=2)

    async def story() -> None:
        residents = make_residents()
        plan = plan_of(home, home.service("s", {1: one}))
        assert await residents.load(plan) == {}
        residents.keep_only(plan)
        other = plan_of(home, home.service("s", {2: two}))
        assert await residents.load(other) == {}
        service = residents.services(plan, lease_held=False)["s"]
        assert list(service.reader.row.names) == ["a", "b"]

    asyncio.run(story())


def test_what_is_wrong_with_one_service_is_said_of_it_alone(tmp_path: Path) -> None:
    home = TestHome(tmp_path / "home")
    one = home.bundle(Contract(inputs=(A, B)), labels=())
    good, lost = home.service("good", {1: one}), home.service("lost", {1: one})
    missing = msgspec.structs.replace(lost.versions[0], bundle="0" * 64)
    lost = msgspec.structs.replace(lost, versions=(missing,))

    async def story() -> None:
        residents = make_residents()
        assert set(await residents.load(plan_of(home, lost, good))) == {"lost"}
        made = residents.services(plan_of(home, good), lease_held=True)
        assert made["good"].ready

    asyncio.run(story())


def test_a_version_that_cannot_be_loaded_is_left_out_where_its_chain_answers_and_comes_back(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    one, two = (home.bundle(Contract(inputs=(A, B)), labels=(), seed=seed) for seed in (1, 2))
    model = home.model_path(two)
    whole = model.read_bytes()
    chain = (FallbackStep(kind="version"), FallbackStep(kind="version", version=1))
    service = home.service("s", {1: one, 2: two}, champion=2, fallback=chain)
    plan = plan_of(home, service)

    async def story() -> None:
        residents = make_residents()
        model.write_bytes(whole[:-1])
        assert await residents.load(plan) == {}
        assert "the manifest says" in str(residents.unloaded["s@2"])
        found = residents.services(plan, lease_held=True)["s"]
        assert (set(found.versions), found.champion, found.ready) == ({1}, None, True)
        assert found.labels == frozenset()  # of what version 2 predicted anything may be true
        model.write_bytes(whole)
        assert await residents.load(plan) == {}
        assert residents.unloaded == {}
        found = residents.services(plan, lease_held=True)["s"]
        assert (set(found.versions), found.labels) == ({1, 2}, {()})
        # What the supervisor says must not be loaded is not tried.
        held = msgspec.structs.replace(plan, unloaded=("s@2",))
        assert await residents.load(held) == {}
        assert residents.unloaded == {"s@2": None}

    asyncio.run(story())


def test_a_version_that_a_service_does_without_may_be_tried_again_and_fail_again(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    one = home.bundle(Contract(inputs=(A, B)), labels=())
    release = ReleasePlan(id="r", challenger=2, state="step", epoch=1, shares={"": 0.5})
    chain = (FallbackStep(kind="answer", answer="refer"),)
    both = {1: one, 2: broken_model(home, one)}
    plan = plan_of(home, home.service("s", both, release=release, fallback=chain))

    async def story() -> None:
        residents = make_residents()
        for _ in range(2):
            assert await residents.load(plan) == {}
            assert set(residents.unloaded) == {"s@2"}
            residents.keep_only(plan)

    asyncio.run(story())
