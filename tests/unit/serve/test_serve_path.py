"""The path of a call: who answers, who falls back, what is recorded, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from doorstep.core.contract import Contract, Field
from doorstep.core.manifest import Lineage, Manifest, NativeForm
from doorstep.core.plan import (
    FallbackStep,
    ReleasePlan,
    Segment,
    ServicePlan,
    VersionPlan,
    is_challengers,
)
from doorstep.core.record import Kind, PredictionMeta, Status
from doorstep.formats.batch import Batch
from doorstep.journal.commit import Grouped
from doorstep.journal.reader import Group, list_blocks, read_block
from doorstep.journal.writer import BlockWriter
from doorstep.serve.cells import CellKey, CellWriter, create_cells, read_cells
from doorstep.serve.http import JSON, Head
from doorstep.serve.limits import IN_FLIGHT_MAX
from doorstep.serve.models import Model, Models
from doorstep.serve.path import Path as PredictPath
from doorstep.serve.record import Recorder
from doorstep.serve.service import Service
from doorstep.serve.site import Site
from doorstep.serve.version import Version, columns_of

CONTRACT = Contract(
    inputs=(Field(name="x", type="float"),),
    context=(Field(name="region", type="category", required=False),),
)


class Scorer:
    """Answers one fixed score; misbehaves where x is negative, as it was told to."""

    def __init__(self, score: float, misbehave: Any = None) -> None:
        self.score_of = score
        self.misbehave = misbehave
        self.batches: list[int] = []

    def score(self, batch: Batch) -> np.ndarray:
        self.batches.append(batch.rows)
        scores = np.full((batch.rows, 1), self.score_of)
        if self.misbehave is not None and (batch.numbers < 0).any():
            if isinstance(self.misbehave, Exception):
                raise self.misbehave
            return self.misbehave
        return scores


class Exchange:
    def __init__(self) -> None:
        self.status = 0
        self.answer: Any = None
        self.headers = ""

    def respond(self, status: int, body: bytes, headers: bytes = b"", media: bytes = JSON) -> None:
        assert not self.status, "answered twice"
        self.status, self.answer, self.headers = status, json.loads(body), headers.decode()


async def answered(exchanges: Sequence[Exchange]) -> None:
    """Let the loop turn until all of them are."""
    async with asyncio.timeout(60):
        while not all(one.status for one in exchanges):
            await asyncio.sleep(0.001)


class Troubles:
    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def tell(self, topic: str, what: str) -> None:
        self.said[topic] = what


class World:
    """One front worker's parts, without its process."""

    def __init__(
        self, folder: Path, plan: ServicePlan, scorers: dict[int, Scorer], durable: bool = False
    ) -> None:
        create_cells(folder / "cells")
        self.folder = folder
        self.cells = CellWriter(folder / "cells")
        self.writer = BlockWriter(folder, node="n", boot="b", slot="s", durable=durable)
        self.recorder = Recorder(self.writer)
        self.troubles = Troubles()
        self.plan, self.scorers = plan, scorers
        self.lease_held = True

    def make_path(self) -> PredictPath:
        """The way of a worker whose loop is the one that runs."""
        loop = asyncio.get_running_loop()
        models = Models(loop, 1 << 30)
        return PredictPath(loop, self.recorder, self.cells, self.troubles, models)

    def ask(self, *bodies: Any, way: str = "predict", environment: str = "") -> list[Exchange]:
        """Send these in one turn of the loop."""

        async def story() -> list[Exchange]:
            self.path = self.make_path()
            site = Site(self.path, self.recorder, self.cells)
            site.environment = environment
            site.swap({"s": self.service()})
            exchanges = [Exchange() for _ in bodies]
            for exchange, body in zip(exchanges, bodies, strict=True):
                data = json.dumps(body).encode()
                url = f"/v1/services/s/{way}".encode()
                site.handle(exchange, Head(b"POST", url, len(data), True, False, {}), data)
            await answered(exchanges)
            return exchanges

        return asyncio.run(story())

    def service(self) -> Service:
        manifest = Manifest(
            format=1, task="regression", label="y", labels=(), positive="", threshold=0.5,
            contract=Contract(inputs=CONTRACT.inputs),
            native=NativeForm(family="onnx", serialization="onnx", file="f"),
            onnx=None, parity=None, lineage=Lineage(), reads=(), files=(),
        )  # fmt: skip
        columns = columns_of(CONTRACT, manifest.contract)
        versions = {
            one.number: Version(
                one, manifest, columns, Model(one, manifest, self.scorers[one.number]), None
            )
            for one in self.plan.versions
        }
        return Service(
            self.plan,
            versions,
            lease_held=self.lease_held,
            declare=self.writer.declare,
            slot=self.cells.slot,
        )

    def records(self) -> list[PredictionMeta]:
        found = []
        for path in list_blocks(self.folder / "n").values():
            for part in read_block(path.read_bytes()).parts():
                if isinstance(part, Group):
                    found += part.rows
        return found

    def cell(self, arm: str, segment: str = "") -> Any:
        return read_cells(self.folder / "cells").cells.get(CellKey("r", 1, segment, arm))


def plan(*numbers: int, **changes: Any) -> ServicePlan:
    versions = tuple(
        VersionPlan(number=n, bundle="0" * 64, form="onnx", placement="inline") for n in numbers
    )
    given = ServicePlan(
        format=1, service="s", contract=CONTRACT, versions=versions, champion=numbers[0]
    )
    return msgspec.structs.replace(given, **changes)


def release(share: float, **changes: Any) -> ReleasePlan:
    given = ReleasePlan(id="r", challenger=2, state="step", epoch=1, shares={"": share})
    return msgspec.structs.replace(given, **changes)


def test_what_arrives_in_one_turn_is_scored_together_and_split_again(tmp_path: Path) -> None:
    scorer = Scorer(0.5)
    world = World(tmp_path, plan(1), {1: scorer})
    found = world.ask({"x": 1}, {"rows": [{"x": 2}, {"x": 3}]}, {"x": 4})
    assert scorer.batches == [4]
    assert [len(one.answer["predictions"]) for one in found] == [1, 2, 1]
    assert len(world.records()) == 4


def test_a_rehearsed_row_is_answered_and_recorded_as_a_rehearsal_and_nothing_else_is(
    tmp_path: Path,
) -> None:
    rehearsing = plan(1, 2, release=release(0.5, rehearsal=True))
    world = World(tmp_path, rehearsing, {1: Scorer(0.5), 2: Scorer(0.6)})
    assert [one.status for one in world.ask({"x": 1}, way="rehearse")] == [200]
    assert [one.status for one in world.ask({"x": 1})] == [200]
    assert [one.kind for one in world.records()] == [Kind.REHEARSAL, Kind.LIVE]


def test_rows_are_not_rehearsed_in_production(tmp_path: Path) -> None:
    world = World(tmp_path, plan(1), {1: Scorer(0.5)})
    (refused,) = world.ask({"x": 1}, way="rehearse", environment="production")
    assert (refused.status, refused.answer["error"]["code"]) == (403, "rehearsal-in-production")
    assert world.records() == []


def test_one_bad_row_fails_only_its_own_request(tmp_path: Path) -> None:
    world = World(tmp_path, plan(1), {1: Scorer(0.5, ValueError("secret"))})
    found = world.ask({"x": 1}, {"x": -1}, {"x": 2})
    assert [one.status for one in found] == [200, 500, 200]
    assert "secret" not in json.dumps(found[1].answer)
    failed = next(one for one in world.records() if one.version == -1)
    assert (failed.status, failed.error) == (Status.FAILED, "ValueError: secret")


def test_where_fields_are_personal_no_record_has_what_a_model_says_of_a_row(
    tmp_path: Path,
) -> None:
    hidden = Contract(
        inputs=CONTRACT.inputs,
        context=(msgspec.structs.replace(CONTRACT.context[0], personal="drop"),),
    )
    world = World(
        tmp_path, plan(1, contract=hidden), {1: Scorer(0.5, ValueError("no number: 'Anna'"))}
    )
    world.ask({"x": -1})
    (failed,) = world.records()
    assert (failed.status, failed.error) == (Status.FAILED, "ValueError")


@pytest.mark.parametrize(
    ("misbehave", "status"),
    [
        (RuntimeError("x"), Status.FAILED),
        (np.array([[np.nan]]), Status.INVALID),
        (np.array([[np.inf]]), Status.INVALID),
        (np.array([0.5, 0.5]), Status.FAILED),
    ],
)
def test_where_the_challenger_fails_the_champion_answers_and_both_are_told_apart(
    tmp_path: Path, misbehave: Any, status: Status
) -> None:
    world = World(
        tmp_path, plan(1, 2, release=release(1.0)), {1: Scorer(1), 2: Scorer(2, misbehave)}
    )
    (found,) = world.ask({"x": -1})
    assert (found.status, found.answer["version"], found.answer["fallback"]) == (200, 1, "champion")
    assert found.answer["predictions"][0]["value"] == 1
    (record,) = world.records()
    assert (record.assigned, record.version, record.status) == (2, 1, status)
    assert (record.release, record.epoch, record.share) == ("r", 1, 1.0)
    assert (world.cell("challenger").bad, world.cell("champion").requests) == (1, 0)


def test_only_requests_of_one_unit_are_timed_so_that_neither_arm_lacks_its_own(
    tmp_path: Path,
) -> None:
    keyed = plan(1, 2, release=release(1.0, slow_us=(0,), slow_challenger_us=(0,)))
    keyed = msgspec.structs.replace(keyed, key="region", unit="region")
    world = World(tmp_path, keyed, {1: Scorer(1), 2: Scorer(2, ValueError("x"))})
    world.ask(
        {"rows": [{"x": 1}, {"x": 2}], "context": {"region": "a"}},
        {"rows": [{"x": 1}, {"x": -2}], "context": {"region": "b"}},
        {"rows": [{"x": 1}, {"x": 2}], "context": [{"region": "c"}, {"region": "d"}]},
    )
    cell = world.cell("challenger")
    assert cell is not None and (cell.requests, cell.timed) == (3, 2)


def test_the_chain_ends_with_a_declared_answer_or_an_error(tmp_path: Path) -> None:
    broken = Scorer(1, ValueError("x"))
    steps = (FallbackStep(kind="version"), FallbackStep(kind="version", version=3))
    world = World(tmp_path, plan(1, 3, fallback=steps), {1: broken, 3: Scorer(3)})
    (found,) = world.ask({"x": -1})
    assert (found.answer["version"], found.answer["fallback"]) == (3, "s@3")
    constant = (*steps[:1], FallbackStep(kind="answer", answer=0.0))
    world.plan = plan(1, 3, fallback=constant)
    (found,) = world.ask({"x": -1})
    assert (found.answer["version"], found.answer["predictions"][0]["answer"]) == (0, 0.0)


def test_a_service_without_a_champion_is_503_or_gives_its_declared_answer(tmp_path: Path) -> None:
    world = World(tmp_path, plan(1, champion=None), {1: Scorer(1)})
    (found,) = world.ask({"x": 1})
    assert (found.status, "retry-after" in found.headers) == (503, True)
    assert world.records()[0].version == -1
    world.plan = plan(1, champion=None, fallback=(FallbackStep(kind="answer", answer="refer"),))
    assert world.ask({"x": 1})[0].answer["predictions"][0]["answer"] == "refer"


def test_a_first_release_serves_its_challenger_without_a_champion(tmp_path: Path) -> None:
    world = World(tmp_path, plan(2, champion=None, release=release(1.0)), {2: Scorer(2)})
    (found,) = world.ask({"x": 1})
    assert (found.status, found.answer["version"]) == (200, 2)
    assert world.cell("challenger").ok == 1


def test_rows_are_assigned_by_their_own_units_and_segments(tmp_path: Path) -> None:
    shares = {"north": 0.5}
    segments = (Segment(name="north", match={"region": ("north",)}),)
    asked = plan(
        1, 2, release=release(0, shares=shares), segments=segments, unit="customer"
    )  # fmt: skip
    world = World(tmp_path, asked, {1: Scorer(1), 2: Scorer(2)})
    rows = [{"x": 1, "customer": f"c{at}"} for at in range(40)]
    context = [{"region": "north" if at % 2 else "south"} for at in range(40)]
    (found,) = world.ask({"rows": rows, "context": context})
    first = found.answer["version"]
    answered = [one.get("version", first) for one in found.answer["predictions"]]
    expected = [2 if at % 2 and is_challengers("r", f"c{at}", 0.5) else 1 for at in range(40)]
    assert answered == expected
    assert [one["value"] for one in found.answer["predictions"]] == expected
    by_row = sorted(world.records(), key=lambda one: one.row)
    assert [one.assigned for one in by_row] == expected
    assert [one.segment for one in by_row] == ["", "north"] * 20
    assert world.cell("challenger", "north").requests == 1
    assert world.cell("champion", "north").requests == 1
    assert len(world.cell("champion", "north").seen) == 20 - expected.count(2)
    assert world.cell("champion") is None, "a wave that is not begun is no control"


def test_without_the_lease_the_champion_has_everybody_and_nothing_is_evidence(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, plan(1, 2, release=release(1.0)), {1: Scorer(1), 2: Scorer(2)})
    world.lease_held = False
    assert world.ask({"x": 1})[0].answer["version"] == 1
    assert (world.cell("champion"), world.cell("challenger")) == (None, None)
    (row,) = world.records()
    assert (row.share, row.release, row.epoch) == (0.0, "", 0), "nor is it in the journal"


def test_when_the_journal_cannot_be_written_nobody_is_answered(tmp_path: Path) -> None:
    world = World(tmp_path, plan(1), {1: Scorer(1)})
    world.ask({"x": 1})
    block = world.writer._block
    assert block is not None
    os.close(block.fd)
    block.fd = os.open("/dev/full", os.O_WRONLY)
    found = world.ask({"x": 1}, {"x": 2})
    assert [(one.status, one.answer["error"]["code"]) for one in found] == [
        (503, "journal-unavailable")
    ] * 2
    assert "No space left" in world.troubles.said["journal"]
    assert world.path.in_flight == 0
    assert world.ask({"x": 1})[0].status == 200
    assert world.troubles.said["journal"] == ""


def test_a_durable_answer_leaves_when_its_record_is_on_the_disk_and_a_failed_turn_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, plan(1), {1: Scorer(1)}, durable=True)
    began, may_end = threading.Event(), threading.Event()

    def sync(_fd: int) -> None:
        began.set()
        may_end.wait()

    monkeypatch.setattr("doorstep.journal.writer._sync", sync)

    async def story() -> list[Exchange]:
        commits = Grouped(world.writer, asyncio.get_running_loop())
        world.recorder = Recorder(world.writer, commits)
        world.path = world.make_path()
        site = Site(world.path, world.recorder, world.cells)
        site.swap({"s": world.service()})
        found = []

        def send(way: str, body: Any) -> None:
            found.append(Exchange())
            data = json.dumps(body).encode()
            head = Head(b"POST", f"/v1/services/s/{way}".encode(), len(data), True, False, {})
            site.handle(found[-1], head, data)

        send("predict", {"x": 1})
        await asyncio.to_thread(began.wait)
        send("predict", {"x": 2})
        send("outcomes", {"outcomes": [{"key": "k", "value": 1.0}]})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        monkeypatch.setattr(Recorder, "add", lambda *_: 1 / 0)
        monkeypatch.setattr(Recorder, "add_plain", lambda *_: 1 / 0)
        send("predict", {"x": 3})
        send("predict", {"x": 4})
        await answered(found[-2:])
        assert [one.status for one in found] == [0, 0, 0, 500, 500]
        may_end.set()
        await answered(found)
        world.recorder.close()
        return found

    assert [one.status for one in asyncio.run(story())] == [200, 200, 200, 500, 500]
    assert len(world.records()) == 2
    assert world.path.in_flight == 0


def test_more_requests_than_the_limit_are_refused_early_with_retry_after(tmp_path: Path) -> None:
    world = World(tmp_path, plan(1), {1: Scorer(1)})
    found = world.ask(*[{"x": 1}] * (IN_FLIGHT_MAX + 3))
    statuses = [one.status for one in found]
    assert statuses == [200] * IN_FLIGHT_MAX + [503] * 3
    assert found[-1].answer["error"]["code"] == "overloaded"
    assert "retry-after" in found[-1].headers
    assert len(world.records()) == IN_FLIGHT_MAX


@pytest.mark.parametrize("record", ["no-inputs", "sample"])
def test_inputs_that_should_not_be_kept_are_not_in_the_journal(tmp_path: Path, record: str) -> None:
    world = World(tmp_path, plan(1, record=record, record_share=0.0), {1: Scorer(1)})
    world.ask({"rows": [{"x": 41}], "context": {"region": "north"}})
    (path,) = list_blocks(tmp_path / "n").values()
    (group,) = [one for one in read_block(path.read_bytes()).parts() if isinstance(one, Group)]
    assert [one.name for one in group.layout.numbers] == ["out.value"]
    assert [one.name for one in group.layout.texts] == ["out.answer"]
    assert np.frombuffer(group.matrix).tolist() == [1.0]
    assert group.rows[0].texts == (None,)


def test_one_row_that_raises_is_one_bad_unit_and_the_others_are_answered(tmp_path: Path) -> None:
    asked = plan(1, 2, release=release(0.5), unit="customer")
    world = World(tmp_path, asked, {1: Scorer(1, ValueError("x")), 2: Scorer(2, ValueError("x"))})
    mine = [f"c{at}" for at in range(100) if is_challengers("r", f"c{at}", 0.5)]
    rows = [{"x": -1 if f"c{at}" == mine[5] else 1, "customer": f"c{at}"} for at in range(100)]
    (found,) = world.ask({"rows": rows})
    assert found.status == 500, "nobody can answer the one row"
    cell = world.cell("challenger")
    assert (cell.requests, cell.ok, len(cell.seen), len(cell.bad_units)) == (1, 1, len(mine), 1)
    assert (world.cell("champion").requests, len(world.cell("champion").bad_units)) == (1, 0)


@pytest.mark.parametrize("misbehave", [ValueError("x"), "not finite"])
def test_only_the_rows_that_fail_fall_back(tmp_path: Path, misbehave: Any) -> None:
    class Odd(Scorer):
        def score(self, batch: Batch) -> np.ndarray:
            if isinstance(self.misbehave, Exception):
                return super().score(batch)
            return np.where(batch.numbers[:, :1] < 0, np.nan, self.score_of)

    asked = plan(1, 2, release=release(1.0), unit="customer")
    world = World(tmp_path, asked, {1: Scorer(1), 2: Odd(2, misbehave)})
    rows = [{"x": -1 if at in (3, 4, 8) else 1, "customer": f"c{at}"} for at in range(11)]
    (found,) = world.ask({"rows": rows})
    values = [one["value"] for one in found.answer["predictions"]]
    assert values == [1 if at in (3, 4, 8) else 2 for at in range(11)]
    by_row = sorted(world.records(), key=lambda one: one.row)
    assert [one.row for one in by_row if one.status != Status.OK] == [3, 4, 8]
    assert len(world.cell("challenger").bad_units) == 3


class Engine:
    """Answers all that it was asked in one later turn, with one status."""

    starting = False
    is_there = True
    waits_ns = 0

    def __init__(self, status: Status) -> None:
        self.status, self.cause, self.asked = status, 1, []

    def wait_ns(self, _more: int = 0) -> int:
        return self.waits_ns

    def ask(self, batch: Batch, _deadline: int, answered: Any, calls: int = 1) -> None:
        self.asked.append(calls)
        loop = asyncio.get_running_loop()
        fine = self.status is Status.OK
        scores = [[2.0]] * batch.rows if fine else []
        loop.call_soon(answered, self.status, scores, "" if fine else "died")


class EngineWorld(World):
    """The challenger, or the only version, is in an engine."""

    engine = Engine(Status.DIED)

    def service(self) -> Service:
        found = super().service()
        version = found.versions[max(found.versions)]
        version.model, version.engine = None, self.engine
        found.has_engines = True
        return found


@pytest.mark.parametrize(
    ("made", "scored", "batches"),
    [
        # Two are on their way to the disk and one waits; then four, and three wait.
        (World, [2, 2, 4, 4], [2, 2, 3]),
        # Nobody waits whom an engine might answer: its time is not the disk's.
        (EngineWorld, [2, 3, 4, 7], [2, 1, 1, 3]),
    ],
)
def test_while_the_disk_is_busy_with_some_as_many_more_are_scored_at_once_and_fewer_when_it_is_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: type[World],
    scored: list[int],
    batches: list[int],
) -> None:
    scorer = Scorer(1)
    world = made(tmp_path, plan(1, 2), {1: scorer, 2: Scorer(2)}, durable=True)
    began, may_end, syncs = threading.Semaphore(0), threading.Semaphore(0), []

    def sync(fd: int) -> None:
        syncs.append(fd)
        began.release()
        may_end.acquire()

    monkeypatch.setattr("doorstep.journal.writer._sync", sync)

    async def story() -> list[int]:
        commits = Grouped(world.writer, asyncio.get_running_loop())
        world.recorder = Recorder(world.writer, commits)
        world.path = world.make_path()
        site = Site(world.path, world.recorder, world.cells)
        site.swap({"s": world.service()})
        found, counts = [], []

        async def send(count: int) -> None:
            for _ in range(count):
                found.append(Exchange())
                head = Head(b"POST", b"/v1/services/s/predict", 8, True, False, {})
                site.handle(found[-1], head, b'{"x": 1}')
            for _ in range(5):
                await asyncio.sleep(0)
            counts.append(sum(scorer.batches))

        await send(2)
        await asyncio.to_thread(began.acquire)
        await send(1)
        await send(1)
        await send(3)
        may_end.release(9)
        await answered(found)
        assert len(syncs) == 2, "whoever came during a write is in the next one"
        world.recorder.close()
        return counts

    assert asyncio.run(story()) == scored
    assert scorer.batches == batches
    assert len(world.records()) == 7


@pytest.mark.parametrize("status", [Status.DIED, Status.TIMED_OUT])
def test_one_cause_books_one_bad_unit_however_many_requests_it_hits(
    tmp_path: Path, status: Status
) -> None:
    asked = plan(1, 2, release=release(1.0), unit="customer")
    world = EngineWorld(tmp_path, asked, {1: Scorer(1), 2: Scorer(2)})
    world.engine = Engine(status)
    bodies = [
        {"rows": [{"x": 1, "customer": f"c{call}-{at}"} for at in range(3)]} for call in range(4)
    ]
    assert [one.answer["fallback"] for one in world.ask(*bodies)] == ["champion"] * 4
    cell = world.cell("challenger")
    assert (cell.requests, cell.bad, len(cell.seen), len(cell.bad_units)) == (4, 4, 12, 1)


@pytest.mark.parametrize("method", ["add", "add_plain"])
def test_a_mistake_of_ours_in_recording_leaves_nobody_waiting_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    world = World(tmp_path, plan(1), {1: Scorer(1)})
    real, added = getattr(world.recorder, method), []

    def add(what: Any, at: int) -> None:
        real(what, at)
        added.append(what)
        if len(added) == (2 if method == "add" else 1):
            raise ValueError("a mistake of ours")

    monkeypatch.setattr(world.recorder, method, add)
    count = 2 if method == "add" else 1
    bodies = [{"rows": [{"x": at}] * count} for at in range(3)]
    assert [one.status for one in world.ask(*bodies)] == [500] * 3
    assert (world.path.in_flight, world.path.rows_in_flight, world.records()) == (0, 0, [])
    if method == "add_plain":
        monkeypatch.undo()
    assert [one.status for one in world.ask(*bodies[:1])] == [200]
    assert len(world.records()) == count


@pytest.mark.parametrize("where", ["begin", "end", "answered"])
def test_a_mistake_of_ours_in_counting_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    world = World(tmp_path, plan(1, 2, release=release(1.0)), {1: Scorer(1), 2: Scorer(2)})

    def mistake(*_: Any, **__: Any) -> None:
        raise ValueError("a mistake of ours")

    counting = world.cells.counters if where == "answered" else world.cells
    monkeypatch.setattr(counting, where, mistake)
    expected = 500 if where == "begin" else 200
    assert [one.status for one in world.ask({"x": 1}, {"x": 2})] == [expected] * 2
    assert (world.path.in_flight, world.path.rows_in_flight) == (0, 0)


def test_a_mistake_of_ours_after_an_engine_has_answered_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = EngineWorld(tmp_path, plan(1), {1: Scorer(1)})
    world.engine = Engine(Status.OK)

    def mistake(*_: Any) -> None:
        raise ValueError("a mistake of ours")

    bodies = [{"x": 1}, {"x": 2}, {"rows": [{"x": 1}, {"x": 2}]}]
    monkeypatch.setattr(world.recorder, "add", mistake)
    monkeypatch.setattr(world.recorder, "add_plain", mistake)
    for some in (bodies, bodies[:2]):
        assert [one.status for one in world.ask(*some)] == [500] * len(some)
        assert (world.path.in_flight, world.path.rows_in_flight) == (0, 0)
    monkeypatch.setattr(PredictPath, "_settle", mistake)
    monkeypatch.setattr(PredictPath, "_hear", mistake)
    for some in (bodies, bodies[:2]):
        assert [one.status for one in world.ask(*some)] == [500] * len(some)
        assert (world.path.in_flight, world.path.rows_in_flight) == (0, 0)
