"""The supervisor's side of the front workers: one per slot, replaced without a dropped request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from doorstep.serve import nodeplan
from doorstep.serve.cells import create_cells
from doorstep.serve.children import Child
from doorstep.serve.link import Link

FRONT_MODULE = "doorstep.serve.front"


class FrontWorker:
    """One front process. served: generation and number of the plan it serves, -1 if none."""

    def __init__(self, child: Child, cells: Path, hear: Callable[[nodeplan.Word], None]) -> None:
        self.child = child
        self.cells = cells
        self.served = -1
        self.number = -1
        self.held_back: tuple[str, ...] = ()
        self.unloaded: dict[str, str] = {}
        self.draining = False
        self.troubles: dict[str, str] = {}
        self.link = Link(nodeplan.Word, self._take)
        self._hear = hear

    def _take(self, word: nodeplan.Word) -> None:
        match word:
            case nodeplan.Serves(generation, number, held_back, unloaded):
                self.served, self.number = generation, number
                self.held_back, self.unloaded = held_back, unloaded
                self.troubles.pop("plan", None)
            case nodeplan.Refuses(why=why):
                self.troubles["plan"] = why
            case nodeplan.Trouble(topic, what):
                self.troubles[topic] = what
            case nodeplan.Full() | nodeplan.Hung() | nodeplan.Wake():
                pass
        self._hear(word)

    def drain(self, grace_s: float) -> None:
        self.draining = True
        self.link.say(nodeplan.Drain(grace_s))


class FrontSlots:
    """All front workers: one current per slot, and those that are leaving."""

    def __init__(
        self, count: int, options: nodeplan.FrontOptions, logs: Path,
        hear: Callable[[nodeplan.Word], None], variables: Mapping[str, str],
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

    def keep(self, first: list[nodeplan.Order]) -> list[str]:
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

    def replace(
        self, at: int, first: list[nodeplan.Order]
    ) -> tuple[FrontWorker | None, FrontWorker | None]:
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

    def tell_all(self, order: nodeplan.Apply | nodeplan.Lease | nodeplan.Sleep) -> None:
        for worker in self.live + self.leaving:
            if not worker.draining:
                worker.link.say(order)

    def _start(self, at: int, first: list[nodeplan.Order]) -> None:
        child, options = self._children[at], self._options
        ours, theirs = socket.socketpair()
        with theirs:
            name = f"{child.slot}-{child.starts + 1}"
            cells = Path(options.state) / "cells" / f"{options.run}-{name}.cells"
            create_cells(cells)
            start = nodeplan.FrontStart(
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
            worker.link.say(order)
        self.current[at] = worker
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        # Kept by the transport that the loop holds; a task that is done needs no name.
        loop.create_task(loop.create_connection(lambda: worker.link, sock=ours))  # noqa: RUF006
