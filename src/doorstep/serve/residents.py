"""What a front worker has loaded, and how the next plan is made from it.

Loading happens in a thread, beside the requests; the swap is one assignment in the loop. What the
last plan had and the next one has too is kept, so a plan that only changes shares loads nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from doorstep.core.errors import DoorstepError, InputError, UnreachableError
from doorstep.core.manifest import Manifest
from doorstep.core.plan import ServicePlan, VersionPlan
from doorstep.core.record import Layout
from doorstep.serve.cells import CellKey
from doorstep.serve.engine_client import EngineClient
from doorstep.serve.models import Models
from doorstep.serve.nodeplan import Hung, NodePlan, Wake, engine_key
from doorstep.serve.rows import RowReader
from doorstep.serve.service import Service
from doorstep.serve.version import Version, columns_of, read_manifest

if TYPE_CHECKING:
    from doorstep.journal.sealing import Sealer

ENGINE_CONNECT_S = 5.0
FAILURES = (DoorstepError, OSError, msgspec.MsgspecError, ValueError)
"""What may be wrong with a document or a bundle."""
HANG_UP_S = 30.0
"""An engine that no plan names any more is kept this long for what is under way."""


class Residents:
    """Versions, models and engine connections by what they are made of. Lives in one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        declare: Callable[[Layout], int],
        slot: Callable[[CellKey], int | None],
        models: Models,
        say: Callable[[Hung | Wake], None] = lambda _word: None,
    ) -> None:
        self._say = say
        self._asleep: frozenset[str] = frozenset()
        self._loop = loop
        self._declare = declare
        self._slot = slot
        self._manifests: dict[str, Manifest] = {}
        self.models = models
        self._engines: dict[str, EngineClient] = {}
        self._readers: dict[bytes, RowReader] = {}
        self._plan: NodePlan | None = None
        self._sealer: tuple[str, Sealer | None] = ("", None)
        self.unloaded: dict[str, Exception | None] = {}
        """Why versions of what was loaded last are not resident; None: they were not to be."""

    async def load(self, plan: NodePlan) -> dict[str, Exception]:
        """Make of `plan` resident what can be. Answers what is wrong with each service that cannot
        be served as this plan has it. The last plan stays whole whatever happens."""
        failed, unloaded = await self._loop.run_in_executor(None, self._load_files, plan)
        for service in plan.services:
            if service.service not in failed:
                try:
                    self._prepare(plan, service, unloaded)
                except FAILURES as error:
                    failed[service.service] = error
        failed |= await self._wait_connected(plan, set(failed), unloaded)
        old = {k: v for k, v in self.unloaded.items() if k.partition("@")[0] in failed}
        new = {k: v for k, v in unloaded.items() if k.partition("@")[0] not in failed}
        self.unloaded = old | new
        return failed

    def services(self, plan: NodePlan, *, lease_held: bool) -> dict[str, Service]:
        """The services of a plan that is loaded."""
        return {
            one.service: Service(
                one,
                {
                    version.number: self._version(plan, one, version)
                    for version in one.versions
                    if one.name_of(version.number) not in self.unloaded
                },
                lease_held=lease_held,
                declare=self._declare,
                slot=self._slot,
                reader=self._readers[_reading(one)],
                sealer=self._sealer_of(plan) if one.contract.hidden("") else None,
            )
            for one in plan.services
        }

    def _sealer_of(self, plan: NodePlan) -> Sealer | None:
        if self._sealer[0] != plan.sealing:
            from doorstep.journal.sealing import Sealer  # its library is not needed by all

            self._sealer = (plan.sealing, Sealer(bytes.fromhex(plan.sealing)))
        return self._sealer[1]

    def keep_only(self, plan: NodePlan) -> None:
        """Let go of what `plan` does not name."""
        self._plan = plan
        versions = [(one, one.bundle) for service in plan.services for one in service.versions]
        bundles = {bundle for _, bundle in versions}
        self._manifests = {k: v for k, v in self._manifests.items() if k in bundles}
        self.models.keep_only(plan.services)
        readings = {_reading(service) for service in plan.services}
        self._readers = {k: v for k, v in self._readers.items() if k in readings}
        sockets = set(plan.engines.values())
        for socket in [one for one in self._engines if one not in sockets]:
            self._loop.call_later(HANG_UP_S, self._engines.pop(socket).close)

    def sleep(self, sockets: Iterable[str]) -> None:
        """The engines at these sockets sleep, and no others."""
        self._asleep = frozenset(sockets)
        for socket, engine in self._engines.items():
            engine.sleep(socket in self._asleep)

    def _load_files(
        self, plan: NodePlan
    ) -> tuple[dict[str, Exception], dict[str, Exception | None]]:
        """What is wrong with services that cannot be served, and with versions of others."""
        failed: dict[str, Exception] = {}
        unloaded: dict[str, Exception | None] = {}
        for service in plan.services:
            names = {one.number: service.name_of(one.number) for one in service.versions}
            skipped = {number for number, name in names.items() if name in plan.unloaded}
            try:
                found = self._load_service(Path(plan.bundles), service, skipped)
            except FAILURES as error:
                failed[service.service] = error
                continue
            if found and not self._can_do_without(service, {*found, *skipped}):
                failed[service.service] = next(iter(found.values()))
            unloaded |= {names[one]: found.get(one) for one in {*found, *skipped}}
        return failed, unloaded

    def _can_do_without(self, service: ServicePlan, unloaded: set[int]) -> bool:
        """Whether to serve it without these. What serves already is only tried again: it stays."""
        plans = self._plan.services if self._plan else ()
        old = next((one for one in plans if one.service == service.service), None)
        is_well = old and old.champion and old.name_of(old.champion) not in self.unloaded
        return old == service or service.can_do_without(unloaded, old if is_well else None)

    def _load_service(
        self, bundles: Path, service: ServicePlan, skipped: set[int]
    ) -> dict[int, Exception]:
        """Answers what was wrong with each version that cannot be loaded."""
        failed: dict[int, Exception] = {}
        for version in service.versions:
            if version.bundle not in self._manifests and version.number not in skipped:
                try:
                    self._manifests[version.bundle] = read_manifest(bundles, version.bundle)
                except FAILURES as error:
                    failed[version.number] = error
        wanted = tuple(one for one in service.versions if one.number not in skipped | failed.keys())
        some = msgspec.structs.replace(service, versions=wanted)
        failed |= self.models.prepare(bundles, some, self._manifests)
        # Made beside the one in use, which a plan that is refused must leave alone.
        reading = _reading(service)
        if reading not in self._readers:
            self._readers[reading] = RowReader(service)
        return failed

    def _prepare(self, plan: NodePlan, service: ServicePlan, unloaded: Container[str]) -> None:
        """Raises: InputError (`no-champion`, `no-engine`, `contract-mismatch`, `no-key`)."""
        if service.contract.seals and not plan.sealing:
            raise InputError(
                "no-key",
                f"{service.service} has sealed fields, and this node has no key to seal them with",
                "doorstep up makes keys/personal.key in the home",
            )
        if service.champion not in (None, *(one.number for one in service.versions)):
            raise InputError(
                "no-champion",
                f"{service.service}: champion {service.champion} is not among its versions",
            )
        for version in service.versions:
            if service.name_of(version.number) in unloaded:
                continue
            if version.placement == "engine":
                self._connect(plan, service, version)
            self._version(plan, service, version)

    def _connect(self, plan: NodePlan, service: ServicePlan, version: VersionPlan) -> None:
        socket = plan.engines.get(engine_key(version))
        if socket is None:
            raise InputError(
                "no-engine", f"{service.service}@{version.number} has no engine on this node"
            )
        if socket not in self._engines:
            self._engines[socket] = EngineClient(
                socket, self._loop, self._say, asleep=socket in self._asleep
            )
            self._engines[socket].start()

    async def _wait_connected(
        self, plan: NodePlan, failed: set[str], unloaded: Container[str]
    ) -> dict[str, Exception]:
        """Wait a while for engines that the last plan had not. Answers the services that lack one;
        none of them at a start where others can be served: then they begin without it."""
        known = set(self._plan.engines) if self._plan else set()
        loaded = [one for one in plan.services if one.service not in failed]
        until = time.monotonic() + ENGINE_CONNECT_S
        while True:
            late = [one for one in loaded if self._lacks_engine(plan, one, known, unloaded)]
            if not late or time.monotonic() > until:
                break
            await asyncio.sleep(0.01)
        if self._plan is None and len(late) < len(loaded):
            return {}
        error = UnreachableError("engine-unreachable", "an engine does not answer")
        return {one.service: error for one in late}

    def _lacks_engine(
        self, plan: NodePlan, service: ServicePlan, known: set[str], unloaded: Container[str]
    ) -> bool:
        keys = {
            engine_key(one)
            for one in service.versions
            if one.placement == "engine" and service.name_of(one.number) not in unloaded
        }
        return not all(self._engines[plan.engines[key]].available for key in keys - known)

    def _version(self, plan: NodePlan, service: ServicePlan, version: VersionPlan) -> Version:
        manifest = self._manifests[version.bundle]
        columns = columns_of(service.contract, manifest.contract)
        if version.placement == "inline":
            return Version(version, manifest, columns, self.models.get(version), None)
        engine = self._engines[plan.engines[engine_key(version)]]
        return Version(version, manifest, columns, None, engine)


def _reading(plan: ServicePlan) -> bytes:
    """Names what a reader depends on."""
    ids = (plan.service, plan.contract, plan.key, plan.unit, plan.subject)
    return msgspec.json.encode((*ids, plan.rows_max, plan.segments))
