"""The demo's clients: real requests over HTTP, drawn from real rows, at a bounded rate.

What is sent is seeded; every application and every applicant is a new one. Nothing is retried: an
answer that is not 200 is a failed request and is counted as one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from doorstep.cli.reaching import reach
from doorstep.cli.sending import Sender, Turn

BEHIND_S_MAX = 0.25
"""Requests that could not be sent in time are left out, not sent in a burst afterwards."""
RECENT_MAX = 500
Row = dict[str, Any]


class Case(msgspec.Struct, frozen=True):
    """One application as a client knows it. outcome: what became of the loan, known later."""

    row: Row
    context: Row
    outcome: str


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """What the traffic is drawn from. changed: these values replace a row's own, in `share` of the
    requests."""

    cases: tuple[Case, ...]
    changed: Row = {}
    share: float = 0.0


class Asked(msgspec.Struct, frozen=True):
    """One request, ready to be sent. key: the application's; is_changed: whether `changed` is in
    it, so that its row is not one of the data's any more."""

    key: str
    body: bytes
    outcome: str
    is_changed: bool


class PredictionSeen(msgspec.Struct):
    id: str
    answer: str | float | None = None
    warnings: tuple[str, ...] = ()


class AnswerSeen(msgspec.Struct):
    """The part of an answer that the demo looks at."""

    version: int
    predictions: tuple[PredictionSeen, ...]
    fallback: str | None = None


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of what clients saw. fallbacks: answered by the champion because the challenger had
    failed. warned: answers with a warning of the contract. first_failure: in words."""

    answered: int = 0
    failed: int = 0
    fallbacks: int = 0
    warned: int = 0
    versions: dict[int, int] = {}
    first_failure: str = ""

    def since(self, before: Tally) -> Tally:
        """What was counted after `before`."""
        versions = {
            number: count - before.versions.get(number, 0)
            for number, count in self.versions.items()
            if count > before.versions.get(number, 0)
        }
        return Tally(
            answered=self.answered - before.answered,
            failed=self.failed - before.failed,
            fallbacks=self.fallbacks - before.fallbacks,
            warned=self.warned - before.warned,
            versions=versions,
            first_failure=self.first_failure if self.failed > before.failed else "",
        )


def cases_of(rows: Sequence[Row], label: str, context: Sequence[str]) -> tuple[Case, ...]:
    """Rows of a file, divided into what the model is given, what goes beside it, and the truth."""
    apart = {label, *context}
    return tuple(
        Case(
            {name: value for name, value in row.items() if name not in apart},
            {name: row[name] for name in context},
            str(row[label]),
        )
        for row in rows
    )


def larger_half(cases: Sequence[Case], columns: Sequence[str]) -> tuple[Case, ...]:
    """The cases that are at or above the middle in every one of `columns`: no value is changed."""
    middles = {name: sorted(case.row[name] for case in cases)[len(cases) // 2] for name in columns}
    return tuple(
        case for case in cases if all(case.row[name] >= low for name, low in middles.items())
    )


class Deck:
    """Requests drawn from a mix like cards: every case once in random order, then all again. So a
    long stretch of traffic is as the cases are, without the luck of drawing one of them more often.
    The same mix, source and numbers give the same requests."""

    def __init__(self, mix: Mix, source: random.Random) -> None:
        self._mix = mix
        self._source = source
        self._left: list[Case] = []

    def draw(self, number: int) -> Asked:
        """The next case, as a new application, with this number, of a new applicant."""
        if not self._left:
            self._left = self._source.sample(self._mix.cases, len(self._mix.cases))
        case = self._left.pop()
        is_changed = self._source.random() < self._mix.share
        key = f"A{number:07d}"
        row = {**case.row, **(self._mix.changed if is_changed else {})}
        row |= {"application_id": key, "applicant": f"P{number:07d}"}
        body = msgspec.json.encode({"rows": [row], "context": case.context})
        return Asked(key, body, case.outcome, is_changed)


class Traffic:
    """Clients in a thread of their own. `start`, then `send` as often as you like, then `stop`."""

    def __init__(self, data_url: str, service: str, seed: int) -> None:
        path = f"/v1/services/{service}/predict"
        self._sender = Sender[Asked](
            reach(data_url, {}), path, self._turn, self._count, self._count_failure
        )
        self._source = random.Random(seed)  # noqa: S311  reproducible, not secret
        self._lock = threading.Lock()
        self._plan: tuple[Deck, float] | None = None
        self._number = 0
        self._next_s = 0.0
        self._tally = Tally()
        self._awaited: dict[str, str] = {}
        self._recent: list[tuple[str, AnswerSeen]] = []

    def start(self) -> None:
        self._sender.start()

    def stop(self) -> None:
        self._sender.stop()

    def send(self, mix: Mix, rate_s: float) -> None:
        """From now on send `rate_s` requests a second, drawn from `mix`."""
        with self._lock:
            self._plan, self._next_s = (Deck(mix, self._source), rate_s), time.monotonic()

    def pause(self) -> None:
        """Send no more; what is under way is still answered."""
        with self._lock:
            self._plan = None

    def tally(self) -> Tally:
        with self._lock:
            return self._tally

    def settled(self) -> Tally | None:
        """The tally, if nothing is under way: whatever was drawn is answered or has failed."""
        with self._lock:
            found = self._tally
            return found if self._number == found.answered + found.failed else None

    def take_outcomes(self) -> dict[str, str]:
        """Key -> what became true, of every answered application not taken before."""
        with self._lock:
            found, self._awaited = self._awaited, {}
            return found

    def recent(self) -> list[tuple[str, AnswerSeen]]:
        """(key, answer) of the latest answers, oldest first."""
        with self._lock:
            return list(self._recent)

    def _turn(self) -> Turn[Asked] | None:
        """The next request and the seconds until it is due; None while nothing is to be sent."""
        with self._lock:
            if self._plan is None:
                return None
            deck, rate_s = self._plan
            now_s = time.monotonic()
            due_s = max(self._next_s, now_s - BEHIND_S_MAX)
            self._next_s = due_s + 1.0 / rate_s
            self._number += 1
            asked = deck.draw(self._number)
            return asked, asked.body, max(0.0, due_s - now_s)

    def _count_failure(self, what: str) -> None:
        with self._lock:
            before = self._tally
            self._tally = msgspec.structs.replace(
                before, failed=before.failed + 1, first_failure=before.first_failure or what
            )

    def _count(self, asked: Asked, status: int, body: bytes) -> None:
        try:
            answer = msgspec.json.decode(body, type=AnswerSeen) if status == 200 else None
        except msgspec.MsgspecError:
            answer = None
        if answer is None:
            self._count_failure(f"{status}: {body[:200].decode(errors='replace')}")
            return
        with self._lock:
            self._tally = count_answer(self._tally, answer)
            self._recent = [*self._recent[-RECENT_MAX + 1 :], (asked.key, answer)]
            if not asked.is_changed:
                self._awaited[asked.key] = asked.outcome


def count_answer(before: Tally, answer: AnswerSeen) -> Tally:
    """The tally with one more answer."""
    versions = {**before.versions, answer.version: before.versions.get(answer.version, 0) + 1}
    warned = any(one.warnings for one in answer.predictions)
    return msgspec.structs.replace(
        before,
        answered=before.answered + 1,
        fallbacks=before.fallbacks + (answer.fallback is not None),
        warned=before.warned + warned,
        versions=versions,
    )
