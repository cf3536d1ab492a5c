"""Request ids without a system call each: uuid7, 74 random bits from a pool."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np

_RANDOM_BYTES = 10
_POOL_IDS = 512
_POOL_BYTES = _RANDOM_BYTES * _POOL_IDS
# The version (7) and the variant (RFC 9562) of every id of a pool: which bits stay random, and what
# the others are.
_RANDOM = int.from_bytes(bytes.fromhex("0fff3fffffffffffffff") * _POOL_IDS, "big")
_FIXED = int.from_bytes(bytes.fromhex("70008000000000000000") * _POOL_IDS, "big")
_TAIL_CHARS = 22
"""Of an id's text what is behind its time: 4-4-12 hex digits."""


class RequestIds:
    """Makes the 16 bytes of a uuid7 and its text (8-4-4-4-12 hex digits). Not thread-safe."""

    def __init__(self) -> None:
        self._tails: Iterator[tuple[bytes, str]] = iter(())
        self._ms = -1
        self._head, self._head_text = b"", ""

    def next(self) -> tuple[bytes, str]:
        now_ms = time.time_ns() // 1_000_000
        if now_ms != self._ms:
            self._ms, self._head = now_ms, now_ms.to_bytes(6, "big")
            digits = self._head.hex()
            self._head_text = f"{digits[:8]}-{digits[8:]}-"
        tail = next(self._tails, None)
        if tail is None:
            self._tails = _pool()
            tail = next(self._tails)
        return self._head + tail[0], self._head_text + tail[1]


def _pool() -> Iterator[tuple[bytes, str]]:
    """The ends of many ids, as bytes and as text: made at once, because that is much cheaper."""
    random = int.from_bytes(os.urandom(_POOL_BYTES), "big") & _RANDOM | _FIXED
    pool = random.to_bytes(_POOL_BYTES, "big")
    digits = np.frombuffer(pool.hex().encode(), np.uint8).reshape(_POOL_IDS, 2 * _RANDOM_BYTES)
    chars = np.full((_POOL_IDS, _TAIL_CHARS), ord("-"), np.uint8)
    chars[:, :4], chars[:, 5:9], chars[:, 10:] = digits[:, :4], digits[:, 4:8], digits[:, 8:]
    text = chars.tobytes().decode()
    return zip(
        [pool[at : at + _RANDOM_BYTES] for at in range(0, _POOL_BYTES, _RANDOM_BYTES)],
        [text[at : at + _TAIL_CHARS] for at in range(0, len(text), _TAIL_CHARS)],
        strict=True,
    )
