"""The listening socket is handed on: by one worker at a time, to whoever waits for it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from doorstep.serve.nodeplan import LISTENER_SOCKET
from doorstep.serve.orphan import (
    Orphans,
    hold_alive,
    offer_listeners,
    orphans_ports,
    short_folder,
    take_listeners,
)


@pytest.fixture
def listener() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made


@asynccontextmanager
async def offered(state: Path, listener: socket.socket, workers: int) -> AsyncIterator[None]:
    offers = [asyncio.create_task(offer_listeners(state, [listener])) for _ in range(workers)]
    try:
        yield
    finally:
        for one in offers:
            one.cancel()
        await asyncio.gather(*offers, return_exceptions=True)


def test_nobody_is_waited_for_where_no_worker_lives(tmp_path: Path) -> None:
    assert take_listeners(tmp_path) == []
    os.close(hold_alive(tmp_path, "r1"))
    assert take_listeners(tmp_path) == []


def test_a_worker_that_lives_is_waited_for_until_it_offers(
    tmp_path: Path, listener: socket.socket
) -> None:
    async def story() -> list[int]:
        alive = hold_alive(tmp_path, "r1")
        taking = asyncio.create_task(asyncio.to_thread(orphans_ports, tmp_path))
        await asyncio.sleep(0.3)
        assert not taking.done()
        async with offered(tmp_path, listener, workers=2):
            found = await taking
        os.close(alive)
        return found

    assert asyncio.run(story()) == [listener.getsockname()[1]]


def test_one_who_asks_and_leaves_ends_no_offer(tmp_path: Path, listener: socket.socket) -> None:
    async def story() -> list[list[int]]:
        alive = hold_alive(tmp_path, "r1")
        async with offered(tmp_path, listener, workers=3):
            found = [await asyncio.to_thread(orphans_ports, tmp_path)]
            for _ in range(20):
                with socket.socket(socket.AF_UNIX) as hasty:
                    hasty.connect(str(short_folder(tmp_path) / LISTENER_SOCKET))
                await asyncio.sleep(0)
            found.append(await asyncio.to_thread(orphans_ports, tmp_path))
        os.close(alive)
        return found

    port = listener.getsockname()[1]
    assert asyncio.run(story()) == [[port], [port]]


def test_a_name_that_a_dead_worker_left_is_no_offer(
    tmp_path: Path, listener: socket.socket
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_folder(tmp_path) / LISTENER_SOCKET))
    assert take_listeners(tmp_path) == []

    async def story() -> list[int]:
        async with offered(tmp_path, listener, workers=1):
            while not (found := await asyncio.to_thread(orphans_ports, tmp_path)):
                await asyncio.sleep(0.01)
            return found

    assert asyncio.run(story()) == [listener.getsockname()[1]]


def test_orphans_count_with_their_plan_until_all_are_gone(tmp_path: Path) -> None:
    (tmp_path / "workers.lock").touch()  # where an older Doorstep said that workers live
    first, second = hold_alive(tmp_path, "r1"), hold_alive(tmp_path, "r2")
    os.close(hold_alive(tmp_path, "gone"))
    mine = hold_alive(tmp_path, "r3")
    orphans = Orphans(tmp_path, "r3")
    orphans.number = 4
    assert orphans.numbers() == [4]
    os.close(first)
    assert orphans.numbers() == [4]
    os.close(second)
    assert orphans.numbers() == []
    os.close(mine)
    assert [one.name for one in tmp_path.glob("workers*")] == ["workers-r3.lock"]
