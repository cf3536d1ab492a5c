"""Faults of a whole installation: any process killed, the control plane or the database gone."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from table import Row, Traffic, body_with_key

from doorstep.core.errors import DoorstepError
from doorstep.testing.installation import Process, RunningInstallation
from fakes.faults import Missing
from fakes.postgres import allow, create_database, running_postgres

KINDS: tuple[Process, ...] = ("front", "engine", "node", "control", "compactor", "shadow")
CALLED = {"front": "front worker", "node": "supervisor", "control": "control process",
          "compactor": "journal compactor", "shadow": "shadow scorer"}  # fmt: skip
PROMISES = {
    "front": "P1 its own connections at most",
    "engine": "P1 503 and Retry-After until it is back",
    "control": "P5 none fails",
}
BETWEEN_S = 1.0
STEADY_S = 11.0
"""What keeps dying within ten seconds is started again after growing pauses. That is right, and it
is not what is measured here: processes that the service cannot do without have lived longer."""
WELL_S_MAX = 60.0
GONE_S = 10.0
ROLLBACK_S_MAX = 5.0
WORKERS = 2
SHADOW = "{shadow: {requests: 1000000}, steps: [10%], deadline: {after: 1d, then: rollback}}"
STEP = "{shadow: {requests: 0}, steps: [50%], dwell: 10m, bake: 10m}"
INLINE, ENGINE, STEPPED = "loans", "scores", "stepped"
SERVICES = (INLINE, ENGINE, STEPPED)


def rows(kills: int, times: int, kinds: tuple[Process, ...]) -> Iterator[Row]:
    """Two services take traffic all the while, one of them scored in the front workers, with a
    release in shadow beside it, and one in an engine; a third one is released and rolled back."""
    with (
        tempfile.TemporaryDirectory() as temp,
        RunningInstallation(Path(temp) / "home", workers=WORKERS) as here,
    ):
        prepare(here)
        with Traffic(here.data_url, SERVICES, body_with_key) as traffic:
            traffic.wait_answers(50)
            done = [killed(here, traffic, kind, kills) for kind in kinds]
            if times:
                done += [
                    control_gone(here, traffic, times),
                    rolled(here, traffic, times),
                    rolled_back(here, traffic, times),
                    rolled_back(here, traffic, times, killing=True),
                ]
        # One request each may have been under way when counts were cut: it is in the next row.
        names = [name for name, _ in here.journaled()]
        intact = here.client.verify_ledger().intact
    for row in done:
        row.check_journal(names)
        row.expect(intact, "the ledger is not what was signed")
        yield row


def prepare(here: RunningInstallation) -> None:
    here.register(INLINE, release=SHADOW)
    here.serve(f"{INLINE}@1")
    here.client.promote(INLINE, "the first")
    here.register(INLINE, seed=2, release=SHADOW)
    here.serve(f"{INLINE}@2")
    here.register(ENGINE, speed_ms_p99=0.0)
    here.serve(f"{ENGINE}@1")
    here.register(STEPPED, release=STEP)
    here.serve(f"{STEPPED}@1")
    here.client.promote(STEPPED, "the first")
    here.register(STEPPED, seed=2, release=STEP)
    here.client.run_gates(f"{STEPPED}@2")
    for kind in KINDS:
        here.pid(kind)


def killed(here: RunningInstallation, traffic: Traffic, kind: Process, times: int) -> Row:
    what = f"kill -9 {CALLED.get(kind, kind)}"
    row = Row(what, PROMISES.get(kind, "P1 none fails"), may_fail_first=kind in ("front", "engine"))
    traffic.cut()
    for _ in range(times):
        time.sleep(STEADY_S if kind in ("node", "engine") else BETWEEN_S)
        here.wait(lambda: len(here.pids("front")) == WORKERS, "drained workers to be gone")
        with row.timed():
            gone = here.kill(kind)
            if kind == "control":
                here.restart()
            here.wait(lambda gone=gone: is_well(here, kind, gone), f"a new {kind}", WELL_S_MAX)
    time.sleep(BETWEEN_S)
    row.tallies = traffic.cut()
    return row


def is_well(here: RunningInstallation, kind: Process, gone: int) -> bool:
    if kind != "control" and (gone in here.pids(kind) or not here.pids(kind)):
        return False
    try:
        installation = here.client.installation()
        release = here.client.release(INLINE)
    except DoorstepError:
        return False
    fine = [
        node.live and not node.problems and node.plan_number == installation.plan_number
        for node in installation.nodes
    ]
    served = fine == [True] and len(here.pids("front")) >= WORKERS
    return served and release.settled and _ready(here)


def _ready(here: RunningInstallation) -> bool:
    found = httpx.get(f"{here.data_url}/v2/models/{ENGINE}/ready", trust_env=False)
    return found.status_code == 200


def control_gone(here: RunningInstallation, traffic: Traffic, times: int) -> Row:
    row = Row(f"control process gone for {GONE_S:.0f} s", "P5 none fails")
    for _ in range(times):
        with row.timed():
            gone = here.kill("control")
            time.sleep(GONE_S)
            here.restart()
            here.wait(lambda gone=gone: is_well(here, "control", gone), "it to be well", WELL_S_MAX)
    row.tallies = traffic.cut()
    return row


def rolled(here: RunningInstallation, traffic: Traffic, times: int) -> Row:
    """SIGHUP: every front worker is replaced."""
    row = Row("rolling drain of all front workers", "P4 none fails")
    for _ in range(times):
        before = set(here.pids("front"))
        with row.timed():
            os.kill(here.pid("node"), signal.SIGHUP)
            here.wait(lambda before=before: _all_new(here, before), "other workers", WELL_S_MAX)
    row.tallies = traffic.cut()
    return row


def _all_new(here: RunningInstallation, before: set[int]) -> bool:
    now = set(here.pids("front"))
    return len(now) == WORKERS and not now & before


def rolled_back(
    here: RunningInstallation, traffic: Traffic, times: int, *, killing: bool = False
) -> Row:
    """A release in its first step is rolled back; afterwards nobody gets the challenger."""
    row = Row("rollback of a release at 50 %", "P4 none fails, < 5 s, none answered by it after")
    if killing:
        row = Row("the same while a worker is killed", "P4 as above", may_fail_first=True)
    for _ in range(times):
        here.settled(here.client.start_release(f"{STEPPED}@2").id)
        traffic.wait_answers(50)
        with row.timed():
            if killing:
                here.kill("front")
            release = here.client.rollback(STEPPED, "a fault is made")
            here.settled(release.id)
        row.expect(row.took_s[-1] < ROLLBACK_S_MAX, f"it took {row.took_s[-1]:.1f} s")
        with Traffic(here.data_url, [STEPPED], body_with_key) as after:
            after.wait_answers(50)
            answered = {one for tally in after.cut() for one in tally.answered.values()}
        row.expect(answered == {1}, f"answered by {answered} after it was done")
    row.tallies = traffic.cut()
    return row


def database_gone(times: int) -> Iterator[Row]:
    row = Row(f"PostgreSQL gone for {GONE_S:.0f} s", "P6 none fails, ledger gapless")
    try:
        with running_postgres() as server, tempfile.TemporaryDirectory() as temp:
            url = create_database(server)
            with RunningInstallation(Path(temp) / "home", database=url, workers=WORKERS) as here:
                here.register(INLINE)
                here.serve(f"{INLINE}@1")
                _end_connections(here, server, url, row, times)
    except Missing as missing:
        row.skipped = str(missing)
    yield row


def _end_connections(
    here: RunningInstallation, server: str, url: str, row: Row, times: int
) -> None:
    with Traffic(here.data_url, [INLINE], body_with_key) as traffic:
        for _ in range(times):
            traffic.wait_answers(100)
            with row.timed():
                allow(server, url, allowed=False)
                time.sleep(GONE_S)
                row.expect(not _knows(here), "the control plane answered without its database")
                allow(server, url, allowed=True)
                here.wait(lambda: _knows(here), "the database to be back", WELL_S_MAX)
        traffic.wait_answers(100)
        row.tallies = traffic.cut()
    row.check_journal(name for name, _ in here.journaled())
    row.expect(here.client.verify_ledger().intact, "the ledger is not what was signed")


def _knows(here: RunningInstallation) -> bool:
    try:
        return here.client.service(INLINE).service == INLINE
    except DoorstepError:
        return False
