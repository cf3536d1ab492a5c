"""The demo's clients: what they send, what they count, and what they take for a failure."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.cli.demo_traffic import (
    AnswerSeen,
    Case,
    Deck,
    Mix,
    PredictionSeen,
    Tally,
    Traffic,
    cases_of,
    count_answer,
    larger_half,
)
from doorstep.testing.processes import wait_for

ROWS = [
    {"amount": 100 * at, "duration": 50 - at, "sex": "male", "credit_risk": "good"}
    for at in range(1, 11)
]
CASES = cases_of(ROWS, "credit_risk", ["sex"])
ANSWER = (
    b'{"service":"loans","version":3,"predictions":[{"id":"a.0","answer":"bad"}],"fallback":null}'
)


def drawn(mix: Mix, seed: int, count: int) -> list[dict[str, object]]:
    deck = Deck(mix, random.Random(seed))
    return [json.loads(deck.draw(number).body) for number in range(count)]


def test_a_case_is_given_neither_its_outcome_nor_its_context() -> None:
    assert CASES[0] == Case({"amount": 100, "duration": 49}, {"sex": "male"}, "good")


def test_the_same_seed_sends_the_same_requests_and_another_one_others() -> None:
    mix = Mix(cases=CASES)
    assert drawn(mix, 1, 30) == drawn(mix, 1, 30)
    assert drawn(mix, 1, 30) != drawn(mix, 2, 30)


def test_every_case_comes_once_before_any_comes_again() -> None:
    rows = [body["rows"][0] for body in drawn(Mix(cases=CASES), 1, 30)]  # type: ignore[index]
    for start in (0, 10, 20):
        amounts = sorted(row["amount"] for row in rows[start : start + 10])
        assert amounts == [row["amount"] for row in ROWS]


def test_every_application_and_applicant_is_a_new_one() -> None:
    rows = [body["rows"][0] for body in drawn(Mix(cases=CASES), 1, 100)]  # type: ignore[index]
    assert len({row["application_id"] for row in rows}) == 100
    assert len({row["applicant"] for row in rows}) == 100


@given(st.sampled_from([0.0, 1.0]), st.integers(0, 1000))
def test_nothing_is_changed_at_share_0_and_everything_at_1(share: float, seed: int) -> None:
    mix = Mix(cases=CASES, changed={"amount": 7}, share=share)
    asked = Deck(mix, random.Random(seed)).draw(1)
    assert asked.is_changed is (share == 1.0)
    assert (json.loads(asked.body)["rows"][0]["amount"] == 7) is (share == 1.0)


def test_about_the_asked_share_is_changed() -> None:
    mix = Mix(cases=CASES, changed={"amount": 7}, share=0.05)
    deck = Deck(mix, random.Random(1))
    changed = sum(deck.draw(number).is_changed for number in range(4000))
    assert 150 < changed < 250


def test_the_larger_half_is_larger_in_every_column_and_changes_no_value() -> None:
    assert larger_half(CASES, ["amount"]) == CASES[5:]
    assert larger_half(CASES, ["amount", "duration"]) == ()
    found = larger_half(CASES, ["duration"])
    assert found == CASES[:5]


def test_an_answer_is_counted_by_who_gave_it_and_whether_it_stood_in() -> None:
    warned = AnswerSeen(1, (PredictionSeen("a.0", "bad", ("purpose",)),), "champion")
    found = count_answer(count_answer(Tally(), AnswerSeen(4, ())), warned)
    assert found == Tally(answered=2, fallbacks=1, warned=1, versions={4: 1, 1: 1})


def test_what_was_counted_since_a_moment_leaves_out_what_was_before() -> None:
    before = Tally(answered=5, failed=1, versions={1: 5}, first_failure="old")
    after = Tally(answered=9, failed=1, versions={1: 5, 2: 4}, first_failure="old")
    assert after.since(before) == Tally(answered=4, versions={2: 4})


def test_the_first_failure_is_told_once_there_is_one() -> None:
    before = Tally(answered=5)
    after = Tally(answered=5, failed=2, first_failure="503: busy")
    assert after.since(before).first_failure == "503: busy"


class Server:
    """Answers every request with what `answer` says; in a thread of its own."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self._answer = answer
        self._ready = threading.Event()
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = 0
        self.keys: list[str] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop and self._ended
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(size))
                self.keys.append(body["rows"][0]["application_id"])
                writer.write(self._answer())
                await writer.drain()
        except (EOFError, OSError):
            writer.close()


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def send_until(traffic: Traffic, is_enough: Callable[[Tally], bool]) -> Tally:
    """Bounded by a count of looks, each of which waits a little."""
    waiting = threading.Event()
    traffic.start()
    traffic.send(Mix(cases=CASES), 400.0)
    try:
        for _ in range(6000):
            if is_enough(traffic.tally()):
                return traffic.tally()
            waiting.wait(0.01)
        raise AssertionError(f"never enough: {traffic.tally()}")
    finally:
        traffic.stop()


def test_answers_are_counted_and_their_outcomes_kept_until_they_are_taken() -> None:
    with Server(lambda: http(200, ANSWER)) as server:
        traffic = Traffic(f"http://127.0.0.1:{server.port}", "loans", 1)
        found = send_until(traffic, lambda tally: tally.answered >= 20)
    assert found.failed == 0
    assert set(found.versions) == {3}
    # Stopped, it has waited for what was under way.
    assert traffic.settled() == traffic.tally()
    outcomes = traffic.take_outcomes()
    assert set(outcomes) <= set(server.keys)
    assert set(outcomes.values()) == {"good"}
    assert traffic.take_outcomes() == {}
    assert traffic.recent()[-1][1].predictions[0].answer == "bad"


@pytest.mark.parametrize("body", [b'{"error":{}}', b"not JSON"])
def test_what_is_not_an_answer_is_a_failed_request_and_is_not_asked_again(body: bytes) -> None:
    status = 503 if body.startswith(b"{") else 200
    with Server(lambda: http(status, body)) as server:
        traffic = Traffic(f"http://127.0.0.1:{server.port}", "loans", 1)
        found = send_until(traffic, lambda tally: tally.failed >= 10)
    assert found.answered == 0
    assert found.first_failure.startswith(f"{status}: ")
    assert len(server.keys) == len(set(server.keys))
    assert traffic.take_outcomes() == {}


def test_traffic_is_not_settled_while_an_answer_is_awaited() -> None:
    let_go = threading.Event()

    def late() -> bytes:
        assert let_go.wait(60)
        return http(200, ANSWER)

    with Server(late) as server:
        traffic = Traffic(f"http://127.0.0.1:{server.port}", "loans", 1)
        traffic.start()
        traffic.send(Mix(cases=CASES), 400.0)
        wait_for(lambda: server.keys, "a request")
        traffic.pause()
        assert traffic.settled() is None
        let_go.set()
        found = wait_for(traffic.settled, "every answer")
        traffic.stop()
    assert found.answered == found.versions[3] > 0


def test_a_server_that_is_not_there_is_a_failed_request_too() -> None:
    with Server(lambda: b"") as server:
        gone = server.port
    found = send_until(
        Traffic(f"http://127.0.0.1:{gone}", "loans", 1), lambda tally: tally.failed >= 3
    )
    assert found.answered == 0
