"""Who stands in for whom: the chain of versions, rules, constants; killed and broken versions."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_serve_cache import Turns
from test_serve_path import Engine, EngineWorld, Exchange, Scorer, World, plan, release

from doorstep.core.errors import InputError
from doorstep.core.plan import FallbackStep
from doorstep.core.record import Status
from doorstep.formats.batch import Batch
from doorstep.serve.http import Head
from doorstep.serve.limits import BREAKER_ROWS, BREAKER_WHOLE
from doorstep.serve.path import Path as PredictPath
from doorstep.serve.rows import RowReader
from doorstep.serve.rule import Rule
from doorstep.serve.service import Service
from doorstep.serve.site import Site

CHAMPION = FallbackStep(kind="version")
PREVIOUS = FallbackStep(kind="version", version=3)
NORTH = FallbackStep(kind="answer", answer=7.0, when="region == 'north'")
LARGE = FallbackStep(kind="answer", answer=9.0, when="x < -5")
REFER = FallbackStep(kind="answer", answer=0.0)


def broken(score: float = 1.0) -> Scorer:
    return Scorer(score, ValueError("x"))


def test_every_row_gets_the_first_link_that_has_an_answer_for_it(tmp_path: Path) -> None:
    world = World(tmp_path, plan(1, fallback=(CHAMPION, LARGE, NORTH, REFER)), {1: broken()})
    rows = [{"x": -1}, {"x": 1}, {"x": -9}, {"x": -1}]
    context = [{"region": "north"}, {}, {}, {}]
    (found,) = world.ask({"rows": rows, "context": context})
    answers = [one["answer"] for one in found.answer["predictions"]]
    assert answers == [7.0, 1.0, 9.0, 0.0]
    assert found.answer["fallback"] in ("rule", "answer")
    records = sorted(world.records(), key=lambda one: one.row)
    assert [one.version for one in records] == [0, 1, 0, 0]
    assert [one.status for one in records] == [Status.FAILED, Status.OK] + [Status.FAILED] * 2
    assert [one.texts[-1] for one in records] == ["7.0", None, "9.0", "0.0"]


def test_an_answer_says_whether_a_rule_or_a_constant_gave_it(tmp_path: Path) -> None:
    world = World(tmp_path, plan(1, fallback=(LARGE, REFER)), {1: broken()})
    found = world.ask({"x": -9}, {"x": -1}, {"x": 1})
    assert [one.answer["fallback"] for one in found] == ["rule", "answer", None]


def test_where_no_rule_fits_and_nothing_follows_the_caller_gets_an_error(tmp_path: Path) -> None:
    world = World(tmp_path, plan(1, fallback=(LARGE,)), {1: broken()})
    assert [one.status for one in world.ask({"x": -1}, {"x": -9})] == [500, 200]


def test_a_rule_about_a_field_that_is_missing_or_unknown_fits_nothing(tmp_path: Path) -> None:
    unknown = FallbackStep(kind="answer", answer=1.0, when="nobody != 3")
    world = World(tmp_path, plan(1, fallback=(unknown, NORTH)), {1: broken()})
    assert [one.status for one in world.ask({"x": -1})] == [500]
    with pytest.raises(InputError, match="is not a condition"):
        Rule(1.0, "x ~ 1", RowReader(plan(1)))


def test_the_previous_version_answers_after_the_champion_before_rules(tmp_path: Path) -> None:
    given = plan(1, 2, 3, release=release(1.0), fallback=(CHAMPION, PREVIOUS, REFER))
    world = World(tmp_path, given, {1: broken(), 2: broken(), 3: Scorer(3)})
    (found,) = world.ask({"x": -1})
    assert (found.answer["version"], found.answer["fallback"]) == (3, "s@3")


def test_a_killed_champion_is_not_asked_and_is_no_evidence(tmp_path: Path) -> None:
    champion = Scorer(1)
    given = plan(1, 2, 3, release=release(0.0), fallback=(CHAMPION, PREVIOUS), killed=(1,))
    world = World(tmp_path, given, {1: champion, 2: Scorer(2), 3: Scorer(3)})
    (found,) = world.ask({"x": 1})
    assert (found.status, found.answer["version"], found.answer["fallback"]) == (200, 3, "s@3")
    (record,) = world.records()
    assert (record.assigned, record.version, record.status) == (1, 3, Status.UNAVAILABLE)
    assert (record.error, record.release) == ("the version was killed", "")
    assert (champion.batches, world.cell("champion"), world.cell("challenger")) == ([], None, None)
    assert world.service().ready


def test_a_killed_version_is_not_asked_by_name_nor_answered_from_the_cache(tmp_path: Path) -> None:
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}
    world = Turns(tmp_path, plan(1, 3, killed=(3,), cache_s=60.0), {1: Scorer(1), 3: Scorer(3)})
    (found,) = world.tell(body, url="/v2/models/s/versions/3/infer")
    assert (found.status, "retry-after" in found.headers) == (503, True)


def test_with_everything_killed_the_declared_answer_is_given_or_the_caller_is_told(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, plan(1, killed=(1,), fallback=(CHAMPION, REFER)), {1: Scorer(1)})
    assert world.ask({"x": 1})[0].answer["predictions"][0]["answer"] == 0.0
    world.plan = plan(1, killed=(1,))
    assert world.ask({"x": 1})[0].status == 503
    assert not world.service().ready


@pytest.mark.parametrize("status", [Status.TIMED_OUT, Status.DIED, Status.UNAVAILABLE])
def test_a_version_that_fails_as_a_whole_is_left_alone_for_a_while(
    tmp_path: Path, status: Status
) -> None:
    class World2(Turns, EngineWorld):
        pass

    world = World2(tmp_path, plan(1, fallback=(REFER,)), {1: Scorer(1)})
    world.engine = Engine(status)
    found = world.tell(*[{"x": 1}] * (BREAKER_WHOLE + 4))
    assert [one.answer["fallback"] for one in found] == ["answer"] * len(found)
    assert len(world.engine.asked) == BREAKER_WHOLE
    assert "s@1 failed too often" in world.troubles.said["breaker s@1"]
    records = world.records()
    assert [one.status for one in records[:BREAKER_WHOLE]] == [status] * BREAKER_WHOLE
    assert {one.status for one in records[BREAKER_WHOLE:]} == {Status.UNAVAILABLE}


def test_rows_of_one_bad_caller_do_not_open_it_for_the_others(tmp_path: Path) -> None:
    scorer = broken()
    world = Turns(tmp_path, plan(1), {1: scorer})
    bodies = [{"x": -1 if at % 10 else 1} for at in range(3 * BREAKER_ROWS)]
    assert {one.status for one in world.tell(*bodies)} == {200, 500}
    assert world.troubles.said.get("breaker s@1", "") == ""
    found = world.tell(*[{"x": -1}] * (BREAKER_ROWS + 3))
    assert [one.status for one in found] == [500] * BREAKER_ROWS + [503] * 3


class Crowded(EngineWorld):
    """The champion's engine has a second of work before it."""

    def service(self) -> Service:
        found = super().service()
        self.engine.waits_ns = 1_000_000_000
        return found


def test_who_would_wait_too_long_for_an_engine_is_refused_at_once_and_not_recorded(
    tmp_path: Path,
) -> None:
    world = Crowded(tmp_path, plan(1), {1: Scorer(1)})
    world.engine = Engine(Status.OK)
    (found,) = world.ask({"x": 1})
    assert (found.status, found.answer["error"]["code"]) == (503, "overloaded")
    assert "retry-after" in found.headers
    assert world.records() == []
    world.plan = plan(1, timeout_ms=10_000)
    assert world.ask({"x": 1})[0].status == 200


def test_a_declared_answer_stands_in_for_an_engine_with_too_long_a_queue(tmp_path: Path) -> None:
    world = Crowded(tmp_path, plan(1, fallback=(REFER,)), {1: Scorer(1)})
    world.engine = Engine(Status.OK)
    (found,) = world.ask({"x": 1})
    assert (found.status, found.answer["fallback"]) == (200, "answer")
    (record,) = world.records()
    assert (record.status, record.error) == (Status.UNAVAILABLE, "1000 ms of others wait for it")
    assert world.path.breakers.known == {}


def test_what_an_engine_with_too_long_a_queue_does_not_answer_is_evidence_of_its_arm(
    tmp_path: Path,
) -> None:
    world = Crowded(tmp_path, plan(1, 2, release=release(1.0)), {1: Scorer(1), 2: Scorer(2)})
    world.engine = Engine(Status.OK)
    (found,) = world.ask({"x": 1})
    assert (found.status, found.answer["fallback"]) == (200, "champion")
    assert (world.cell("challenger").bad, len(world.records())) == (1, 1)


def test_more_than_can_be_scored_in_time_is_refused_and_the_rest_is_answered_in_turns(
    tmp_path: Path,
) -> None:
    class Slow(Scorer):
        def score(self, batch: Batch) -> np.ndarray:
            time.sleep(0.001 * batch.rows)
            return super().score(batch)

    scorer = Slow(1)
    world = Turns(tmp_path, plan(1, timeout_ms=400), {1: scorer})
    exchanges = [Exchange() for _ in range(900)]

    async def story() -> None:
        path = world.make_path()
        site = Site(path, world.recorder, world.cells)
        site.swap({"s": world.service()})
        data = b'{"x": 1}'
        head = Head(b"POST", b"/v1/services/s/predict", len(data), True, False, {})
        for _ in range(30):
            site.handle(Exchange(), head, data)
            await asyncio.sleep(0)
        for exchange in exchanges:
            site.handle(exchange, head, data)
        while not all(one.status for one in exchanges):
            await asyncio.sleep(0)
        assert (path.in_flight, path.rows_in_flight) == (0, 0)

    asyncio.run(story())
    statuses = Counter(one.status for one in exchanges)
    assert set(statuses) == {200, 503}
    assert len(world.records()) == statuses[200] + 30
    # On a machine that stood still a row looks so dear that one turn's worth is all that is taken.
    assert max(scorer.batches) < statuses[200] or statuses[200] < 10


class Asleep(World):
    """Its models sleep, and what is loaded when they wake comes after `load_s`."""

    load_s = 0.6

    def service(self) -> Service:
        found = super().service()
        for version in found.versions.values():
            version.model.scorer = None
        return found

    def wake(self, model: Any, woken: Any) -> None:
        def load() -> None:
            model.scorer = self.scorers[model.plan.number]
            woken("")

        asyncio.get_running_loop().call_later(self.load_s, load)


def test_callers_who_gave_up_on_a_model_that_is_loaded_are_no_failures_of_it(
    tmp_path: Path,
) -> None:
    world = Asleep(tmp_path, plan(1, timeout_ms=200), {1: Scorer(0.5)})

    async def story() -> list[int]:
        path = PredictPath(
            asyncio.get_running_loop(), world.recorder, world.cells, world.troubles, world
        )
        site = Site(path, world.recorder, world.cells)
        site.swap({"s": world.service()})
        statuses = []
        for count in (3 * BREAKER_WHOLE, 1):
            asked = [Exchange() for _ in range(count)]
            for one in asked:
                data = b'{"x": 1}'
                head = Head(b"POST", b"/v1/services/s/predict", len(data), True, False, {})
                site.handle(one, head, data)
            while not all(one.status for one in asked):
                await asyncio.sleep(0.01)
            statuses += [one.status for one in asked]
            while site.services["s"].versions[1].model.scorer is None:
                await asyncio.sleep(0.01)
        return statuses

    statuses = asyncio.run(story())
    assert statuses == [503] * (3 * BREAKER_WHOLE) + [200]
    assert world.troubles.said.get("breaker s@1", "") == ""
