"""A whole release in virtual time from one seed: nodes, lost reports, crashes, no control plane.

The pure release machine and the pure merging of evidence run here as they run in the product; only
the nodes, the network, the disk and the clock are made up. Every random choice comes from the seed,
so a failure is replayed by running that seed again. After each step the invariants are checked:

    one champion        every node answers with the champion of a plan that was committed
    no evidence, no go  each advance has its numbers, and they count nothing that did not happen
    no lease, no go     no challenger answers later than its lease on the node's own clock
    only up             within a release the share and each node's plan number never fall
    the same verdict    each stored decision, read back from JSON, is computed again and is equal

Not modelled: segments, the journal, signatures, more than one release at a time.
"""

from __future__ import annotations

import random
from typing import Literal

import msgspec

from doorstep.core.errors import RefusedError
from doorstep.core.ids import hash_unit
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.plan import REST, is_challengers
from doorstep.core.report import UNITS_MAX, Arm
from doorstep.core.report import Cell as NodeCell
from doorstep.release.decide import decide, decide_person, recompute
from doorstep.release.evidence import Gathered, cells_of, evidence_of, merge
from doorstep.release.transition import Beginning, apply, begin
from doorstep.release.types import (
    Advance,
    Decision,
    Evidence,
    Finish,
    Person,
    Release,
    ReleaseSpec,
    State,
)

START: Instant = 1_800_000_000 * SECOND_US
FAILPOINTS = ("decided", "committed", "published")
PLAN_DELAY_MAX_S = 2
REPORTS_KEPT = 3
CONTROL_EVERY_S = 2
NEVER_S = -(10**9)
CHALLENGER = 2
ACTIONS: tuple[Literal["pause", "resume", "rollback", "promote"], ...] = (
    "pause",
    "pause",
    "resume",
    "resume",
    "resume",
    "promote",
    "rollback",
)
"""What a person asks for, chosen evenly: most often to pause and to go on."""
QUICK = ReleaseSpec(
    shadow_requests=200,
    shadow_margin=0.05,
    steps=(0.1, 0.5),
    dwell_s=(5.0, 5.0),
    margins=(3.0, 2.0),
    guardrails=(msgspec.structs.replace(ReleaseSpec().guardrails[0], ceiling=0.05),),
    warmup_s=2.0,
    epoch_s=30.0,
    bake_s=10.0,
    deadline_s=100.0,
)


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What happens around the release. Chances are per second and node; rates are of requests.
    people: chance per second that a person pauses, resumes, promotes or rolls back."""

    seed: int
    spec: ReleaseSpec = QUICK
    champion: int | None = 1
    seconds: int = 150
    nodes: int = 3
    requests_per_s: int = 30
    units: int = 3000
    champion_error_rate: float = 0.002
    challenger_error_rate: float = 0.002
    node_crash: float = 0.01
    control_crash: float = 0.05
    control_down_max_s: int = 15
    report_lost: float = 0.2
    people: float = 0.0
    lease_s: int = 8


class Broken(AssertionError):
    """An invariant does not hold; the message names it, the seed and the second."""


class Plan(msgspec.Struct, frozen=True):
    """The part of a plan that matters here. release: None when only the champion serves."""

    number: int
    champion: int | None
    release: str | None
    challenger: int
    epoch: int
    share: float
    is_shadow: bool


class Pointer(msgspec.Struct, frozen=True):
    """`plan/current`: replaced whole. renewal rises while a control plane watches."""

    plan: Plan
    renewal: int


class Row(msgspec.Struct, frozen=True):
    """The database after one transaction: everything that survives a control plane's death."""

    plan: Plan
    release: bytes
    gathered: Gathered


class Report(msgspec.Struct, frozen=True):
    """A node's report. is_last: written when a boot ended."""

    second: int
    is_last: bool
    cells: Gathered


class Trace(msgspec.Struct, frozen=True):
    """What came out: the same world gives the same trace. bad_answers: errors by the challenger."""

    state: State
    history: tuple[str, ...]
    requests: int
    challenger_requests: int
    bad_answers: int
    crashes: int


class _Crash(Exception):
    """The control plane dies here."""


def plan_of(release: Release, number: int) -> Plan:
    """What nodes must serve for `release`: always the same for the same release."""
    is_live = not release.is_over and release.is_split_valid
    return Plan(
        number=number,
        champion=release.version_serving,
        release=release.id if is_live else None,
        challenger=release.challenger,
        epoch=release.epoch.number,
        share=release.share if is_live else 0.0,
        is_shadow=is_live and release.epoch.state is State.SHADOW,
    )


class _Counts:
    """One cell as a node keeps it: counters, and the units in the order in which they came."""

    def __init__(self) -> None:
        self.numbers = dict.fromkeys(("requests", "ok", "bad", "plus", "zero", "minus"), 0)
        self.seen: dict[int, None] = {}
        self.bad_units: dict[int, None] = {}

    def add(self, unit: str, ok: bool) -> None:
        hashed = hash_unit("unit", unit)
        self.numbers["requests"] += 1
        self.numbers["ok" if ok else "bad"] += 1
        for units in (self.seen,) if ok else (self.seen, self.bad_units):
            if len(units) < UNITS_MAX:
                units[hashed] = None


class Node:
    """One serving node: counts on its own disk (they survive a crash), a lease on its own clock."""

    def __init__(self, name: str, world: World, rng: random.Random, plan: Plan) -> None:
        self.name = name
        self.plan = plan
        self.booked = 0
        self.reports: list[Report] = []
        self._world = world
        self._rng = rng
        self._boot = 0
        self._cells: dict[tuple[str, int, Arm], _Counts] = {}
        self._renewal: int | None = None
        self._renewed_s = NEVER_S

    def see(self, pointer: Pointer, second: int) -> None:
        """Take a pointer; one that is older than what this node serves is refused. The first
        renewal after a start says nothing about when it was made: only a rise does."""
        if pointer.plan.number < self.plan.number:
            return
        self.plan = pointer.plan
        if self._renewal is not None and pointer.renewal > self._renewal:
            self._renewed_s = second
        self._renewal = max(pointer.renewal, self._renewal or 0)

    def has_lease(self, second: int) -> bool:
        return second - self._renewed_s < self._world.lease_s

    def answer(self, unit: str, second: int) -> tuple[Arm, bool]:
        """(arm that was assigned, whether it answered well)."""
        plan = self.plan
        if plan.release is None or not self.has_lease(second):
            return "champion", True
        if plan.is_shadow:
            self._pair(plan.release, unit)
            return "champion", True
        arm: Arm = "challenger" if is_challengers(plan.release, unit, plan.share) else "champion"
        ok = self._rng.random() >= self._error_rate(arm)
        self._book(plan.release, arm, unit, ok)
        return arm, ok

    def crash(self, unit: str, second: int) -> None:
        """The machine dies with one request in flight, which is booked as an error of its arm."""
        plan = self.plan
        if plan.release is not None and not plan.is_shadow and self.has_lease(second):
            is_new = is_challengers(plan.release, unit, plan.share)
            self._book(plan.release, "challenger" if is_new else "champion", unit, False)
        self.report(second, is_last=True)
        self._boot += 1
        self._cells = {}
        self._renewal, self._renewed_s = None, NEVER_S

    def report(self, second: int, *, is_last: bool = False) -> None:
        cells = [
            NodeCell(
                release=release,
                epoch=epoch,
                segment=REST,
                arm=arm,
                seen=b"".join(unit.to_bytes(8, "little") for unit in counts.seen),
                bad_units=b"".join(unit.to_bytes(8, "little") for unit in counts.bad_units),
                **counts.numbers,
            )
            for (release, epoch, arm), counts in self._cells.items()
        ]
        self.reports.append(Report(second, is_last, cells_of(self.name, str(self._boot), cells)))

    def forget(self, read: list[Report]) -> None:
        """Only the newest reports stay, and the last one of a boot until it was read."""
        newest = [one for one in self.reports if not one.is_last][-REPORTS_KEPT:]
        unread = [one for one in self.reports if one.is_last and one not in read]
        self.reports = [*unread, *newest]

    def _error_rate(self, arm: Arm) -> float:
        world = self._world
        return world.challenger_error_rate if arm == "challenger" else world.champion_error_rate

    def _book(self, release: str, arm: Arm, unit: str, ok: bool) -> None:
        self._cell(release, arm).add(unit, ok)
        self.booked += 1

    def _pair(self, release: str, unit: str) -> None:
        plus = self._rng.random() < self._world.challenger_error_rate
        minus = self._rng.random() < self._world.champion_error_rate
        name = "zero" if plus == minus else "plus" if plus else "minus"
        cell = self._cell(release, "challenger")
        self.booked += 1
        for counter in (name, "requests", "bad" if plus else "ok"):
            cell.numbers[counter] += 1
        kept = {"plus": cell.bad_units, "minus": cell.seen}.get(name)
        if kept is not None and len(kept) < UNITS_MAX:
            kept[hash_unit("unit", unit)] = None

    def _cell(self, release: str, arm: Arm) -> _Counts:
        return self._cells.setdefault((release, self.plan.epoch, arm), _Counts())


class Simulation:
    """Run one world to its end, or to the first invariant that does not hold."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(world.seed)
        what = Beginning(
            id=f"release-{world.seed}",
            service="loans",
            champion=world.champion,
            challenger=CHALLENGER,
            spec=world.spec,
        )
        self._release = begin(what, START)
        idle = Plan(0, world.champion, None, CHALLENGER, 0, 0.0, False)
        self._row = Row(plan_of(self._release, 1), msgspec.json.encode(self._release), {})
        self._published = [(0, Pointer(idle, 0))]
        self._nodes = [Node(f"n{at}", world, self._rng, idle) for at in range(world.nodes)]
        self._committed = {(plan.number, plan.champion) for plan in (idle, self._row.plan)}
        self._moved: dict[str, int] = {}
        self._down_until = 0
        self._tally = {"crashes": 0, "requests": 0, "challenger": 0, "bad": 0}

    def run(self) -> Trace:
        """The trace. Raises: Broken."""
        for second in range(self._world.seconds):
            self._control(second)
            self._deliver(second)
            self._serve(second)
            self._fail_nodes(second)
            self._check_row(second)
        self._drain()
        return Trace(
            state=self._release.state,
            history=tuple(f"{c.state.value}: {c.reason}" for c in self._release.history),
            requests=self._tally["requests"],
            challenger_requests=self._tally["challenger"],
            bad_answers=self._tally["bad"],
            crashes=self._tally["crashes"],
        )

    def _control(self, second: int) -> None:
        if second < self._down_until or second % CONTROL_EVERY_S:
            return
        dies = self._rng.random() < self._world.control_crash
        try:
            self._tick(second, self._rng.choice(FAILPOINTS) if dies else "")
        except _Crash:
            self._tally["crashes"] += 1
            self._down_until = second + self._rng.randint(1, self._world.control_down_max_s)

    def _tick(self, second: int, failpoint: str) -> None:
        """Read the row, decide, commit (one transaction), publish (idempotent), renew."""
        release = msgspec.json.decode(self._row.release, type=Release)
        gathered, read = self._gather()
        decision = self._decide(release, evidence_of(release, gathered), second)
        _die_at("decided", failpoint)
        self._commit(release, decision, gathered, second)
        for node in self._nodes:
            node.forget(read)
        _die_at("committed", failpoint)
        self._published.append(
            (second, Pointer(self._row.plan, self._published[-1][1].renewal + 1))
        )
        _die_at("published", failpoint)

    def _decide(self, release: Release, evidence: Evidence, second: int) -> Decision:
        now = START + second * SECOND_US
        if self._rng.random() < self._world.people:
            action = self._rng.choice(ACTIONS)
            try:
                return decide_person(release, evidence, now, Person("ana", action, "because"))
            except RefusedError:
                return decide(release, evidence, now)
        return decide(release, evidence, now)

    def _gather(self) -> tuple[Gathered, list[Report]]:
        """What the database knew, and reports that may be lost, old, or read again and again. The
        last one of a boot stays until it was read."""
        gathered, read = self._row.gathered, []
        for node in self._nodes:
            for report in node.reports:
                if self._rng.random() >= self._world.report_lost:
                    gathered = merge(gathered, report.cells)
                    read.append(report)
        return gathered, read

    def _commit(
        self, release: Release, decision: Decision, gathered: Gathered, second: int
    ) -> None:
        after = apply(release, decision)
        if after == release:
            self._row = msgspec.structs.replace(self._row, gathered=gathered)
            return
        self._check_decision(decision, second)
        stopped = after.is_over or not after.is_split_valid
        self._check(after.share >= release.share or stopped, "the share fell", second)
        plan = plan_of(after, self._row.plan.number + 1)
        self._row = Row(plan, msgspec.json.encode(after), gathered)
        self._release = after
        self._committed.add((plan.number, plan.champion))

    def _deliver(self, second: int) -> None:
        """Each node sees the pointer as it was up to `PLAN_DELAY_MAX_S` ago."""
        for node in self._nodes:
            late = self._rng.randint(0, PLAN_DELAY_MAX_S)
            seen = [pointer for at, pointer in self._published[-4:] if at <= second - late]
            before = node.plan.number
            if seen:
                node.see(seen[-1], second)
            self._check(node.plan.number >= before, "a node went back to an older plan", second)
            if self._rng.random() >= self._world.report_lost:
                node.report(second)

    def _serve(self, second: int) -> None:
        for _ in range(self._world.requests_per_s):
            node = self._rng.choice(self._nodes)
            unit = self._unit()
            arm, ok = node.answer(unit, second)
            self._tally["requests"] += 1
            self._check_answer(node, unit, arm, second)
            if arm == "challenger":
                self._tally["challenger"] += 1
                self._tally["bad"] += not ok

    def _unit(self) -> str:
        return f"u{self._rng.randrange(self._world.units)}"

    def _fail_nodes(self, second: int) -> None:
        for node in self._nodes:
            if self._rng.random() < self._world.node_crash:
                node.crash(self._unit(), second)

    def _drain(self) -> None:
        """Once every report has arrived, twice, each booked request is counted exactly once."""
        gathered = self._row.gathered
        for node in self._nodes:
            node.report(self._world.seconds)
            for report in node.reports * 2:
                gathered = merge(gathered, report.cells)
        found = sum(cell.requests for cell in gathered.values())
        booked = sum(node.booked for node in self._nodes)
        what = f"{found} requests are in evidence of {booked} that were booked"
        self._check(found == booked, what, self._world.seconds)

    def _check(self, holds: bool, what: str, second: int) -> None:
        if not holds:
            raise Broken(f"{what} (seed {self._world.seed}, second {second})")

    def _check_answer(self, node: Node, unit: str, arm: Arm, second: int) -> None:
        plan = node.plan
        is_known = (plan.number, plan.champion) in self._committed
        self._check(is_known, "a node serves a champion that was never committed", second)
        if arm == "challenger":
            watched_s = second - self._published[-1][0]
            bound = self._world.lease_s + PLAN_DELAY_MAX_S
            self._check(watched_s <= bound, "a challenger ran unwatched", second)
            self._moved.setdefault(unit, plan.number)
        elif plan.release is not None and not plan.is_shadow and node.has_lease(second):
            went_back = plan.number >= self._moved.get(unit, plan.number + 1)
            self._check(not went_back, "a unit went back to the champion", second)

    def _check_decision(self, decision: Decision, second: int) -> None:
        again = msgspec.json.decode(msgspec.json.encode(decision), type=Decision)
        self._check(recompute(again) == decision, "a verdict was not the same again", second)
        served = sum(c.requests for c in decision.evidence.cells)
        booked = sum(node.booked for node in self._nodes)
        self._check(served <= booked, "evidence counts what did not happen", second)
        if decision.person is not None:
            return
        is_bad = any(one.is_bad for one in decision.numbers)
        if isinstance(decision.outcome, Advance):
            is_good = bool(decision.numbers) and all(one.is_good for one in decision.numbers)
            self._check(is_good and not is_bad, "advanced without evidence", second)
        if isinstance(decision.outcome, Finish):
            self._check(served > 0 and not is_bad, "finished without evidence", second)

    def _check_row(self, second: int) -> None:
        stored = msgspec.json.decode(self._row.release, type=Release)
        self._check(stored == self._release, "the row is not the release", second)
        is_done = stored.state is State.DONE
        expected = CHALLENGER if is_done else self._world.champion
        self._check(stored.version_serving == expected, "the champion changed by itself", second)
        numbers = [pointer.plan.number for _, pointer in self._published[-2:]]
        self._check(numbers == sorted(numbers), "an older plan was published", second)


def _die_at(here: str, failpoint: str) -> None:
    if failpoint == here:
        raise _Crash(here)
