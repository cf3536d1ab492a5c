"""An engine that sleeps and wakes: what is asked meanwhile is answered once, and bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from doorstep.core.record import Status
from doorstep.formats.batch import Batch
from doorstep.serve.engine_client import EngineClient
from doorstep.serve.limits import HUNG_ASKS
from doorstep.serve.nodeplan import Hung, Wake
from doorstep.serve.orphan import short_folder
from doorstep.serve.wire import Ask, Frames, Reply, encode_frame

ONE = Batch(np.ones((1, 1)), [])
LONG_NS = 60_000_000_000


class Engine(asyncio.Protocol):
    """Doubles every number. It ends its first `deaf` connections when it is asked."""

    deaf = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.frames = transport, Frames()

    def data_received(self, data: bytes) -> None:
        if type(self).deaf:
            type(self).deaf -= 1
            return self.transport.abort()
        for frame in self.frames.feed(data):
            ask = msgspec.msgpack.decode(frame, type=Ask)
            scores = (np.frombuffer(ask.numbers) * 2).tobytes()
            self.transport.write(encode_frame(Reply(ask.id, 1, scores)))
        return None


class Asked:
    def __init__(self, folder: Path) -> None:
        self.path = str(short_folder(folder) / "engine.sock")
        self.said: list[Hung | Wake] = []
        self.answers: list[tuple[Status, list[list[float]]]] = []

    def ask(self, client: EngineClient, batch: Batch = ONE, limit_ns: int = LONG_NS) -> None:
        deadline_ns = time.monotonic_ns() + limit_ns
        client.ask(batch, deadline_ns, self.hear)

    def hear(self, status: Status, scores: list[list[float]], _error: str) -> None:
        self.answers.append((status, scores))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.01)


def test_what_is_asked_while_the_engine_goes_to_sleep_and_wakes_is_answered_once(
    tmp_path: Path,
) -> None:
    asked = Asked(tmp_path)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Engine, asked.path)
        client = EngineClient(asked.path, loop, asked.said.append)
        client.start()
        asked.ask(client)
        client.sleep(True)
        await asked.until(lambda: client.asleep)
        asked.ask(client)
        client.sleep(False)  # in the turn in which the connection is still closing
        asked.ask(client)
        await asked.until(lambda: len(asked.answers) == 3)
        assert asked.said == [Wake(asked.path)]
        client.close()
        server.close()

    # The first is asked before there is a connection: then the engine is simply not there.
    asyncio.run(story())
    assert [status for status, _ in asked.answers] == [Status.UNAVAILABLE, Status.OK, Status.OK]
    assert asked.answers[-1] == (Status.OK, [[2.0]])


def test_an_engine_that_was_about_to_end_when_it_was_woken_is_asked_again(tmp_path: Path) -> None:
    asked = Asked(tmp_path)

    class Ending(Engine):
        deaf = 1

    async def story() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Ending, asked.path)
        client = EngineClient(asked.path, loop, asked.said.append, asleep=True)
        asked.ask(client)
        client.sleep(False)
        await asked.until(lambda: bool(asked.answers))
        Ending.deaf = 1
        asked.ask(client)
        await asked.until(lambda: len(asked.answers) == 2)
        client.close()
        server.close()

    asyncio.run(story())
    assert [status for status, _ in asked.answers] == [Status.OK, Status.DIED]


def test_a_question_of_many_calls_counts_as_many_where_calls_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doorstep.serve.limits.HUNG_S", 0.0)
    asked = Asked(tmp_path)

    class Measured(Engine):
        """Each row took 8 us; it does not answer a batch of two rows."""

        def data_received(self, data: bytes) -> None:
            for frame in self.frames.feed(data):
                ask = msgspec.msgpack.decode(frame, type=Ask)
                if ask.rows == 1:
                    self.transport.write(encode_frame(Reply(ask.id, 1, ask.numbers, "", 8000)))

    two = Batch(np.ones((2, 1)), [])

    async def story() -> list[int]:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Measured, asked.path)
        found = []
        for calls in (1, 2):
            client = EngineClient(asked.path, loop, asked.said.append)
            client.start()
            await asked.until(lambda client=client: client.is_there)  # type: ignore[misc]
            count = len(asked.answers)
            for one in range(1, 1 + 2 // calls):
                client.ask(ONE, time.monotonic_ns() + LONG_NS, asked.hear, calls)
                await asked.until(lambda due=count + one: len(asked.answers) == due)  # type: ignore[misc]
            found.append(client.wait_ns(1))
            assert asked.said == []
            client.ask(two, time.monotonic_ns() + 1, asked.hear, calls)
            await asked.until(lambda: asked.answers[-1][0] is Status.TIMED_OUT)
            assert asked.said == []
            client.ask(two, time.monotonic_ns() + 1, asked.hear, HUNG_ASKS - calls)
            await asked.until(lambda: bool(asked.said))
            assert asked.said == [Hung(asked.path)]
            asked.said.clear()
            client.close()
        server.close()
        return found

    singly, together = asyncio.run(story())
    assert singly == together > 0


def test_requests_whose_time_is_over_before_the_engine_is_there_are_forgotten(
    tmp_path: Path,
) -> None:
    asked = Asked(tmp_path)
    large = Batch(np.zeros((1000, 100)), [])

    async def story() -> None:
        loop = asyncio.get_running_loop()
        client = EngineClient(asked.path, loop, asked.said.append, asleep=True)
        client.sleep(False)
        for _ in range(20):
            asked.ask(client, large, limit_ns=1)
        await asked.until(lambda: len(asked.answers) == 20)
        # Nothing of them is sent when it is there at last.
        sent: list[Ask] = []

        class Heard(Engine):
            def data_received(self, data: bytes) -> None:
                sent.extend(
                    msgspec.msgpack.decode(frame, type=Ask) for frame in self.frames.feed(data)
                )
                super().data_received(b"".join(encode_frame(one) for one in sent[-1:]))

        server = await loop.create_unix_server(Heard, asked.path)
        asked.ask(client)
        await asked.until(lambda: len(asked.answers) == 21)
        assert [one.rows for one in sent] == [1]
        client.close()
        server.close()

    asyncio.run(story())
    assert {status for status, _ in asked.answers[:20]} == {Status.UNAVAILABLE}
    assert asked.answers[20] == (Status.OK, [[2.0]])
