"""A node under load whose object store is gone for minutes: nothing lost, nothing doubled.

    python benchmarks/journal/outage.py [--minutes 10] [--rate 200]

Half a minute with a real S3 server (SeaweedFS), then it is killed, then it is started again. Counts
what was answered and what is in the store when everything is uploaded, by request id, from the
store's list and objects alone. Exits with 1 if these differ, if an object has another digest than
is listed, or if a request failed.
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from doorstep.journal.away import declare, read_place
from doorstep.journal.stored import StoredIndex, StoreStatus, read_status
from doorstep.kernel.store import Store
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode
from fakes.s3 import running_s3

BEFORE_S = 30
BODY = b'{"x0": 1.0, "x1": 0.5, "x2": -1}'
HEAD = {"Content-Type": "application/json"}
CONNECTIONS = 4


class Load:
    """Requests at a rate until it is stopped; every answer's id and time."""

    def __init__(self, url: str, rate: float) -> None:
        self._address, self._rate = url.removeprefix("http://"), rate
        self._stop = threading.Event()
        self.answered: list[str] = []
        self.ms: list[tuple[float, float]] = []
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(CONNECTIONS)]
        for one in self._threads:
            one.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        due = time.monotonic()
        while not self._stop.is_set():
            due += CONNECTIONS / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            try:
                connection.request("POST", "/v1/services/loans/predict", BODY, HEAD)
                answer = connection.getresponse()
                answer.read()
            except OSError as error:
                self.failed.append(str(error))
                connection.close()
                continue
            self.ms.append((began, (time.monotonic() - began) * 1000))
            if answer.status == 200:
                self.answered.append(answer.headers["Doorstep-Request-Id"])
            else:
                self.failed.append(str(answer.status))

    def end(self) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    def p99(self, since: float, until: float) -> float:
        found = sorted(ms for at, ms in self.ms if since <= at < until)
        return found[len(found) * 99 // 100] if found else 0.0


def in_store(home: Path, node: str, temp: Path) -> tuple[list[str], int, int]:
    """(request ids, files, files that are not what the list says)."""
    import duckdb

    place = read_place(home)
    store, prefix = Store(place.url), f"journal/{place.of(node)}"
    stored = msgspec.json.decode(store.get(f"{prefix}/index.json").data, type=StoredIndex)
    found, wrong = [], 0
    for number, one in enumerate(stored.files):
        path = temp / f"{number}.parquet"
        wrong += store.fetch(f"{prefix}/{one.path}", path) != one.sha256
        found += duckdb.sql(f"SELECT request FROM read_parquet('{path}')").fetchall()
    return [row[0] for row in found], len(stored.files), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_s3(Path(folder) / "s3") as s3:
        home = TestHome(Path(folder) / "home")
        home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
        declare(home.path, "s3://doorstep/outage")

        def status() -> StoreStatus:
            return read_status(home.path / "journal" / "test") or StoreStatus(at=0, url="")

        with RunningNode(home.path, Path(folder) / "state", compactor=True) as node:
            node.wait_plan(1)
            began, load = time.monotonic(), Load(node.data_url, asked.rate)
            time.sleep(BEFORE_S)
            s3.kill()
            gone = time.monotonic()
            time.sleep(60 * asked.minutes)
            most = status()
            s3.start()
            back = time.monotonic()
            while status().behind_since or status().waiting_files:
                time.sleep(0.1)
            caught_up_s = time.monotonic() - back
            load.end()
        compact = [sys.executable, "-m", "doorstep.journal.compactor", "--once", "--node", "test"]
        subprocess.run([*compact, "--home", str(home.path)], check=True)
        (Path(folder) / "fetched").mkdir()
        found, files, wrong = in_store(home.path, "test", Path(folder) / "fetched")
    lost, doubled = len(set(load.answered) - set(found)), len(found) - len(set(found))
    print(f"answered {len(load.answered):,}, failed {len(load.failed)}, gone {asked.minutes:g} min")
    print(
        f"p99 {load.p99(began, gone):.1f} ms with the store, {load.p99(gone, back):.1f} ms without"
    )
    print(f"waited at most {most.waiting_files} files, {most.waiting_bytes / 1e6:.1f} MB")
    print(f"uploaded {caught_up_s:.1f} s after the store was back; {files} files there")
    print(f"lost {lost}, doubled {doubled}, with another digest {wrong}")
    missed = bool(lost or doubled or wrong or load.failed)
    print(f"outage: {'MISSED' if missed else 'nothing lost, nothing doubled'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
