"""Whole releases by the shipped state machine, minute by minute, with the default parameters.

Every request is its own unit. Traffic is 6,000 requests a minute; the shadow scores all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec
import numpy as np

from doorstep.core.instant import SECOND_US
from doorstep.release.decide import decide
from doorstep.release.transition import Beginning, apply, begin
from doorstep.release.types import Cell, Evidence, Release, ReleaseSpec, State

PER_MINUTE = 6000
MINUTES_MAX = 600


@dataclass(frozen=True)
class Truth:
    """drifts: a wave of +-80 % in two hours, and an incident of 8 times for ten minutes."""

    name: str
    rate: float
    ratio: float
    drifts: bool = False


@dataclass(frozen=True)
class Ending:
    state: State
    minutes: float
    bad_answers: float


def base_rate(truth: Truth, minute: int) -> float:
    if not truth.drifts:
        return truth.rate
    wave = 1.0 + 0.8 * np.sin(2 * np.pi * minute / 120)
    return min(1.0, truth.rate * wave * (8.0 if 25 <= minute < 35 else 1.0))


def rollout(rng: np.random.Generator, truth: Truth) -> Ending:
    """One release to its end."""
    what = Beginning(id="r", service="s", champion=1, challenger=2, spec=ReleaseSpec())
    release, counts, bad_answers = begin(what, 0), {}, 0
    for minute in range(MINUTES_MAX):
        rate = base_rate(truth, minute)
        bad_answers += serve(rng, release, counts, rate, min(1.0, rate * truth.ratio))
        evidence = Evidence(cells=tuple(counts[key] for key in sorted(counts)))
        decision = decide(release, evidence, (minute + 1) * 60 * SECOND_US)
        release = apply(release, decision)
        if release.is_over:
            return Ending(release.state, minute + 1, bad_answers)
    return Ending(release.state, MINUTES_MAX, bad_answers)


def serve(
    rng: np.random.Generator,
    release: Release,
    counts: dict[tuple[int, str], Cell],
    rate_a: float,
    rate_b: float,
) -> int:
    """One minute of traffic into the cells of the current epoch; bad answers of the challenger."""
    epoch = release.epoch
    if epoch.state is State.SHADOW:
        plus = int(rng.binomial(PER_MINUTE, rate_b * (1 - rate_a)))
        minus = int(rng.binomial(PER_MINUTE, rate_a * (1 - rate_b)))
        pairs = {"plus": plus, "minus": minus, "zero": PER_MINUTE - plus - minus}
        add(counts, epoch.number, "challenger", pairs)
        return 0
    n_b = int(rng.binomial(PER_MINUTE, epoch.share))
    bad = {"challenger": int(rng.binomial(n_b, rate_b))}
    bad["champion"] = int(rng.binomial(PER_MINUTE - n_b, rate_a))
    for arm, n in (("challenger", n_b), ("champion", PER_MINUTE - n_b)):
        done = {"requests": n, "successes": n - bad[arm]}
        if epoch.measured:
            done |= {"units": n, "first_units": n}
            done |= {"bad_units": bad[arm], "bad_units_seen": bad[arm]}
        add(counts, epoch.number, arm, done)
    return bad["challenger"]


def add(counts: dict[tuple[int, str], Cell], epoch: int, arm: str, more: dict[str, int]) -> None:
    known = counts.get((epoch, arm), Cell(epoch=epoch, segment="", arm=arm))
    total = {name: getattr(known, name) + n for name, n in more.items()}
    counts[epoch, arm] = msgspec.structs.replace(known, **total)


def summary(endings: list[Ending], state: State) -> tuple[float, float, float]:
    """(share that ended in `state`, their median minutes, median bad answers of all)."""
    mine = [one.minutes for one in endings if one.state is state]
    share = Counter(one.state for one in endings)[state] / len(endings)
    bad = float(np.median([one.bad_answers for one in endings]))
    return share, float(np.median(mine)) if mine else float("nan"), bad
