"""Whole releases by the shipped state machine with the default parameters, minute by minute.

Every request is its own unit. The shadow scores every request.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from rules import ARGO_FAILURES, SUCCESS_MIN
from table import ALPHA, Part, at_least, at_most, share_of

from doorstep.core.contract import Contract, Field
from doorstep.core.instant import SECOND_US
from doorstep.core.servicefile import parse_service_file
from doorstep.release.decide import decide
from doorstep.release.estimate import Traffic, estimate
from doorstep.release.forecast import choose_spec
from doorstep.release.spec import Before
from doorstep.release.transition import Beginning, apply, begin
from doorstep.release.types import Cell, Evidence, ReleaseSpec, State

PER_MINUTE = 6000
MINUTES_MAX = 700
COARSE = 5
"""Minutes of a tick in long releases with little traffic or in waves, after their first hour."""


@dataclass(frozen=True)
class Truth:
    """rate: of errors, ratio: the challenger's over it. drifts: a wave of +-80 % in two hours, and
    an incident of 8 times for ten minutes. times: how much slower the challenger is. shadow:
    whether it is scored unseen first. parts: of the traffic, by segment of the release."""

    name: str
    rate: float
    ratio: float = 1.0
    drifts: bool = False
    times: float = 1.0
    shadow: bool = True
    parts: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Ending:
    """waves: how many were begun; 1 without waves."""

    state: State
    minutes: float
    bad_answers: float
    waves: int


def base_rate(truth: Truth, minute: int) -> float:
    if not truth.drifts:
        return truth.rate
    wave = 1.0 + 0.8 * np.sin(2 * np.pi * minute / 120)
    return min(1.0, truth.rate * wave * (8.0 if 25 <= minute < 35 else 1.0))


class Rollout:
    """One release to its end."""

    def __init__(
        self, rng: np.random.Generator, truth: Truth, spec: ReleaseSpec, per_minute: float
    ) -> None:
        what = Beginning(id="r", service="s", champion=1, challenger=2, spec=spec)
        self.release = begin(what, 0)
        self._rng, self._truth, self._per_minute = rng, truth, per_minute
        self._counts: dict[tuple[int, str, str], Cell] = {}
        self._has_times = any(one.name == "latency" for one in spec.guardrails)

    def run(self) -> Ending:
        minute, bad_answers, waves = 0, 0, 1
        while minute < MINUTES_MAX and not self.release.is_over:
            took = self._tick(minute)
            rate = base_rate(self._truth, minute)
            for segment, part in zip(self.release.spec.segments, self._truth.parts, strict=True):
                n = int(self._rng.poisson(self._per_minute * took * part))
                bad_answers += self._serve(segment, n, rate, min(1.0, rate * self._truth.ratio))
            minute += took
            evidence = Evidence(cells=tuple(one for _, one in sorted(self._counts.items())))
            decision = decide(self.release, evidence, minute * 60 * SECOND_US)
            self.release = apply(self.release, decision)
            waves = max(waves, self.release.spec.wave_of(self.release.step)[0] + 1)
        return Ending(self.release.state, minute, bad_answers, waves)

    def _tick(self, minute: int) -> int:
        is_whole = len(self.release.spec.segments) == 1 and self.release.state is not State.BAKE
        is_busy = self._per_minute >= PER_MINUTE and is_whole
        fine = minute < 60 or is_busy or not self.release.epoch.measured
        return 1 if fine else COARSE

    def _serve(self, segment: str, n: int, rate_a: float, rate_b: float) -> int:
        """Traffic into the cells of the current epoch; bad answers of the challenger to callers."""
        epoch, rng = self.release.epoch, self._rng
        if epoch.state is State.SHADOW:
            plus = int(rng.binomial(n, rate_b * (1 - rate_a)))
            minus = int(rng.binomial(n, rate_a * (1 - rate_b)))
            done = {"requests": n, "plus": plus, "minus": minus, "zero": n - plus - minus}
            done |= {"bad_units": plus, "units": minus}
            self._add(segment, "challenger", done)
            return 0
        n_b = int(rng.binomial(n, self.release.share_in(epoch, segment)))
        bad = {"challenger": int(rng.binomial(n_b, rate_b))}
        bad["champion"] = int(rng.binomial(n - n_b, rate_a))
        for arm, served in (("challenger", n_b), ("champion", n - n_b)):
            done = {"requests": served, "successes": served - bad[arm]}
            if epoch.measured:
                done |= {"units": served, "first_units": served, "timed": served}
                done |= {"bad_units": bad[arm], "bad_units_seen": bad[arm]}
            self._add(segment, arm, done, self._slow(arm, served) if epoch.measured else ())
        return bad["challenger"]

    def _slow(self, arm: str, n: int) -> tuple[int, ...]:
        """How many of n are slower than each limit: times are log-normal, the champion's p99 four
        times its median; the challenger's limits are 1.1 times the champion's."""
        if not self._has_times:
            return ()
        shift = math.log(self._truth.times / 1.1) if arm == "challenger" else 0.0
        chances = [_above(z - shift / SIGMA) for z in Z]
        found, left, before = [], n, 1.0
        for chance in chances:
            left = int(self._rng.binomial(left, min(1.0, chance / before)))
            before = chance
            found.append(left)
        return tuple(found)

    def _add(
        self, segment: str, arm: str, more: dict[str, int], slow: tuple[int, ...] = ()
    ) -> None:
        place = self.release.epoch.number, segment, arm
        known = self._counts.get(place, Cell(epoch=place[0], segment=segment, arm=arm))  # type: ignore[arg-type]
        total = {name: getattr(known, name) + n for name, n in more.items()}
        slow = tuple(map(sum, zip(known.slow or (0,) * len(slow), slow, strict=True)))
        self._counts[place] = msgspec.structs.replace(known, **total, slow=slow)


SIGMA = 0.6
Z = (0.0, 1.281552, 2.326348, 3.090232)


def _above(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def argo(rng: np.random.Generator, truth: Truth) -> bool:
    """Whether the same steps for a fixed time promote when over 3 minutes under 99 % end them."""
    spec = ReleaseSpec()
    stays = [
        share
        for share, dwell_s in zip(spec.steps, spec.dwell_s, strict=True)
        for _ in range(round(dwell_s / 60))
    ]
    rates = [base_rate(truth, minute) * truth.ratio for minute in range(len(stays))]
    n = rng.binomial(PER_MINUTE, stays)
    bad = rng.binomial(n, np.minimum(rates, 1.0))
    return int((bad / np.maximum(n, 1) > 1 - SUCCESS_MIN).sum()) <= ARGO_FAILURES


EQUAL = (
    Truth("equal, 0.1 % errors", 0.001),
    Truth("equal, 0.5 %", 0.005),
    Truth("equal, 1 %", 0.01),
    Truth("equal, 0.1 %, wave and incident", 0.001, drifts=True),
    Truth("equal, 1 %, wave and incident", 0.01, drifts=True),
)
AT_MARGIN = (
    Truth("1.5 x 0.1 %, no shadow", 0.001, 1.5, shadow=False),
    Truth("1.5 x 0.5 %, no shadow", 0.005, 1.5, shadow=False),
    Truth("1.5 x 1 %, no shadow", 0.01, 1.5, shadow=False),
    Truth("1.5 x 1 %", 0.01, 1.5),
)
WORSE = (
    Truth("1.25 x 1 %", 0.01, 1.25),
    Truth("1.5 x 0.1 %", 0.001, 1.5),
    Truth("2 x 0.1 %", 0.001, 2.0),
    Truth("2 x 1 %", 0.01, 2.0),
    Truth("5 x 0.1 %", 0.001, 5.0),
)
WRONG_MAX = ALPHA
PROMOTED_MIN = 0.95


def releases(rng: np.random.Generator, runs: int, truths: Sequence[Truth]) -> Part:
    """Goal 4: equal challengers arrive, and worse ones do not."""
    part = Part(f"Whole releases: 6,000 requests a minute, defaults ({runs} runs)")
    part.row("", "promoted", "rolled back", "minutes", "bad answers", "Argo: promoted", width=15)
    for truth in truths:
        spec = ReleaseSpec() if truth.shadow else ReleaseSpec(shadow_requests=0)
        endings = [Rollout(rng, truth, spec, PER_MINUTE).run() for _ in range(runs)]
        promoted, gone, minutes, bad = summary(endings)
        others = share_of(argo(rng, truth) for _ in range(runs))
        part.row(
            truth.name, f"{promoted:.1%}", f"{gone:.1%}", f"{minutes:.0f}", f"{bad:,.0f}",
            f"{others:.1%}", width=15,
        )  # fmt: skip
        if truth.ratio == 1.0:
            enough = promoted >= at_least(PROMOTED_MIN, runs)
            part.goal(enough, f"{truth.name}: {promoted:.1%} promoted")
        else:
            few = promoted <= at_most(WRONG_MAX, runs)
            part.goal(few or truth.ratio < 1.5, f"{truth.name}: {promoted:.1%} promoted")
    return part


def summary(endings: list[Ending]) -> tuple[float, float, float, float]:
    """(share promoted, share rolled back, median minutes, median bad answers)."""
    states = Counter(one.state for one in endings)
    minutes = float(np.median([one.minutes for one in endings]))
    bad = float(np.median([one.bad_answers for one in endings]))
    n = len(endings)
    return states[State.DONE] / n, states[State.ROLLED_BACK] / n, minutes, bad


THIRDS = (0.1, 0.3, 0.6)
IN_WAVES = (
    Truth("equal, 0.1 % errors", 0.001, parts=THIRDS),
    Truth("equal, 1 %", 0.01, parts=THIRDS),
    Truth("1.5 x 0.1 %", 0.001, 1.5, parts=THIRDS),
    Truth("2 x 0.1 %", 0.001, 2.0, parts=THIRDS),
    Truth("1.5 x 1 %", 0.01, 1.5, parts=THIRDS),
)


def waves(rng: np.random.Generator, runs: int) -> Part:
    """Worse versions in waves that are carried one after the other and keep what they have
    reached."""
    part = Part(f"Waves of 10, 30 and 60 % of 6,000 requests a minute ({runs} runs)")
    part.row("", "promoted", "in last wave", "minutes", "bad answers")
    for truth in IN_WAVES:
        endings = [Rollout(rng, truth, PILOT_FIRST, PER_MINUTE).run() for _ in range(runs)]
        promoted, _, minutes, bad = summary(endings)
        reached = share_of(one.waves == len(THIRDS) for one in endings)
        part.row(truth.name, f"{promoted:.0%}", f"{reached:.0%}", f"{minutes:.0f}", f"{bad:,.0f}")
        if truth.ratio == 1.0:
            part.goal(promoted >= at_least(PROMOTED_MIN, runs), f"{truth.name}: {promoted:.0%}")
        else:
            part.goal(promoted <= at_most(WRONG_MAX, runs), f"{truth.name}: {promoted:.0%}")
    return part


PILOT_FIRST = ReleaseSpec(
    segments=("pilot", "north", ""),
    wave_steps=(1, 2, 2),
    steps=(1.0, 0.1, 0.5, 0.1, 0.5),
    dwell_s=(600.0,) * 5,
    margins=(1.5, 2.0, 1.5, 2.0, 1.5),
)
"""A pilot at full share at once, then two waves in two steps."""


RATES = (0.0, 0.0001, 0.001)
PER_S = (1.0, 10.0, 100.0)


def sparse(rng: np.random.Generator, runs: int, latency: bool) -> Part:
    """Goal of section 12: an equal challenger arrives within its deadline, or it was told before
    that the traffic is too small for that."""
    beside = " and latency" if latency else ""
    part = Part(f"Little traffic: errors{beside}, equal, steps: auto, 10 h ({runs} runs)")
    part.row("errors", *(f"{one:g} a second" for one in PER_S), width=24)
    for rate in RATES:
        cells = []
        for per_s in PER_S:
            spec = spec_for(per_s, rate, latency)
            told = estimate(spec, per_s, rate)
            truth = Truth(f"{rate:.2%}", rate)
            endings = [Rollout(rng, truth, spec, per_s * 60).run() for _ in range(runs)]
            promoted, _, minutes, _ = summary(endings)
            said = f"{promoted:.0%} in {minutes:.0f} min" + ("" if told.fits else ", told")
            cells.append(said)
            is_met = not told.fits or promoted >= at_least(PROMOTED_MIN, runs)
            part.goal(is_met, f"{rate:.2%} at {per_s:g} a second: {promoted:.0%} promoted")
        part.row(f"{rate:.2%}", *cells, width=24)
    part.lines.append("  told: `release estimate` says before the start that it does not fit")
    return part


def spec_for(per_s: float, rate: float, latency: bool) -> ReleaseSpec:
    """The default release at this traffic."""
    rails = "release: {guardrails: [errors, latency]}" if latency else ""
    file = parse_service_file(
        "doorstep: 1\nservice: loans\nmodel: {task: binary, label: y}\n"
        f"data: {{holdout: {{path: h.csv}}}}\n{rails}\n"
    )
    plain = Contract(inputs=(Field(name="x", type="float"),))
    before = Before(slow_us=(10, 20, 40, 60) if latency else ())
    return choose_spec(file, Traffic(units_per_s=per_s, error_rate=rate), (plain, plain), before)
