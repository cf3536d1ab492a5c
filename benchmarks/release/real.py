"""Forty releases through real HTTP traffic against real processes: half of them of a worse version.

Four services take traffic all the while. In each round two of them get a version that is as good as
the champion and two get one that fails, dawdles or is wrong; in some rounds a worker is killed or
the control plane is, while the releases run. Dwell, bake and shadow are shortened: they decide on
as much evidence as long ones.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
from table import Part

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from doorstep.core.errors import DoorstepError
from doorstep.core.outcome import OutcomeGiven
from doorstep.release.surface import Release
from doorstep.testing.home import Behaviour, linear_weights
from doorstep.testing.installation import RunningInstallation
from fakes.load import Load, Tally

ROUNDS = 10
PAUSE_S = 0.004
ROUND_S_MAX = 180.0
ANSWERS_BEFORE = 400
LAST_ANSWER_S_MAX = 2.0
GOOD, SAME, BAD = 1, 2, 3
Fault = Literal["", "worker killed", "control plane killed"]
FAULTS: tuple[Fault, ...] = ("", "worker killed", "", "control plane killed", "")
STEPS = "steps: [20%, 50%], dwell: 3s, bake: 3s, deadline: {after: 1h}"


@dataclass(frozen=True)
class Story:
    """What is wrong with the worse version of one service. odd_every: of its rows each so-manieth
    begins with a negative number, on which a model that `raises` does. is_told: whether outcomes
    are told, by what the first version answers."""

    name: str
    release: str
    behaviour: Behaviour = "linear"
    odd_every: int = 0
    seed: int = 2
    is_told: bool = False
    connections: int = 2


STORIES = (
    Story("fails 1 in 7", f"{{shadow: {{requests: 0}}, {STEPS}}}", "raises", 7),
    Story("fails 1 in 10", f"{{shadow: {{requests: 300}}, {STEPS}}}", "raises", 10),
    Story(
        "is slower", f"{{shadow: {{requests: 0}}, {STEPS}, guardrails: [errors, latency]}}", "slow"
    ),
    Story(
        "is wrong",
        f"{{shadow: {{requests: 0}}, {STEPS}, guardrails: [errors, "
        "{name: quality, tolerance: 0.1, margins: 0.25}]}",
        seed=7, is_told=True, connections=1,
    ),
)  # fmt: skip


class Watched(Load):
    """Also remembers when each version answered last, and what to tell about its answers."""

    def __init__(self, url: str, service: str, story: Story) -> None:
        super().__init__(
            url, f"/v1/services/{service}/predict", self._body, connections=story.connections,
            once_more=True, pause_s=PAUSE_S,
        )  # fmt: skip
        self._story = story
        self._truth = linear_weights(3, 2, 0)
        self._row: dict[str, float] = {}
        self.service = service
        self.last_at: dict[int, float] = {}
        self.untold: list[OutcomeGiven] = []

    def _body(self, number: int) -> bytes:
        first = -1.0 if self._story.odd_every and number % self._story.odd_every == 0 else 1.0
        x1, x2 = np.random.default_rng(number).normal(size=2).tolist()
        self._row = {"x0": first, "x1": x1, "x2": x2}
        return json.dumps({"rows": [self._row], "context": {"id": f"k{number}"}}).encode()

    def _note(self, answer: Any) -> bool:
        if answer is not None and answer.status == 200:
            found = json.loads(answer.body)
            self.last_at[found["version"]] = time.time()
            if self._story.is_told:
                self.untold.append(self._outcome(found["predictions"][0]["id"]))
        return super()._note(answer)

    def _outcome(self, prediction: str) -> OutcomeGiven:
        weights, offsets = self._truth
        scores = np.array(list(self._row.values())) @ weights + offsets
        return OutcomeGiven(
            prediction=prediction, label="bad" if scores[0] >= scores[1] else "good"
        )


class Traffic:
    """All loads in a thread of their own."""

    def __init__(self, loads: dict[str, Watched]) -> None:
        self.loads = loads
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Traffic:
        self._thread.start()
        for load in self.loads.values():
            asyncio.run_coroutine_threadsafe(load.__aenter__(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        for load in self.loads.values():
            asyncio.run_coroutine_threadsafe(load.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class Done:
    """One release and how it ended. last_s: from the decision to the last answer of its version,
    after a rollback of a version that callers got answers of."""

    story: Story
    is_bad: bool
    fault: Fault
    ended: Release
    took_s: float
    last_s: float | None

    @property
    def is_right(self) -> bool:
        return self.ended.state == ("rolled-back" if self.is_bad else "done")


@dataclass
class Bench:
    here: RunningInstallation
    traffic: Traffic
    champions: dict[str, int] = field(default_factory=dict)

    def rounds(self, rounds: int) -> Iterator[Done]:
        for number in range(rounds):
            fault = FAULTS[number % len(FAULTS)]
            yield from self._round(number, fault)

    def _round(self, number: int, fault: Fault) -> Iterator[Done]:
        began, running = {}, {}
        for at, service in enumerate(self.traffic.loads):
            is_bad = (number + at) % 2 == 0
            version = BAD if is_bad else SAME if self.champions[service] == GOOD else GOOD
            self.tell()
            began[service] = time.monotonic()
            running[service] = (is_bad, version, self.here.serve(f"{service}@{version}").id)
        if fault:
            self.here.kill("front" if fault == "worker killed" else "control")
            if fault == "control plane killed":
                self.here.restart()
        ended = self._ends({service: one[2] for service, one in running.items()})
        for service, (is_bad, version, _) in running.items():
            release = ended[service]
            if release.state == "done":
                self.champions[service] = version
            done = Done(
                story=STORIES[list(running).index(service)], is_bad=is_bad, fault=fault,
                ended=release, took_s=time.monotonic() - began[service],
                last_s=self._last_s(service, version, release),
            )  # fmt: skip
            _progress(done)
            yield done

    def _ends(self, running: dict[str, str]) -> dict[str, Release]:
        """Each release when it is over and settled; what is not over in time is taken back."""
        until, ended = time.monotonic() + ROUND_S_MAX, {}
        while len(ended) < len(running):
            for service, release in running.items():
                if service in ended:
                    continue
                self.tell()
                found = self._look(release)
                is_late = time.monotonic() > until
                if is_late and found is not None and found.ended_at is None:
                    self.here.client.rollback(service, "the benchmark waited long enough")
                    is_late, found = False, None
                if found is not None and found.ended_at is not None and found.settled:
                    ended[service] = found
            time.sleep(0.1)
        return ended

    def _look(self, release: str) -> Release | None:
        try:
            return self.here.client.release(release)
        except (DoorstepError, httpx.HTTPError):
            return None

    def _last_s(self, service: str, version: int, release: Release) -> float | None:
        last = self.traffic.loads[service].last_at.get(version)
        if release.state != "rolled-back" or last is None or release.ended_at is None:
            return None
        last_s = last - release.ended_at / 1e6
        return last_s if last > release.started_at / 1e6 else None

    def tell(self) -> None:
        """What became true of the answers so far."""
        for service, load in self.traffic.loads.items():
            told, load.untold = load.untold[:500], load.untold[500:]
            try:
                if told:
                    self.here.client.record_outcomes(service, told)
            except (DoorstepError, httpx.HTTPError):
                load.untold = [*told, *load.untold]

    def prepare(self) -> None:
        """The first version of each service serves; the others are registered."""
        for service, load in self.traffic.loads.items():
            story = load._story
            self.here.register(service, release=story.release)
            self.here.serve(f"{service}@{GOOD}")
            self.here.client.promote(service, "the first")
            self.champions[service] = GOOD
            # A model that only raises where nobody asks is the first one under another digest.
            same: Behaviour = "linear" if story.odd_every else "raises"
            seed = 1 if story.odd_every else 0
            self.here.register(service, seed=seed, behaviour=same, release=story.release)
            self.here.register(
                service, seed=story.seed, behaviour=story.behaviour, release=story.release
            )


def _progress(done: Done) -> None:
    what = done.story.name if done.is_bad else f"equal ({done.story.name})"
    last = f", last answer {done.last_s:+.2f} s" if done.last_s is not None else ""
    said = f"  {what}: {done.ended.state} in {done.took_s:.0f} s{last} {done.fault}"
    if not done.is_right:
        said += f"\n    {done.ended.reason}"
    print(said, file=sys.stderr, flush=True)


def measure(rounds: int = ROUNDS) -> Part:
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as temp,
        RunningInstallation(Path(temp) / "home", workers=2) as here,
    ):
        names = [f"s{at}" for at in range(len(STORIES))]
        loads = {
            name: Watched(here.data_url, name, story)
            for name, story in zip(names, STORIES, strict=True)
        }
        traffic = Traffic(loads)
        bench = Bench(here, traffic)
        bench.prepare()
        with traffic:
            _wait_answers(bench)
            done = list(bench.rounds(rounds))
        intact = here.client.verify_ledger().intact
        tallies = [one.tally for one in loads.values()]
    part = Part(f"Real releases: {len(done)} over HTTP, {time.monotonic() - began:.0f} s")
    _table(part, done, tallies)
    part.goal(intact, "the ledger is not what was signed")
    return part


def _wait_answers(bench: Bench) -> None:
    def enough() -> bool:
        bench.tell()
        return all(one.tally.answers >= ANSWERS_BEFORE for one in bench.traffic.loads.values())

    bench.here.wait(enough, "the first answers", ROUND_S_MAX)


def _table(part: Part, done: list[Done], tallies: list[Tally]) -> None:
    part.row("", "promoted", "rolled back", "bad answers*", "seconds", width=14)
    for story in STORIES:
        for is_bad in (True, False):
            mine = [one for one in done if one.story is story and one.is_bad is is_bad]
            if mine:
                states = [one.ended.state for one in mine]
                bad = np.median([one.ended.failed_challenger for one in mine])
                part.row(
                    story.name if is_bad else "  its equal",
                    f"{states.count('done')}", f"{states.count('rolled-back')}", f"{bad:.0f}",
                    f"{np.median([one.took_s for one in mine]):.0f}", width=14,
                )  # fmt: skip
    part.lines.append("  * of the challenger, which the champion answered for it")
    last = [max(one.last_s, 0.0) for one in done if one.last_s is not None]
    if last:
        part.row(
            "decision to last answer, s", f"median {np.median(last):.2f}", f"most {max(last):.2f}"
        )
        part.goal(
            max(last) < LAST_ANSWER_S_MAX, f"last answer {max(last):.2f} s after the decision"
        )
    first = sum(one.failed_first for one in tallies)
    odd = sum(
        n
        for one in tallies
        for status, n in one.statuses.items()
        if status not in (200, 502, 503, 504)
    )
    failed = sum(one.gave_up for one in tallies) + odd
    part.row("requests", f"{sum(one.requests for one in tallies):,}")
    part.row("failed at first, by a killed worker", f"{first}")
    part.row("failed, for who asks once more", f"{failed}")
    part.goal(failed == 0, f"{failed} requests failed")
    faulted = [one for one in done if one.fault]
    part.row("during a fault", f"{len(faulted)} of {len(done)}")
    bad, equal = ([one for one in done if one.is_bad is which] for which in (True, False))
    part.goal(all(one.is_right for one in bad), "a worse version was not rolled back")
    wrong = sum(not one.is_right for one in equal)
    part.goal(wrong <= len(equal) / 20, f"{wrong} of {len(equal)} equal versions were not promoted")
