"""What a fault did to the clients: traffic in a thread, its counts, and a row of the table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from fakes.load import BodyOf, Load, Tally

CONNECTIONS = 2
"""For each service; each sends one request after the other, with a pause."""
PAUSE_S = 0.008
WAIT_S = 60.0


@dataclass
class Row:
    """One fault. promise: what is promised, in governance's words; took_s: until all was well, of
    each time; broken: what was promised and is not so; skipped: why it was not done."""

    fault: str
    promise: str
    took_s: list[float] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    may_fail_first: bool = False
    may_fail: bool = False
    lost: int = 0
    doubled: int = 0
    broken: list[str] = field(default_factory=list)
    skipped: str = ""

    def total(self, count: Callable[[Tally], int]) -> int:
        return sum(count(one) for one in self.tallies)

    @property
    def requests(self) -> int:
        return self.total(lambda one: one.requests)

    @property
    def failed_first(self) -> int:
        return self.total(lambda one: one.failed_first) + self._odd

    @property
    def failed(self) -> int:
        return self.total(lambda one: one.gave_up) + self._odd

    @property
    def _odd(self) -> int:
        """Answers that say that the request, or we, were wrong: nobody asks again then."""
        fine = (200, 502, 503, 504)
        return self.total(
            lambda one: sum(times for status, times in one.statuses.items() if status not in fine)
        )

    def check_journal(self, found: Iterable[str]) -> None:
        """Compare the answers that clients got with the ids that are in the journal."""
        times = Counter(found)
        answered = [times[name] for one in self.tallies for name in one.answered]
        self.lost = answered.count(0)
        self.doubled = sum(count > 1 for count in answered)

    def conclude(self) -> None:
        """Add what is broken of what is promised of every fault."""
        if self.lost or self.doubled:
            self.broken.append(f"{self.lost} records lost, {self.doubled} doubled")
        if self.failed and not self.may_fail:
            self.broken.append(f"{self.failed} requests failed for clients that ask once more")
        if self.failed_first and not self.may_fail_first:
            self.broken.append(f"{self.failed_first} requests failed at first")
        if not self.skipped and not any(one.answered for one in self.tallies):
            self.broken.append("nothing was answered")

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self.took_s.append(time.monotonic() - began_s)
        progress(f"{self.fault}: {len(self.took_s)} done, {self.took_s[-1]:.1f} s")


def progress(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


HEAD = (
    f"{'fault':<42} {'times':>5} {'requests':>9} {'failed':>7} {'failed,':>7} {'records':>7} "
    f"{'records':>7} {'well s,':>8} {'well s,':>7}  promised\n"
    f"{'':<42} {'':>5} {'':>9} {'first':>7} {'again':>7} {'lost':>7} {'doubled':>7} "
    f"{'median':>8} {'most':>7}"
)


def line(row: Row) -> str:
    if row.skipped:
        return f"{row.fault:<42} skipped: {row.skipped}"
    took = sorted(row.took_s) or [0.0]
    numbers = (
        f"{len(row.took_s):>5} {row.requests:>9,} {row.failed_first:>7,} {row.failed:>7,} "
        f"{row.lost:>7} {row.doubled:>7} {took[len(took) // 2]:>8.1f} {took[-1]:>7.1f}"
    )
    broken = "".join(f"\n    BROKEN: {one}" for one in row.broken)
    return f"{row.fault:<42} {numbers}  {row.promise}{broken}"


class Traffic:
    """Clients that ask these services until the block ends; a request that is not answered, or with
    502 to 504, is sent once more. body_of: see `Load`."""

    def __init__(self, url: str, services: Iterable[str], body_of: BodyOf) -> None:
        self._loads = [
            Load(
                url, f"/v1/services/{one}/predict", body_of, connections=CONNECTIONS,
                once_more=True, pause_s=PAUSE_S,
            )
            for one in services
        ]  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Traffic:
        self._thread.start()
        for load in self._loads:
            asyncio.run_coroutine_threadsafe(load.__aenter__(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        for load in self._loads:
            asyncio.run_coroutine_threadsafe(load.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> list[Tally]:
        """What happened since the last cut."""
        found = [load.tally for load in self._loads]
        for load in self._loads:
            load.tally = Tally()
        return found

    def wait_answers(self, more: int) -> None:
        """Until that many further requests of every service were answered with 200."""
        before = [load.tally.statuses[200] for load in self._loads]
        until = time.monotonic() + WAIT_S
        while any(
            load.tally.statuses[200] < old + more
            for load, old in zip(self._loads, before, strict=True)
        ):
            if time.monotonic() > until:
                raise TimeoutError(f"{more} further answers in {WAIT_S:.0f} s")
            time.sleep(0.02)


def body_with_key(number: int) -> bytes:
    row = {"x0": float(number % 7), "x1": 0.5, "x2": 1.0}
    return json.dumps({"rows": [row], "context": {"id": f"k{number}"}}).encode()


def body(number: int) -> bytes:
    return json.dumps({"x0": float(number % 7), "x1": 0.5, "x2": 1.0}).encode()
