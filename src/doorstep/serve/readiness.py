"""Which services of a plan can be served now, and what each of the others waits for.

One service that cannot be loaded holds back itself alone: it stays as it was before, or is served
without the versions that cannot be loaded, where its fallback chain answers for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.plan import ServicePlan, VersionPlan
from doorstep.serve.bundles import verify_bundle
from doorstep.serve.engines import Engines
from doorstep.serve.limits import RETRY_S
from doorstep.serve.nodeplan import engine_key


class Readying(NamedTuple):
    """services: what can be served now. held: what each held-back service waits for. unloaded: why
    a `service@N` of `services` must not be loaded. ready: how many of the services are as they are
    wanted, but for those."""

    services: tuple[ServicePlan, ...]
    held: dict[str, str]
    unloaded: dict[str, str]
    ready: int


class Hindrance(NamedTuple):
    """What keeps a version from being served. why: empty if it takes a moment. is_final: waiting
    will not help."""

    why: str
    is_final: bool = False


class Refusal(NamedTuple):
    """A worker refused this document; tried again at `until_s`."""

    plan: ServicePlan
    why: str
    until_s: float


class Readiness:
    """What is verified, broken or refused. Lives in the supervisor's loop."""

    def __init__(self, bundles: Path, engines: Engines) -> None:
        self._bundles = bundles
        self._engines = engines
        self._verified: set[str] = set()
        self._broken: dict[str, tuple[str, float]] = {}
        self._refused: dict[str, Refusal] = {}
        self._verifying: asyncio.Task[None] | None = None
        self.engines: set[str] = set()
        self.unloaded: dict[str, str] = {}

    def look(self, wanted: Iterable[ServicePlan], before: Mapping[str, ServicePlan]) -> Readying:
        """Take every service one step nearer. before: what a service that is held back stays."""
        wanted = tuple(wanted)
        self._verify(wanted)
        self.engines = set()
        partial = {name.partition("@")[0] for name in self.unloaded}
        broken = {key for key, slot in self._engines.slots.items() if slot.is_broken}
        services: list[ServicePlan] = []
        held: dict[str, str] = {}
        unloaded: dict[str, str] = {}
        for plan in wanted:
            old = before.get(plan.service)
            is_same = plan is old or plan == old
            if is_same and plan.service not in partial and not (broken and _uses(plan, broken)):
                services.append(plan)
                continue
            found = self._hindrances(plan, old)
            whys = {plan.name_of(at): one.why for at, one in (found or {}).items()}
            if found is not None and self._can_do_without(plan, found, old):
                services.append(plan)
                unloaded |= whys
                continue
            said = [f"{name} cannot be loaded: {why}" for name, why in whys.items() if why]
            held[plan.service] = said[0] if said else ""
            if old is not None:
                services.append(old)
                names = {old.name_of(one.number) for one in old.versions}
                unloaded |= {k: why for k, why in self.unloaded.items() if k in names}
        self.unloaded = unloaded
        return Readying(tuple(services), held, unloaded, len(wanted) - len(held))

    def refuse(self, plan: ServicePlan, why: str) -> None:
        """A worker could not load this document: leave it alone for a while."""
        self._refused[plan.service] = Refusal(plan, why, time.monotonic() + RETRY_S)

    def accept(self, services: Iterable[ServicePlan]) -> None:
        """Every worker serves these."""
        for plan in services:
            refusal = self._refused.get(plan.service)
            if refusal is not None and refusal.plan == plan:
                del self._refused[plan.service]

    def is_refused(self, plan: ServicePlan) -> bool:
        refusal = self._refused.get(plan.service)
        return refusal is not None and refusal.plan == plan and time.monotonic() < refusal.until_s

    def said(self, wanted: Iterable[ServicePlan]) -> list[str]:
        """Refusals of documents that are still wanted, as sentences; also while tried again."""
        refusals = [self._refused.get(one.service) for one in wanted]
        pairs = zip(wanted, refusals, strict=True)
        return [it.why for one, it in pairs if it is not None and it.plan == one]

    def _can_do_without(
        self, plan: ServicePlan, found: dict[int, Hindrance], old: ServicePlan | None
    ) -> bool:
        is_well = old and old.champion and old.name_of(old.champion) not in self.unloaded
        # What is served without them already stays so.
        is_so = plan == old and all(plan.name_of(at) in self.unloaded for at in found)
        return all(one.is_final for one in found.values()) and (
            is_so or plan.can_do_without(found, old if is_well else None)
        )

    def _hindrances(
        self, plan: ServicePlan, old: ServicePlan | None
    ) -> dict[int, Hindrance] | None:
        """By version what it waits for; None if no worker is to be bothered with it now."""
        # What workers have loaded they have looked at themselves.
        found = {
            version.number: hindrance
            for version in plan.versions
            if plan != old or plan.name_of(version.number) in self.unloaded
            if (hindrance := self._bundle_hindrance(version)) is not None
        }
        if any(not one.is_final for one in found.values()):
            return found
        whole = tuple(one for one in plan.versions if one.number not in found)
        sockets = self._engines.want([msgspec.structs.replace(plan, versions=whole)])
        self.engines |= set(sockets)
        if self.is_refused(plan):
            return None
        # What serves already may be down for a moment: nobody waits for that.
        known = _engine_keys(old) if old is not None else set()
        for version in whole:
            if version.placement == "engine":
                hindrance = self._engine_hindrance(version, known)
                if hindrance is not None:
                    found[version.number] = hindrance
        return found

    def _bundle_hindrance(self, version: VersionPlan) -> Hindrance | None:
        if version.bundle in self._broken:
            why, _ = self._broken[version.bundle]
            return Hindrance(f"bundle {version.bundle[:12]}: {why}", is_final=True)
        return None if version.bundle in self._verified else Hindrance("")

    def _engine_hindrance(self, version: VersionPlan, known: set[str]) -> Hindrance | None:
        key = engine_key(version)
        slot = self._engines.slots[key]
        if slot.warm or slot.asleep or (key in known and not slot.is_broken):
            return None
        return Hindrance(slot.problem, slot.is_broken)

    def _verify(self, wanted: tuple[ServicePlan, ...]) -> None:
        """Start to verify what is new, or was broken a while ago."""
        now = time.monotonic()
        if self._verifying is not None and not self._verifying.done():
            return
        named = {version.bundle for service in wanted for version in service.versions}
        self._broken = {k: v for k, v in self._broken.items() if k in named}
        resting = {digest for digest, (_, until_s) in self._broken.items() if now < until_s}
        missing = named - self._verified - resting
        if missing:
            loop = asyncio.get_running_loop()
            self._verifying = loop.create_task(self._verify_all(sorted(missing)))

    async def _verify_all(self, digests: list[str]) -> None:
        for digest in digests:
            try:
                await asyncio.to_thread(verify_bundle, self._bundles, digest)
            except InputError as error:
                self._broken[digest] = (error.message, time.monotonic() + RETRY_S)
            except OSError as error:
                self._broken[digest] = (str(error), time.monotonic() + RETRY_S)
            else:
                self._verified.add(digest)
                self._broken.pop(digest, None)


def _uses(plan: ServicePlan, engines: set[str]) -> bool:
    return not engines.isdisjoint(_engine_keys(plan))


def _engine_keys(plan: ServicePlan) -> set[str]:
    return {engine_key(one) for one in plan.versions if one.placement == "engine"}
