"""Plain calls are answered, recorded and counted as the general way does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_serve_path import Engine, EngineWorld, Scorer, plan

from doorstep.core.contract import Contract, Field
from doorstep.core.plan import FallbackStep
from doorstep.core.record import PredictionMeta, Status
from doorstep.formats.batch import Batch
from doorstep.journal.reader import Group, list_blocks, read_block
from doorstep.serve.cells import read_cells
from doorstep.serve.limits import BREAKER_WHOLE
from doorstep.serve.observe import Seen
from serve_case import CONTRACT, OneSite, Share

WAYS = {
    "native": "/v1/services/{}/predict",
    "v1": "/v1/models/{}:predict",
    "oip": "/v2/models/{}/infer",
}


class Onlooker:
    """While somebody looks on, every call goes the general way."""

    def note(self, seen: Seen) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Moody(Share):
    """Raises, or answers no finite number, for an amount that says so and that no test draws."""

    RAISES, NOT_FINITE = -3007.0, -3008.0

    def score(self, batch: Batch) -> np.ndarray:
        if (batch.numbers[:, 1] == self.RAISES).any():
            raise ValueError("moody")
        found = super().score(batch)
        found[batch.numbers[:, 1] == self.NOT_FINITE] = np.nan
        return found


class Both:
    """The same site twice; the calls of the second one go the general way."""

    def __init__(self, folder: Path, contract: Contract = CONTRACT, **changes: Any) -> None:
        changes = {"scorer": Moody} | changes
        self.sites = []
        self.folders = [folder / "plain", folder / "general"]
        services = {"loan": (contract, ("bad", "good")), "price": (contract, ())}
        for one in self.folders:
            one.mkdir(parents=True)
            self.sites.append(OneSite(one, services, **changes))
        self.sites[1].site._path.observers = (Onlooker(),)

    def ask(self, path: str, body: Any) -> tuple[Any, Any]:
        """What both answer, without what is never the same."""
        (plain,), (general,) = self.ask_all(path, [body])
        return plain, general

    def ask_all(self, path: str, bodies: list[Any]) -> list[list[Any]]:
        """As `ask`, of calls of one turn."""
        found = []
        for one in self.sites:
            one.site._path.breakers.known.clear()  # while one is known, no call is plain
            answers = one.ask_all("POST", path, [json.dumps(body).encode() for body in bodies])
            found.append([_same(answer) for answer in answers])
        return found

    def close(self) -> None:
        for one in self.sites:
            one.close()

    def records(self) -> list[list[tuple[PredictionMeta, bytes]]]:
        return [_records(one) for one in self.folders]


def _same(answer: Any) -> tuple[Any, ...]:
    found = json.loads(answer.body)
    text = answer.headers.decode()
    request = text.split("doorstep-request-id: ")[1].split("\r\n")[0]
    shown = json.loads(json.dumps(found).replace(request, "ID"))
    return answer.status, shown, text.replace(request, "ID"), answer.media


def groups_in(folder: Path) -> list[Group]:
    blocks = [read_block(path.read_bytes()) for path in list_blocks(folder / "n").values()]
    return [part for one in blocks for part in one.parts() if isinstance(part, Group)]


def _records(folder: Path) -> list[tuple[PredictionMeta, bytes]]:
    found = []
    for group in groups_in(folder):
        width = len(group.layout.numbers) * 8
        for at, row in enumerate(group.rows):
            plain = msgspec.structs.replace(
                row, request=b"", at=0, latency_us=0,
                unit="ID" if len(row.unit) == 36 else row.unit,
            )  # fmt: skip
            found.append((plain, bytes(group.matrix[at * width : at * width + width])))
    return found


@pytest.fixture(scope="module", params=[False, True], ids=["inline", "engine"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    made = Both(tmp_path_factory.mktemp("plain"), engines=request.param)
    yield made
    made.close()


ROW = {"age": 40, "amount": 250.0, "purpose": "car"}


@given(
    age=st.integers(18, 100),
    amount=st.floats(-2000, 2000) | st.integers(-5, 5),
    purpose=st.sampled_from(["car", "home", "boat"]),
    owner=st.none() | st.booleans(),
    service=st.sampled_from(["loan", "price"]),
)
def test_both_ways_answer_alike(both: Both, service: str, owner: bool | None, **row: Any) -> None:
    if owner is not None:
        row["owner"] = owner
    plain, general = both.ask(WAYS["native"].format(service), {"rows": [row]})
    assert plain == general
    assert plain[0] == 200


@given(
    amounts=st.lists(
        st.sampled_from([1.0, 500.0, 2000.0, Moody.RAISES, Moody.NOT_FINITE]), min_size=1,
        max_size=12,
    ),
    service=st.sampled_from(["loan", "price"]),
)  # fmt: skip
def test_calls_of_one_turn_are_answered_alike_also_where_some_fail(
    both: Both, service: str, amounts: list[float]
) -> None:
    bodies = [{"rows": [ROW | {"amount": amount}]} for amount in amounts]
    for one in both.sites:
        for engine in (one.engines or {}).values():
            engine.asked.clear()
    plain, general = both.ask_all(WAYS["native"].format(service), bodies)
    assert plain == general
    fine = [amount not in (Moody.RAISES, Moody.NOT_FINITE) for amount in amounts]
    assert [one[0] for one in plain] == [200 if one else 500 for one in fine]
    if both.sites[0].engines is not None and both.sites[1].engines is not None:
        asked = [one.engines[service].asked for one in both.sites]
        assert asked[1] == [1] * len(amounts)
        if Moody.RAISES not in amounts:
            assert sum(asked[0]) == len(amounts)


@pytest.mark.parametrize("service", ["loan", "price"])
def test_every_protocol_answers_alike_on_both_ways(both: Both, service: str) -> None:
    plain, general = both.ask(WAYS["v1"].format(service), {"instances": [ROW]})
    assert plain == general
    assert plain[0] == 200
    inputs = [
        {"name": name, "shape": [1], "datatype": kind, "data": [ROW[name]]}
        for name, kind in {"age": "FP64", "amount": "FP64", "purpose": "BYTES"}.items()
    ]
    plain, general = both.ask(WAYS["oip"].format(service), {"id": "x", "inputs": inputs})
    assert plain == general
    assert plain[0] == 200


PERSONAL = Contract(
    inputs=(
        Field(name="age", type="int", range_min=18, range_max=100, personal="drop"),
        Field(name="amount", type="float"),
        Field(name="purpose", type="category", values=("car", "home"), personal="pseudonymise"),
    ),
    context=CONTRACT.context,
)


def test_in_a_sample_a_record_has_its_inputs_or_no_columns_for_them_by_its_request_id(
    tmp_path: Path,
) -> None:
    both = Both(tmp_path, record="sample", record_share=0.5)
    for at in range(40):
        both.ask(WAYS["native"].format("loan"), {"rows": [ROW | {"amount": at}]})
    both.close()
    keeps = next(iter(both.sites[0].site.services.values())).keeps
    assert keeps is not None
    for folder in both.folders:
        kept: dict[bool, int] = {True: 0, False: 0}
        for group in groups_in(folder):
            names = [one.name for one in group.layout.numbers + group.layout.texts]
            matrix = np.frombuffer(group.matrix).reshape(len(group.rows), -1)
            for row, numbers in zip(group.rows, matrix, strict=True):
                has_inputs = keeps(str(UUID(bytes=row.request)))
                kept[has_inputs] += 1
                assert ("in.amount" in names, "in.purpose" in names) == (has_inputs, has_inputs)
                assert names[-1] == "out.answer"
                assert row.texts[-1] in ("bad", "good")
                if has_inputs:
                    share = numbers[names.index("in.amount")] / 1000
                    assert numbers[names.index("out.bad")] == share
        assert sum(kept.values()) == 40
        assert all(kept.values())


@pytest.mark.parametrize("engines", [False, True], ids=["inline", "engine"])
@pytest.mark.parametrize(
    ("contract", "changes"),
    [(CONTRACT, {}), (CONTRACT, {"record": "no-inputs"}), (PERSONAL, {})],
    ids=["full", "no-inputs", "personal"],
)
def test_both_ways_record_and_count_alike(
    tmp_path: Path, contract: Contract, changes: dict[str, Any], engines: bool
) -> None:
    both = Both(tmp_path, contract, engines=engines, **changes)
    amounts = np.random.default_rng(5).uniform(-100, 1100, 30).round(2).tolist()
    bodies: dict[str, list[Any]] = {"loan": [], "price": []}
    for at, amount in enumerate(amounts):
        row = ROW | {"amount": amount, "purpose": ("car", "boat")[at % 2]}
        body = {"rows": [row], "context": {"store": at}, "keys": [f"k{at}"]}
        bodies[("loan", "price")[at % 3 == 0]].append(body)
    for service, mine in bodies.items():
        for at in range(0, len(mine), 4):
            both.ask_all(WAYS["native"].format(service), mine[at : at + 4])
    both.close()
    plain, general = both.records()
    assert plain == general
    assert len(plain) == 30
    assert {row.warnings for row, _ in plain} == {(), ("unseen:purpose",)}
    counted = [read_cells(one / "cells").counters for one in both.folders]
    requests = [
        {key: values for key, values in one.items() if key[0] == "requests"} for one in counted
    ]
    assert requests[0] == requests[1]
    assert {values[0] for values in requests[0].values()} == {10, 20}
    latencies = [
        {key: sum(values[:-1]) for key, values in one.items() if key[0] == "latency_seconds"}
        for one in counted
    ]
    assert (
        latencies[0]
        == latencies[1]
        == {("latency_seconds", "loan"): 20, ("latency_seconds", "price"): 10}
    )


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of one turn are asked together however slow the machine is."""
    monkeypatch.setattr("doorstep.serve.plain.SPREAD_NS", 3600 * 10**9)


REFERRED = FallbackStep(kind="answer", answer=7.0)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("status", [Status.DIED, Status.TIMED_OUT, Status.UNAVAILABLE])
def test_what_befalls_an_engine_befalls_every_call_it_was_asked_for_at_once(
    tmp_path: Path, status: Status
) -> None:
    world = EngineWorld(tmp_path, plan(1, fallback=(REFERRED,)), {1: Scorer(1)})
    world.engine = Engine(status)
    found = world.ask(*[{"x": 1}] * BREAKER_WHOLE)
    assert [one.answer["fallback"] for one in found] == ["answer"] * BREAKER_WHOLE
    assert world.engine.asked == [BREAKER_WHOLE]
    assert [(one.version, one.status) for one in world.records()] == [(0, status)] * BREAKER_WHOLE
    assert "s@1 failed too often" in world.troubles.said["breaker s@1"]


@pytest.mark.usefixtures("unhurried")
def test_an_engine_that_is_still_being_started_is_not_blamed_by_calls_asked_at_once(
    tmp_path: Path,
) -> None:
    world = EngineWorld(tmp_path, plan(1, fallback=(REFERRED,)), {1: Scorer(1)})
    world.engine = Engine(Status.UNAVAILABLE)
    world.engine.starting = True
    found = world.ask(*[{"x": 1}] * BREAKER_WHOLE)
    assert [one.answer["fallback"] for one in found] == ["answer"] * BREAKER_WHOLE
    assert (world.engine.asked, world.path.breakers.known) == ([BREAKER_WHOLE], {})


@pytest.mark.usefixtures("unhurried")
def test_after_a_failure_each_call_is_asked_alone(tmp_path: Path) -> None:
    world = EngineWorld(tmp_path, plan(1), {1: Scorer(1)})
    world.engine = Engine(Status.FAILED)
    assert [one.status for one in world.ask({"x": 1}, {"x": 2}, {"x": 3})] == [500] * 3
    assert world.engine.asked == [3, 1, 1, 1]
    assert [one.status for one in world.records()] == [Status.FAILED] * 3


@pytest.mark.usefixtures("unhurried")
def test_calls_for_which_an_engine_has_no_time_together_are_each_asked_or_refused(
    tmp_path: Path,
) -> None:
    class Busy(Engine):
        """Each row takes 150 ms; half of a second may be waited for those before."""

        def wait_ns(self, more: int = 0) -> int:
            return (sum(self.asked) + more) * 150_000_000

    world = EngineWorld(tmp_path, plan(1), {1: Scorer(1)})
    world.engine = Busy(Status.OK)
    found = world.ask(*[{"x": 1}] * 5)
    assert [one.status for one in found] == [200, 200, 200, 200, 503]
    assert (world.engine.asked, len(world.records())) == ([1] * 4, 4)


@pytest.mark.usefixtures("unhurried")
def test_a_breaker_hears_of_every_call_that_an_engine_was_asked_for_before_it_was_known(
    tmp_path: Path,
) -> None:
    world = EngineWorld(tmp_path, plan(1), {1: Scorer(1)})

    class FailsOthers(Engine):
        def ask(self, batch: Batch, deadline: int, answered: Any, calls: int = 1) -> None:
            super().ask(batch, deadline, answered, calls)
            world.path.breakers.note(("s", 1), Status.TIMED_OUT)

    world.engine = FailsOthers(Status.OK)
    assert [one.status for one in world.ask(*[{"x": 1}] * 3)] == [200] * 3
    heard = [status for _, status in world.path.breakers.known["s", 1]._outcomes]
    assert heard == [Status.TIMED_OUT] + [Status.OK] * 3


def test_calls_that_came_too_far_apart_are_not_asked_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doorstep.serve.plain.SPREAD_NS", 0)
    world = EngineWorld(tmp_path, plan(1), {1: Scorer(1)})
    world.engine = Engine(Status.OK)
    assert [one.status for one in world.ask(*[{"x": 1}] * 3)] == [200] * 3
    assert world.engine.asked == [1, 1, 1]
