"""Plain calls: one row, for a service of which only the champion is asked, in this process.

Most traffic is of this kind, and nothing has to be decided for any of it: no groups, no cache, no
other version. So all plain calls of a turn are scored, recorded and counted together, by the same
records and answers as on the general way (`path.py`), which takes them over, all of them, when the
model raises or a score is no finite number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from doorstep.formats.batch import Scorer
from doorstep.serve.call import Call, Codec, Part
from doorstep.serve.limits import ENGINE_BATCH_ROWS_MAX
from doorstep.serve.service import Service
from doorstep.serve.version import Version

AnswerOne = Callable[[Any, Call, Version, list[float], str | float], bytes]


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
) -> tuple[list[tuple[Version, Scorer, list[Call]]], list[Call]]:
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
    groups: list[tuple[Version, Scorer, list[Call]]] = []
    mixed = {call.service for call in rest}
    for service, mine in found.items():
        version = None if service in mixed else service.plain
        model = version.model if version and not version.killed else None
        if version is None or model is None or model.scorer is None:
            rest += mine
            continue
        model.used_ns = mine[0].began_ns
        groups += [
            (version, model.scorer, mine[at : at + ENGINE_BATCH_ROWS_MAX])
            for at in range(0, len(mine), ENGINE_BATCH_ROWS_MAX)
        ]
    return groups, rest


def score_plain(version: Version, scorer: Scorer, calls: list[Call]) -> PlainBatch:
    """All of one service. Raises: what the model raises; ValueError if its scores do not fit."""
    service, count = calls[0].service, len(calls)
    numbers = np.frombuffer(b"".join([call.parsed.numbers for call in calls]))
    numbers = numbers.reshape(count, service.reader.width)
    texts = [call.parsed.texts[0] for call in calls] if calls[0].parsed.texts else []
    found = scorer.score(version.columns.batch(numbers, texts))
    if found.shape != (count, version.width):
        raise ValueError(f"scores have shape {found.shape} for {count} rows")
    scores = found.tolist()
    return PlainBatch(service, version, calls, numbers, found, scores, version.answers(scores))


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
