"""What a protocol's routes are given, and what a protocol is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from doorstep.core.plan import ApiKey
from doorstep.serve.call import Codec, Exchange
from doorstep.serve.http import Head
from doorstep.serve.router import Routes

if TYPE_CHECKING:
    from doorstep.serve.site import Site


CONTEXT = b"doorstep-context"


class Visit(msgspec.Struct):
    """One request at its route. service, version: as its path names them, else empty. key: that
    it came with. admitted: the service that it was let in to, None before it was asked."""

    exchange: Exchange
    head: Head
    body: bytes
    codec: Codec
    service: str
    version: str
    key: ApiKey | None = None
    admitted: str | None = None

    @property
    def context(self) -> bytes:
        """The header `Doorstep-Context`."""
        return self.head.fields.get(CONTEXT, b"")


Handler = Callable[["Site", Visit], None]


class Skin(NamedTuple):
    """One protocol: how it writes, where it listens. prefixes: of the paths that are its own, so
    that also a request that never became one is refused in its words. probes: its routes that ask
    whether the node is well, and nothing else: they never need an API key."""

    codec: Codec
    prefixes: tuple[bytes, ...]
    routes: Routes[Handler]
    probes: frozenset[str] = frozenset()

    def is_probe(self, path: str, method: str) -> bool:
        """Whether this only asks: a path may be told to be for health and predictions alike."""
        return path in self.probes and method != "POST"
