"""Requests over HTTP from a thread of its own: how the demo and a rehearsal ask a service.

Nothing is retried: where no answer came, that is told, once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import httpx

CONNECTIONS = 8
TIMEOUT_S = 10.0
IDLE_S = 0.02
AskedT = TypeVar("AskedT")
Turn = tuple[AskedT, bytes, float]
"""What is asked, its body, and the seconds until it is due."""


class Sender(Generic[AskedT]):
    """A few connections that send one request after the other, from `start` to `stop`.

    reached: options of the client, see `reaching.reach`. turn: the next request, None while there
    is none. answered: told of each answer, with status and body. failed: told, in words, why there
    was none. All are called in the thread.
    """

    def __init__(
        self,
        reached: dict[str, Any],
        path: str,
        turn: Callable[[], Turn[AskedT] | None],
        answered: Callable[[AskedT, int, bytes], None],
        failed: Callable[[str], None],
    ) -> None:
        self._reached, self._path, self._turn = reached, path, turn
        self._answered, self._failed = answered, failed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send no more, and wait for what is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_S + 1.0)

    def _run(self) -> None:
        asyncio.run(self._clients())

    async def _clients(self) -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, **self._reached) as http:
            await asyncio.gather(*(self._client(http) for _ in range(CONNECTIONS)))

    async def _client(self, http: httpx.AsyncClient) -> None:
        while not self._stopping.is_set():
            turn = self._turn()
            if turn is None:
                await asyncio.sleep(IDLE_S)
                continue
            asked, body, wait_s = turn
            await asyncio.sleep(wait_s)
            try:
                answer = await http.post(
                    self._path, content=body, headers={"Content-Type": "application/json"}
                )
            except httpx.HTTPError as error:
                self._failed(f"{type(error).__name__}: {error}".removesuffix(": "))
            else:
                self._answered(asked, answer.status_code, answer.content)
