"""One request on its way: the rows it brought, the parts it was cut into, and who answered."""

from __future__ import annotations

from typing import Any, Protocol

from doorstep.core.record import Status
from doorstep.serve.rows import Parsed
from doorstep.serve.service import Service
from doorstep.serve.version import Version

CONSTANT = 0
NOBODY = -1


class Exchange(Protocol):
    """Where an answer goes."""

    def respond(self, status: int, body: bytes, headers: bytes = b"") -> None: ...


class Codec(Protocol):
    """How one protocol writes answers and refusals."""

    def answer(self, call: Call) -> bytes: ...

    def refusal(self, code: str, message: str, hint: str, request: str, /) -> bytes: ...


class Part:
    """Rows of one call that have the same assigned version and segment.

    rows: their positions, None for all. tried: version numbers. answered: number of the version
    whose answer it is, CONSTANT or NOBODY. status: of the assigned version.
    """

    __slots__ = (
        "answered", "assigned", "call", "cell", "challenger", "constant", "error", "flights",
        "rows", "scores", "segment", "share", "status", "step", "tried", "units", "version",
    )  # fmt: skip

    def __init__(
        self, call: Call, rows: list[int] | None, assigned: Version | None, assigned_no: int,
        segment: str, challenger: bool,
    ) -> None:  # fmt: skip
        self.call = call
        self.rows = rows
        self.assigned = assigned_no
        self.version = assigned
        self.segment = segment
        self.challenger = challenger
        self.cell: int | None = None
        self.flights: list[int] | None = None
        self.units: list[int] = []
        self.share = 0.0
        self.status = Status.OK
        self.error = ""
        self.step = 0
        self.tried: set[int] | None = None
        self.answered = NOBODY
        self.scores: list[list[float]] | None = None
        self.constant: str | float | None = None

    @property
    def count(self) -> int:
        return self.call.parsed.count if self.rows is None else len(self.rows)

    def numbers(self) -> bytes:
        """The part's float64 rows, in the service's columns."""
        parsed = self.call.parsed
        if self.rows is None:
            return parsed.numbers
        size = self.call.service.reader.width * 8
        return b"".join([parsed.numbers[at * size : at * size + size] for at in self.rows])

    def texts(self) -> list[tuple[Any, ...]]:
        texts = self.call.parsed.texts
        return texts if self.rows is None else [texts[at] for at in self.rows]


class Call:
    """One predict request. request: 16 bytes of its id; id: the same as text. began_ns: monotonic,
    at its last byte; at: the wall clock then, microseconds UTC. extra: what only its codec reads.
    pinned: the version that the caller asked for by name; such a call is no evidence.
    """

    __slots__ = (
        "at", "began_ns", "codec", "exchange", "extra", "id", "open", "parsed", "parts", "pinned",
        "request", "service",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, codec: Codec, service: Service, parsed: Parsed, request: bytes,
        extra: Any = None, pinned: Version | None = None,
    ) -> None:  # fmt: skip
        self.exchange = exchange
        self.codec = codec
        self.service = service
        self.parsed = parsed
        self.request = request
        text = request.hex()
        self.id = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        self.parts: list[Part] = []
        self.open = 0
        self.began_ns = 0
        self.at = 0
        self.extra = extra
        self.pinned = pinned

    @property
    def failed(self) -> Part | None:
        """The first part that nobody answered."""
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
        """Who answered instead of the assigned version: `champion`, `service@N`, `answer`."""
        for part in self.parts:
            if part.answered == CONSTANT:
                return "answer"
            if part.answered != part.assigned:
                if part.answered == self.service.plan.champion:
                    return "champion"
                return f"{self.service.name}@{part.answered}"
        return None

    @property
    def versions(self) -> str:
        """The versions that answered, for the header: `3`, or `3,4`."""
        if len(self.parts) == 1:
            return str(self.parts[0].answered)
        return ",".join(str(number) for number in sorted({part.answered for part in self.parts}))
