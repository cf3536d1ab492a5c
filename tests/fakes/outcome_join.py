"""Which outcome belongs to which prediction, decided in plain Python: what `journal.joined` asks
DuckDB is held against it.

An outcome names a prediction, or a key: then it is about the latest prediction of that key at or
before the outcome's `at`, shadow records left out. Of several outcomes of a prediction the last
`at` wins (then the last received), for its label and for its value; all are kept. One that is told
again was known since it was told first. One that finds no prediction waits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence

import msgspec

from doorstep.core.instant import Instant
from doorstep.core.record import Kind, OutcomeRecord

ANSWERED = frozenset({Kind.LIVE})


class Predicted(msgspec.Struct, frozen=True):
    """What joining needs of a prediction. key: "" if it has none."""

    id: str
    at: Instant
    key: str = ""
    kind: int = Kind.LIVE


class Joined(msgspec.Struct, frozen=True):
    """winning: prediction id -> the outcome that counts. all: id -> every outcome, by (at,
    received_at). waiting: outcomes without a prediction, as they came."""

    winning: dict[str, OutcomeRecord]
    all: dict[str, tuple[OutcomeRecord, ...]]
    waiting: tuple[OutcomeRecord, ...]


def prediction_id(text: str) -> str:
    """A prediction id in the one form that records have: lower case, row 0 if none is given."""
    return (text if "." in text else text + ".0").lower()


def join(
    predictions: Iterable[Predicted],
    outcomes: Sequence[OutcomeRecord],
    kinds: Collection[int] = ANSWERED,
) -> Joined:
    """Join outcomes to the predictions of these kinds. Predictions of one key and `at`: the
    largest id is the latest."""
    known: set[str] = set()
    by_key: dict[str, list[tuple[Instant, str]]] = {}
    for one in predictions:
        if one.kind in kinds:
            known.add(one.id)
            by_key.setdefault(one.key, []).append((one.at, one.id))
    for times in by_key.values():
        times.sort()
    found: dict[str, list[OutcomeRecord]] = {}
    waiting = []
    for outcome in outcomes:
        about = _about(outcome, known, by_key)
        if about is None:
            waiting.append(outcome)
        else:
            found.setdefault(about, []).append(outcome)
    for several in found.values():
        several.sort(key=rank)
    return Joined(
        winning={about: _winner(several) for about, several in found.items()},
        all={about: tuple(several) for about, several in found.items()},
        waiting=tuple(waiting),
    )


def rank(outcome: OutcomeRecord) -> tuple[object, ...]:
    said = (outcome.label or "", outcome.value or 0.0)
    return (outcome.at, outcome.received_at, *said, outcome.key, outcome.prediction)


def _winner(several: Sequence[OutcomeRecord]) -> OutcomeRecord:
    """The last that has a label, with the value of the last that has one; else that one."""
    times: dict[tuple[Instant, str | None, float | None], list[Instant]] = {}
    for one in several:
        times.setdefault((one.at, one.label, one.value), []).append(one.received_at)
    told = [(at, max(got), min(got), label, value) for (at, label, value), got in times.items()]
    truths = [(*when, label) for *when, label, _ in told if label is not None]
    worths = [(*when, value) for *when, _, value in told if value is not None]
    at, _, received_at, _ = max(truths or worths)
    return msgspec.structs.replace(
        several[0],
        at=at,
        received_at=received_at,
        label=max(truths)[-1] if truths else None,
        value=max(worths)[-1] if worths else None,
    )


def _about(
    outcome: OutcomeRecord, known: set[str], by_key: dict[str, list[tuple[Instant, str]]]
) -> str | None:
    if outcome.prediction:
        named = prediction_id(outcome.prediction)
        return named if named in known else None
    times = by_key.get(outcome.key, [])
    before = bisect_right(times, outcome.at, key=lambda one: one[0])
    return times[before - 1][1] if before else None
