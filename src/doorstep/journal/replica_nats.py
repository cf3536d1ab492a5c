"""The second place is a stream of NATS JetStream: one message for a group, acknowledged by the
stream, on a subject of its own for each block.

An acknowledged message is as safe as the stream is: one that is there already is used as it is
(`nats stream add --replicas 3`), else one of a single replica on disk is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Sequence
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    Header,
    RawStreamMsg,
    StreamConfig,
)
from nats.js.errors import NotFoundError as NoStream

from doorstep.core.errors import NotFoundError
from doorstep.core.instant import Instant
from doorstep.journal.replica import WAIT_S, Segment, There, say_replica, unreachable

STREAM = "doorstep-journal"
MADE = "made by Doorstep"
"""What the description of a stream says whose limits are ours to change."""
READ_AT_ONCE = 256
READ_WAIT_S = 30.0
DAY_S = 86_400.0
FoundT = TypeVar("FoundT")
_PLACE = "Doorstep-Place"
"""number, start and opened_at of a segment, in a header."""


class NatsReplica:
    """A `Replica`. The client lives in an event loop of its own, in a thread: it must answer the
    server also when nothing is written."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url, self._server = url, urlunsplit(parts._replace(path=""))
        self._stream = parts.path.strip("/") or STREAM
        self._client: Client | None = None
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()

    def keep(self, segments: Sequence[Segment]) -> None:
        self._run(self._keep(segments))

    def blocks(self) -> There:
        return self._run(self._blocks(), READ_WAIT_S)

    def read(self, node: str, block: str) -> list[Segment]:
        return self._run(self._read(node, block), READ_WAIT_S)

    def trim(self, days: float, now: Instant) -> None:  # noqa: ARG002
        self._run(self._trim(days))

    def close(self) -> None:
        if self._loop.is_closed():
            return
        if self._client is not None:
            asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[None, None, FoundT], wait_s: float = WAIT_S) -> FoundT:
        return asyncio.run_coroutine_threadsafe(self._reach(work, wait_s), self._loop).result()

    async def _reach(self, work: Coroutine[None, None, FoundT], wait_s: float) -> FoundT:
        try:
            async with asyncio.timeout(wait_s):
                return await work
        except (nats.errors.Error, OSError) as error:
            await self._drop()
            said = f"no answer within {wait_s:g} s" if isinstance(error, TimeoutError) else error
            raise unreachable(self._url, said) from None

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                async with asyncio.timeout(WAIT_S):
                    await client.close()

    async def _connected(self, *, makes: bool = False) -> Client:
        """makes: the stream, if there is none: who reads may have mistyped its name. Raises:
        NotFoundError (`no-replica`)."""
        if self._client is not None and self._client.is_connected:
            return self._client
        await self._drop()
        self._client = await nats.connect(
            self._server, allow_reconnect=False, connect_timeout=int(WAIT_S), error_cb=_ignore,
            pending_size=0,
        )  # fmt: skip
        stream = self._client.jetstream(timeout=WAIT_S)
        try:
            await stream.stream_info(self._stream)
        except NoStream:
            if not makes:
                await self._drop()
                raise NotFoundError(
                    "no-replica",
                    f"there is no stream {self._stream} at {say_replica(self._server)}",
                    f"name it behind the address: {say_replica(self._server)}/STREAM",
                ) from None
            await stream.add_stream(
                StreamConfig(
                    name=self._stream,
                    description=MADE,
                    subjects=[f"{self._stream}.>"],
                    allow_direct=True,
                )
            )
        return self._client

    def _subject(self, node: str, block: str) -> str:
        return f"{self._stream}.{node}.{block}"

    async def _keep(self, segments: Sequence[Segment]) -> None:
        client = await self._connected(makes=True)
        if not segments:
            await client.flush(timeout=int(WAIT_S))
        stream = client.jetstream(timeout=WAIT_S)
        await asyncio.gather(
            *(
                stream.publish(
                    self._subject(one.node, one.block),
                    bytes(one.data),
                    headers={
                        Header.MSG_ID: f"{one.node}/{one.block}/{one.number}",
                        _PLACE: f"{one.number} {one.start} {one.opened_at}",
                    },
                )
                for one in segments
            )
        )

    async def _blocks(self) -> There:
        names = sorted(one.split(".") for one in await self._messages(">"))
        stream = (await self._connected()).jetstream(timeout=READ_WAIT_S)
        first = (await stream.stream_info(self._stream)).state.first_seq
        since = 0
        with contextlib.suppress(NoStream):  # of an empty stream
            since = _place_of(await stream.get_msg(self._stream, first))[2]
        return There(since=since, blocks=tuple((node, block) for *_, node, block in names))

    async def _messages(self, subject: str) -> dict[str, int]:
        """How many there are of each subject. The server tells a hundred thousand at a time, which
        the client's own question does not know."""
        client, found, total = await self._connected(), dict[str, int](), 1
        while len(found) < total:
            asked = msgspec.json.encode({"subjects_filter": subject, "offset": len(found)})
            told = await client.request(
                f"$JS.API.STREAM.INFO.{self._stream}", asked, timeout=READ_WAIT_S
            )
            said = msgspec.json.decode(told.data)
            if "state" not in said:
                raise nats.errors.Error(said.get("error", {}).get("description", "no answer"))
            part = said["state"].get("subjects") or {}
            total = said.get("total", 0) if part else 0
            found |= part
        return found

    async def _read(self, node: str, block: str) -> list[Segment]:
        subject = self._subject(node, block)
        left = (await self._messages(subject)).get(subject, 0)
        stream = (await self._connected()).jetstream(timeout=READ_WAIT_S)
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL)
        asked = await stream.pull_subscribe(subject, stream=self._stream, config=config)
        found: list[Segment] = []
        while left > 0:
            messages = await asked.fetch(min(left, READ_AT_ONCE), timeout=READ_WAIT_S)
            left -= len(messages)
            found += [Segment(node, block, *_place_of(one), one.data) for one in messages]
        await asked.unsubscribe()
        return found

    async def _trim(self, days: float) -> None:
        """The stream forgets by itself what is older; it is told how much once, if it is ours: what
        somebody else's keeps, and for how long, they have said."""
        stream = (await self._connected(makes=True)).jetstream(timeout=WAIT_S)
        config = (await stream.stream_info(self._stream)).config
        if config.description == MADE and config.max_age != days * DAY_S:
            await stream.update_stream(config.evolve(max_age=days * DAY_S))


def _place_of(message: Msg | RawStreamMsg) -> tuple[int, int, int]:
    number, start, opened_at = map(int, (message.headers or {})[_PLACE].split())
    return number, start, opened_at


async def _ignore(_error: Exception) -> None:
    """What matters of an error is raised where something was asked."""
