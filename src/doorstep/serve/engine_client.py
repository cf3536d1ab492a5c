"""A front worker's side of one engine: ask, wait with a limit, and never wait for the dead.

Everything asked is answered exactly once through its callback: with scores, or with the status of
why not. A connection that ends fails what is in flight as DIED; it is made again by itself.
What befalls the engine as a whole has a cause: all that fails within `CAUSE_S` of its beginning,
without a reply in between, has the same one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import msgspec
import numpy as np

from doorstep.core.record import Status
from doorstep.formats.batch import Batch
from doorstep.serve import limits
from doorstep.serve.nodeplan import Hung, Wake
from doorstep.serve.wire import Ask, Frames, Reply, encode_frame

CAUSE_S = 1.0
Answered = Callable[[Status, list[list[float]], str], None]


class EngineClient(asyncio.Protocol):
    """One connection to the engine at `socket`. Not thread-safe: lives in its loop. say: tells the
    supervisor that the engine hangs, when HUNG_ASKS in a row timed out and nothing was heard for
    HUNG_S; that it must wake, when it is asked while it sleeps: what is asked waits until then."""

    def __init__(
        self,
        socket: str,
        loop: asyncio.AbstractEventLoop,
        say: Callable[[Hung | Wake], None] = lambda _word: None,
        *,
        asleep: bool = False,
    ) -> None:
        self._say = say
        self.asleep = self._told_asleep = asleep
        self._waking_until_s = 0.0
        self._wake_said = False
        self._hung_up = False
        self._connecting = False
        self._late = 0
        self._silent_s = 0.0
        self.socket = socket
        self._loop = loop
        self._transport: asyncio.WriteTransport | None = None
        self._frames = Frames()
        self._decode = msgspec.msgpack.Decoder(Reply).decode
        # By id: the deadline, rows, calls, and who is told.
        self._pending: dict[int, tuple[int, int, int, Answered]] = {}
        self._row_ns = self._rows_pending = 0
        self._last_id = 0
        # What was asked and not sent, by id; and what was sent first to an engine that was woken.
        self._out: dict[int, bytes] = {}
        self._out_bytes = 0
        self._first: dict[int, bytes] | None = None
        self._sweeping = False
        self._closed = False
        self._pause_s = limits.ENGINE_RECONNECT_S[0]
        self._replied = True
        self._cause_ns = 0

    @property
    def cause(self) -> int:
        """When that began for which requests fail now, by the monotonic clock."""
        now = time.monotonic_ns()
        if self._replied or now - self._cause_ns > CAUSE_S * 1e9:
            self._replied, self._cause_ns = False, now
        return self._cause_ns

    @property
    def available(self) -> bool:
        """Whether it can be asked: it is connected, or will be when it is asked."""
        return self._transport is not None or self.starting

    @property
    def starting(self) -> bool:
        """Whether the engine sleeps, or was woken and is not there yet."""
        return self.asleep or time.monotonic() < self._waking_until_s

    @property
    def is_there(self) -> bool:
        return self._transport is not None and not self.starting

    def wait_ns(self, more: int = 0) -> int:
        """About how long until the rows that this worker has asked for are answered, and so many
        more; 0 before it is known what a row takes."""
        return (self._rows_pending + more) * self._row_ns

    def start(self) -> None:
        """Connect, and again whenever the connection ends; not while the engine sleeps."""
        if not (self._connecting or self._closed or self.asleep or self._transport is not None):
            self._connecting = True
            self._loop.create_task(self._connect())

    def sleep(self, asleep: bool) -> None:
        """The engine sleeps, or does so no more. It ends once every worker has hung up."""
        self._told_asleep = asleep
        self._follow_engine()

    def _follow_engine(self) -> None:
        if self._told_asleep and not self.asleep:
            if self._pending:
                self._loop.call_later(limits.ENGINE_SWEEP_S, self._follow_engine)
                return
            self.asleep, self._wake_said = True, False
            if self._transport is not None:
                self._hung_up = True
                self._transport.close()
        elif self.asleep and not self._told_asleep:
            self.asleep, self._waking_until_s = False, time.monotonic() + limits.ENGINE_START_S
            self._first = {}
            self.start()

    def close(self) -> None:
        """Hang up; what is in flight fails as UNAVAILABLE."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()
        self._fail_all(Status.UNAVAILABLE)

    def ask(self, batch: Batch, deadline_ns: int, answered: Answered, calls: int = 1) -> None:
        """Have `batch` scored, of so many calls; `answered` is called later, or at once if that is
        impossible."""
        if not self.available:
            return answered(Status.UNAVAILABLE, [], "the engine is not there")
        if (
            len(self._pending) >= limits.ENGINE_PENDING_MAX
            or self._out_bytes > limits.ENGINE_OUT_BYTES_MAX
        ):
            return answered(Status.UNAVAILABLE, [], f"{len(self._pending)} requests wait for it")
        self._last_id += 1
        if not self._pending and not self._late:
            self._silent_s = time.monotonic()
        numbers = batch.numbers.tobytes()
        ask = Ask(self._last_id, deadline_ns, batch.rows, numbers, batch.texts, calls)
        try:
            frame = encode_frame(ask)
        except ValueError as error:
            return answered(Status.FAILED, [], str(error))
        self._pending[ask.id] = (deadline_ns, batch.rows, calls, answered)
        self._rows_pending += batch.rows
        if self.asleep and not self._wake_said:
            self._wake_said = True
            self._say(Wake(self.socket))
        if not self._out:
            self._loop.call_soon(self._send)
        self._out[ask.id] = frame
        self._out_bytes += len(frame)
        self._watch()
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._frames = Frames()
        self._late = 0
        self._pause_s = limits.ENGINE_RECONNECT_S[0]
        self._waking_until_s = 0.0
        self._send()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._take(self._decode(frame))
        except (ValueError, msgspec.MsgspecError):
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._hung_up:
            # As we were told to. What was asked meanwhile waits for the engine to be back.
            self._hung_up = False
        elif self._first:
            # It was about to end when it was woken, and has read none of this.
            self._out, self._first = self._first | self._out, None
            self._out_bytes = sum(map(len, self._out.values()))
        else:
            self._out, self._out_bytes, self._first = {}, 0, None
            self._fail_all(Status.DIED)
        self.start()

    async def _connect(self) -> None:
        while not self._closed and not self.asleep and self._transport is None:
            try:
                await self._loop.create_unix_connection(lambda: self, self.socket)
            except OSError:
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(self._pause_s * 2, limits.ENGINE_RECONNECT_S[1])
        self._connecting = False

    def _send(self) -> None:
        if self._transport is None or self._hung_up or not self._out:
            return
        self._transport.write(b"".join(self._out.values()))
        if self._first is not None:
            self._first |= self._out
        self._out, self._out_bytes = {}, 0

    def _take(self, reply: Reply) -> None:
        self._late, self._silent_s = 0, time.monotonic()
        self._first = None
        entry = self._pending.pop(reply.id, None)
        if entry is None:
            return None
        _, rows, calls, answered = entry
        self._replied = True
        self._rows_pending -= rows
        if reply.row_ns:
            # As often as there are calls: a batch moves it as far, however they were asked.
            self._row_ns += int((reply.row_ns - self._row_ns) * (1 - 0.875**calls))
        if reply.error:
            return answered(Status.FAILED, [], reply.error)
        if len(reply.scores) != rows * reply.columns * 8:
            return answered(Status.INVALID, [], f"{len(reply.scores)} bytes for {rows} rows")
        scores = np.frombuffer(reply.scores).reshape(rows, reply.columns)
        return answered(Status.OK, scores.tolist(), "")

    def _watch(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(limits.ENGINE_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        now = time.monotonic_ns()
        late = [number for number, (deadline, *_) in self._pending.items() if deadline <= now]
        late_calls = 0
        for number in late:
            _, rows, calls, answered = self._pending.pop(number)
            self._rows_pending -= rows
            late_calls += calls
            self._out_bytes -= len(self._out.pop(number, b""))
            if self._first:
                self._first.pop(number, None)
            if self._transport is None:
                answered(Status.UNAVAILABLE, [], "the engine is still being started")
            else:
                answered(Status.TIMED_OUT, [], "no answer in time")
        if self._transport is None:
            late_calls = 0
        self._late += late_calls
        silent_s = time.monotonic() - self._silent_s
        if late_calls and self._late >= limits.HUNG_ASKS and silent_s >= limits.HUNG_S:
            self._late = 0
            self._say(Hung(self.socket))
        if self._pending:
            self._watch()

    def _fail_all(self, status: Status) -> None:
        pending, self._pending = self._pending, {}
        self._rows_pending = 0
        for *_, answered in pending.values():
            answered(status, [], "the engine died" if status is Status.DIED else "shutting down")
