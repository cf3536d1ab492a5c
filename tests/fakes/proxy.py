"""A way to a server that can be cut, stand still, or take its time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, cast

CHUNK_BYTES = 65_536


class Proxy:
    """upstream: (host, port), or the path of a Unix socket. It listens at `port` of 127.0.0.1."""

    def __init__(self, upstream: tuple[str, int] | str) -> None:
        self._upstream = upstream
        self.delay_s = 0.0
        self._is_down = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._passes = asyncio.Event()
        self._passes.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """End all connections and every new one."""
        self._is_down = True
        self._run(self._end())

    def hang(self) -> None:
        """Take what is sent and pass nothing on."""
        self._loop.call_soon_threadsafe(self._passes.clear)

    def mend(self) -> None:
        self._is_down = False
        self._loop.call_soon_threadsafe(self._passes.set)

    def close(self) -> None:
        self.mend()
        self._run(self._end())
        self._run(self._wait())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end(self) -> None:
        for one in self._writers:
            one.transport.abort()

    async def _wait(self) -> None:
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_down:
            return writer.close()
        if isinstance(self._upstream, str):
            theirs, to_them = await asyncio.open_unix_connection(self._upstream)
        else:
            theirs, to_them = await asyncio.open_connection(*self._upstream)
        self._serving = {one for one in self._serving if not one.done()}
        self._serving.add(cast("asyncio.Task[None]", asyncio.current_task()))
        both = {writer, to_them}
        self._writers |= both
        await asyncio.gather(self._pass_on(reader, to_them), self._pass_on(theirs, writer))
        self._writers -= both
        return None

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._passes.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
        writer.close()


@contextlib.contextmanager
def proxy_to(upstream: tuple[str, int] | str) -> Iterator[Proxy]:
    found = Proxy(upstream)
    try:
        yield found
    finally:
        found.close()
