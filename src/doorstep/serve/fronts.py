"""The supervisor's side of the front workers: one per slot, replaced without a dropped request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import msgspec

from doorstep.serve.cells import create_cells
from doorstep.serve.children import Child
from doorstep.serve.nodeplan import (
    Apply,
    Drain,
    FrontOptions,
    FrontStart,
    Full,
    Hung,
    Lease,
    Lines,
    Order,
    Refuses,
    Serves,
    Sleep,
    Trouble,
    Wake,
    Word,
    encode_line,
)

FRONT_MODULE = "doorstep.serve.front"


class FrontWorker(asyncio.Protocol):
    """One front process. served: generation and number of the plan it serves, -1 if none."""

    def __init__(
        self, child: Child, cells: Path, hear: Callable[[FrontWorker, Word], None]
    ) -> None:
        self.child = child
        self.cells = cells
        self.served = -1
        self.number = -1
        self.held_back: tuple[str, ...] = ()
        self.unloaded: dict[str, str] = {}
        self.draining = False
        self.troubles: dict[str, str] = {}
        self._hear = hear
        self._lines = Lines()
        self._transport: asyncio.WriteTransport | None = None
        self._unsent: list[Order] = []
        self._decode = msgspec.json.Decoder(Word).decode

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        for order in self._unsent:
            self.order(order)

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            word = self._decode(line)
            match word:
                case Serves(generation, number, held_back, unloaded):
                    self.served, self.number = generation, number
                    self.held_back, self.unloaded = held_back, unloaded
                    self.troubles.pop("plan", None)
                case Refuses(why=why):
                    self.troubles["plan"] = why
                case Trouble(topic, what):
                    self.troubles[topic] = what
                case Full() | Hung() | Wake():
                    pass
            self._hear(self, word)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None

    def order(self, order: Order) -> None:
        if self._transport is not None:
            self._transport.write(encode_line(order))
        else:
            self._unsent.append(order)

    def drain(self, grace_s: float) -> None:
        self.draining = True
        self.order(Drain(grace_s))


class FrontSlots:
    """All front workers: one current per slot, and those that are leaving."""

    def __init__(
        self, count: int, options: FrontOptions, logs: Path,
        hear: Callable[[FrontWorker, Word], None], variables: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._logs = logs
        self._options = options
        self._hear = hear
        self._variables = variables
        self._children = [self._child(f"front-{at}") for at in range(count)]
        self.current: list[FrontWorker | None] = [None] * count
        self.leaving: list[FrontWorker] = []

    @property
    def live(self) -> list[FrontWorker]:
        return [one for one in self.current if one is not None]

    def keep(self, first: list[Order]) -> list[str]:
        """Start what is not running, telling it `first`. Answers who died, as sentences."""
        died = []
        for at, worker in enumerate(self.current):
            if worker is not None and not worker.child.running:
                code = worker.child.reap()
                died.append(f"{worker.child.slot} ended with code {code}")
                self.current[at] = None
            if self.current[at] is None:
                self._start(at, first)
        for worker in list(self.leaving):
            if worker.child.stopping:
                worker.child.stop()
            if not worker.child.running:
                worker.child.reap()
                self.leaving.remove(worker)
        return died

    def replace(self, at: int, first: list[Order]) -> tuple[FrontWorker | None, FrontWorker | None]:
        """Start a second worker in a slot: (old, new). The old one goes on until `retire`."""
        old = self.current[at]
        if old is not None:
            fresh = self._child(old.child.slot)
            fresh.starts = old.child.starts
            self._children[at] = fresh
            self.leaving.append(old)
            self.current[at] = None
        self._start(at, first)
        return old, self.current[at]

    def _child(self, slot: str) -> Child:
        return Child(slot, "front", (), self._logs, variables=self._variables)

    def put_back(self, at: int, old: FrontWorker) -> None:
        """The new worker of a slot failed: the old one is current again."""
        failed, self.current[at] = self.current[at], old
        self.leaving.remove(old)
        old.child.starts = max(old.child.starts, failed.child.starts if failed else 0)
        self._children[at] = old.child
        if failed is not None:
            failed.draining = True
            failed.child.stop()
            self.leaving.append(failed)

    def numbers(self) -> list[int]:
        """Of the plans by which workers answer, also those on their way out; -1: none yet."""
        leaving = [one.number for one in self.leaving if one.number >= 0]
        return [one.number for one in self.live] + leaving

    def tell_all(self, order: Apply | Lease | Sleep) -> None:
        for worker in self.live + self.leaving:
            if not worker.draining:
                worker.order(order)

    def _start(self, at: int, first: list[Order]) -> None:
        child, options = self._children[at], self._options
        ours, theirs = socket.socketpair()
        with theirs:
            name = f"{child.slot}-{child.starts + 1}"
            cells = Path(options.state) / "cells" / f"{options.run}-{name}.cells"
            create_cells(cells)
            start = FrontStart(
                options=options, slot=name, link=theirs.fileno(), cells=str(cells), place=at
            )
            argv = ["-m", FRONT_MODULE, msgspec.json.encode(start).decode()]
            shared = (options.listen, options.alive, options.rpc)
            inherits = [start.link, *(one for one in shared if one is not None)]
            started = child.keep(inherits, argv)
        if not started:
            ours.close()
            cells.unlink()
            return
        worker = FrontWorker(child, cells, self._hear)
        for order in first:
            worker.order(order)
        self.current[at] = worker
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        # Kept by the transport that the loop holds; a task that is done needs no name.
        loop.create_task(_connect(loop, worker, ours))  # noqa: RUF006


async def _connect(
    loop: asyncio.AbstractEventLoop, worker: FrontWorker, ours: socket.socket
) -> None:
    await loop.create_connection(lambda: worker, sock=ours)
