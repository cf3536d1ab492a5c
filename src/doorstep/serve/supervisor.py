"""The supervisor of a node: owns the listening socket, brings plans to its workers, keeps children
alive, sums the evidence and writes the node's report. It never handles a request.

Reconciling: what the home asks for is `wanted`. Each service of it becomes `current` once its
bundles were verified and its engines are warm; until then it stays as it was, and holds nobody
else back (`readiness.py`). A newer plan replaces `wanted` at any time, so a rollback does not wait
for a slow load. What cannot be loaded is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from doorstep.core.errors import DoorstepError, RefusedError
from doorstep.core.ids import new_id
from doorstep.core.plan import ApiKey, PlanRoot, ServicePlan
from doorstep.core.report import FORMAT as REPORT_FORMAT
from doorstep.core.report import NodeReport, WorkerReport
from doorstep.journal.options import JournalOptions
from doorstep.journal.stored import store_problems
from doorstep.kernel.files import write_atomic
from doorstep.kernel.nodes import read_report
from doorstep.serve import limits, nodeplan
from doorstep.serve.children import Child
from doorstep.serve.engines import Engines
from doorstep.serve.evidence import Evidence, set_aside
from doorstep.serve.feed import PlanFeed, Published
from doorstep.serve.fronts import FrontSlots
from doorstep.serve.listeners import address_of, take_listeners_at
from doorstep.serve.observe_options import ObserveOptions
from doorstep.serve.orphan import Orphans, hold_alive
from doorstep.serve.readiness import Readiness
from doorstep.serve.statelock import lock_state
from doorstep.serve.tls import TlsFiles, server_context

TICK_S = 0.1
PLAN_MODE = 0o600
STOP_EXTRA_S = 5.0


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a node was started. port 0: any free one. memory_mb: for the models of all its processes;
    0 is half of the machine's. grpc_port: None if gRPC is not served. *_route: see
    FrontOptions. bound: descriptors of sockets that whoever started it has bound, by the option of
    their port."""

    home: Path
    state: Path
    node: str
    host: str = "127.0.0.1"
    port: int = 8080
    health_port: int = 8081
    grpc_port: int | None = None
    workers: int = 1
    memory_mb: int = 0
    compactor: bool = True
    predict_route: str = ""
    health_route: str = ""
    tls: TlsFiles | None = None
    observe: ObserveOptions = ObserveOptions()
    keep: JournalOptions = JournalOptions()
    bound: dict[str, int] = {}

    @property
    def is_reachable(self) -> bool:
        """Whether others may reach it over the network."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"


class Supervisor:
    """One node. Everything happens in one event loop, but verifying bundles (a thread)."""

    def __init__(self, options: NodeOptions) -> None:
        self.options = options
        self._lock = lock_state(options.state)
        self.run_id = new_id().hex
        self._orphans = Orphans(options.state, self.run_id)
        logs = options.state / "log"
        logs.mkdir(exist_ok=True)
        (options.home / "nodes").mkdir(parents=True, exist_ok=True)
        asked = {"port": options.port, "grpc-port": options.grpc_port}
        ports = {name: port for name, port in asked.items() if port is not None}
        taken = take_listeners_at(options.state, options.host, ports, options.bound)
        self._listener, self._rpc_listener = taken[0], taken[1] if taken[1:] else None
        self.data_url = f"{'https' if options.tls else 'http'}://{address_of(self._listener)}"
        self.grpc_url = address_of(self._rpc_listener) if self._rpc_listener else ""
        self.feed = PlanFeed(options.home, options.state)
        self.evidence = Evidence(options.state)
        set_aside(options.home / "nodes", options.node, self.evidence.boot)
        memory_mb = options.memory_mb or _machine_mb() // 2
        inline_mb = memory_mb / 4 / options.workers
        self.engines = Engines(options.home / "bundles", options.state, logs, memory_mb * 3 / 4)
        fronts = nodeplan.FrontOptions(
            state=str(options.state), journal=str(options.home / "journal"), node=options.node,
            run=self.run_id, alive=hold_alive(options.state, self.run_id),
            listen=self._listener.fileno(), models_bytes=int(inline_mb * 1e6),
            predict_route=options.predict_route, health_route=options.health_route,
            rpc=self._rpc_listener.fileno() if self._rpc_listener else None,
            workers=options.workers, guarded=options.is_reachable, tls=options.tls,
            observe=options.observe, keep=msgspec.structs.replace(options.keep, replica=""),
        )  # fmt: skip
        self.fronts = FrontSlots(options.workers, fronts, logs, self._hear, options.keep.variables)
        self._extras = {one.slot: one for one in self._make_extras(logs)}
        self.current: nodeplan.NodePlan | None = None
        self._good = -1
        self._wanted: Published | None = None
        self.readiness = Readiness(options.home / "bundles", self.engines)
        self._held: dict[str, str] = {}
        self._good_plan: nodeplan.NodePlan | None = None
        self._announced = False
        self._problems: dict[str, str] = {}
        self.lease_held = False
        self._told_renewed_s = self.feed.renewed_s
        self._told_asleep: frozenset[str] = frozenset()
        self._requests: dict[str, int] = {}
        self._report_path = options.home / "nodes" / f"{options.node}.json"
        last = read_report(self._report_path)  # of this boot's last supervisor
        self._sequence = last.sequence if last else 0
        self._reported: bytes = b""
        self._reported_s = 0.0
        self._rolling: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.report: NodeReport | None = None

    @property
    def ready(self) -> bool:
        """Whether some front worker serves a plan."""
        return any(one.served >= 0 and one.child.running for one in self.fronts.live)

    # -- life

    def prepare(self) -> None:
        """Begin with the last plan, and look for a newer one. Raises: RefusedError (`bad-tls`,
        and `no-api-key` where others could reach this node and nobody has a key)."""
        if self.options.tls:
            server_context(self.options.tls)
        self._load_last_good()
        self._poll()
        if self.options.is_reachable and not self._keys():
            raise RefusedError(
                "no-api-key",
                f"{self.options.host} can be reached by others, and the home has no API key yet; "
                "expected one, or a loopback address",
                "doorstep token create --all-services",
            )

    async def run(self) -> None:
        """Serve until `stop`. Then drain and return."""
        polled_s = 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            if now - polled_s >= limits.POLL_S:
                polled_s = now
                self._poll()
            self._step()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_S)
        await self._shut_down()

    def _step(self) -> None:
        """All that is due. A disk that is full or gone ends nobody: the workers serve on."""
        steps = (
            self._reconcile, self._keep_children, self._note_good, self._watch_lease,
            self._announce, self._write_report,
        )  # fmt: skip
        failed = ""
        for step in steps:
            try:
                step()
            except OSError as error:
                failed = f"the state folder cannot be used: {error.strerror}"
        self._tell("state", failed)

    def _tell(self, topic: str, what: str) -> None:
        """Something is wrong; or it is over, with an empty sentence."""
        self._problems[topic] = what

    def _announce(self) -> None:
        if not self._announced and self.ready:
            (self.options.state / nodeplan.SUPERVISOR_FILE).write_text(self.run_id)
            self._announced = True

    def stop(self) -> None:
        self._stopping.set()

    def roll(self) -> None:
        """Replace every front worker by a new one, one after the other, dropping nothing. They
        read the certificates again; where those cannot be used nobody is replaced."""
        try:
            if self.options.tls:
                server_context(self.options.tls)
        except DoorstepError as error:
            return self._tell("roll", error.message)
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.get_running_loop().create_task(self._roll())
        return None

    async def _roll(self) -> None:
        for at in range(len(self.fronts.current)):
            old, new = self.fronts.replace(at, self._first_orders())
            until = time.monotonic() + limits.WORKER_START_S
            while new is not None and new.served < 0 and self.current is not None:
                if time.monotonic() > until or not new.child.running:
                    break
                await asyncio.sleep(TICK_S)
            if old is None:
                continue
            known = {*old.held_back, *(self.current.held_back if self.current else ())}
            is_up = new is not None and (new.served >= 0 or self.current is None)
            if new is not None and is_up and known.issuperset(new.held_back):
                old.drain(limits.DRAIN_S)
            else:
                self.fronts.put_back(at, old)
                said = f"a new {old.child.slot} did not start; the old one stays"
                return self._tell("roll", said)
        return self._tell("roll", "")

    async def _shut_down(self) -> None:
        """Rolling drain, then the engines, then a last report."""
        for worker in self.fronts.live:
            worker.drain(limits.DRAIN_S)
        self._listener.close()
        if self._rpc_listener is not None:
            self._rpc_listener.close()
        until = time.monotonic() + limits.DRAIN_S + STOP_EXTRA_S
        everybody = self.fronts.live + self.fronts.leaving
        while any(one.child.running for one in everybody) and time.monotonic() < until:
            await asyncio.sleep(TICK_S)
        for worker in everybody:
            worker.child.end(0.5)
        for child in self._extras.values():
            child.end()
        self.engines.stop()
        self._write_report(last=True)

    # -- plans

    def _poll(self) -> None:
        try:
            published = self.feed.poll()
        except DoorstepError as error:
            return self._tell("plan", error.message)
        except OSError as error:
            said = f"the home cannot be read, or the state folder not written: {error.strerror}"
            return self._tell("plan", said)
        self._wanted = published or self._wanted
        return self._tell("plan", "")

    def _reconcile(self) -> None:
        """Bring `wanted` one step nearer; publish what of it is there."""
        wanted = self._wanted
        if wanted is None:
            return
        before = self._before()
        found = self.readiness.look(wanted.services, before)
        self._held = found.held
        if found.ready or not wanted.services:
            held = tuple(sorted(found.held))
            self._publish(wanted.root, found.services, held, found.unloaded)
        elif self._good_plan is not None and self._is_refused():
            # Nothing of this plan can be served: the last good one is the plan that we are at.
            good = self._good_plan
            self._publish(good, found.services, good.held_back, found.unloaded)
        elif self.current is not None:
            # A key that was revoked does not wait for what is being loaded.
            now = self.current
            self._publish(now, now.services, now.held_back, now.unloaded)

    def _keys(self) -> tuple[ApiKey, ...]:
        known = self._wanted or self.current
        return known.keys if known else ()

    def _before(self) -> dict[str, ServicePlan]:
        """What each service is now: what was published last that no worker refused. A new worker
        that cannot load what is good takes it from nobody who has it."""
        found: dict[str, ServicePlan] = {}
        for plan in (self._good_plan, self.current):
            for one in plan.services if plan else ():
                is_kept = plan is self._good_plan and self._is_served(one.service)
                if is_kept or not self.readiness.is_refused(one):
                    found[one.service] = one
        return found

    def _is_served(self, service: str) -> bool:
        workers = self.fronts.live + [one for one in self.fronts.leaving if not one.draining]
        return any(one.served >= 0 and service not in one.held_back for one in workers)

    def _is_refused(self) -> bool:
        plan = self.current
        return plan is not None and any(self.readiness.is_refused(one) for one in plan.services)

    def _publish(
        self, root: PlanRoot | nodeplan.NodePlan, services: tuple[ServicePlan, ...],
        held: tuple[str, ...], unloaded: Iterable[str],
    ) -> None:  # fmt: skip
        """Have the workers serve this, if it is not what they were told last."""
        last = self.current
        lease_s = root.lease_s if isinstance(root, nodeplan.NodePlan) else root.challenger_lease_s
        plan = nodeplan.NodePlan(
            format=nodeplan.FORMAT,
            generation=last.generation if last else 0,
            term=root.term,
            number=root.number,
            environment=root.environment,
            bundles=str(self.options.home / "bundles"),
            lease_s=lease_s,
            services=services,
            engines=self.engines.want(services),
            held_back=held,
            unloaded=tuple(sorted(unloaded)),
            keys=self._keys(),
            node_share=root.node_share,
            sealing=nodeplan.sealing_of(self.options.home),
        )
        if plan == last:
            return
        plan = msgspec.structs.replace(plan, generation=plan.generation + 1)
        self._write_plan(nodeplan.plan_file(self.options.state, plan.generation), plan)
        previous, self.current = self.current, plan
        if previous is not None and previous.generation not in (self._good, plan.generation):
            nodeplan.plan_file(self.options.state, previous.generation).unlink(missing_ok=True)
        self.fronts.tell_all(nodeplan.Apply(plan.generation))

    def _load_last_good(self) -> None:
        """Begin with the plan that this node served last, whatever the home says now."""
        for path in self.options.state.glob("plan-*.json"):
            path.unlink()
        try:
            data = (self.options.state / nodeplan.PLAN_FILE).read_bytes()
            plan = msgspec.json.decode(data, type=nodeplan.NodePlan)
        except (OSError, msgspec.MsgspecError):
            return
        sockets = self.engines.want(plan.services)
        # What could not be loaded then is tried again.
        plan = msgspec.structs.replace(plan, generation=1, engines=sockets, unloaded=())
        self._write_plan(nodeplan.plan_file(self.options.state, 1), plan)
        self.current = self._good_plan = plan
        self._good, self._orphans.number = 1, plan.number

    def _write_plan(self, path: Path, plan: nodeplan.NodePlan) -> None:
        write_atomic(path, msgspec.json.encode(plan), PLAN_MODE)

    def _first_orders(self) -> list[nodeplan.Order]:
        """What a new worker is told: the last plan known to be good, then the current one."""
        orders: list[nodeplan.Order] = [
            self._lease(),
            nodeplan.Sleep(tuple(sorted(self._told_asleep))),
        ]
        if self._good >= 0:
            orders.append(nodeplan.Apply(self._good))
        if self.current is not None and self.current.generation != self._good:
            orders.append(nodeplan.Apply(self.current.generation))
        return orders

    def _note_good(self) -> None:
        """Once every worker serves the current plan it is what a restart begins with."""
        plan, live = self.current, self.fronts.live
        if plan is None or not live:
            return
        told = set(plan.held_back)
        if any(one.served != plan.generation or set(one.held_back) != told for one in live):
            return
        self.readiness.accept(plan.services)
        if plan.generation == self._good:
            return
        self._write_plan(self.options.state / nodeplan.PLAN_FILE, plan)
        old, self._good, self._good_plan = self._good, plan.generation, plan
        if old >= 0:
            nodeplan.plan_file(self.options.state, old).unlink(missing_ok=True)

    def _hear(self, word: nodeplan.Word) -> None:
        match word:
            case nodeplan.Full():
                self.roll()
            case nodeplan.Hung(socket):
                self.engines.replace_hung(socket)
            case nodeplan.Wake(socket):
                self.engines.wake(socket)
                self._tell_asleep()
            case nodeplan.Refuses(generation, why, services):
                self._reported_s = 0.0
                self._hear_refusal(generation, why, set(services))
            case nodeplan.Serves():
                self._reported_s = 0.0  # what the control plane waits for is told at once

    def _hear_refusal(self, generation: int, why: str, services: set[str]) -> None:
        if self.current is None or generation != self.current.generation:
            return
        for plan in self.current.services:
            if plan.service in services:
                self.readiness.refuse(plan, why)

    def _watch_lease(self) -> None:
        """Give the challengers' share back when nobody renews, until somebody does."""
        if self.current is None:
            return
        lease = self._lease()
        if lease.held != self.lease_held or self.feed.renewed_s != self._told_renewed_s:
            self.lease_held, self._told_renewed_s = lease.held, self.feed.renewed_s
            self.fronts.tell_all(lease)

    def _lease(self) -> nodeplan.Lease:
        lease_s = self.current.lease_s if self.current else 0.0
        left_s = self.feed.renewed_s + lease_s - time.monotonic()
        return nodeplan.Lease(left_s >= 0, max(left_s, 0.0))

    def _make_extras(self, logs: Path) -> list[Child]:
        options = self.options
        common = ["--home", str(options.home), "--node", options.node]
        shadow = ["-m", "doorstep.serve.shadow", *common, "--state", str(options.state)]
        extras = [Child("shadow", "shadow", shadow, logs)]
        if options.compactor:
            keep = options.keep
            argv = ["-m", "doorstep.journal.compactor", *common, *keep.words_of_compactor]
            extras.append(Child("compactor", "compactor", argv, logs, variables=keep.variables))
        return extras

    def _keep_children(self) -> None:
        plan = self.current
        needed = self.readiness.engines | (set(plan.engines) if plan else set())
        self.engines.keep(needed)
        self._tell_asleep()
        for died in self.fronts.keep(self._first_orders()):
            self._tell("front", died)
        if self.ready and all(one.child.running and one.served >= 0 for one in self.fronts.live):
            self._tell("front", "")
        for slot, child in self._extras.items():
            self._keep_extra(slot, child)

    def _tell_asleep(self) -> None:
        asleep = self.engines.asleep
        if asleep != self._told_asleep:
            self._told_asleep = asleep
            self.fronts.tell_all(nodeplan.Sleep(tuple(sorted(asleep))))

    def _note_use(self) -> None:
        """Which services were asked since the last report: their engines are not put to sleep."""
        totals = self.evidence.requests()
        before, self._requests = self._requests, totals
        plan = self.current
        if plan is not None:
            self.engines.use(
                one for one in plan.services
                if totals.get(one.service, 0) > before.get(one.service, 0)
            )  # fmt: skip

    def _keep_extra(self, slot: str, child: Child) -> None:
        if slot == "shadow" and not self._has_shadow():
            child.stop()
            return
        child.keep()
        if child.process is None and child.starts > 1:
            self._tell(slot, f"the {slot} ended {child.starts} times: {child.last_words()}")
        elif child.running:
            self._tell(slot, "")

    def _has_shadow(self) -> bool:
        return self.current is not None and bool(nodeplan.in_shadow(self.current)[0])

    # -- the report

    def _write_report(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._reported_s < limits.REPORT_S:
            return
        plan = self.current
        releases = {one.release.id for one in plan.services if one.release} if plan else set()
        live = {one.cells for one in self.fronts.live + self.fronts.leaving if one.child.running}
        self.evidence.collect(live, releases)
        self._note_use()
        report = self._compose()
        bare = msgspec.json.encode(
            msgspec.structs.replace(report, sequence=0, at=0, workers=_without_rss(report.workers))
        )
        if not last and bare == self._reported and now - self._reported_s < limits.REPORT_IDLE_S:
            return
        self._sequence += 1
        self._reported, self._reported_s = bare, now
        self.report = msgspec.structs.replace(report, sequence=self._sequence)
        try:
            replace_file(self._report_path, msgspec.json.encode(self.report))
        except OSError as error:
            self._tell("report", f"the report cannot be written: {error.strerror}")
        else:
            self._tell("report", "")

    def _compose(self) -> NodeReport:
        plan, fronts = self.current, self.fronts.live
        unloaded = self._unloaded()
        workers = [one.child.report(max(one.number, 0)) for one in fronts + self.fronts.leaving]
        number = plan.number if plan else 0
        others = [slot.child for slot in self.engines.slots.values()] + list(self._extras.values())
        workers += [one.report(number) for one in others if one.running or one.kind == "engine"]
        served = min(self.fronts.numbers() + self._orphans.numbers(), default=-1)
        services = plan.services if plan else ()
        versions = sorted((s.service, v.number) for s in services for v in s.versions)
        loaded = tuple(f"{service}@{number}" for service, number in versions)
        held = {name for one in fronts for name in one.held_back}
        held |= {
            one.service
            for one in services
            if any(one.name_of(number) in unloaded for number in one.assigned)
        }
        return NodeReport(
            format=REPORT_FORMAT,
            node=self.options.node,
            boot=self.evidence.boot,
            sequence=self._sequence,
            at=time.time_ns() // 1000,
            plan_term=plan.term if plan else 0,
            plan_number=max(served, 0),
            lease_held=self.lease_held,
            data_url=self.data_url,
            workers=tuple(workers),
            loaded=tuple(one for one in loaded if one not in unloaded),
            problems=tuple(self._sentences()[: limits.PROBLEMS_MAX]),
            services=self.evidence.services(),
            cells=self.evidence.cells(),
            held_back=tuple(sorted(held)),
            unloaded=unloaded,
            journal=self.options.keep.mode,
        )

    def _unloaded(self) -> dict[str, str]:
        """Why a version for which its fallback chain answers in some worker could not be loaded."""
        found: dict[str, str] = {}
        for worker in self.fronts.live:
            for name, why in worker.unloaded.items():
                why = why or self.readiness.unloaded.get(name, "it is being loaded")
                found[name] = found.get(name) or why
        return dict(sorted(found.items()))

    def _sentences(self) -> list[str]:
        found = [why for why in (*self._problems.values(), *self._held.values()) if why]
        found += [
            f"{name} cannot be loaded, its fallback chain answers: {why}"
            for name, why in self._unloaded().items()
        ]
        found += self.readiness.said(self._wanted.services) if self._wanted else []
        found += self.engines.problems
        if self.current is not None:
            found += nodeplan.in_shadow(self.current)[1]
        found += store_problems(self.options.home, self.options.node, time.time_ns() // 1000)
        for worker in self.fronts.live:
            found += [f"{worker.child.slot}: {what}" for what in worker.troubles.values() if what]
        return list(dict.fromkeys(found))


def replace_file(path: Path, data: bytes) -> None:
    """Atomic, but not forced to disk: after a power cut there is a new report anyway."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _machine_mb() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def _without_rss(workers: tuple[WorkerReport, ...]) -> tuple[WorkerReport, ...]:
    return tuple(msgspec.structs.replace(one, rss_mb=0.0) for one in workers)
