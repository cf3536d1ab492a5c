"""Calls of one operation take turns, so that gates of minutes keep no rollback waiting; tasks of a
loop have their turn one after the other, so that one that fails keeps no other waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from doorstep.core.errors import OverloadedError, RefusedError

CALLS_AT_ONCE = 8
CALLS_WAITING_MAX = 64
Found = TypeVar("Found")


def in_turn(tasks: Iterable[Callable[[], object]]) -> None:
    """Call each, whether or not one before it failed. Raises: what the first raised that failed; at
    once RefusedError (`not-leader`), after which nothing more may be done."""
    failed: Exception | None = None
    for task in tasks:
        try:
            task()
        except Exception as error:
            if isinstance(error, RefusedError) and error.code == "not-leader":
                raise
            failed = failed or error
    if failed is not None:
        raise failed


class Turns:
    """CALLS_AT_ONCE calls run in threads of their own, CALLS_WAITING_MAX wait, more are refused."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads = CapacityLimiter(CALLS_AT_ONCE)
        self._inside = 0

    async def take(self, call: Callable[[], Found]) -> Found:
        """What `call` returns, from a thread. Raises: OverloadedError (`too-many-calls`)."""
        if self._inside >= CALLS_AT_ONCE + CALLS_WAITING_MAX:
            raise OverloadedError(
                "too-many-calls",
                f"{CALLS_WAITING_MAX} calls of {self._name} are waiting already",
                "try again",
            )
        self._inside += 1
        try:
            return await to_thread.run_sync(call, limiter=self._threads)
        finally:
            self._inside -= 1
