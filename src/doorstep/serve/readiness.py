"""Which services of a plan can be served now, and what each of the others waits for.

One service that cannot be loaded holds back itself alone: it stays as it was before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from doorstep.core.errors import InputError
from doorstep.core.plan import ServicePlan
from doorstep.serve.bundles import verify_bundle
from doorstep.serve.engines import Engines
from doorstep.serve.limits import RETRY_S
from doorstep.serve.nodeplan import engine_key


class Readying(NamedTuple):
    """services: what can be served now. held: what each held-back service waits for. ready: how
    many of the services are as they are wanted."""

    services: tuple[ServicePlan, ...]
    held: dict[str, str]
    ready: int


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

    def look(self, wanted: Iterable[ServicePlan], before: Mapping[str, ServicePlan]) -> Readying:
        """Take every service one step nearer. before: what a service that is held back stays."""
        wanted = tuple(wanted)
        self._verify(wanted)
        self.engines = set()
        services, held = [], {}
        for plan in wanted:
            old = before.get(plan.service)
            why = None if plan is old or plan == old else self._hindrance(plan, old)
            if why is None:
                services.append(plan)
            else:
                held[plan.service] = why
                services += [old] if old is not None else []
        return Readying(tuple(services), held, len(wanted) - len(held))

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

    def _hindrance(self, plan: ServicePlan, old: ServicePlan | None) -> str | None:
        """None: nothing. Empty: it takes a moment."""
        for version in plan.versions:
            name = f"{plan.service}@{version.number}"
            if version.bundle in self._broken:
                why, _ = self._broken[version.bundle]
                return f"{name} cannot be loaded: bundle {version.bundle[:12]}: {why}"
            if version.bundle not in self._verified:
                return ""
        sockets = self._engines.want([plan])
        self.engines |= set(sockets)
        if self.is_refused(plan):
            return ""
        # What serves already may be down for a moment: nobody waits for that.
        known = _engine_keys(old) if old is not None else set()
        for version in plan.versions:
            key = engine_key(version)
            if version.placement == "engine" and key not in known:
                slot = self._engines.slots[key]
                if not slot.warm and not slot.asleep:
                    name = f"{plan.service}@{version.number}"
                    return f"{name}: engine not warm: {slot.problem}" if slot.problem else ""
        return None

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


def _engine_keys(plan: ServicePlan) -> set[str]:
    return {engine_key(one) for one in plan.versions if one.placement == "engine"}
