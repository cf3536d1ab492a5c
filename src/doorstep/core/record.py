"""What the journal keeps: one record per scored row, and outcomes that became true later.

A record is a short array of what is ours (`PredictionMeta`) and one row of numbers (a float64
matrix, straight from the request) plus its texts. Which columns those are is said once per block
by a `Layout`: `in.<name>` inputs, `ctx.<name>` context, `out.<name>` outputs.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import msgspec

from doorstep.core.contract import Contract, Field, FieldType
from doorstep.core.errors import InputError
from doorstep.core.ids import digest_of
from doorstep.core.instant import Instant

FORMAT = 1
SEALED = "sealed"
"""The text column with a row's sealed fields, see `journal/sealing.py`."""


class Status(IntEnum):
    """How the assigned version did, and so who answered."""

    OK = 0
    FAILED = 1
    TIMED_OUT = 2
    INVALID = 3
    """It answered, but not with finite numbers of the right shape."""
    DIED = 4
    UNAVAILABLE = 5


class Kind(IntEnum):
    LIVE = 0
    SHADOW = 1
    REHEARSAL = 2
    WATCHED = 3
    """Answered by another service: imported, or recorded beside it."""


TRAFFIC = frozenset({Kind.LIVE, Kind.WATCHED})
"""What drift and quality are about: answers that somebody relied on."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    name: str
    type: FieldType


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """numbers: columns of the matrix, in order; texts: of the text arrays, in order."""

    format: int
    service: str
    numbers: tuple[Column, ...]
    texts: tuple[Column, ...]

    @property
    def digest(self) -> str:
        return digest_of(msgspec.json.encode(self))

    @property
    def seals(self) -> bool:
        return any(one.name == SEALED for one in self.texts)


class PredictionMeta(msgspec.Struct, array_like=True, gc=False):
    """What is ours of one prediction. Not frozen and without gc: made for every row served.

    request: 16 bytes of a uuid7. version: whose answer the caller got; 0 is a declared constant,
    -1 nobody (the caller got an error). assigned: whose turn it was. status: of the assigned
    version. release: "" outside a release. latency_us: from the request's last byte to its answer.
    warnings: "unseen:purpose", "range:age". texts: in the order of the layout's text columns.
    cached: the answer was computed for an earlier request; its latency is none of the version's.
    """

    request: bytes
    row: int
    at: Instant
    version: int
    assigned: int
    status: int
    kind: int
    release: str
    epoch: int
    share: float
    segment: str
    key: str
    unit: str
    latency_us: int
    warnings: tuple[str, ...]
    texts: tuple[str | None, ...]
    error: str = ""
    cached: bool = False


class OutcomeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What became true. By prediction id or by key (then: the latest live prediction of that key
    at or before `at`). at: when it became true; received_at: when we were told. label: the truth;
    value: the truth of a version that predicts a number, else what the case was worth."""

    service: str
    at: Instant
    received_at: Instant
    prediction: str = ""
    key: str = ""
    label: str | None = None
    value: float | None = None
    source: Literal["api", "file", "person"] = "api"

    def __post_init__(self) -> None:
        if bool(self.prediction) == bool(self.key):
            raise ValueError("an outcome names a prediction or a key, one of the two")
        if self.label is None and self.value is None:
            raise ValueError("an outcome has a label, a value or both")


def _prefixed(contract: Contract) -> list[tuple[str, Field]]:
    inputs = [(f"in.{one.name}", one) for one in contract.inputs]
    return inputs + [(f"ctx.{one.name}", one) for one in contract.context]


def column_names(contract: Contract) -> tuple[list[str], list[str]]:
    """What the columns of its numbers are called, and of its texts, in order."""
    prefixed = _prefixed(contract)
    numbers = [name for name, one in prefixed if one.is_number]
    return numbers, [name for name, one in prefixed if not one.is_number]


def outcome_refused(index: int) -> InputError:
    """Of a prediction whose subject was erased."""
    return InputError(
        "subject-erased",
        f"outcome {index}: the person whose prediction this is was erased",
        "leave it out and send the others again; none was recorded",
    )


def layout_of(service: str, contract: Contract, outputs: tuple[str, ...]) -> Layout:
    """The layout of a service's records. outputs: the score columns, `out.` is put before each;
    the answer itself is the text column `out.answer`."""
    prefixed = _prefixed(contract)
    numbers = [Column(name, one.type) for name, one in prefixed if one.is_number]
    texts = [Column(name, one.type) for name, one in prefixed if not one.is_number]
    numbers += [Column(f"out.{name}", "float") for name in outputs]
    texts += [Column(SEALED, "text")] if contract.seals else []
    texts += [Column("out.answer", "text")]
    return Layout(format=FORMAT, service=service, numbers=tuple(numbers), texts=tuple(texts))
