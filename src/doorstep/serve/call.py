"""One request on its way: the rows it brought, the parts it was cut into, and who answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from doorstep.core.plan import REST
from doorstep.core.record import Kind, Status
from doorstep.serve.cache import RowKey
from doorstep.serve.http import JSON
from doorstep.serve.rows import Parsed, Values
from doorstep.serve.service import Service
from doorstep.serve.version import Version

CONSTANT = 0
NOBODY = -1


class Exchange(Protocol):
    """Where an answer goes."""

    def respond(
        self, status: int, body: bytes, headers: bytes = b"", media: bytes = JSON
    ) -> None: ...


class Codec(Protocol):
    """How one protocol writes answers and refusals. protocol: its name where requests are counted.
    bad_input: the status of an answer to what it does not take."""

    protocol: str
    bad_input: int

    def answer(self, call: Call) -> bytes:
        """The answer's body; where it is no JSON, `call.media` says what it is, and
        `call.headers` has what headers it needs."""
        ...

    def refusal(self, code: str, message: str, hint: str, request: str, /) -> bytes: ...


class Mark(msgspec.Struct):
    """What a request's rows of one version and segment are to an evidence cell. units, bad: hashes
    of all its units, and of those that went bad. ok: its version answered at least one row.
    slow_us: latencies above which its request counts as slow, () if that is not counted.
    sticks: its unit may come again."""

    cell: int
    units: list[int]
    flights: list[int]
    bad: list[int] = []
    ok: bool = False
    slow_us: tuple[int, ...] = ()
    sticks: bool = False


class Part(msgspec.Struct):
    """Rows of one call that have the same assigned version and segment.

    count, rows: how many, and their positions, None for all. version: whose turn it is now, None if
    there is nobody; assigned: the number of the one whose turn it was first. tried: version numbers
    that failed. answered: number of the version whose answer it is, CONSTANT or NOBODY. scores,
    answers: per row of the part; constant: what all its rows get instead, is_ruled: by a condition
    on the row. status, error: of the assigned version. mark: while it is
    evidence; the pieces of a part that was divided share it. deadline_ns: of the version whose turn
    it is, once that is fixed; 0 before. keys: of its rows in the cache, where what is computed may
    be given again; cached: it was.
    """

    call: Call
    count: int
    rows: list[int] | None
    version: Version | None
    assigned: int
    segment: str = REST
    challenger: bool = False
    mark: Mark | None = None
    deadline_ns: int = 0
    share: float = 0.0
    status: Status = Status.OK
    error: str = ""
    step: int = 0
    tried: set[int] | None = None
    answered: int = NOBODY
    scores: list[list[float]] | None = None
    answers: list[str | float] | None = None
    constant: str | float | None = None
    is_ruled: bool = False
    keys: list[RowKey] | None = None
    cached: bool = False

    def numbers(self) -> bytes:
        """The part's float64 rows, in the service's columns."""
        parsed = self.call.parsed
        if self.rows is None:
            return parsed.numbers
        size = self.call.service.reader.width * 8
        return b"".join([parsed.numbers[at * size : at * size + size] for at in self.rows])

    def texts(self) -> Sequence[Values]:
        texts = self.call.parsed.texts
        return texts if self.rows is None or not texts else [texts[at] for at in self.rows]


class Call(msgspec.Struct):
    """One predict request. request: 16 bytes of its id; id: the same as text. began_ns: monotonic,
    at its last byte; at: the wall clock then, microseconds UTC. extra: what only its codec reads.
    kind: live, or a rehearsal: the caller's own rows, kept out of quality and retraining.
    pinned: the version that the caller asked for by name; such a call is no evidence.
    parts and calls know each other; `parts` is emptied when the call is over. is_answered: its
    exchange was; is_over: it is counted too, and what is still said about it is not heard.
    is_shed: a version was not asked, because too many wait for it.
    media, headers: of its answer, see `Codec.answer`. status: of it, by HTTP.
    key, trace: of its API key the id, and its `traceparent`; only while somebody looks on.
    """

    exchange: Exchange
    codec: Codec
    service: Service
    parsed: Parsed
    request: bytes
    id: str
    extra: Any = None
    kind: int = int(Kind.LIVE)
    pinned: Version | None = None
    began_ns: int = 0
    at: int = 0
    open: int = 0
    parts: list[Part] = []
    is_answered: bool = False
    is_over: bool = False
    is_shed: bool = False
    media: bytes = JSON
    headers: bytes = b""
    status: int = 200
    key: str = ""
    trace: bytes = b""

    @property
    def failed(self) -> Part | None:
        """The first part that nobody answered."""
        if len(self.parts) == 1:
            return self.parts[0] if self.parts[0].answered == NOBODY else None
        for part in self.parts:
            if part.answered == NOBODY:
                return part
        return None

    def by_row(self) -> list[tuple[Part, int]]:
        """For every row its part, and its position there."""
        if len(self.parts) == 1:
            part = self.parts[0]
            return [(part, at) for at in range(self.parsed.count)]
        found: list[tuple[Part, int]] = [(self.parts[0], 0)] * self.parsed.count
        for part in self.parts:
            for at, row in enumerate(part.rows or ()):
                found[row] = (part, at)
        return found

    @property
    def fallback(self) -> str | None:
        """Who answered instead of the assigned version: `champion`, `service@N`, `rule` or `answer`
        (a declared one)."""
        for part in self.parts:
            if part.answered == CONSTANT:
                return "rule" if part.is_ruled else "answer"
            if part.answered != part.assigned:
                if part.answered == self.service.plan.champion:
                    return "champion"
                return f"{self.service.name}@{part.answered}"
        return None

    @property
    def is_cached(self) -> bool:
        """Whether no version computed anything for it."""
        return all(part.cached for part in self.parts)

    @property
    def versions(self) -> str:
        """The versions that answered, for the header: `3`, or `3,4`."""
        if len(self.parts) == 1:
            return str(self.parts[0].answered)
        return ",".join(str(number) for number in sorted({part.answered for part in self.parts}))

    @property
    def version(self) -> str:
        """Who answered the first row, or should have."""
        part = self.parts[0]
        return str(part.assigned if part.answered == NOBODY else part.answered)
