"""One end of the socket pair between the supervisor and a front worker (`nodeplan.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from doorstep.serve.nodeplan import MESSAGE_CHARS_MAX, Order, Trouble, Word
from doorstep.serve.wire import Frames, encode_frame


class Link(asyncio.Protocol):
    """heard: what comes from the other end, Order or Word; hear: is told each; lost: that there is
    no other end any more."""

    def __init__(
        self, heard: Any, hear: Callable[[Any], None], lost: Callable[[], None] = lambda: None
    ) -> None:
        self._decode = msgspec.msgpack.Decoder(heard).decode
        self._hear, self._lost = hear, lost
        self._frames = Frames()
        self._transport: asyncio.WriteTransport | None = None
        self._is_over = False
        self._unsent: list[Order | Word] = []
        self._told: dict[str, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        for message in self._unsent:
            self.say(message)

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._hear(self._decode(frame))

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport, self._is_over = None, True
        self._lost()

    def say(self, message: Order | Word) -> None:
        """Say it now, or once this end is connected."""
        if self._transport is not None:
            self._transport.write(encode_frame(message))
        elif not self._is_over:
            self._unsent.append(message)

    def tell(self, topic: str, what: str) -> None:
        """Report a problem once, and once that it is over."""
        if self._told.get(topic, "") != what:
            self._told[topic] = what
            self.say(Trouble(topic, what[:MESSAGE_CHARS_MAX]))
