"""The one way from rows to answers, whatever protocol brought them.

    arrived -> assigned (per row) -> scored together, by version -> fallback where one failed
            -> journal, one write for all that is done -> counted -> answered

Everything that arrived in one turn of the event loop is scored together; nothing waits for more.
An answer's bytes are written only after its records were handed to the operating system.
"""

from __future__ import annotations

import asyncio
import math
import time
import traceback
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.errors import OverloadedError
from doorstep.core.ids import hash_unit
from doorstep.core.plan import REST
from doorstep.core.record import Status
from doorstep.formats.batch import Batch
from doorstep.serve.call import CONSTANT, Call, Mark, Part, protocol_of
from doorstep.serve.cells import CellWriter
from doorstep.serve.limits import ENGINE_BATCH_ROWS_MAX, IN_FLIGHT_MAX, IN_FLIGHT_ROWS_MAX
from doorstep.serve.observe import Observers, seen_of
from doorstep.serve.record import Recorder
from doorstep.serve.version import Version

ERROR_CHARS_MAX = 200
SMALL_BATCH_ROWS = 8
_STATUS_CODES = {
    Status.TIMED_OUT: (504, "timed-out", "the model did not answer in time"),
    Status.DIED: (503, "unavailable", "the model's process ended while it had the request"),
    Status.UNAVAILABLE: (503, "unavailable", "no version of the service can answer now"),
}
_WHOLE = (Status.TIMED_OUT, Status.DIED, Status.UNAVAILABLE)
"""What befalls a version as a whole, whatever the rows were."""
_FAILED = (500, "model-failed", "the model could not answer this request")
# An engine that died is back in one or two seconds; asked again sooner, a client fails twice.
_RETRY = b"retry-after: 3\r\n"


class Troubles(Protocol):
    """Hears what is wrong in this process, by topic; an empty sentence: it is over."""

    def tell(self, topic: str, what: str) -> None: ...


class Path:
    """Not thread-safe: everything happens in the loop of one front worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        recorder: Recorder,
        cells: CellWriter,
        troubles: Troubles,
    ) -> None:
        self._loop = loop
        self._recorder = recorder
        self._cells = cells
        self._troubles = troubles
        self._arrived: list[Call] = []
        self._done: list[Call] = []
        self._scheduled = False
        self._causes: dict[int, int] = {}
        self.in_flight = 0
        self.rows_in_flight = 0
        self.observers: Observers = ()

    def submit(self, call: Call) -> bool:
        """Take a call, whose exchange is answered in a later turn of the loop; False if there is
        no room for it: then it is refused early."""
        rows = call.parsed.count
        if self.in_flight >= IN_FLIGHT_MAX or (
            self.in_flight and self.rows_in_flight + rows > IN_FLIGHT_ROWS_MAX
        ):
            return False
        self.in_flight += 1
        self.rows_in_flight += rows
        call.began_ns = time.monotonic_ns()
        self._arrived.append(call)
        if not self._scheduled:
            self._schedule()
        return True

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        arrived, self._arrived = self._arrived, []
        at = time.time_ns() // 1000
        batches: dict[Version | None, list[Part]] = {}
        try:
            for call in arrived:
                call.at = at
                for part in self._assign(call):
                    batches.setdefault(part.version, []).append(part)
            while batches:
                batches = self._score(batches)
            if self._done:
                self._commit()
        except Exception:  # noqa: BLE001  a mistake of ours must not leave callers waiting
            traceback.print_exc()
            self._abandon(arrived)

    def _abandon(self, calls: list[Call]) -> None:
        """Answer those that a mistake of ours has left without an answer; what was collected for
        the journal is not written."""
        self._recorder.drop()
        done, self._done = self._done, []
        for call in [*calls, *done]:
            if call.is_over:
                continue
            self._close(call)
            for mark in _marks(call):
                self._cells.forget(mark.cell, mark.flights)
            call.parts = []
            if not call.is_answered:
                self._excuse(call)

    def _excuse(self, call: Call) -> None:
        call.is_answered = True
        try:
            body = call.codec.refusal("internal", "this is our fault; it was logged", "", call.id)
            call.exchange.respond(500, body)
        except Exception:  # noqa: BLE001  the next of them wants an answer too
            traceback.print_exc()

    def _close(self, call: Call) -> None:
        call.is_over = True
        self.in_flight -= 1
        self.rows_in_flight -= call.parsed.count

    def _assign(self, call: Call) -> list[Part]:
        service = call.service
        if call.pinned is not None:
            parts = [Part(call, call.parsed.count, None, call.pinned, call.pinned.number)]
            parts[0].step = len(service.fallback)
        elif not service.has_groups:
            champion = service.champion
            number = champion.number if champion else 0
            parts = [Part(call, call.parsed.count, None, champion, number)]
        else:
            parts = call.parts = _cut(call)
            self._mark(call, parts)
        call.parts = parts
        call.open = len(parts)
        return parts

    def _mark(self, call: Call, parts: list[Part]) -> None:
        """Mark the parts in flight in their evidence cells."""
        service = call.service
        release = service.release
        if release is None:
            return
        for part in parts:
            cell = service.cell(part.segment, part.challenger)
            if cell is not None:
                units = _units(part)
                part.mark = Mark(cell, units, self._cells.begin(cell, units))

    def _score(self, batches: dict[Version | None, list[Part]]) -> dict[Version | None, list[Part]]:
        """Have every batch scored. Answers the batches of those who fall back at once."""
        again: dict[Version | None, list[Part]] = {}
        for version, parts in batches.items():
            if version is None:
                for part in parts:
                    self._settle(part, Status.UNAVAILABLE, [], "no such version here", again)
            elif version.scorer is not None:
                for chunk in _chunks(parts):
                    self._score_inline(version, chunk, again)
            else:
                for part in parts:
                    self._ask(version, part, again)
        return again

    def _score_inline(
        self, version: Version, parts: list[Part], again: dict[Version | None, list[Part]]
    ) -> None:
        assert version.scorer is not None
        rows = sum([part.count for part in parts])
        try:
            found = version.scorer.score(_batch(version, parts))
            if found.shape != (rows, version.width):
                raise ValueError(f"scores have shape {found.shape} for {rows} rows")
            scores = found.tolist()
            fine = _is_finite(found, scores)
        except Exception as error:  # noqa: BLE001  whatever a model raises
            if len(parts) > 1:
                for part in parts:
                    self._score_inline(version, [part], again)
                return
            said = f"{type(error).__name__}: {error}"
            self._settle(parts[0], Status.FAILED, [], said, again)
            return
        at = 0
        for part in parts:
            count = part.count
            mine = scores if count == rows else scores[at : at + count]
            at += count
            if fine:
                self._succeed(part, version, mine)
            else:
                self._settle(part, Status.OK, mine, "", again)

    def _ask(self, version: Version, part: Part, again: dict[Version | None, list[Part]]) -> None:
        assert version.engine is not None
        sent = False

        def answered(status: Status, scores: list[list[float]], error: str) -> None:
            if not sent:
                return self._settle(part, status, scores, error, again)
            try:
                self._go_on(part, status, scores, error)
            except Exception:  # noqa: BLE001  a mistake of ours must not leave callers waiting
                traceback.print_exc()
                self._abandon([part.call])
            return None

        version.engine.ask(_batch(version, [part]), _deadline_ns(part), answered)
        sent = True

    def _go_on(self, part: Part, status: Status, scores: list[list[float]], error: str) -> None:
        """An engine has answered, in a turn of its own."""
        later: dict[Version | None, list[Part]] = {}
        self._settle(part, status, scores, error, later)
        while later:
            later = self._score(later)
        if self._done:
            self._schedule()

    def _settle(
        self, part: Part, status: Status, scores: list[list[float]], error: str,
        again: dict[Version | None, list[Part]],
    ) -> None:  # fmt: skip
        """One version has answered this part, or failed; then the next of the chain is asked."""
        version = part.version
        if part.call.is_over:
            return None
        if status is Status.OK and version is not None:
            if version.is_valid(scores, part.count):
                return self._succeed(part, version, scores)
            status, error = Status.INVALID, "the scores are not finite numbers of the right shape"
        if version is not None and status not in _WHOLE and _is_divisible(part):
            again.setdefault(version, []).extend(_divide(part))
            return None
        if part.tried is None:
            part.status, part.error, part.tried = status, error[:ERROR_CHARS_MAX], set()
            if part.mark is not None:
                part.mark.bad = part.mark.bad + self._blame(part, part.mark)
        part.deadline_ns = 0
        part.tried.add(version.number if version else part.assigned)
        part.step, found = part.call.service.next_version(part.step, part.tried)
        if isinstance(found, Version):
            part.version = found
            again.setdefault(found, []).append(part)
            return None
        if found is not None:
            part.answered, part.constant = CONSTANT, found
        return self._finish(part)

    def _blame(self, part: Part, mark: Mark) -> list[int]:
        """The units that go bad with this part: one for each cause, not for each row that it hit,
        because units that fail together say no more than one."""
        engine = part.version.engine if part.version is not None else None
        if part.status in _WHOLE and engine is not None:
            cause = engine.cause
            if self._causes.get(mark.cell) == cause:
                return []
            self._causes[mark.cell] = cause
        return _units(part)[:1]

    def _succeed(self, part: Part, version: Version, scores: list[list[float]]) -> None:
        part.answered, part.scores = version.number, scores
        part.answers = [version.answer(row) for row in scores]
        call = part.call
        call.open -= 1
        if not call.open and call.parts:
            self._done.append(call)

    def _finish(self, part: Part) -> None:
        call = part.call
        call.open -= 1
        if not call.open and call.parts:
            self._done.append(call)

    def _commit(self) -> None:
        """Write what is done to the journal, count it, and answer it."""
        done, self._done = self._done, []
        now = time.monotonic_ns()
        try:
            for call in done:
                self._recorder.add(call, (now - call.began_ns) // 1000)
            self._recorder.flush()
        except (OSError, OverloadedError) as error:
            self._recorder.drop()
            self._refuse(done, error)
        except Exception:  # noqa: BLE001  a mistake of ours must not leave callers waiting
            traceback.print_exc()
            return self._abandon(done)
        else:
            self._troubles.tell("journal", "")
        for call in done:
            try:
                if not call.is_answered:
                    self._answer(call)
                self._count(call, now)
            except Exception:  # noqa: BLE001  as above; the others' records are written
                traceback.print_exc()
                self._abandon([call])
        return None

    def _answer(self, call: Call) -> None:
        failed = call.failed
        if failed is None:
            said = f"doorstep-request-id: {call.id}\r\ndoorstep-version: {call.versions}\r\n"
            answer = call.codec.answer(call)
            call.is_answered = True
            return call.exchange.respond(200, answer, said.encode() + call.headers, call.media)
        status, code, message = _STATUS_CODES.get(failed.status, _FAILED)
        call.status = status
        body = call.codec.refusal(code, message, "", call.id)
        said = f"doorstep-request-id: {call.id}\r\ndoorstep-version: {failed.assigned}\r\n"
        call.is_answered = True
        return call.exchange.respond(
            status, body, said.encode() + (_RETRY if status == 503 else b"")
        )

    def _refuse(self, done: list[Call], error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        self._troubles.tell(
            "journal", f"the journal cannot be written ({reason}): requests are refused with 503"
        )
        for call in done:
            body = call.codec.refusal(
                "journal-unavailable", "the answer could not be recorded", "try again", call.id
            )
            headers = f"doorstep-request-id: {call.id}\r\n".encode()
            call.is_answered, call.status = True, 503
            call.exchange.respond(503, body, headers + _RETRY)

    def _count(self, call: Call, now: int) -> None:
        self._close(call)
        for part in call.parts:
            if part.mark is not None and part.status is Status.OK:
                part.mark.ok = True
        for mark in _marks(call):
            self._cells.end(mark.cell, mark.units, mark.flights, mark.ok, mark.bad)
        latency_us = (now - call.began_ns) // 1000
        protocol = protocol_of(type(call.codec))
        self._cells.counters.answered(
            call.service.name, call.version, protocol, call.status, latency_us
        )
        if self.observers:
            seen = seen_of(call, latency_us)
            for one in self.observers:
                one.note(seen)
        call.parts = []


def _marks(call: Call) -> list[Mark]:
    """What the call is marked as in evidence cells: each once, however it was divided."""
    marks = [part.mark for part in call.parts if part.mark is not None]
    return marks if len(marks) < 2 else list({id(mark): mark for mark in marks}.values())


def _units(part: Part) -> list[int]:
    """The hashes of the units whose rows these are."""
    call = part.call
    units = call.parsed.units
    if units is None:
        return [hash_unit("unit", call.id)]
    rows = part.rows if part.rows is not None else range(part.count)
    return [hash_unit("unit", one) for one in dict.fromkeys(units[at] or call.id for at in rows)]


def _is_divisible(part: Part) -> bool:
    """Whether it matters which of the rows fail, and there is time to find out."""
    if part.count == 1:
        return False
    tried = {*(part.tried or ()), part.version.number if part.version else 0}
    _, other = part.call.service.next_version(part.step, tried)
    if other is None and part.mark is None:
        return False
    part.deadline_ns = _deadline_ns(part)
    return time.monotonic_ns() < part.deadline_ns


def _divide(part: Part) -> list[Part]:
    """Two halves in place of a part that fails: a row that fails for itself is found by halving."""
    call, middle = part.call, part.count // 2
    rows = list(part.rows if part.rows is not None else range(part.count))
    halves = [
        msgspec.structs.replace(
            part, count=len(mine), rows=mine, tried=set(part.tried) if part.tried else None
        )
        for mine in (rows[:middle], rows[middle:])
    ]
    at = next(at for at, one in enumerate(call.parts) if one is part)
    call.parts[at : at + 1] = halves
    call.open += 1
    return halves


def _is_finite(found: NDArray[np.float64], scores: list[list[float]]) -> bool:
    """Whether all scores are finite numbers: the fastest way that there is for their number."""
    if len(scores) > SMALL_BATCH_ROWS:
        return math.isfinite(found.sum())
    return math.isfinite(sum(map(sum, scores)))


def _cut(call: Call) -> list[Part]:
    """The parts of a call: its rows by assigned version and segment, in the order of the rows."""
    service, parsed = call.service, call.parsed
    groups: dict[tuple[str, bool], list[int]] = {}
    for at in range(parsed.count):
        segment = parsed.segments[at] if parsed.segments else REST
        unit = (parsed.units[at] if parsed.units else "") or call.id
        groups.setdefault((segment, service.challenges(unit, segment)), []).append(at)
    parts = []
    for (segment, challenger), rows in groups.items():
        number = service.plan.champion or 0
        if challenger and service.release is not None:
            number = service.release.challenger
        version = service.versions.get(number)
        mine = None if len(groups) == 1 else rows
        part = Part(call, len(rows), mine, version, number, segment, challenger)
        part.share = service.share(segment)
        parts.append(part)
    return parts


def _batch(version: Version, parts: list[Part]) -> Batch:
    first = parts[0]
    data, texts, rows = first.numbers(), first.texts(), first.count
    if len(parts) > 1:
        data = b"".join(
            [one.call.parsed.numbers if one.rows is None else one.numbers() for one in parts]
        )
        rows = sum([one.count for one in parts])
        if texts:
            texts = [row for one in parts for row in one.texts()]
    width = first.call.service.reader.width
    return version.columns.batch(np.frombuffer(data).reshape(rows, width), texts)


def _chunks(parts: list[Part]) -> list[list[Part]]:
    """Batches of a bounded number of rows, so that one turn's memory is bounded."""
    if len(parts) == 1:
        return [parts]
    chunks: list[list[Part]] = [[]]
    rows = 0
    for part in parts:
        if chunks[-1] and rows + part.count > ENGINE_BATCH_ROWS_MAX:
            chunks.append([])
            rows = 0
        chunks[-1].append(part)
        rows += part.count
    return chunks


def _deadline_ns(part: Part) -> int:
    """When this attempt must be over. While somebody can still answer instead, an attempt gets
    half of what is left of the request's time, so that the other has the rest."""
    if part.deadline_ns:
        return part.deadline_ns
    service = part.call.service
    last = part.call.began_ns + service.timeout_ns
    tried = {*(part.tried or ()), part.version.number if part.version else 0}
    _, other = service.next_version(part.step, tried)
    if not isinstance(other, Version):
        return last
    now = time.monotonic_ns()
    return now + max(last - now, 0) // 2
