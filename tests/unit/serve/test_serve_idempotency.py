"""One answer for one idempotency key: replays, refusals, dead workers, what the file forgets."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_serve_path import Exchange, Scorer, World, answered, plan

from doorstep.formats.batch import Batch
from doorstep.serve import limits
from doorstep.serve.admission import WireError
from doorstep.serve.cells import CellWriter, create_cells
from doorstep.serve.http import Head
from doorstep.serve.idempotency import Answered, IdempotencyKeys, KeyStore
from doorstep.serve.limits import KEY_FLIGHT_S, KEY_KEPT_S
from doorstep.serve.site import Site
from serve_case import PLAIN, Answer, OneSite, Troubles

NOW = 1_800_000_000
ANSWER = Answered(b'{"a": 1}', b"x: y\r\n", b"application/json")


class Raw(Exchange):
    """Keeps the bytes too."""

    body = b""

    def respond(self, status: int, body: bytes, headers: bytes = b"", media: bytes = b"") -> None:
        super().respond(status, body, headers, media)
        self.body = body


class Node:
    """Workers of one node that share a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writers: dict[str, CellWriter] = {}

    def worker(self, name: str) -> KeyStore:
        create_cells(self.folder / name)
        self.writers[name] = CellWriter(self.folder / name)
        return KeyStore(self.folder / "keys.db", self.folder, name)

    def kill(self, name: str) -> None:
        self.writers.pop(name).close()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def code(claim: Callable[..., Any], *words: Any) -> tuple[int, str]:
    with pytest.raises(WireError) as caught:
        claim(*words)
    return caught.value.status, caught.value.code


def test_a_key_is_claimed_once_then_its_answer_is_given_again_by_every_worker(node: Node) -> None:
    one, two = node.worker("one"), node.worker("two")
    assert one.claim(b"k", b"r", NOW) is None
    for store in (one, two):
        assert code(store.claim, b"k", b"r", NOW) == (409, "idempotency-in-flight")
        assert code(store.claim, b"k", b"other", NOW) == (422, "idempotency-mismatch")
    one.store(b"k", ANSWER)
    for store in (one, two):
        assert store.claim(b"k", b"r", NOW + KEY_KEPT_S) == ANSWER
        assert code(store.claim, b"k", b"other", NOW) == (422, "idempotency-mismatch")
    assert two.claim(b"other", b"r", NOW) is None


def test_a_key_is_free_again_after_a_failure_a_death_or_a_day(node: Node) -> None:
    one, two = node.worker("one"), node.worker("two")
    assert one.claim(b"failed", b"r", NOW) is None
    one.release(b"failed")
    assert two.claim(b"failed", b"other", NOW) is None
    assert one.claim(b"died", b"r", NOW) is None
    one.close()
    node.kill("one")
    assert two.claim(b"died", b"r", NOW) is None
    two.store(b"died", ANSWER)
    (node.folder / "one").unlink()
    assert two.claim(b"died", b"r", NOW + KEY_KEPT_S + 1) is None
    assert two.claim(b"stuck", b"r", NOW) is None
    assert code(two.claim, b"stuck", b"r", NOW + KEY_FLIGHT_S) == (409, "idempotency-in-flight")
    assert two.claim(b"stuck", b"r", NOW + KEY_FLIGHT_S + 1) is None


def test_an_answer_that_comes_after_its_key_was_taken_by_another_is_not_stored(node: Node) -> None:
    one, two = node.worker("one"), node.worker("two")
    assert one.claim(b"k", b"r", NOW) is None
    node.kill("one")
    assert two.claim(b"k", b"r", NOW) is None
    one.store(b"k", Answered(b"late", b"", b""))
    one.release(b"k")
    two.store(b"k", ANSWER)
    assert two.claim(b"k", b"r", NOW) == ANSWER


def test_answers_outlive_the_workers(node: Node) -> None:
    one = node.worker("one")
    one.claim(b"k", b"r", NOW)
    one.store(b"k", ANSWER)
    one.close()
    node.kill("one")
    assert node.worker("two").claim(b"k", b"r", NOW) == ANSWER


def test_what_is_too_old_or_too_much_is_dropped_the_oldest_first(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEYS_MAX", 8)
    monkeypatch.setattr(limits, "KEYS_BYTES_MAX", 5 * len(ANSWER.body))
    one = node.worker("one")
    for at in range(12):
        assert one.claim(b"%d" % at, b"r", NOW + at) is None
        one.store(b"%d" % at, ANSWER)
    assert one.sweep(NOW + 12) == 7
    assert one.sweep(NOW + 12) is None
    left = [at for at in range(12) if one.claim(b"%d" % at, b"r", NOW + 12) == ANSWER]
    assert left == [7, 8, 9, 10, 11]


def test_a_sweep_goes_by_slices_and_the_totals_are_what_is_there(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEYS_MAX", 8)
    monkeypatch.setattr(limits, "KEY_SLICE", 3)
    one, two = node.worker("one"), node.worker("two")
    names = [b"%d" % at for at in range(20)]
    for at, name in enumerate(names):
        assert one.claim(name, b"r", NOW + at) is None
        one.store(name, ANSWER)
    late = NOW + KEY_KEPT_S + 4
    assert two.claim(names[0], b"r", late) is None
    assert two.claim(b"free", b"r", late) is None
    two.release(b"free")
    counts = []
    while (found := one.sweep(late)) is not None:
        counts.append(found)
        with sqlite3.connect(node.folder / "keys.db") as look:
            real = look.execute("SELECT count(*), total(length(body)) FROM answer").fetchone()
            assert real == look.execute("SELECT keys, bytes FROM total").fetchone()
        look.close()
    # Three are too old: a whole slice, so that what is too much waits for the next.
    assert counts == [0, 3, 6, 9, 9]
    assert real == (8, 7 * len(ANSWER.body))
    assert two.claim(names[12], b"r", late) is None
    assert two.claim(names[13], b"r", late) == ANSWER


class Keyed(World):
    """A worker whose requests have keys."""

    def tell(self, *asked: tuple[Any, dict[bytes, bytes]], file: bytes = b"") -> list[Raw]:
        """(body, headers), one after the other."""

        async def story() -> list[Raw]:
            self.path = self.make_path()
            site = Site(self.path, self.recorder, self.cells)
            site.keys = IdempotencyKeys(self.folder, self.folder / "cells", self.troubles)
            if file:
                (self.folder / "idempotency.db").write_bytes(file)
            site.swap({"s": self.service()})
            found = []
            for body, fields in asked:
                data = json.dumps(body).encode()
                head = Head(b"POST", b"/v1/services/s/predict", len(data), True, False, fields)
                found.append(Raw())
                site.handle(found[-1], head, data)
                await answered(found)
            return found

        return asyncio.run(story())


def key(name: str, **more: str) -> dict[bytes, bytes]:
    fields = {b"idempotency-key": name.encode()}
    return fields | {one.replace("_", "-").encode(): v.encode() for one, v in more.items()}


def test_a_replay_is_the_same_bytes_and_makes_no_record(tmp_path: Path) -> None:
    world = Keyed(tmp_path, plan(1), {1: Scorer(0.5)})
    first, again, other, fresh = world.tell(
        ({"x": 1}, key("a")), ({"x": 1}, key("a")), ({"x": 2}, key("a")), ({"x": 1}, key("b"))
    )
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert again.headers == first.headers + "idempotent-replayed: true\r\n"
    assert (other.status, other.answer["error"]["code"]) == (422, "idempotency-mismatch")
    assert fresh.status == 200 and fresh.body != first.body
    assert len(world.records()) == 2


def test_a_key_belongs_to_its_credential_and_its_whole_request(tmp_path: Path) -> None:
    world = Keyed(tmp_path, plan(1), {1: Scorer(0.5)})
    found = world.tell(
        ({"x": 1}, key("a", x_api_key="ana")),
        ({"x": 1}, key("a", x_api_key="ben")),
        ({"x": 1}, key("a", x_api_key="ana", doorstep_context='{"region": "north"}')),
        ({"x": 1}, key("a", x_api_key="ana", content_type="application/json")),
        ({"x": 1}, key("a", x_api_key="ana", accept="application/json")),
        ({"x": 1}, key("a", x_api_key="ana", traceparent="another try")),
    )
    assert [one.status for one in found] == [200, 200, 422, 422, 422, 200]
    assert ["replayed" in one.headers for one in found] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/invocations", b'{"instances": [[30, 700]]}'),
        ("/score", b'{"data": [[30, 700]]}'),
        ("/vertex", b'{"instances": [[30, 700]]}'),
    ],
)
def test_a_key_belongs_to_the_service_that_a_header_names(
    tmp_path: Path, url: str, body: bytes
) -> None:
    one = OneSite(tmp_path, {"loans": (PLAIN, ("bad", "good")), "price": (PLAIN, ())})
    one.site.keys = IdempotencyKeys(tmp_path, tmp_path / "cells", Troubles())

    def ask(service: bytes) -> Answer:
        more = {"idempotency_key": b"k", "content_type": b"application/json"}
        return one.ask("POST", url, body, doorstep_service=service, **more)

    first, other, again = ask(b"loans"), ask(b"price"), ask(b"loans")
    assert (first.status, other.status, again.status) == (200, 422, 200)
    assert b"idempotency-mismatch" in other.body
    assert again.body == first.body
    one.close()


def test_only_answers_are_stored(tmp_path: Path) -> None:
    scorer = Scorer(0.5, ValueError("x"))
    world = Keyed(tmp_path, plan(1), {1: scorer})
    bad, broken, again, fine = world.tell(
        ({"y": 1}, key("a")), ({"x": -1}, key("a")), ({"x": -1}, key("a")), ({"x": 1}, key("a"))
    )
    assert [bad.status, broken.status, again.status, fine.status] == [422, 500, 500, 200]
    assert len(scorer.batches) == 3


@pytest.mark.parametrize("name", ["", "k" * 257])
def test_a_key_has_one_to_256_characters(tmp_path: Path, name: str) -> None:
    world = Keyed(tmp_path, plan(1), {1: Scorer(0.5)})
    (found,) = world.tell(({"x": 1}, key(name)))
    assert (found.status, found.answer["error"]["code"]) == (422, "bad-idempotency-key")


def test_without_its_file_a_request_with_a_key_is_refused_and_one_without_is_answered(
    tmp_path: Path,
) -> None:
    world = Keyed(tmp_path, plan(1), {1: Scorer(0.5)})
    keyed, plain = world.tell(({"x": 1}, key("a")), ({"x": 1}, {}), file=b"not a database" * 99)
    assert (keyed.status, keyed.answer["error"]["code"]) == (503, "idempotency-unavailable")
    assert "retry-after" in keyed.headers
    assert "not a database" in world.troubles.said["idempotency"]
    assert plain.status == 200
    assert len(world.records()) == 1


def test_an_answer_that_cannot_be_stored_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    world = Keyed(tmp_path, plan(1), {1: Scorer(0.5)})
    with monkeypatch.context() as patched:
        patched.setattr(KeyStore, "store", full)
        (found,) = world.tell(({"x": 1}, key("a")))
    assert (found.status, found.answer["error"]["code"]) == (503, "idempotency-unavailable")
    (again,) = world.tell(({"x": 1}, key("a")))
    assert (again.status, world.troubles.said["idempotency"]) == (200, "")


def test_the_file_is_made_with_the_first_key_and_is_for_this_user_only(tmp_path: Path) -> None:
    world = Keyed(tmp_path, plan(1), {1: Scorer(0.5)})
    world.tell(({"x": 1}, {}))
    path = tmp_path / "idempotency.db"
    assert not path.exists()
    world.tell(({"x": 1}, key("a")))
    assert path.stat().st_mode & 0o777 == 0o600


class Contended(Scorer):
    """Before it answers, somebody else begins to write the keys."""

    def __init__(self, folder: Path) -> None:
        super().__init__(0.5)
        self.path = folder / "idempotency.db"
        self.other: sqlite3.Connection | None = None

    def score(self, batch: Batch) -> np.ndarray:
        self.lock()
        return super().score(batch)

    def lock(self) -> None:
        self.other = sqlite3.connect(self.path, isolation_level=None)
        self.other.execute("BEGIN IMMEDIATE")

    def unlock(self) -> None:
        assert self.other is not None
        self.other.close()


@pytest.mark.parametrize("patience_s", [60.0, 0.0])
def test_an_answer_waits_for_another_worker_that_writes_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr(limits, "KEY_STORE_S", patience_s)
    scorer = Contended(tmp_path)
    world = Keyed(tmp_path, plan(1), {1: scorer})

    async def story() -> None:
        site = Site(world.make_path(), world.recorder, world.cells)
        keys = site.keys = IdempotencyKeys(tmp_path, tmp_path / "cells", world.troubles)
        site.swap({"s": world.service()})

        def ask() -> Raw:
            head = Head(b"POST", b"/v1/services/s/predict", 8, True, False, key("a"))
            site.handle(found := Raw(), head, b'{"x": 1}')
            return found

        first = ask()
        store = keys._store
        assert store is not None
        async with asyncio.timeout(60):
            while not (keys._waiting or first.status):
                await asyncio.sleep(0.001)
        assert first.status == (0 if patience_s else 503)
        refused = ask()
        assert (refused.status, refused.answer["error"]["code"]) == (
            503, "idempotency-unavailable"
        )  # fmt: skip
        scorer.unlock()
        async with asyncio.timeout(60):
            while keys._waiting:
                await asyncio.sleep(0.001)
        again = ask()
        assert keys._store is store
        if patience_s:
            assert (first.status, again.status, again.body) == (200, 200, first.body)
            assert "replayed" in again.headers
        await answered([again])

    asyncio.run(story())
    scorer.unlock()
    assert len(scorer.batches) == (1 if patience_s else 2)
