"""Faults beneath one node: disks, the clock, documents, bundles; and changes that are none."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from unittest import mock

from table import Row, Traffic, body

from doorstep.core.plan import FallbackStep, PlanPointer, ReleasePlan, ServicePlan
from doorstep.core.report import NodeReport, WorkerReport
from doorstep.kernel.files import write_atomic
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode
from fakes.faults import Clock, Corrupted, Missing, broken_model, fill, small_disk

SERVICE = "loans"
WORKERS = 2
SWAP_S_MAX = 5.0
SEED = 7
CHAIN = (FallbackStep(kind="version"), FallbackStep(kind="version", version=1))


class Place:
    """A home with versions 1 and 2 of one service, and room for a node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = TestHome(folder / "home")
        self.contract = TestHome.contract(3)
        self.bundles = {1: self.home.bundle(self.contract)}
        self.bundles[2] = self.home.bundle(self.contract, seed=2)

    def plan(self, champion: int = 1, **changes: object) -> ServicePlan:
        return self.home.service(SERVICE, self.bundles, **({"champion": champion} | changes))

    @contextlib.contextmanager
    def node(self, row: Row, state: Path | None = None) -> Iterator[tuple[RunningNode, Traffic]]:
        """A node that serves the plan that was published, under traffic. It may be started again
        at the same port."""
        state = state or self.folder / "state"
        with RunningNode(self.home.path, state, workers=WORKERS, port=free_port()) as node:
            node.wait_plan(self.home.number)
            with Traffic(node.data_url, [SERVICE], body) as traffic:
                traffic.wait_answers(50)
                yield node, traffic
            row.tallies += traffic.cut()
            row.check_journal(name for name, _ in node.journaled())


@contextlib.contextmanager
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as temp:
        yield Place(Path(temp))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def rows(times: int, swaps: int, plans: int) -> Iterator[Row]:
    yield swapped(swaps)
    yield stopped(times)
    yield plan_spoilt(plans)
    yield bundle_spoilt(times)
    yield from (unloadable("inline", times), unloadable("engine", times))
    for make in (state_disk_full, journal_disk_full, clock_jumps):
        yield make(times)


def swapped(times: int) -> Row:
    row = Row("version swap", "P4 none fails, < 5 s, none answered by the old one after")
    with place() as here:
        here.home.publish(here.plan())
        with here.node(row) as (node, traffic):
            for at in range(times):
                champion = 2 - at % 2
                with row.timed():
                    node.wait_plan(here.home.publish(here.plan(champion)))
                row.expect(row.took_s[-1] < SWAP_S_MAX, f"it took {row.took_s[-1]:.1f} s")
                with Traffic(node.data_url, [SERVICE], body) as after:
                    after.wait_answers(20)
                    answered = _versions(after)
                row.expect(answered == {champion}, f"answered by {answered}, not {champion}")
            traffic.wait_answers(20)
    return row


def _versions(traffic: Traffic) -> set[int]:
    return {one for tally in traffic.cut() for one in tally.answered.values()}


def stopped(times: int) -> Row:
    row = Row("SIGTERM, and started again", "P4 open connections are answered", may_fail_first=True)
    with place() as here:
        number = here.home.publish(here.plan())
        with here.node(row) as (node, traffic):
            for _ in range(times):
                with row.timed():
                    code = node.stop()
                    row.expect(code == 0, f"it ended with code {code}")
                    node.start()
                    node.wait_plan(number)
                traffic.wait_answers(100)
    return row


def plan_spoilt(times: int) -> Row:
    """A byte of a document is changed, or its end is missing."""
    row = Row("plan file corrupt", "P11 none fails, last good one serves")
    chance = random.Random(SEED)
    with place() as here:
        here.home.publish(here.plan())
        with here.node(row) as (node, traffic):
            for at in range(times):
                with row.timed():
                    _spoil(
                        here, ("pointer", "root", "service")[at % 3], chance, rows_max=500 + 2 * at
                    )
                    node.wait(lambda report: bool(report.problems), "a problem")
                    traffic.wait_answers(20)
                    node.wait_plan(here.home.publish(here.plan(rows_max=501 + 2 * at)))
    return row


def _spoil(here: Place, what: str, chance: random.Random, *, rows_max: int) -> None:
    plans = here.home.path / "plan"

    def spoil(pointer: PlanPointer) -> PlanPointer:
        digest = pointer.root
        if what == "service":
            digest = json.loads((plans / f"{digest}.json").read_bytes())["services"][SERVICE]
        path = plans / f"{digest}.json"
        path.write_bytes(spoilt(path.read_bytes(), chance))
        return pointer

    if what == "pointer":
        path = plans / "current"
        write_atomic(path, spoilt(path.read_bytes(), chance))
    else:
        here.home.publish(here.plan(rows_max=rows_max), spoil=spoil)


def spoilt(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    if chance.random() < 0.5:
        return data[:at]
    return data[:at] + (b"~" if data[at : at + 1] != b"~" else b"!") + data[at + 1 :]


def bundle_spoilt(times: int) -> Row:
    """The champion's: without a chain the old version serves on; with one the previous version
    stands in, also after the node was started again, until the bundle is mended."""
    row = Row("bundle corrupt, also at a restart", "P8 none fails, others answer for it",
              may_fail_first=True)  # fmt: skip
    chance = random.Random(SEED)
    with place() as here:
        here.home.publish(here.plan())
        with here.node(row) as (node, traffic):
            for at in range(times):
                with row.timed():
                    _spoil_champion(here, row, node, traffic, chance, seed=10 + at)
                node.wait_plan(here.home.publish(here.plan()))
                row.tallies += traffic.cut()
    return row


def _spoil_champion(
    here: Place, row: Row, node: RunningNode, traffic: Traffic, chance: random.Random, seed: int
) -> None:
    digest = here.bundles[2] = here.home.bundle(here.contract, seed=seed)
    whole = here.home.model_path(digest).read_bytes()
    corrupted = Corrupted(here.home.path, digest, spoilt(whole, chance))
    here.home.publish(here.plan(2))
    node.wait(lambda report: any("loans@2" in one for one in report.problems), "a problem")
    traffic.wait_answers(20)
    number = here.home.publish(here.plan(2, fallback=CHAIN))
    node.wait(lambda report: is_without(report, number), "a version less")
    traffic.wait_answers(20)
    node.stop()
    node.start()
    node.wait(lambda report: is_without(report, number), "a version less, started again")
    traffic.wait_answers(20)
    row.tallies += (tallies := traffic.cut())
    answered = {one for tally in tallies for one in tally.answered.values()}
    row.expect(2 not in answered, "the corrupt version has answered")
    corrupted.mend()
    node.wait_plan(number)
    with Traffic(node.data_url, [SERVICE], body) as after:
        after.wait_answers(20)
        answered = _versions(after)
    row.expect(answered == {2}, f"mended, and answered by {answered}")


def is_without(report: NodeReport, number: int) -> bool:
    return report.plan_number == number and "loans@2" in report.unloaded


def unloadable(placement: Literal["inline", "engine"], times: int) -> Row:
    """A challenger with the right digest that is no model: the champion answers for it."""
    row = Row(f"unloadable challenger, {placement}", "P8 none fails, it counts against it")
    with place() as here:
        here.bundles[2] = broken_model(here.home, here.bundles[1])
        alone = here.home.service(SERVICE, {1: here.bundles[1]})
        here.home.publish(alone)
        with here.node(row) as (node, traffic):
            for at in range(times):
                release = ReleasePlan(
                    id=f"r{at}", challenger=2, state="step", epoch=1, shares={"": 0.5}
                )
                both = here.home.service(
                    SERVICE, here.bundles, placement=placement, release=release
                )
                with row.timed():
                    number = here.home.publish(both)
                    node.wait(lambda report, number=number: is_without(report, number), "less")
                traffic.wait_answers(50)
                report = node.wait(lambda report, at=at: _bad(report, f"r{at}") > 0, "evidence")
                fine = [one.ok for one in report.cells if one.arm == "challenger"]
                row.expect(not any(fine), f"{sum(fine)} requests count for the challenger")
                node.wait_plan(here.home.publish(alone))
    return row


def _bad(report: NodeReport, release: str) -> int:
    return sum(one.bad for one in report.cells if one.release == release)


def state_disk_full(times: int) -> Row:
    row = Row("state disk full, and a worker killed", "P7 it serves on", may_fail_first=True)
    with _on_small_disk(row) as (here, disk):
        if disk is None:
            return row
        here.home.publish(here.plan())
        with here.node(row, disk / "state") as (node, traffic):
            for _ in range(times):
                victim = min(one.pid for one in _fronts(node.report()))
                with row.timed():
                    filler = fill(disk)
                    os.kill(victim, signal.SIGKILL)
                    node.wait(lambda found: bool(found.problems), "a problem")
                    traffic.wait_answers(50)
                    filler.unlink()
                    node.wait(lambda found, old=victim: _has_fronts(found, old), "two workers")
                traffic.wait_answers(50)
    return row


def _fronts(report: NodeReport | None) -> list[WorkerReport]:
    return [one for one in (report.workers if report else ()) if one.kind == "front" and one.pid]


def _has_fronts(report: NodeReport, gone: int) -> bool:
    pids = {one.pid for one in _fronts(report)}
    return len(pids) == WORKERS and gone not in pids and not report.problems


def journal_disk_full(times: int) -> Row:
    row = Row("journal disk full", "P7 503 while it is, no answer lost", may_fail_first=True,
              may_fail=True)  # fmt: skip
    with _on_small_disk(row) as (here, disk):
        if disk is None:
            return row
        journal = here.home.path / "journal"
        journal.rmdir()
        (disk / "journal").mkdir()
        journal.symlink_to(disk / "journal")
        here.home.publish(here.plan())
        with here.node(row) as (node, traffic):
            for _ in range(times):
                with row.timed():
                    filler = fill(disk)
                    node.wait(lambda found: any("journal" in one for one in found.problems))
                    filler.unlink()
                    traffic.wait_answers(50)
                    node.wait(lambda found: not found.problems, "no problem")
        statuses = {status for tally in row.tallies for status in tally.statuses}
        row.expect(statuses <= {200, 503}, f"answers with {statuses}")
        row.expect(not row.total(lambda one: one.dropped), "requests without an answer")
    return row


@contextlib.contextmanager
def _on_small_disk(row: Row) -> Iterator[tuple[Place, Path | None]]:
    """None if there is none; the row says why."""
    with place() as here:
        try:
            with small_disk(here.folder / "disk") as disk:
                yield here, disk
        except Missing as missing:
            row.skipped = str(missing)
            yield here, None


def clock_jumps(times: int) -> Row:
    row = Row("wall clock +1 year, -1 year, right", "P9 none fails, no lease or worker lost")
    with place() as here:
        try:
            clock = Clock(here.folder)
        except Missing as missing:
            row.skipped = str(missing)
            return row
        release = ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": 0.5})
        here.home.publish(here.plan(release=release))
        with mock.patch.dict(os.environ, clock.environ), here.node(row) as (node, traffic):
            here.home.renew()
            pids = {one.pid for one in node.wait(lambda found: found.lease_held).workers}
            for _ in range(times):
                with row.timed():
                    for jump in ("+365d", "-365d", "+0"):
                        clock.set(jump)
                        traffic.wait_answers(100)
                    here.home.renew()
            ended = node.report()
            row.expect(ended is not None and ended.lease_held, "the lease was lost")
            row.expect(ended is not None and {one.pid for one in ended.workers} == pids, "workers")
    return row
