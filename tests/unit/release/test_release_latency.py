"""Slow requests and answers that differ: who is sent back, who advances, and on what."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from release_cases import arms, at, evidence, in_step, started

from doorstep.core.record import Kind
from doorstep.journal.summary import Cell as Counted
from doorstep.release.before import latency_of
from doorstep.release.decide import decide, recompute
from doorstep.release.judge import judge
from doorstep.release.types import Advance, Cell, Evidence, Guardrail, Hold, Rollback
from doorstep.release.wording import say_ratio
from doorstep.stats import eprocess

LATENCY = Guardrail(
    name="latency", margins=(2.0,), slow_us=(1_000, 5_000, 20_000, 50_000), weight=0.5
)
RAILS = (Guardrail(weight=0.5), LATENCY)
DIFFER = (Guardrail(weight=0.5), Guardrail(name="disagreement", tolerance=0.02, weight=0.5))
ONE_STEP: dict[str, Any] = {"steps": (0.5,), "dwell_s": (0.0,), "margins": (2.0,)}


def slow(champion: tuple[int, ...], challenger: tuple[int, ...], n: int = 4000) -> Evidence:
    """n requests of each arm without an error, so many of them above each threshold."""
    cells = arms(1, (n, 0), (n, 0))
    found = (champion, challenger)
    return evidence(
        [
            msgspec.structs.replace(cell, timed=n, slow=counts)
            for cell, counts in zip(cells, found, strict=True)
        ]
    )


def test_a_slower_challenger_goes_back_and_an_equal_one_advances():
    release = in_step(guardrails=RAILS, **ONE_STEP)
    equal = slow((2000, 400, 40, 4), (1990, 390, 41, 3))
    decision = decide(release, equal, at(60))
    assert isinstance(decision.outcome, Advance), decision.reason
    assert recompute(msgspec.json.decode(msgspec.json.encode(decision), type=type(decision)))
    tail = slow((2000, 400, 40, 4), (2000, 410, 120, 30))
    worse = decide(release, tail, at(60))
    assert isinstance(worse.outcome, Rollback)
    assert worse.reason.startswith("requests slower than the former p99 3 % against 1 % (evidence")
    all_slower = slow((2000, 400, 40, 4), (2600, 700, 80, 8))
    assert isinstance(decide(release, all_slower, at(60)).outcome, Rollback)


def test_a_middle_that_is_as_fast_does_not_speak_for_a_tail_that_is_slow():
    """Twice as many in the tail as before, seen too rarely yet to be sent back."""
    release = in_step(guardrails=RAILS, **ONE_STEP)
    tail = slow((500, 100, 10, 1), (500, 100, 20, 2), n=1000)
    assert isinstance(decide(release, tail, at(60)).outcome, Hold)
    # Who has hardly a slow request is good whatever the champion does meanwhile.
    none = slow((20, 0, 0, 0), (20, 0, 0, 0), n=1000)
    assert isinstance(decide(release, none, at(60)).outcome, Advance)


def test_no_times_hold_and_are_not_taken_for_good_ones():
    release = in_step(guardrails=RAILS, **ONE_STEP)
    decision = decide(release, evidence(arms(1, (4000, 0), (4000, 0))), at(60))
    assert isinstance(decision.outcome, Hold) and "latency: evidence 1 to 1" in decision.reason


def test_in_shadow_latency_waits_and_answers_are_compared():
    rails = (*DIFFER, msgspec.structs.replace(LATENCY, weight=0.5))
    rails = tuple(msgspec.structs.replace(one, weight=1 / 3) for one in rails)
    release = started(guardrails=rails, shadow_requests=100, **ONE_STEP)

    def seen(alike: int, differ: int) -> Evidence:
        cell = Cell(
            epoch=1, segment="", arm="challenger", requests=alike + differ, zero=alike + differ,
            alike=alike, differ=differ,
        )  # fmt: skip
        return Evidence(cells=(cell,))

    assert isinstance(decide(release, seen(2000, 4), at(60)).outcome, Advance)
    assert isinstance(decide(release, seen(1000, 20), at(60)).outcome, Hold)
    (found,) = (one for one in judge(release, seen(2000, 4)) if one.guardrail == "disagreement")
    assert say_ratio(found) == "answers that differ 0.20 %"
    gone = decide(release, seen(1000, 120), at(60))
    assert isinstance(gone.outcome, Rollback)
    assert gone.reason.startswith("answers that differ 10.7 % (evidence"), gone.reason


def test_after_the_shadow_disagreement_holds_nobody_up():
    release = in_step(guardrails=DIFFER, **ONE_STEP)
    cells = arms(1, (4000, 0), (4000, 0))
    assert isinstance(decide(release, evidence(cells), at(60)).outcome, Advance)


def test_equal_latencies_are_rarely_sent_back_however_often_it_is_looked():
    """150 fair splits of 5,000 requests, looked at after every 250; alpha of latency is 2.5 %."""
    alone = (msgspec.structs.replace(LATENCY, weight=1.0),)
    release, gone = in_step(guardrails=alone, **ONE_STEP), 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        took_us, is_b = rng.lognormal(7.0, 1.0, 5000), rng.random(5000) < 0.5
        limits_us = np.quantile(rng.lognormal(7.0, 1.0, 100_000), [0.5, 0.9, 0.99, 0.999])
        above = took_us[:, None] > limits_us
        for upto in range(250, 5001, 250):
            a, b = above[:upto][~is_b[:upto]], above[:upto][is_b[:upto]]
            found = slow(tuple(a.sum(axis=0).tolist()), tuple(b.sum(axis=0).tolist()))
            (numbers,) = judge(release, found)
            if numbers.is_bad:
                gone += 1
                break
    assert gone <= 9, gone


def test_the_challengers_limits_are_the_champions_times_the_tolerance():
    assert LATENCY.slow_challenger_us == (1_100, 5_500, 22_000, 55_000)


def test_the_champions_times_are_those_it_answered_itself():
    def counted(version: int, kind: Kind, latency: tuple[int, ...]) -> Counted:
        return Counted(
            at=0, version=version, assigned=version, kind=int(kind), segment="", rows=1,
            statuses=(1,), errors=0, warned=0, latency=latency,
        )  # fmt: skip

    rows = [
        counted(1, Kind.LIVE, (1, 2, 0)), counted(1, Kind.LIVE, (0, 1, 5)),
        counted(2, Kind.LIVE, (9, 9, 9)), counted(1, Kind.REHEARSAL, (9, 9, 9)),
        counted(1, Kind.LIVE, ()),
    ]  # fmt: skip
    assert latency_of(rows, 1) == (1, 3, 5)
    assert latency_of(rows, 3) == ()


def test_a_guardrail_without_its_times_is_refused():
    with pytest.raises(Exception, match="4 of them"):
        Guardrail(name="latency", margins=(2.0,))


def test_a_first_release_goes_back_when_it_is_slower_than_was_promised():
    promised = Guardrail(name="latency", limits=(0.01,), slow_us=(50_000,), weight=0.5)
    release = started(champion=None, guardrails=(Guardrail(weight=0.5), promised), warmup_s=0.0)
    for n_slow, is_bad in ((60, True), (15, False)):
        (cell,) = arms(1, (0, 0), (2000, 0))[1:]
        found = evidence([msgspec.structs.replace(cell, timed=2000, slow=(n_slow, 0, 0, 0))])
        decision = decide(release, found, at(60))
        assert isinstance(decision.outcome, Rollback) is is_bad, decision.reason
    kept = judge(release, found)[1]
    assert kept.challenger_rate == 0.0075 and kept.log_e_advance is None
    assert kept.log_e_rollback == pytest.approx(eprocess.one_sample_log_e(15, 2000, 0.01))
