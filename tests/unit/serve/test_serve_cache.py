"""Answers given again: to which rows, how long, how many are kept, what they are no evidence of."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_serve_path import CONTRACT, Exchange, Scorer, World, plan, release

from doorstep.core.record import PredictionMeta, Status, layout_of
from doorstep.formats.batch import Batch
from doorstep.journal.columns import batch_of
from doorstep.journal.reader import Group
from doorstep.journal.tally import no_profiles, tally
from doorstep.serve.cache import ENTRY_BYTES, AnswerCache, row_keys
from doorstep.serve.cells import read_cells
from doorstep.serve.counters import BUCKETS
from doorstep.serve.http import Head
from doorstep.serve.site import Site


class Turns(World):
    """A worker that lives for several turns of the loop."""

    def tell(self, *turns: Any, url: str = "/v1/services/s/predict") -> list[Exchange]:
        """One body a turn."""

        async def story() -> list[Exchange]:
            self.path = self.make_path()
            site = Site(self.path, self.recorder, self.cells)
            site.swap({"s": self.service()})
            found = []
            for body in turns:
                exchange, data = Exchange(), json.dumps(body).encode()
                head = Head(b"POST", url.encode(), len(data), True, False, {})
                site.handle(exchange, head, data)
                while not exchange.status:
                    await asyncio.sleep(0)
                found.append(exchange)
            return found

        return asyncio.run(story())


def test_the_same_row_is_scored_once_and_every_answer_has_its_own_id_and_record(
    tmp_path: Path,
) -> None:
    scorer = Scorer(0.5)
    world = Turns(tmp_path, plan(1, cache_s=60.0), {1: scorer})
    found = world.tell({"x": 1}, {"x": 1.0}, {"rows": [{"x": 1}]}, {"x": 2})
    assert scorer.batches == [1, 1]
    rows = [one.answer["predictions"][0] for one in found]
    assert [row.get("cached", False) for row in rows] == [False, True, True, False]
    assert [row["value"] for row in rows] == [0.5] * 4
    assert len({row["id"] for row in rows}) == 4
    records = world.records()
    assert [one.cached for one in records] == [False, True, True, False]
    assert len({one.request for one in records}) == 4
    counters = read_cells(tmp_path / "cells").counters
    assert counters["requests", "s", "1", "native", "2xx"] == [4]
    assert sum(counters["latency_seconds", "s"][:BUCKETS]) == 2
    assert ("errors", "s") not in counters


def test_only_the_rows_that_are_new_are_scored_and_the_order_stays(tmp_path: Path) -> None:
    class Echo(Scorer):
        def score(self, batch: Batch) -> np.ndarray:
            self.batches.append(batch.rows)
            return batch.numbers[:, :1].copy()

    scorer = Echo(0)
    world = Turns(tmp_path, plan(1, cache_s=60.0), {1: scorer})
    rows = [[{"x": 1}, {"x": 3}], [{"x": at} for at in range(5)], [{"x": 0}, {"x": 4}]]
    found = world.tell(*[{"rows": one} for one in rows])
    assert scorer.batches == [2, 3]
    values = [[row["value"] for row in one.answer["predictions"]] for one in found]
    assert values == [[1, 3], [0, 1, 2, 3, 4], [0, 4]]
    flags = [row.get("cached", False) for row in found[1].answer["predictions"]]
    assert flags == [False, True, False, True, False]
    assert [sorted(one.row for one in world.records() if one.cached)] == [[0, 1, 1, 3]]


def test_context_that_the_version_does_not_read_makes_no_other_row(tmp_path: Path) -> None:
    scorer = Scorer(0.5)
    world = Turns(tmp_path, plan(1, cache_s=60.0), {1: scorer})
    found = world.tell(
        {"rows": [{"x": 1}], "context": {"region": "north"}},
        {"rows": [{"x": 1}], "context": {"region": "south"}},
    )
    assert scorer.batches == [1]
    assert found[1].answer["predictions"][0]["cached"]


def test_v2_says_how_many_rows_were_not_computed(tmp_path: Path) -> None:
    world = Turns(tmp_path, plan(1, cache_s=60.0), {1: Scorer(0.5)})
    body = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP64", "data": [1, 2]}]}
    first, second = world.tell(body, body, url="/v2/models/s/infer")
    assert "cached" not in first.answer["parameters"]
    assert second.answer["parameters"]["cached"] == 2


@pytest.mark.parametrize("misbehave", [ValueError("x"), np.array([[np.nan]])])
def test_only_finite_scores_are_given_again(tmp_path: Path, misbehave: Any) -> None:
    scorer = Scorer(0.5, misbehave)
    world = Turns(tmp_path, plan(1, cache_s=60.0), {1: scorer})
    assert [one.status for one in world.tell({"x": -1}, {"x": -1})] == [500, 500]
    assert len(scorer.batches) == 2


def test_what_the_fallback_answered_is_not_given_again_as_the_answer_of_the_assigned(
    tmp_path: Path,
) -> None:
    broken, champion = Scorer(2, ValueError("x")), Scorer(1)
    given = plan(1, 2, cache_s=60.0, release=release(1.0))
    world = Turns(tmp_path, given, {1: champion, 2: broken})
    world.lease_held = True
    found = world.tell({"x": -1}, {"x": -1})
    assert [one.answer["fallback"] for one in found] == ["champion"] * 2
    assert [one.status for one in world.records()] == [Status.FAILED] * 2


def test_evidence_of_a_release_is_always_computed(tmp_path: Path) -> None:
    scorers = {1: Scorer(1), 2: Scorer(2)}
    given = plan(1, 2, cache_s=60.0, release=release(0.5), unit="customer")
    world = Turns(tmp_path, given, scorers)
    bodies = [{"rows": [{"x": 1, "customer": f"c{at % 4}"}]} for at in range(12)]
    world.tell(*bodies)
    assert sum(len(one.batches) for one in scorers.values()) == 12
    assert not any(one.cached for one in world.records())
    world.lease_held = False
    world.tell(*bodies)
    assert sum(len(one.batches) for one in scorers.values()) == 13


def test_an_answer_is_too_old_when_its_time_is_over_and_never_with_no_time(tmp_path: Path) -> None:
    cache = AnswerCache()
    key = row_keys(("s", "b", "onnx"), Batch(np.array([[1.0]]), []))[0]
    cache.put(key, [0.5], 1_000)
    assert cache.get(key, 1_000) == [0.5]
    assert cache.get(key, 1_001) is None
    assert (len(cache), cache.bytes) == (0, 0)
    scorer = Scorer(0.5)
    Turns(tmp_path, plan(1), {1: scorer}).tell({"x": 1}, {"x": 1})
    assert scorer.batches == [1, 1]


def test_rows_of_another_version_or_with_other_texts_are_other_rows() -> None:
    numbers = np.array([[1.0], [1.0]])
    keys = row_keys(("s", "b", "onnx"), Batch(numbers, [["a", "b"]]))
    keys += row_keys(("s", "b", "native"), Batch(numbers, [["a", None]]))
    assert len(set(keys)) == 4


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_the_cache_never_grows_over_its_bounds_and_keeps_what_was_used_last(
    steps: list[tuple[int, bool]], entries: int, sizes: int
) -> None:
    cache = AnswerCache(entries, sizes * (ENTRY_BYTES + 8 + 32))
    used: list[int] = []
    for number, puts in steps:
        key = row_keys(("s", "b", "onnx"), Batch(np.array([[float(number)]]), []))[0]
        if puts:
            cache.put(key, [float(number)], 5)
        found = cache.get(key, 5)
        assert found == ([float(number)] if number in used or puts else None)
        if found:
            used = [*[one for one in used if one != number], number][-min(entries, sizes) :]
    assert len(cache) == len(used)
    assert cache.bytes == len(used) * (ENTRY_BYTES + 8 + 32)


def test_records_of_before_there_was_a_cache_are_read_as_computed(tmp_path: Path) -> None:
    world = Turns(tmp_path, plan(1, cache_s=60.0), {1: Scorer(0.5)})
    world.tell({"x": 1}, {"x": 1})
    first, second = world.records()
    old = msgspec.msgpack.encode(msgspec.structs.astuple(first)[:-1])
    assert msgspec.msgpack.decode(old, type=PredictionMeta) == first
    assert (first.cached, second.cached) == (False, True)


def test_a_cached_answer_counts_as_a_row_and_not_as_a_latency(tmp_path: Path) -> None:
    world = Turns(tmp_path, plan(1, cache_s=60.0), {1: Scorer(0.5)})
    world.tell({"x": 1}, {"x": 1}, {"x": 1})
    rows = [msgspec.structs.replace(one, at=0) for one in world.records()]
    layout = layout_of("s", CONTRACT, ("value",))
    group = Group(layout, rows, memoryview(np.ones((3, 2)).tobytes()))
    batch = batch_of([group], [0], hashed=False)
    (cell,) = tally(batch, no_profiles).cells
    assert (cell.rows, sum(cell.latency)) == (3, 1)
