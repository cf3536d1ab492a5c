"""A site with two services in this process: a loan's label and its price, without HTTP."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from doorstep.core.contract import Contract, Field
from doorstep.core.manifest import Lineage, Manifest, NativeForm
from doorstep.core.plan import ServicePlan, VersionPlan
from doorstep.formats.batch import Batch, Scorer
from doorstep.journal.writer import BlockWriter
from doorstep.serve.cells import CellWriter, create_cells
from doorstep.serve.engine import Engine, listen
from doorstep.serve.engine_client import EngineClient
from doorstep.serve.http import JSON, Head
from doorstep.serve.models import Model, Models
from doorstep.serve.orphan import short_folder
from doorstep.serve.path import Path
from doorstep.serve.record import Recorder
from doorstep.serve.service import Service
from doorstep.serve.site import Site
from doorstep.serve.version import Version, columns_of

CONTRACT = Contract(
    inputs=(
        Field(name="age", type="int", range_min=18, range_max=100),
        Field(name="amount", type="float"),
        Field(name="purpose", type="category", values=("car", "home")),
        Field(name="since", type="time", required=False),
        Field(name="owner", type="bool", required=False),
    ),
    context=(Field(name="store", type="int", required=False),),
)
PLAIN = Contract(
    inputs=(
        Field(name="age", type="int", range_min=18, range_max=100),
        Field(name="amount", type="float"),
    )
)


class Share:
    """`bad` is as likely as the amount is large, up to 1,000."""

    def __init__(self, labels: int) -> None:
        self.labels = labels

    def score(self, batch: Batch) -> np.ndarray:
        share = np.clip(batch.numbers[:, 1] / 1000, 0, 1)
        return np.column_stack([share, 1 - share])[:, : self.labels or 1]


class EngineThread:
    """An engine as it is, in a thread of this process, and a client that notes of how many calls
    each of its questions is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: str, scorer: Scorer,
                 contract: Contract) -> None:  # fmt: skip
        engine = Engine(scorer, contract, listen(socket))
        ends, self._alive = os.pipe()
        engine.watch(ends)
        self._thread = threading.Thread(target=engine.run)
        self._thread.start()
        self.asked: list[int] = []
        self.client = self._connect(loop, socket)

    def _connect(self, loop: asyncio.AbstractEventLoop, socket: str) -> EngineClient:
        asked = self.asked

        class Noting(EngineClient):
            def ask(self, batch: Batch, deadline_ns: int, answered: Any, calls: int = 1) -> None:
                asked.append(calls)
                super().ask(batch, deadline_ns, answered, calls)

        client = Noting(socket, loop)

        async def connected() -> None:
            client.start()
            while not client.is_there:
                await asyncio.sleep(0.001)

        loop.run_until_complete(asyncio.wait_for(connected(), 60))
        return client

    def close(self) -> None:
        """Its loop must turn once more, for the connection to close."""
        self.client.close()
        self.client._loop.run_until_complete(asyncio.sleep(0))
        os.close(self._alive)
        self._thread.join()


class Answer:
    def __init__(self) -> None:
        self.status, self.body, self.headers, self.media = 0, b"", b"", b""

    def respond(self, status: int, body: bytes, headers: bytes = b"", media: bytes = JSON) -> None:
        assert not self.status, "answered twice"
        self.status, self.body, self.headers, self.media = status, body, headers, media


class Troubles:
    def tell(self, topic: str, what: str) -> None:
        assert not what, f"{topic}: {what}"


class OneSite:
    """services: name -> (contract, labels). scorer: of so many labels. engines: each service has
    one, else it is scored here. changes: of their plans."""

    def __init__(
        self,
        folder: FilePath,
        services: dict[str, tuple[Contract, tuple[str, ...]]],
        scorer: Callable[[int], Scorer] = Share,
        engines: bool = False,
        **changes: Any,
    ) -> None:
        create_cells(folder / "cells")
        self._folder, self._scorer = folder, scorer
        self.engines: dict[str, EngineThread] | None = {} if engines else None
        self.loop = asyncio.new_event_loop()
        cells = CellWriter(folder / "cells")
        self.changes = changes
        self.writer = BlockWriter(folder, node="n", boot="b", slot="s")
        recorder = Recorder(self.writer)
        self.site = Site(
            Path(self.loop, recorder, cells, Troubles(), Models(self.loop, 1 << 30)),
            recorder,
            cells,
        )
        self.site.listen_at("/vertex", "/alive")
        self.site.swap({
            name: self._service(name, contract, labels, cells)
            for name, (contract, labels) in services.items()
        })  # fmt: skip

    def ask(self, method: str, path: str, body: bytes = b"", **headers: bytes) -> Answer:
        """headers: names with `_` for `-`."""
        return self.ask_all(method, path, [body], **headers)[0]

    def ask_all(
        self, method: str, path: str, bodies: Sequence[bytes], **headers: bytes
    ) -> list[Answer]:
        """In one turn of the loop."""
        fields = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        answers = [Answer() for _ in bodies]

        async def story() -> None:
            for answer, body in zip(answers, bodies, strict=True):
                head = Head(method.encode(), path.encode(), len(body), True, False, fields)
                self.site.handle(answer, head, body)
            while not all(one.status for one in answers):
                await asyncio.sleep(0)

        self.loop.run_until_complete(asyncio.wait_for(story(), 60))
        return answers

    def close(self) -> None:
        for one in (self.engines or {}).values():
            one.close()
        self.writer.close()
        self.loop.close()

    def _service(
        self, name: str, contract: Contract, labels: tuple[str, ...], cells: CellWriter
    ) -> Service:
        manifest = Manifest(
            format=1, task="binary" if labels else "regression", label="y", labels=labels,
            positive=labels[0] if labels else "", threshold=0.5,
            contract=Contract(inputs=contract.inputs),
            native=NativeForm(family="onnx", serialization="onnx", file="f"),
            onnx=None, parity=None, lineage=Lineage(), reads=(), files=(),
        )  # fmt: skip
        placement = "inline" if self.engines is None else "engine"
        one = VersionPlan(number=1, bundle="0" * 64, form="onnx", placement=placement)
        columns = columns_of(contract, manifest.contract)
        scorer = self._scorer(len(labels))
        model = Model(one, manifest, scorer) if self.engines is None else None
        engine = None
        if self.engines is not None:
            socket = str(short_folder(self._folder) / name)
            found = EngineThread(self.loop, socket, scorer, manifest.contract)
            self.engines[name], engine = found, found.client
        versions = {1: Version(one, manifest, columns, model, engine)}
        plan = ServicePlan(format=1, service=name, contract=contract, versions=(one,), champion=1,
                           **self.changes)  # fmt: skip
        return Service(
            plan, versions, lease_held=True, declare=self.writer.declare, slot=cells.slot
        )
