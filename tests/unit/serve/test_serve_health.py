"""The health port: a client that only pretends to ask holds it for a bounded time."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from doorstep.serve import health


def test_what_a_scrape_adds_to_the_path_does_not_matter() -> None:
    async def story() -> bytes:
        server = await health.serve_health(cast(Any, None), socket.create_server(("127.0.0.1", 0)))
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET /healthz?module=x HTTP/1.1\r\n\r\n")
            return await reader.read()

    assert asyncio.run(story()).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("line", [b"x: y\r\n", b"x"])
def test_a_request_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(health, "REQUEST_S", 0.2)

    async def story() -> bool:
        server = await health.serve_health(cast(Any, None), socket.create_server(("127.0.0.1", 0)))
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET /healthz HTTP/1.1\r\n")
            for _ in range(1000):
                writer.write(line)
                await asyncio.sleep(0.01)
                if reader.at_eof() or reader.exception() or writer.is_closing():
                    return True
            return False

    assert asyncio.run(story()), "it was read for as long as its lines came"
