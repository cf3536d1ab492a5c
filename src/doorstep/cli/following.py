"""Outcomes from a NATS JetStream: at least once, in the order in which they are delivered.

A durable pull consumer keeps our place. A message is acknowledged after the control plane has its
outcome on the disk, so that nothing is lost when either side dies; what is delivered again is
recorded again, which changes no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from doorstep.cli.refusals import Refusals
from doorstep.client import Client
from doorstep.core.errors import (
    InputError,
    MissingExtraError,
    NotFoundError,
    OverloadedError,
    UnreachableError,
)
from doorstep.core.outcome import OutcomeGiven, require_storable

if TYPE_CHECKING:
    from nats.aio.msg import Msg

FETCHED = 500
MESSAGE_BYTES_MAX = 32 * 1024
"""So many times FETCHED fit into one request."""
FETCH_S = 1.0
CONNECT_S = 5.0
FIRST_S = 10.0
ACK_WAIT_S = 60.0
"""Before a message that nobody acknowledged comes again; longer than recording it takes."""
RETRY_S = 2.0


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """drain: end when nothing is waiting."""

    url: str
    stream: str
    subject: str
    durable: str
    drain: bool


@dataclass(slots=True)
class Followed:
    recorded: int = 0
    refused: int = 0


def follow_outcomes(
    client: Client,
    service: str,
    asked: Following,
    refusals: Refusals,
    say: Callable[[str], None],
) -> Followed:
    """Until SIGINT or SIGTERM, or, to drain, until nothing is waiting. say: is told what is done.

    Raises: MissingExtraError, UnreachableError (`no-broker`), NotFoundError (`no-stream`), and
    what the control plane refuses.
    """
    client.service(service)  # a name that is mistyped must not empty the stream
    try:
        import nats as _  # noqa: F401
    except ImportError:
        raise MissingExtraError.of("nats-py", "nats", "following a NATS JetStream") from None
    return asyncio.run(_Follower(client, service, asked, refusals, say).run())


class _Follower:
    def __init__(
        self,
        client: Client,
        service: str,
        asked: Following,
        refusals: Refusals,
        say: Callable[[str], None],
    ) -> None:
        self._client, self._service, self._asked = client, service, asked
        self._refusals, self._say = refusals, say
        self._told = Followed()
        self._decode = msgspec.json.Decoder(OutcomeGiven).decode
        self._stopped = asyncio.Event()

    async def run(self) -> Followed:
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, self._stopped.set)
        broker = await self._connect()
        try:
            waiting = await self._subscribe(broker)
            self._say(f"following {self._asked.stream} for {self._service}")
            while not self._stopped.is_set():
                messages = await _fetch(waiting)
                if not messages and self._asked.drain:
                    break
                if messages and not await self._take(messages):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopped.wait(), RETRY_S)
        finally:
            await broker.close()
        return self._told

    async def _connect(self) -> Any:
        import nats

        async def quiet(_: Exception) -> None: ...

        # It tries for ever, which is right later, but not before it ever answered.
        first = nats.connect(
            self._asked.url,
            connect_timeout=CONNECT_S,
            max_reconnect_attempts=-1,
            error_cb=quiet,
        )
        try:
            return await asyncio.wait_for(first, FIRST_S)
        except (OSError, TimeoutError, nats.errors.Error) as error:
            said = f"the NATS server does not answer: {type(error).__name__}"
            raise UnreachableError("no-broker", said, "is the address right?") from None

    async def _subscribe(self, broker: Any) -> Any:
        import nats
        from nats.js.api import AckPolicy, ConsumerConfig

        asked = self._asked
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT_S)
        try:
            return await broker.jetstream().pull_subscribe(
                asked.subject or ">", durable=asked.durable, stream=asked.stream, config=config
            )
        except nats.js.errors.NotFoundError:
            said = f"there is no stream {asked.stream}, or nothing in it is of {asked.subject!r}"
            raise NotFoundError("no-stream", said, "name it with --stream") from None
        except (TimeoutError, nats.errors.Error) as error:
            raise InputError("bad-stream", f"{asked.stream} cannot be followed: {error}") from None

    async def _take(self, messages: Sequence[Msg]) -> bool:
        """False if they could not be recorded now; then they come again."""
        given: list[tuple[Msg, OutcomeGiven]] = []
        poison: list[tuple[Msg, str]] = []
        for one in messages:
            try:
                given.append((one, self._read(one.data)))
            except (ValueError, RecursionError) as error:
                poison.append((one, str(error)))
        outcomes = [one for _, one in given]
        try:
            found = await asyncio.to_thread(self._client.tell_outcomes, self._service, outcomes)
        except (UnreachableError, OverloadedError) as error:
            self._say(f"not recorded, tried again: {error.message}")
            for message in messages:
                await message.nak()
            return False
        self._told.recorded += found.recorded
        poison += [(given[one.index][0], one.reason) for one in found.refused]
        await self._end(given, poison)
        return True

    def _read(self, data: bytes) -> OutcomeGiven:
        """Raises: ValueError for what would make the control plane refuse the whole request: then
        everything would come again for ever, and nothing behind it."""
        if len(data) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {len(data):,} bytes; at most {MESSAGE_BYTES_MAX:,}")
        found = self._decode(data)
        require_storable(found)
        return found

    async def _end(
        self, given: Sequence[tuple[Msg, OutcomeGiven]], poison: Sequence[tuple[Msg, str]]
    ) -> None:
        for message, reason in poison:
            self._told.refused += 1
            text = message.data[:1000].decode(errors="replace")
            number = message.metadata.sequence.stream
            self._refusals.add(number, {"message": text, "subject": message.subject}, reason)
        self._refusals.sync()
        refused = {id(message) for message, _ in poison}
        for message, _ in poison:
            await message.term()
        for message, _ in given:
            if id(message) not in refused:
                await message.ack()


async def _fetch(waiting: Any) -> list[Msg]:
    import nats

    try:
        found: list[Msg] = await waiting.fetch(FETCHED, timeout=FETCH_S)
        return found
    except (TimeoutError, nats.errors.Error):  # nothing waits, or it connects again
        return []
