"""Counters by name and labels: the growing end of a cell file, and what `/metrics` shows.

A new counter is one line among FAMILIES, and `counters.add(THAT, label, ...)` where it happens.
Rows are made when first counted, one behind the other, so a file is as large as what was counted:

    end        first free word
    rows       words of the row, bytes of the key, key, values

The key is msgpack of the family's name and the labels. The end moves after its row was written, so
that a reader sees whole rows at any time, also after `kill -9`.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import msgspec

BUCKETS = 64
LATENCY_EDGES_US: tuple[int, ...] = tuple(round(50 * 1.25**at) for at in range(BUCKETS - 1))
"""Upper edges of the latency histogram, 50 us to about 52 s; the last bucket is open."""
ROOM_BYTES = 64 * 1024
"""By which the file grows."""
ROOM_BYTES_MAX = 64 * 1024 * 1024
"""About 60,000 services with four rows each. Beyond it counts are lost, and that is counted."""
_END, _FIRST = 0, 1

Key: TypeAlias = tuple[str, ...]
"""Name of a family, and the labels."""
Values: TypeAlias = list[int]
"""One number, or the buckets of a histogram and then the sum of what was observed."""


class Family(NamedTuple):
    """kind: a gauge is what is now, in live processes; the others only grow."""

    name: str
    about: str
    labels: tuple[str, ...] = ("service",)
    kind: Literal["counter", "gauge", "histogram"] = "counter"

    @property
    def width(self) -> int:
        return BUCKETS + 1 if self.kind == "histogram" else 1


REQUESTS = Family(
    "requests",
    "Answered requests, refused and failed ones too",
    ("service", "version", "protocol", "code"),
)
ERRORS = Family("errors", "Requests that were answered with a fault of ours")
REFUSED = Family(
    "refused",
    "Requests refused before they were scored, by reason: input, auth, rate, overload",
    ("service", "reason"),
)
LATENCY = Family("latency_seconds", "From a request's last byte to its answer", kind="histogram")
IN_FLIGHT = Family("requests_in_flight", "Requests under way", (), "gauge")
CONNECTIONS = Family("connections", "Open client connections", (), "gauge")
LOST = Family("counts_lost", "Counts for which there was no room", ())
FAMILIES = (REQUESTS, ERRORS, REFUSED, LATENCY, IN_FLIGHT, CONNECTIONS, LOST)
_GAUGES = frozenset(one.name for one in FAMILIES if one.kind == "gauge")


class CounterWriter:
    """The one writer of the counters at byte `offset` of an open file, which it makes longer as it
    needs. Not thread-safe."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd, self._offset = fd, offset
        self._rows: dict[Key, int] = {}
        self._open()
        self._words[_END] = _FIRST
        self._lost = self._place(LOST, ("counts_lost",))

    def add(self, family: Family, *labels: str, by: int = 1) -> None:
        key = (family.name, *labels)
        at = self._rows.get(key) or self._place(family, key)
        self._words[at] += by

    def set(self, family: Family, value: int, *labels: str) -> None:
        key = (family.name, *labels)
        self._words[self._rows.get(key) or self._place(family, key)] = value

    def answered(
        self, service: str, version: str, protocol: str, status: int, *latencies_us: int
    ) -> None:
        """Count requests that came to their end: one for each latency, or one for which nothing was
        computed."""
        count = len(latencies_us) or 1
        self.add(REQUESTS, service, version, protocol, _CLASSES[status // 100], by=count)
        if status >= 500:
            self.add(ERRORS, service, by=count)
        if not latencies_us:
            return
        key = ("latency_seconds", service)
        at = self._rows.get(key) or self._place(LATENCY, key)
        if at == self._lost:
            return
        words = self._words
        for latency_us in latencies_us:
            words[at + bisect_left(LATENCY_EDGES_US, latency_us)] += 1
        words[at + BUCKETS] += sum(latencies_us)

    def close(self) -> None:
        self._words.release()
        self._map.close()

    def _open(self) -> None:
        size = os.fstat(self._fd).st_size - self._offset
        self._map = mmap.mmap(self._fd, size, offset=self._offset)
        self._words = memoryview(self._map).cast("Q")

    def _place(self, family: Family, key: Key) -> int:
        """Where the values of a new row lie; those of `counts_lost` where there is no room."""
        data = msgspec.msgpack.encode(key)
        width = 2 + -(-len(data) // 8)
        row, at = width + family.width, int(self._words[_END])
        if at + row > len(self._words) and not self._grow():
            return self._lost
        self._words[at], self._words[at + 1] = row, len(data)
        self._map[(at + 2) * 8 : (at + 2) * 8 + len(data)] = data
        self._words[_END] = at + row
        self._rows[key] = at + width
        return at + width

    def _grow(self) -> bool:
        size = len(self._map)
        if size + ROOM_BYTES > ROOM_BYTES_MAX:
            return False
        try:
            take_room(self._fd, self._offset + size, ROOM_BYTES)
        except OSError:
            return False
        self.close()
        self._open()
        return True


_CLASSES = tuple(f"{first}xx" for first in range(10))


def take_room(fd: int, start: int, size: int) -> None:
    """Make a file longer and take the room on the disk at once: on a disk that fills later, a page
    that has none would end the process (SIGBUS). Raises: OSError."""
    os.ftruncate(fd, start + size)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, start, size)
        except OSError:
            os.ftruncate(fd, start)
            raise


def read_counters(data: memoryview) -> dict[Key, Values]:
    """Every row of the counters in `data`."""
    found: dict[Key, Values] = {}
    with data.cast("Q") as words:
        at, end = _FIRST, min(words[_END], len(words))
        while at < end:
            row, size = words[at], words[at + 1]
            if not 3 <= row <= end - at:
                raise ValueError(f"a row of {row} words in the counters")
            key = msgspec.msgpack.decode(data[(at + 2) * 8 : (at + 2) * 8 + size], type=Key)
            found[key] = words[at + 2 + -(-size // 8) : at + row].tolist()
            at += row
    return found


def add_counters(into: dict[Key, Values], other: Mapping[Key, Values]) -> None:
    for key, values in other.items():
        mine = into.get(key)
        into[key] = (
            list(values) if mine is None else [a + b for a, b in zip(mine, values, strict=True)]
        )


def without_gauges(counters: Mapping[Key, Values]) -> dict[Key, Values]:
    """What remains of a process that is gone."""
    return {key: values for key, values in counters.items() if key[0] not in _GAUGES}
