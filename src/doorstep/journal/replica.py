"""A second place that has what a node's writers wrote: segments of their blocks, by URL.

    postgresql://...            a table of one database        (extra `postgres`)
    nats://host:4222/STREAM     a stream of NATS JetStream     (extra `nats`)

A segment is kept once its place has acknowledged it, under (node, block, number). Numbers rise with
every try, and what was tried and not acknowledged may still arrive: a later segment of a block
therefore replaces all that earlier ones said from its start on, and `rebuild` gives the bytes that
the writer's own file has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from doorstep.core.errors import MissingExtraError, UnreachableError, UsageError
from doorstep.core.instant import Clock, Instant

VARIABLE = "DOORSTEP_REPLICA"
"""Of the URL, which may hold a password: a command line can be read by everybody."""
WAIT_S = 2.0
"""For an acknowledgement; then it counts as not kept."""
SEGMENT_BYTES_MAX = 512 * 1024
"""NATS takes 1 MB in a message unless it was told otherwise."""
SEGMENTS_AT_ONCE_MAX = 256
_UNQUOTED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PACKAGES = {"postgresql": ("psycopg", "postgres"), "nats": ("nats", "nats")}


class Segment(msgspec.Struct, frozen=True, gc=False):
    """block: stem of the writer's file. number: of the try, in this block. start: place of `data`
    in that file. opened_at: of the block, so that it is trimmed as a whole."""

    node: str
    block: str
    number: int
    start: int
    opened_at: Instant
    data: bytes | bytearray


class There(msgspec.Struct, frozen=True):
    """What a replica has. since: none of its blocks was opened before. blocks: (node, block) of
    each, in order."""

    since: Instant
    blocks: tuple[tuple[str, str], ...]


class Replica(Protocol):
    """Not thread-safe. Methods raise UnreachableError (`replica-unreachable`)."""

    def keep(self, segments: Sequence[Segment]) -> None:
        """Return once they are kept, all of them; none: once the place has answered."""
        ...

    def blocks(self) -> There: ...

    def read(self, node: str, block: str) -> list[Segment]:
        """The segments of a block, in any order."""
        ...

    def trim(self, days: float, now: Instant) -> None:
        """Forget blocks that were opened longer ago than this."""
        ...

    def close(self) -> None: ...


def require_replica(url: str) -> None:
    """Raises: UsageError (`bad-replica`), MissingExtraError."""
    scheme = _scheme(url)
    if scheme not in _PACKAGES or not _is_url(url):
        raise UsageError(
            "bad-replica",
            f"the replica is {say_replica(url)!r}; expected postgresql://... or nats://host:port, "
            "and in a password % and two digits for each of / ? # [ ] @ %",
            "doorstep up --journal replicated --replica URL",
        )
    module, extra = _PACKAGES[scheme]
    if find_spec(module) is None:
        raise MissingExtraError.of(module, extra, f"a replica at {scheme}://")


def replica_of(url: str) -> Replica:
    """It connects when first used. Raises: UsageError (`bad-replica`), MissingExtraError."""
    require_replica(url)
    if _scheme(url) == "nats":
        from doorstep.journal.replica_nats import NatsReplica

        return NatsReplica(url)
    from doorstep.journal.replica_postgres import PostgresReplica

    return PostgresReplica(url)


def say_replica(url: str) -> str:
    """The URL without the password or anything else that may be secret."""
    scheme, _, rest = url.partition("://")
    if not _is_url(url):
        # Where the password ends nobody knows: it may hold what ends a host.
        return f"{scheme}://..." if rest else url
    parts = urlsplit(url)
    return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_url(url: str) -> bool:
    """Whether its parts are where they seem to be."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_quoted = not _UNQUOTED.search(url) and "@" not in parts.path + parts.query + parts.fragment
    return is_quoted and not parts.fragment and bool(parts.netloc + parts.query)


def unreachable(url: str, why: object) -> UnreachableError:
    said = str(why).strip() or type(why).__name__
    return UnreachableError(
        "replica-unreachable",
        f"the journal's second place {say_replica(url)} does not answer: {said}",
        "start it again, or have somebody look at it; until then nothing is answered",
    )


def rebuild(segments: Iterable[Segment]) -> bytes:
    """The bytes of a block, as far as they go without a hole; b"" if its start is not there."""
    data = bytearray()
    for one in sorted(segments, key=lambda one: one.number):
        # Behind a hole is nothing, unless it was made by what was tried, arrived in part and was
        # given up: then a later segment begins before it.
        if one.start <= len(data):
            data[one.start :] = one.data
    return bytes(data)


class Mirror:
    """A writer's way to the second place. outage: why the last try failed, None if it did not."""

    def __init__(self, replica: Replica, node: str, clock: Clock) -> None:
        self._replica, self._node, self._clock = replica, node, clock
        self._waiting: list[Segment] = []
        self._block, self._opened_at, self._number = "", clock.now(), 0
        self.outage: UnreachableError | None = None

    def begin(self, block: str, header: bytes) -> None:
        """A new block; its header goes with its first records."""
        self._block, self._opened_at, self._number = block, self._clock.now(), 0
        self.add(0, header)

    def add(self, start: int, data: bytes | bytearray) -> None:
        """Of the current block, to go with what is kept next."""
        self._waiting += self._cut(start, data)

    def keep(self, start: int = 0, data: bytes | bytearray = b"") -> None:
        """Keep this and what waits; without both, ask whether the place is there.

        Raises: UnreachableError (`replica-unreachable`); then `data` is given up."""
        segments = [*self._waiting, *self._cut(start, data)]
        try:
            for at in range(0, max(len(segments), 1), SEGMENTS_AT_ONCE_MAX):
                self._replica.keep(segments[at : at + SEGMENTS_AT_ONCE_MAX])
        except UnreachableError as error:
            self.outage = error
            raise
        self._waiting, self.outage = [], None

    def close(self) -> None:
        """What waits is only the end of a block: who restores it writes another."""
        try:
            if self._waiting and not self.outage:
                self.keep()
        except UnreachableError:
            pass
        self._replica.close()

    def _cut(self, start: int, data: bytes | bytearray) -> list[Segment]:
        found = []
        for at in range(0, len(data), SEGMENT_BYTES_MAX):
            part = data[at : at + SEGMENT_BYTES_MAX] if len(data) > SEGMENT_BYTES_MAX else data
            found.append(
                Segment(self._node, self._block, self._number, start + at, self._opened_at, part)
            )
            self._number += 1
        return found


def _scheme(url: str) -> str:
    scheme = url.partition(":")[0]
    return "postgresql" if scheme == "postgres" else scheme
