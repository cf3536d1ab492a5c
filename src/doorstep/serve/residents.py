"""What a front worker has loaded, and how the next plan is made from it.

Loading happens in a thread, beside the requests; the swap is one assignment in the loop. What the
last plan had and the next one has too is kept, so a plan that only changes shares loads nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from doorstep.core.errors import InputError, UnreachableError
from doorstep.core.manifest import Manifest
from doorstep.core.plan import ServicePlan, VersionPlan
from doorstep.core.record import Layout
from doorstep.formats.batch import Scorer
from doorstep.serve.cells import CellKey
from doorstep.serve.engine_client import EngineClient
from doorstep.serve.nodeplan import NodePlan, engine_key
from doorstep.serve.rows import RowReader
from doorstep.serve.service import Service
from doorstep.serve.version import Version, columns_of, load_inline, read_manifest

ENGINE_CONNECT_S = 5.0
HANG_UP_S = 30.0
"""An engine that no plan names any more is kept this long for what is under way."""


class Residents:
    """Versions, scorers and engine connections by what they are made of. Lives in one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        declare: Callable[[Layout], int],
        slot: Callable[[CellKey], int | None],
    ) -> None:
        self._loop = loop
        self._declare = declare
        self._slot = slot
        self._manifests: dict[str, Manifest] = {}
        self._scorers: dict[tuple[str, str], Scorer] = {}
        self._engines: dict[str, EngineClient] = {}
        self._readers: dict[str, tuple[ServicePlan, RowReader]] = {}
        self._plan: NodePlan | None = None

    async def load(self, plan: NodePlan) -> None:
        """Make everything of `plan` resident. The last plan stays whole whatever happens.

        Raises: InputError, RefusedError, UnreachableError (`engine-unreachable`).
        """
        await self._loop.run_in_executor(None, self._load_files, plan)
        for service in plan.services:
            for version in service.versions:
                if version.placement == "engine":
                    self._connect(plan, service, version)
        await self._wait_connected(plan)

    def services(self, plan: NodePlan, *, lease_held: bool) -> dict[str, Service]:
        """The services of a plan that is loaded. Raises: InputError (`contract-mismatch`,
        `no-champion`)."""
        made = {}
        for service in plan.services:
            versions = {one.number: self._version(plan, service, one) for one in service.versions}
            if service.champion is not None and service.champion not in versions:
                raise InputError(
                    "no-champion",
                    f"{service.service}: champion {service.champion} is not among its versions",
                )
            made[service.service] = Service(
                service, versions, lease_held=lease_held, declare=self._declare, slot=self._slot,
                reader=self._readers[service.service][1],
            )  # fmt: skip
        return made

    def keep_only(self, plan: NodePlan) -> None:
        """Let go of what `plan` does not name."""
        self._plan = plan
        versions = [(one, one.bundle) for service in plan.services for one in service.versions]
        bundles = {bundle for _, bundle in versions}
        self._manifests = {k: v for k, v in self._manifests.items() if k in bundles}
        inline = {(one.bundle, one.form) for one, _ in versions if one.placement == "inline"}
        self._scorers = {k: v for k, v in self._scorers.items() if k in inline}
        names = {service.service for service in plan.services}
        self._readers = {k: v for k, v in self._readers.items() if k in names}
        sockets = set(plan.engines.values())
        for socket in [one for one in self._engines if one not in sockets]:
            self._loop.call_later(HANG_UP_S, self._engines.pop(socket).close)

    def _load_files(self, plan: NodePlan) -> None:
        bundles = Path(plan.bundles)
        for service in plan.services:
            for version in service.versions:
                if version.bundle not in self._manifests:
                    self._manifests[version.bundle] = read_manifest(bundles, version.bundle)
                key = (version.bundle, version.form)
                if version.placement == "inline" and key not in self._scorers:
                    manifest = self._manifests[version.bundle]
                    self._scorers[key] = load_inline(bundles, version, manifest)
            self._prepare_reader(service)

    def _prepare_reader(self, plan: ServicePlan) -> None:
        """A reader depends on the contract and ids; making one takes milliseconds."""
        known = self._readers.get(plan.service)
        if known is None or _reading(known[0]) != _reading(plan):
            self._readers[plan.service] = (plan, RowReader(plan))

    def _connect(self, plan: NodePlan, service: ServicePlan, version: VersionPlan) -> None:
        socket = plan.engines.get(engine_key(version))
        if socket is None:
            raise InputError(
                "no-engine", f"{service.service}@{version.number} has no engine on this node"
            )
        if socket not in self._engines:
            self._engines[socket] = EngineClient(socket, self._loop)
            self._engines[socket].start()

    async def _wait_connected(self, plan: NodePlan) -> None:
        until = time.monotonic() + ENGINE_CONNECT_S
        for socket in plan.engines.values():
            engine = self._engines.get(socket)
            while engine is not None and not engine.connected:
                if time.monotonic() > until:
                    raise UnreachableError("engine-unreachable", "an engine does not answer")
                await asyncio.sleep(0.01)

    def _version(self, plan: NodePlan, service: ServicePlan, version: VersionPlan) -> Version:
        manifest = self._manifests[version.bundle]
        columns = columns_of(service.contract, manifest.contract)
        if version.placement == "inline":
            scorer = self._scorers[version.bundle, version.form]
            return Version(version, manifest, columns, scorer, None)
        engine = self._engines[plan.engines[engine_key(version)]]
        return Version(version, manifest, columns, None, engine)


def _reading(plan: ServicePlan) -> tuple[object, ...]:
    return (plan.contract, plan.key, plan.unit, plan.subject, plan.rows_max, plan.segments)
