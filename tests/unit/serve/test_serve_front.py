"""A front worker in this process: which plan it serves when it is told several."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from doorstep.core.contract import Contract, Field
from doorstep.serve.cells import create_cells
from doorstep.serve.front import Front
from doorstep.serve.nodeplan import (
    Apply,
    FrontOptions,
    FrontStart,
    NodePlan,
    Refuses,
    Serves,
    Word,
    plan_file,
)
from doorstep.testing.home import TestHome

CONTRACT = Contract(inputs=(Field(name="a", type="float"),))


class Worker:
    """A front worker, its plans in files, and what it says to its supervisor."""

    def __init__(self, folder: Path) -> None:
        self.home = TestHome(folder / "home")
        self.state = folder / "state"
        self.state.mkdir()
        create_cells(folder / "cells")
        listener = socket.create_server(("127.0.0.1", 0))
        ours, theirs = socket.socketpair()
        self.held = [ours]
        alive = os.open(folder, os.O_RDONLY)
        options = FrontOptions(
            state=str(self.state), journal=str(folder / "journal"), node="n", run="r",
            listen=listener.detach(), alive=alive, models_bytes=1 << 30,
        )  # fmt: skip
        os.close(alive)
        start = FrontStart(
            options=options, slot="front-0", link=theirs.detach(), cells=str(folder / "cells")
        )
        self.front = Front(start, asyncio.get_running_loop())
        self.said: list[Word] = []
        self.front.link.say = self.said.append  # type: ignore[method-assign]

    def write(self, generation: int, *, champion: int) -> None:
        bundles = {at: self.home.bundle(CONTRACT, seed=at) for at in (1, 2)}
        plan = NodePlan(
            format=1, generation=generation, term=1, number=generation, environment="t",
            bundles=str(self.home.path / "bundles"), lease_s=60.0, engines={},
            services=(self.home.service("s", bundles, champion=champion),),
        )  # fmt: skip
        plan_file(self.state, generation).write_bytes(msgspec.json.encode(plan))

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.001)

    @property
    def served(self) -> list[int]:
        return [one.generation for one in self.said if isinstance(one, Serves)]


def test_a_version_that_is_tried_again_brings_no_older_plan_back(tmp_path: Path) -> None:
    async def story() -> None:
        worker = Worker(tmp_path)
        front, loads = worker.front, asyncio.Event()
        worker.write(1, champion=1)
        worker.write(2, champion=2)
        front.obey(Apply(1))
        await worker.until(lambda: worker.served == [1])
        load, begun = front._residents.load, asyncio.Event()

        async def slowly(plan: NodePlan) -> dict[str, Exception]:
            begun.set()
            await loads.wait()
            return await load(plan)

        front._residents.load = slowly  # type: ignore[method-assign]
        front.obey(Apply(2))
        await begun.wait()
        front._retry(1)  # its time comes while plan 2 is being loaded
        loads.set()
        await worker.until(lambda: front._applying is None)
        assert not [one for one in worker.said if isinstance(one, Refuses)]
        assert worker.served == [1, 2]
        front.drain(0.0)
        for one in worker.held:
            one.close()

    asyncio.run(story())
