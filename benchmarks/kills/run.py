"""Kill -9 every kind of process of a running installation, under steady traffic, and count.

    make bench-kills          .venv/bin/python benchmarks/kills/run.py --times 20

Two services take traffic all the while: one scored in the front workers, with a release in shadow
beside it, and one scored in an engine process. A client that gets no answer, or 503, asks again
once (after what Retry-After says). Goals: no answered prediction is lost or written twice, and no
request fails for a client that asks twice.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from doorstep.core.errors import DoorstepError
from doorstep.testing.installation import Process, RunningInstallation

KINDS: tuple[Process, ...] = ("control", "node", "front", "engine", "shadow", "compactor")
CLIENTS = 4
PAUSE_S = 0.004
BETWEEN_S = 1.0
STEADY_S = 11.0
"""What keeps dying within ten seconds is started again after growing pauses. That is right, and it
is not what is measured here: processes that the service cannot do without have lived longer."""
WELL_S_MAX = 60.0
WORKERS = 2
SHADOW = "{shadow: {requests: 1000000}, steps: [10%], deadline: {after: 1d, then: rollback}}"
INLINE, ENGINE = "loans", "scores"


@dataclass
class Counts:
    """What the clients saw while processes of one kind were killed."""

    sent: int = 0
    failed_first: int = 0
    failed: int = 0
    answered: list[str] = field(default_factory=list)


class Traffic:
    """Client threads that ask both services in turn until stopped."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._numbers = itertools.count()
        self.counts = Counts()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def cut(self) -> Counts:
        """The counts since the last cut."""
        with self._lock:
            found, self.counts = self.counts, Counts()
        return found

    def _client(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=20.0) as http:
            while not self._stopping.is_set():
                number = next(self._numbers)
                first, wait_s = _ask(http, number)
                last = first
                if first is None:
                    time.sleep(wait_s)
                    last, _ = _ask(http, number)
                self._note(first, last)
                time.sleep(PAUSE_S)

    def _note(self, first: list[str] | None, last: list[str] | None) -> None:
        with self._lock:
            self.counts.sent += 1
            self.counts.failed_first += first is None
            self.counts.failed += last is None
            self.counts.answered += last or []


def _ask(http: httpx.Client, number: int) -> tuple[list[str] | None, float]:
    """(ids of the answer, 0), or (None, seconds to wait before asking again)."""
    service = (INLINE, ENGINE)[number % 2]
    row = {"x0": float(number % 7), "x1": 0.5, "x2": 1.0}
    body = {"rows": [row], "context": {"id": f"k{number}"}}
    try:
        answer = http.post(f"/v1/services/{service}/predict", json=body)
    except httpx.HTTPError:
        return None, 0.0
    if answer.status_code != 200:
        return None, float(answer.headers.get("retry-after", "0"))
    return [one["id"] for one in answer.json()["predictions"]], 0.0


def prepare(here: RunningInstallation) -> None:
    here.register(INLINE, release=SHADOW)
    here.serve(f"{INLINE}@1")
    here.client.promote(INLINE, "the first")
    here.register(INLINE, seed=2, release=SHADOW)
    here.serve(f"{INLINE}@2")
    here.register(ENGINE, speed_ms_p99=0.0)
    here.serve(f"{ENGINE}@1")
    for kind in KINDS:
        here.pid(kind)


def kill_once(here: RunningInstallation, kind: Process) -> float:
    """Seconds until everything is as it was before, with another process of that kind."""
    time.sleep(STEADY_S if kind in ("node", "engine") else BETWEEN_S)
    here.wait(lambda: len(here.pids("front")) == WORKERS, "drained workers to be gone")
    began_s = time.monotonic()
    gone = here.kill(kind)
    if kind == "control":
        here.restart()
    here.wait(lambda: is_well(here, kind, gone), f"a new {kind}", WELL_S_MAX)
    return time.monotonic() - began_s


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


def measure(times: int, kinds: list[Process]) -> int:
    rows, everything = [], Counts()
    with (
        tempfile.TemporaryDirectory() as temp,
        RunningInstallation(Path(temp) / "home", workers=WORKERS) as here,
    ):
        prepare(here)
        with Traffic(here.data_url) as traffic:
            for kind in kinds:
                traffic.cut()
                took_s = [kill_once(here, kind) for _ in range(times)]
                time.sleep(BETWEEN_S)
                rows.append((kind, took_s, traffic.cut()))
                say(*rows[-1])
        rows.append(("control", [], traffic.cut()))
        found = Counter(name for name, _ in here.journaled())
        assert here.client.verify_ledger().intact
    for _, _, counts in rows:
        everything.sent += counts.sent
        everything.failed_first += counts.failed_first
        everything.failed += counts.failed
        everything.answered += counts.answered
    return conclude(times * len(kinds), everything, found)


def say(kind: str, took_s: list[float], counts: Counts) -> None:
    took = sorted(took_s)
    print(
        f"{kind:<10} {len(took):>5} {counts.sent:>9,} {counts.failed_first:>9} {counts.failed:>9} "
        f"{took[len(took) // 2]:>9.1f} {took[-1]:>9.1f}",
        flush=True,
    )


def conclude(kills: int, counts: Counts, found: Counter[str]) -> int:
    lost = sum(1 for name in counts.answered if found[name] == 0)
    doubled = sum(1 for name in counts.answered if found[name] > 1)
    print(
        f"\nkills: {kills} processes killed under {counts.sent:,} requests: {lost} of "
        f"{len(counts.answered):,} answered predictions lost, {doubled} doubled; "
        f"{counts.failed} requests failed for clients that ask twice, "
        f"{counts.failed_first} for those that ask once"
    )
    return 1 if lost or doubled or counts.failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--times", type=int, default=5, help="kills of each kind")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these; default all")
    asked = parser.parse_args()
    print(f"{CLIENTS} clients, {WORKERS} front workers; failed: no answer, or not 200\n")
    print(
        f"{'killed':<10} {'times':>5} {'requests':>9} {'failed':>9} {'failed,':>9} "
        f"{'well s,':>9} {'well s,':>9}\n"
        f"{'':<10} {'':>5} {'':>9} {'at first':>9} {'one retry':>9} {'median':>9} {'most':>9}"
    )
    return measure(asked.times, list(asked.kind or KINDS))


if __name__ == "__main__":
    sys.exit(main())
