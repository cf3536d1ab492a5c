"""Plain calls: one row, for a service of which only the champion is asked.

Most traffic is of this kind, and nothing has to be decided for any of it: no groups, no cache, no
other version. So all plain calls of a turn are scored here, or by one question to an engine, and
recorded and counted together, by the same records and answers as on the general way (`path.py`),
which takes them over, all of them, when the model raises or a score is no finite number.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from doorstep.formats.batch import Batch, Scorer
from doorstep.serve.call import Call, Codec, Part
from doorstep.serve.limits import ENGINE_BATCH_ROWS_MAX, PATIENCE
from doorstep.serve.parts import attempt_until_ns, is_finite
from doorstep.serve.rows import Values
from doorstep.serve.service import Service
from doorstep.serve.version import Version

AnswerOne = Callable[[Any, Call, Version, list[float], str | float], bytes]
SPREAD_NS = 5_000_000
"""Between the first and the last of the calls that an engine is asked for at once: they are given
up together, at the deadline of the last."""


class Rows(NamedTuple):
    """What an engine is asked at once: a part of a call, or the rows of plain calls. until_ns: when
    it must have answered; 0 if too many wait for it to ask it for all of these."""

    version: Version
    calls: list[Call]
    batch: Batch
    until_ns: int
    part: Part | None = None


class PlainBatch(NamedTuple):
    """Calls that are scored. numbers, found: [calls, columns] and [calls, scores], both float64;
    scores: the same as lists. answers: one per call."""

    service: Service
    version: Version
    calls: list[Call]
    numbers: NDArray[np.float64]
    found: NDArray[np.float64]
    scores: list[list[float]]
    answers: Sequence[str | float]

    def at(self, places: Sequence[int]) -> PlainBatch:
        """Those at these places only."""
        return self._replace(
            calls=[self.calls[one] for one in places], numbers=self.numbers[places],
            found=self.found[places], scores=[self.scores[one] for one in places],
            answers=[self.answers[one] for one in places],
        )  # fmt: skip

    def with_parts(self) -> list[Call]:
        """The calls as the general way has them after scoring."""
        for call, scores, said in self.each():
            call.parts = [_part(call, self.version, scores, said)]
        return self.calls

    def each(self) -> Iterator[tuple[Call, list[float], str | float]]:
        return zip(self.calls, self.scores, self.answers, strict=True)


def sort_plain(
    calls: list[Call],
) -> tuple[list[tuple[Version, list[Call]]], list[Call]]:
    """The plain ones of these calls, in batches of a bounded size, with who scores them; and those
    that must go the general way, also because others of their service must: all are scored
    together."""
    found: dict[Service, list[Call]] = {}
    rest: list[Call] = []
    for call in calls:
        service = call.service
        if service.plain is not None and call.parsed.count == 1 and call.pinned is None:
            found.setdefault(service, []).append(call)
        else:
            rest.append(call)
    groups: list[tuple[Version, list[Call]]] = []
    mixed = {call.service for call in rest}
    for service, mine in found.items():
        version = None if service in mixed else service.plain
        if version is None or version.killed or not _is_awake(version):
            rest += mine
            continue
        if version.model is not None:
            version.model.used_ns = mine[0].began_ns
        spread_ns = service.timeout_ns if version.model is not None else SPREAD_NS
        groups += [(version, chunk) for chunk in _chunks(mine, spread_ns)]
    return groups, rest


def _is_awake(version: Version) -> bool:
    if version.model is not None:
        return version.model.scorer is not None
    return version.engine is not None and version.engine.is_there


def _chunks(calls: list[Call], spread_ns: int) -> Iterator[list[Call]]:
    """calls: in the order in which they came."""
    start = 0
    while start < len(calls):
        until_ns, end = calls[start].began_ns + spread_ns, start + ENGINE_BATCH_ROWS_MAX
        stop = bisect_right(calls, until_ns, start, min(end, len(calls)), key=_began_ns)
        yield calls[start:stop]
        start = stop


def _began_ns(call: Call) -> int:
    return call.began_ns


def score_plain(version: Version, scorer: Scorer, calls: list[Call]) -> PlainBatch:
    """All of one service. Raises: what the model raises; ValueError if its scores do not fit."""
    numbers = _numbers(calls)
    found = scorer.score(version.columns.batch(numbers, _texts(calls)))
    if found.shape != (len(calls), version.width):
        raise ValueError(f"scores have shape {found.shape} for {len(calls)} rows")
    scores, service = found.tolist(), calls[0].service
    return PlainBatch(service, version, calls, numbers, found, scores, version.answers(scores))


def rows_of(version: Version, calls: list[Call]) -> Rows:
    """What its engine is asked for calls of one service, which came in this order."""
    assert version.engine is not None
    tried, wait_ns = {version.number}, version.engine.wait_ns(len(calls) - 1)
    first_ns, last_ns = (attempt_until_ns(call, 0, tried) for call in (calls[0], calls[-1]))
    is_late = wait_ns and time.monotonic_ns() + wait_ns / PATIENCE > first_ns
    batch = version.columns.batch(_numbers(calls), _texts(calls))
    return Rows(version, calls, batch, 0 if is_late else last_ns)


def plain_batch(rows: Rows, scores: list[list[float]]) -> PlainBatch | None:
    """Plain calls with what their engine answered; None if that does not fit."""
    version, calls, found = rows.version, rows.calls, np.array(scores)
    if found.shape != (len(calls), version.width) or not is_finite(found, scores):
        return None
    service, said = calls[0].service, version.answers(scores)
    return PlainBatch(service, version, calls, _numbers(calls), found, scores, said)


def _numbers(calls: list[Call]) -> NDArray[np.float64]:
    numbers = np.frombuffer(b"".join([call.parsed.numbers for call in calls]))
    return numbers.reshape(len(calls), calls[0].service.reader.width)


def _texts(calls: list[Call]) -> list[Values]:
    return [call.parsed.texts[0] for call in calls] if calls[0].parsed.texts else []


@cache
def answer_one_of(kind: type[Codec]) -> AnswerOne:
    """How a protocol, given by the type of its codec, words the answer to a plain call."""
    own: AnswerOne | None = getattr(kind, "answer_one", None)
    return own or _answer_one


def _answer_one(
    codec: Codec, call: Call, version: Version, scores: list[float], said: str | float
) -> bytes:
    call.parts = [_part(call, version, scores, said)]
    try:
        return codec.answer(call)
    finally:
        call.parts = []


def _part(call: Call, version: Version, scores: list[float], said: str | float) -> Part:
    part = Part(call, 1, None, version, version.number)
    part.answered, part.scores, part.answers = version.number, [scores], [said]
    return part
