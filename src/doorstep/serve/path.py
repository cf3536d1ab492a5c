"""The one way from rows to answers, whatever protocol brought them.

    arrived -> assigned (per row) -> scored together, by version -> fallback where one failed
            -> journal, one write for all that is done -> counted -> answered

Everything that arrived in one turn of the event loop is scored together; nothing waits for more.
An answer's bytes are written only after its records are kept (`journal.commit`).
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from doorstep.core.record import Status
from doorstep.formats.batch import Scorer
from doorstep.serve import reply
from doorstep.serve.breaker import WHOLE, Breakers
from doorstep.serve.cache import AnswerCache, row_keys
from doorstep.serve.call import CONSTANT, Call, Mark, Part
from doorstep.serve.cells import CellWriter
from doorstep.serve.counters import REFUSED
from doorstep.serve.limits import IN_FLIGHT_MAX, IN_FLIGHT_ROWS_MAX, PATIENCE, TURN_NS
from doorstep.serve.observe import Observers, seen_of
from doorstep.serve.parts import (
    batch_of,
    chunks_of,
    cut_call,
    deadline_ns,
    divide,
    is_divisible,
    is_finite,
    mark_of,
    marks_of,
    split,
    units_of,
)
from doorstep.serve.plain import PlainBatch, Rows, plain_batch, rows_of, score_plain, sort_plain
from doorstep.serve.record import Recorder
from doorstep.serve.rule import Rule
from doorstep.serve.version import Version, Waker

ERROR_CHARS_MAX = 200
Batches: TypeAlias = dict[Version | None, list[Part]]
"""Parts that are still to be scored, by whose turn it is."""


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
        waker: Waker,
    ) -> None:
        self._loop = loop
        self._waker = waker
        self._recorder = recorder
        self._cells = cells
        self._troubles = troubles
        self._arrived: list[Call] = []
        self._done: list[Call] = []
        self._plain: list[PlainBatch] = []
        self._scheduled = False
        self._causes: dict[int, int] = {}
        self._cache = AnswerCache()
        self.breakers = Breakers(troubles.tell)
        # What has arrived and is not scored, and what a row took lately: with what was done between
        # turns (refusing others) while some waited, which gets no more time than the scoring does.
        self._rows_waiting = self._row_ns = self._left_ns = 0
        self.in_flight = self.rows_in_flight = 0
        self.observers: Observers = ()
        recorder.commits.when_kept(self._turn)

    def submit(self, call: Call) -> bool:
        """Take a call, whose exchange is answered in a later turn of the loop; False if there is
        no room for it: then it is refused early."""
        rows, service = call.parsed.count, call.service
        if (
            self.in_flight >= IN_FLIGHT_MAX
            or (self.in_flight and self.rows_in_flight + rows > IN_FLIGHT_ROWS_MAX)
            or self._rows_waiting * self._row_ns > service.patience_ns
            or (service.only_engine and service.only_engine.wait_ns() > service.patience_ns)
        ):
            return False
        self.in_flight += 1
        self.rows_in_flight += rows
        self._rows_waiting += rows
        call.began_ns = time.monotonic_ns()
        self._arrived.append(call)
        # While a disk is busy, what comes waits for one turn; not with engines: it is their time.
        if service.has_engines or self._rows_waiting >= self._recorder.commits.unkept:
            self._schedule()
        return True

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        began_ns, rows = time.monotonic_ns(), self._rows_waiting
        between_ns = began_ns - self._left_ns if self._left_ns else 0
        arrived = self._take(max(TURN_NS, between_ns))
        at = time.time_ns() // 1000
        batches: Batches = {}
        try:
            for call in arrived:
                call.at = at
            for call in self._score_plain(arrived, began_ns, batches):
                parts = self._assign(call)
                if call.service.cache_ns:
                    parts = self._recall(call)
                if between_ns and began_ns - call.began_ns > call.service.timeout_ns:
                    call.is_shed = True
                    self._pass_by(parts, "it waited too long", batches)
                    continue
                for part in parts:
                    batches.setdefault(part.version, []).append(part)
            while batches:
                batches = self._score(batches)
            if self._done or self._plain:
                self._commit()
        except Exception:  # noqa: BLE001  a mistake of ours must not leave callers waiting
            traceback.print_exc()
            self._abandon(arrived)
        rows -= self._rows_waiting
        if rows:
            ended_ns = time.monotonic_ns()
            took_ns = between_ns + ended_ns - began_ns
            self._row_ns += (took_ns // rows - self._row_ns) // 4
            self._left_ns = ended_ns if self._arrived else 0

    def _take(self, budget_ns: int) -> list[Call]:
        """The calls of this turn: all that have arrived, or as many as take about so long."""
        if self._rows_waiting * self._row_ns <= budget_ns:
            arrived, self._arrived, self._rows_waiting = self._arrived, [], 0
            return arrived
        rows = count = 0
        while not count or (count < len(self._arrived) and rows * self._row_ns < budget_ns):
            rows += self._arrived[count].parsed.count
            count += 1
        arrived, self._arrived = self._arrived[:count], self._arrived[count:]
        self._rows_waiting -= rows
        if self._arrived:
            self._schedule()
        return arrived

    def _score_plain(self, arrived: list[Call], now: int, again: Batches) -> list[Call]:
        """Score what is plain; the calls that are not."""
        if self.breakers.known or self.observers:
            return arrived
        if self._left_ns and any(now - one.began_ns > one.service.timeout_ns for one in arrived):
            return arrived
        groups, rest = sort_plain(arrived)
        for version, calls in groups:
            scorer = version.model.scorer if version.model is not None else None
            if scorer is None:
                self._ask_engine(rows_of(version, calls), again)
                continue
            try:
                batch = score_plain(version, scorer, calls)
            except Exception as error:  # noqa: BLE001  whatever a model raises
                parts = [part for call in calls for part in self._assign(call)]
                self._find_out(version, scorer, parts, error, again)
                continue
            if is_finite(batch.found, batch.scores):
                self._plain.append(batch)
                continue
            for call, scores, _ in batch.each():
                self._settle(self._assign(call)[0], Status.OK, [scores], "", again)
        return rest

    def _abandon(self, calls: list[Call]) -> None:
        """Answer those that a mistake of ours has left without an answer; what was collected for
        the journal is not written."""
        self._recorder.drop()
        done, self._done = self._done, []
        plain, self._plain = self._plain, []
        for call in [*calls, *done, *(call for batch in plain for call in batch.calls)]:
            if call.is_over:
                continue
            self._close(call)
            for mark in marks_of(call):
                self._cells.forget(mark.cell, mark.flights)
            call.parts = []
            if not call.is_answered:
                reply.excuse(call)

    def _close(self, call: Call) -> None:
        call.is_over = True
        self.in_flight -= 1
        self.rows_in_flight -= call.parsed.count

    def _assign(self, call: Call) -> list[Part]:
        service = call.service
        if call.pinned is not None:
            parts = [Part(call, call.parsed.count, None, call.pinned, call.pinned.number)]
            parts[0].step = len(service.chain)
        elif not service.has_groups:
            number = service.plan.champion or 0
            parts = [Part(call, call.parsed.count, None, service.champion, number)]
        else:
            parts = call.parts = cut_call(call)
            self._mark(call, parts)
        call.parts = parts
        call.open = len(parts)
        return parts

    def _mark(self, call: Call, parts: list[Part]) -> None:
        """Mark the parts in flight in their evidence cells."""
        release = call.service.release
        for part in parts if release else ():
            cell = call.service.cell(part.segment, part.challenger)
            if release and cell is not None:
                mark = mark_of(part, cell, release, is_alone=len(parts) == 1)
                mark.flights = self._cells.begin(cell, mark.units)
                part.mark = mark

    def _recall(self, call: Call) -> list[Part]:
        """Answer what the cache has the answers of; the parts that must be computed.

        What is evidence of a release is always computed, in both arms: rows that fail are in no
        cache, so what is left of an arm beside its hits would look worse than it is, and hits
        counted as health would say nothing of the version now.
        """
        open_parts = []
        since_ns = call.began_ns - call.service.cache_ns
        for part in list(call.parts):
            if part.mark is not None or part.version is None or part.version.killed:
                open_parts.append(part)
                continue
            source = (call.service.name, *part.version.source)
            part.keys = row_keys(source, batch_of(part.version, [part]))
            found = [self._cache.get(key, since_ns) for key in part.keys]
            fits = [one is not None for one in found]
            if any(fits):
                mine, *others = split(part, fits)
                mine.cached = True
                self._succeed(mine, part.version, [one for one in found if one is not None])
                open_parts += others
            else:
                open_parts.append(part)
        return open_parts

    def _score(self, batches: Batches) -> Batches:
        """Have every batch scored. Answers the batches of those who fall back at once."""
        again: Batches = {}
        for version, parts in batches.items():
            if version is None or version.killed:
                why = "it is not loaded here" if version is None else "the version was killed"
                for part in parts:
                    self._fall_back(part, Status.UNAVAILABLE, why, again)
                continue
            if self.breakers.known:
                parts = self._let_through(version, parts, again)
                if not parts:
                    continue
            if version.model is not None:
                version.model.used_ns = parts[0].call.began_ns
                if version.model.scorer is None:
                    self._wake(version, parts)
                    continue
                for chunk in chunks_of(parts):
                    self._score_inline(version, version.model.scorer, chunk, again)
            else:
                for part in parts:
                    self._ask(version, part, again)
        return again

    def _wake(self, version: Version, parts: list[Part]) -> None:
        """Have a sleeping model loaded. Its parts wait, each until its deadline."""
        assert version.model is not None
        waiting = dict(enumerate(parts))

        def give_up(at: int) -> None:
            late, why = [waiting.pop(at)], "its model is still being loaded"
            self._outside(lambda again: self._pass_by(late, why, again), late)

        now = time.monotonic_ns()
        timers = [
            self._loop.call_later((deadline_ns(part) - now) / 1e9, give_up, at)
            for at, part in waiting.items()
        ]

        def woken(error: str) -> None:
            for timer in timers:
                timer.cancel()
            left = [part for part in waiting.values() if not part.call.is_over]
            self._outside(lambda again: self._go_on(version, left, error, again), left)

        self._waker.wake(version.model, woken)

    def _go_on(self, version: Version, parts: list[Part], error: str, again: Batches) -> None:
        """A model that slept is loaded, or cannot be."""
        scorer = version.model.scorer if version.model is not None else None
        if error or scorer is None:
            for part in parts:
                self._settle(part, Status.UNAVAILABLE, [], error, again)
        elif parts:
            for chunk in chunks_of(parts):
                self._score_inline(version, scorer, chunk, again)

    def _outside(self, act: Callable[[Batches], None], about: Sequence[Part | Call]) -> None:
        """Do something outside a turn; what is done by it is written in the next one."""
        batches: Batches = {}
        try:
            act(batches)
            while batches:
                batches = self._score(batches)
            if self._done or self._plain:
                self._schedule()
        except Exception:  # noqa: BLE001  a mistake of ours must not leave callers waiting
            traceback.print_exc()
            self._abandon([one.call if isinstance(one, Part) else one for one in about])

    def _pass_by(self, parts: list[Part], why: str, again: Batches) -> None:
        """A version was not asked, for a reason that says nothing of it: no evidence against it,
        and no failure of its breaker."""
        for part in parts:
            if part.call.is_over:
                continue
            if part.mark is not None:
                self._cells.forget(part.mark.cell, part.mark.flights)
                part.mark = None
            self._fall_back(part, Status.UNAVAILABLE, why, again)

    def _let_through(self, version: Version, parts: list[Part], again: Batches) -> list[Part]:
        """Those of the parts that a version may be asked for: one now and then while its breaker
        is open."""
        key = (parts[0].call.service.name, version.number)
        count = self.breakers.admits(key, len(parts))
        for part in parts[count:]:
            why = "the version is not asked for a while: too many failed"
            self._fall_back(part, Status.UNAVAILABLE, why, again)
        return parts[:count]

    def _score_inline(
        self, version: Version, scorer: Scorer, parts: list[Part], again: Batches
    ) -> None:
        rows = sum([part.count for part in parts])
        try:
            found = scorer.score(batch_of(version, parts))
            if found.shape != (rows, version.width):
                raise ValueError(f"scores have shape {found.shape} for {rows} rows")
            scores = found.tolist()
            fine = is_finite(found, scores)
        except Exception as error:  # noqa: BLE001  whatever a model raises
            return self._find_out(version, scorer, parts, error, again)
        at = 0
        for part in parts:
            count = part.count
            mine = scores if count == rows else scores[at : at + count]
            at += count
            if fine:
                self._succeed(part, version, mine)
            else:
                self._settle(part, Status.OK, mine, "", again)
        return None

    def _find_out(
        self, version: Version, scorer: Scorer, parts: list[Part], error: Exception, again: Batches
    ) -> None:
        """A model has raised: whose fault it is shows when each part is scored alone."""
        if len(parts) == 1:
            said = f"{type(error).__name__}: {error}"
            return self._settle(parts[0], Status.FAILED, [], said, again)
        for part in parts:
            self._score_inline(version, scorer, [part], again)
        return None

    def _ask(self, version: Version, part: Part, again: Batches) -> None:
        assert version.engine is not None
        deadline, wait_ns = deadline_ns(part), version.engine.wait_ns()
        if wait_ns and time.monotonic_ns() + wait_ns / PATIENCE > deadline:
            part.call.is_shed = True
            why = f"{wait_ns // 1_000_000} ms of others wait for it"
            return self._fall_back(part, Status.UNAVAILABLE, why, again)
        rows = Rows(version, [part.call], batch_of(version, [part]), deadline, part)
        return self._ask_engine(rows, again)

    def _ask_engine(self, rows: Rows, again: Batches) -> None:
        engine, sent = rows.version.engine, False
        assert engine is not None
        if not rows.until_ns:
            again.setdefault(rows.version, []).extend(self._parts(rows))
            return

        def answered(status: Status, scores: list[list[float]], error: str) -> None:
            def hear(again: Batches) -> None:
                if sent and status is Status.UNAVAILABLE and engine.starting:
                    self._pass_by(self._parts(rows), error, again)
                else:
                    self._hear(rows, status, scores, error, again)

            if sent:
                self._outside(hear, rows.calls)
            else:
                hear(again)

        engine.ask(rows.batch, rows.until_ns, answered, len(rows.calls))
        sent = True

    def _parts(self, rows: Rows) -> list[Part]:
        return [rows.part] if rows.part else [self._assign(call)[0] for call in rows.calls]

    def _hear(
        self, rows: Rows, status: Status, scores: list[list[float]], error: str, again: Batches
    ) -> None:
        """What an engine has answered."""
        if rows.part is not None:
            return self._settle(rows.part, status, scores, error, again)
        is_whole = status is Status.OK and not any(call.is_over for call in rows.calls)
        batch = plain_batch(rows, scores) if is_whole and not self.breakers.known else None
        if batch is not None:
            self._plain.append(batch)
        elif status is Status.FAILED and len(rows.calls) > 1:
            # Whose fault it is shows when each is asked alone.
            again.setdefault(rows.version, []).extend(self._parts(rows))
        else:
            for at, part in enumerate(self._parts(rows)):
                self._settle(part, status, scores[at : at + 1], error, again)
        return None

    def _settle(
        self, part: Part, status: Status, scores: list[list[float]], error: str, again: Batches
    ) -> None:
        """One version has answered this part, or failed; then the next of the chain is asked."""
        version = part.version
        if part.call.is_over:
            return None
        if status is Status.OK and version is not None:
            if version.is_valid(scores, part.count):
                return self._succeed(part, version, scores)
            status, error = Status.INVALID, "the scores are not finite numbers of the right shape"
        if version is not None:
            if status not in WHOLE and is_divisible(part):
                again.setdefault(version, []).extend(divide(part))
                return None
            self.breakers.note((part.call.service.name, version.number), status)
        return self._fall_back(part, status, error, again)

    def _fall_back(self, part: Part, status: Status, error: str, again: Batches) -> None:
        """A version did not answer this part; the next link of the chain does."""
        if part.tried is None:
            part.status, part.error, part.tried = status, error[:ERROR_CHARS_MAX], set()
            if part.mark is not None:
                part.mark.bad = part.mark.bad + self._blame(part, part.mark)
        part.deadline_ns, part.keys = 0, None
        part.tried.add(part.version.number if part.version else part.assigned)
        while True:
            part.step, found = part.call.service.next_link(part.step, part.tried)
            if isinstance(found, Version):
                part.version = found
                again.setdefault(found, []).append(part)
                return None
            if found is None:
                return self._finish(part)
            left = self._declare(part, found)
            if left is None:
                return None
            part = left

    def _declare(self, part: Part, rule: Rule) -> Part | None:
        """Give the rows that a rule is for its answer. The part that is left, None for nothing."""
        rows = part.rows if part.rows is not None else range(part.count)
        parsed = part.call.parsed
        fits = [rule.answers(parsed, row) for row in rows]
        if not any(fits):
            return part
        answered, *left = split(part, fits)
        answered.answered, answered.constant = CONSTANT, rule.answer
        answered.is_ruled = rule.is_conditional
        self._finish(answered)
        return left[0] if left else None

    def _blame(self, part: Part, mark: Mark) -> list[int]:
        """The units that go bad with this part: one for each cause, not for each row that it hit,
        because units that fail together say no more than one."""
        engine = part.version.engine if part.version is not None else None
        if part.status in WHOLE and engine is not None:
            cause = engine.cause
            if self._causes.get(mark.cell) == cause:
                return []
            self._causes[mark.cell] = cause
        return units_of(part)[:1]

    def _succeed(self, part: Part, version: Version, scores: list[list[float]]) -> None:
        part.answered, part.scores = version.number, scores
        part.answers = version.answers(scores)
        if self.breakers.known and not part.cached:
            self.breakers.note((part.call.service.name, version.number), Status.OK)
        if part.keys is not None and not part.cached:
            for key, row in zip(part.keys, scores, strict=True):
                self._cache.put(key, row, part.call.began_ns)
        self._finish(part)

    def _finish(self, part: Part) -> None:
        call = part.call
        call.open -= 1
        if not call.open and call.parts:
            self._done.append(call)

    def _commit(self) -> None:
        """Write what is done to the journal; once it is kept, answer and count it. What was refused
        because too many wait is counted and not written: a flood of it must cost little."""
        done, self._done = self._done, []
        plain, self._plain = self._plain, []
        now = time.monotonic_ns()
        try:
            for call in done:
                if not call.is_shed or call.failed is None:
                    self._recorder.add(call, (now - call.began_ns) // 1000)
            for batch in plain:
                self._recorder.add_plain(batch, now)
            self._recorder.commit(lambda error: self._committed(done, plain, error))
        except Exception:  # noqa: BLE001  a mistake of ours must not leave callers waiting
            traceback.print_exc()
            self._abandon(done + [call for batch in plain for call in batch.calls])

    def _committed(
        self, done: list[Call], plain: list[PlainBatch], error: Exception | None
    ) -> None:
        now = time.monotonic_ns()
        if error is not None:
            done += [call for batch in plain for call in batch.with_parts()]
            plain = []
            self._refuse(done, error)
        else:
            self._troubles.tell("journal", "")
        for batch in plain:
            self._answer_plain(batch, now)
        for call in done:
            try:
                if not call.is_answered:
                    reply.answer(call)
                self._count(call, now)
            except Exception:  # noqa: BLE001  as above; the others' records are written
                traceback.print_exc()
                self._abandon([call])

    def _answer_plain(self, batch: PlainBatch, now: int) -> None:
        """Answer and count what is recorded."""
        latencies_us, left = reply.answer_batch(batch, now)
        for protocol, found in latencies_us.items():
            self.in_flight -= len(found)
            self.rows_in_flight -= len(found)
            name = batch.service.name
            self._cells.counters.answered(name, batch.version.name, protocol, 200, *found)
        if left:
            self._abandon(left)

    def _refuse(self, done: list[Call], error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        self._troubles.tell(
            "journal", f"the journal cannot be written ({reason}): requests are refused with 503"
        )
        for call in done:
            reply.refuse_unrecorded(call)

    def _count(self, call: Call, now: int) -> None:
        self._close(call)
        latency_us = (now - call.began_ns) // 1000
        for part in call.parts:
            if part.mark is not None and part.status is Status.OK:
                part.mark.ok = True
        if call.service.release is not None:
            for mark in marks_of(call):
                self._cells.time(mark.cell, mark.units, latency_us, mark.slow_us, once=mark.sticks)
                self._cells.end(mark.cell, mark.units, mark.flights, mark.ok, mark.bad)
        self._tell(call, latency_us)
        call.parts = []

    def _tell(self, call: Call, latency_us: int) -> None:
        """Count how a call was answered, and tell those who look on."""
        is_computed = not call.is_shed and not (call.service.cache_ns and call.is_cached)
        counters, name = self._cells.counters, call.service.name
        counters.answered(
            name, call.version, call.codec.protocol, call.status,
            *([latency_us] if is_computed else []),
        )  # fmt: skip
        if call.is_shed and call.status >= 500:
            counters.add(REFUSED, name, "overload")
        if self.observers:
            seen = seen_of(call, latency_us)
            for one in self.observers:
                one.note(seen)
