"""Who looks on when a request comes to its end: the access log, and traces (`traces.py`).

Nobody does by default, and then a request costs one look at an empty tuple.
"""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from doorstep.core.instant import Instant, to_text
from doorstep.serve.call import Call
from doorstep.serve.observe_options import ObserveOptions

LINES_MAX = 10_000
"""Kept between two writes, half a second apart; what comes on top is left out, and counted."""
LOG_BYTES_MAX = 64 * 1024 * 1024
"""Of the file; the one before it is kept as FILE.1."""
LOG_MODE = 0o640
_encode = msgspec.json.Encoder().encode


class Seen(NamedTuple):
    """One request that came to its end at `at`. version: of the answer, "" where none was asked.
    key: id of the API key. trace: the header `traceparent`. Nothing of its body, and no key."""

    at: Instant
    latency_us: int
    service: str
    version: str
    protocol: str
    status: int
    rows: int
    request: str
    key: str = ""
    fallback: str = ""
    trace: bytes = b""


class Observer(Protocol):
    def note(self, seen: Seen) -> None:
        """A request has ended. Must not wait for anything."""
        ...

    def flush(self) -> None:
        """Half a second has passed. Raises: OSError."""
        ...

    def close(self) -> None:
        """The worker ends."""
        ...


Observers = Sequence[Observer]


def seen_of(call: Call, latency_us: int) -> Seen:
    return Seen(
        call.at + latency_us, latency_us, call.service.name, call.version,
        call.codec.protocol, call.status, call.parsed.count, call.id, call.key,
        call.fallback or "", call.trace,
    )  # fmt: skip


class AccessLog:
    """JSON lines, of a sample, appended by all workers of a node to one file of bounded size.

    Whoever finds it too long renames it; the others see by its inode that it is another file now.
    """

    def __init__(self, path: Path, share: float, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._path, self._share, self._bytes_max = path, share, bytes_max
        self._lines: list[bytes] = []
        self._fd = -1
        self._random = random.Random()  # noqa: S311  a sample, not a secret
        self.left_out = 0

    def note(self, seen: Seen) -> None:
        if self._random.random() >= self._share:
            return
        if len(self._lines) >= LINES_MAX:
            self.left_out += 1
            return
        self._lines.append(_encode(_line(seen)))

    def flush(self) -> None:
        """Raises: OSError; the lines are given up then."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        if self.left_out:
            lines.append(_encode({"left_out": self.left_out}))
            self.left_out = 0
        self._open()
        os.write(self._fd, b"\n".join(lines) + b"\n")
        if os.fstat(self._fd).st_size > self._bytes_max:
            self._rotate()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._forget()

    def _open(self) -> None:
        if self._fd >= 0 and not self._is_current():
            self._forget()
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, LOG_MODE)

    def _rotate(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another worker is at it
        if self._is_current():
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._forget()

    def _is_current(self) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False

    def _forget(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _line(seen: Seen) -> dict[str, object]:
    found = seen._asdict()
    del found["trace"]
    found["at"] = to_text(seen.at)
    return {name: value for name, value in found.items() if value != ""}


def observers_of(options: ObserveOptions) -> Observers:
    """Those that were asked for. Raises: MissingExtraError."""
    found: list[Observer] = []
    if options.access_log:
        found.append(AccessLog(Path(options.access_log), options.access_share))
    if options.otlp:
        from doorstep.serve.traces import Traces

        found.append(Traces(options.otlp, options.trace_share))
    return tuple(found)
