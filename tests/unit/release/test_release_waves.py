"""Waves are carried one after the other, each on its own evidence."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from release_cases import QUICK, arms, at, evidence, in_step, started

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.plan import REST
from doorstep.core.servicefile import parse_service_file
from doorstep.release.decide import decide
from doorstep.release.judge import judge
from doorstep.release.losses import Told, loss_cells
from doorstep.release.outlook import outlook
from doorstep.release.spec import spec_of
from doorstep.release.transition import apply
from doorstep.release.types import (
    Advance,
    Guardrail,
    Hold,
    Inconclusive,
    Release,
    Rollback,
    State,
)

PILOT = "pilot"
WAVES = {
    "segments": (PILOT, REST),
    "wave_steps": (1, 2),
    "steps": (0.95, 0.1, 0.5),
    "dwell_s": (10.0, 10.0, 10.0),
    "margins": (2.0, 3.0, 2.0),
}
CLEAN = arms(1, (200, 0), (3800, 0), PILOT)
TEXT = """doorstep: 1
service: shops
model: {task: binary, label: y}
data: {holdout: {path: h.csv}}
"""


def in_waves(**spec: object) -> Release:
    return in_step(**(WAVES | spec))


def in_rest() -> Release:
    found = decide(in_waves(), evidence(CLEAN), at(10))
    assert found.outcome == Advance(State.STEP, 1, 0.1)
    return apply(in_waves(), found)


def test_the_first_wave_is_alone_and_keeps_its_share_while_the_next_rises():
    first, then = in_waves(), in_rest()
    assert first.plan_shares() == {PILOT: 0.95, REST: 0.0}
    assert then.plan_shares() == {PILOT: 0.95, REST: 0.1}
    more = evidence(CLEAN, arms(2, (9000, 0), (1000, 0)), arms(2, (50, 0), (950, 0), PILOT))
    second = decide(then, more, at(20))
    assert second.outcome == Advance(State.STEP, 2, 0.5)
    assert second.reason.endswith("; the rest, step 2 at 50 % next")
    third = apply(then, second)
    last = evidence(list(more.cells), arms(3, (6000, 0), (6000, 0)))
    bakes = decide(third, last, at(30))
    assert bakes.outcome == Advance(State.BAKE, 2, 0.95)
    assert bakes.reason.endswith("; 95 % everywhere next")
    baking = apply(third, bakes)
    assert baking.plan_shares() == {PILOT: 0.95, REST: 0.95}
    assert baking.wave is None


def test_the_reason_names_the_wave_and_the_step():
    assert decide(in_waves(), evidence(), at(1)).reason == "wave pilot, step 1 at 95 %: 9 s left"
    said = decide(in_waves(), evidence(CLEAN), at(10)).reason
    assert said.startswith('errors in segment "pilot" 0.0 % against 0.0 % (evidence ')
    assert said.endswith("; the rest, step 1 at 10 % next")
    assert decide(in_rest(), evidence(CLEAN), at(12)).reason == "the rest, step 1 at 10 %: 8 s left"


def test_a_wave_does_not_advance_on_the_evidence_of_an_earlier_one():
    pilot_only = evidence(CLEAN, arms(2, (5000, 0), (95_000, 0), PILOT))
    found = decide(in_rest(), pilot_only, at(1000))
    assert isinstance(found.outcome, Hold)
    assert "fewer than 20 requests" in found.reason
    few = evidence(list(pilot_only.cells), arms(2, (270, 0), (30, 0)))
    found = decide(in_rest(), few, at(1000))
    assert isinstance(found.outcome, Hold)
    assert "more units needed" in found.reason


def test_what_goes_wrong_in_a_wave_that_was_carried_still_rolls_back():
    bad = evidence(CLEAN, arms(2, (50, 0), (950, 120), PILOT), arms(2, (9000, 0), (1000, 0)))
    found = decide(in_rest(), bad, at(12))
    assert found.outcome == Rollback("guardrail")
    assert found.reason.endswith("; at the rest, step 1")


def test_units_of_a_wave_that_is_not_begun_are_no_control():
    waiting = evidence(CLEAN, arms(1, (50_000, 900)))
    alone = judge(in_waves(), evidence(CLEAN))
    beside = judge(in_waves(), waiting)
    assert [one.log_e_rollback for one in alone] == [one.log_e_rollback for one in beside]
    assert beside[0].champion_rate == 0.0
    assert decide(in_waves(), waiting, at(10)).split_log_e == pytest.approx(
        decide(in_waves(), evidence(CLEAN), at(10)).split_log_e
    )


def test_each_segment_is_judged_under_its_own_share():
    release = in_rest()
    cells = evidence(arms(2, (1000, 2), (19_000, 38), PILOT), arms(2, (90_000, 180), (10_000, 20)))
    assert all(one.log_e_rollback < 1.0 for one in judge(release, cells))
    assert decide(release, cells, at(11)).split_log_e < 0.0
    swapped = evidence(
        arms(2, (1000, 2), (19_000, 38)), arms(2, (90_000, 180), (10_000, 20), PILOT)
    )
    assert decide(release, swapped, at(11)).split_log_e > 100.0


def test_outcomes_are_compared_under_the_share_of_their_segment():
    rails = (
        Guardrail(weight=0.5),
        Guardrail(name="quality", weight=0.5, tolerance=0.0, margins=(0.005,) * 3),
    )
    then = in_rest()
    release = msgspec.structs.replace(
        then, spec=msgspec.structs.replace(then.spec, guardrails=rails)
    )
    rng = np.random.default_rng(5)
    n = 4000
    segment = np.where(rng.random(n) < 0.3, PILOT, REST).astype(object)
    share = np.where(segment == PILOT, 0.95, 0.1)
    waits = np.arange(n) < 500
    segment[waits] = REST
    units = np.array([f"u{place % 3600}" for place in range(n)], dtype=object)
    told = Told(
        id=np.array([str(place) for place in range(n)], dtype=object),
        epoch=np.where(waits, 1, 2),
        segment=segment,
        unit=units,
        is_challenger=(rng.random(n) < share) & ~waits,
        is_shadow=np.zeros(n, dtype=bool),
        loss=(rng.random(n) < 0.1).astype(float),
    )
    found = loss_cells(told, release, rails[1])
    assert [(one.epoch, one.segment) for one in found] == [(2, PILOT), (2, REST)]
    assert sum(one.sums[0] for one in found) == 3500, "a unit of a wave not begun is still new"
    assert all(abs(one.sums[1]) < 4 * one.sums[2] ** 0.5 for one in found)


def test_a_wave_keeps_what_it_has_reached_until_all_bake():
    asked = WAVES | {"steps": (0.5, 0.1, 0.5)}
    found = decide(in_step(**asked), evidence(arms(1, (2000, 0), (2000, 0), PILOT)), at(10))
    assert found.outcome == Advance(State.STEP, 1, 0.1)
    assert apply(in_step(**asked), found).plan_shares() == {PILOT: 0.5, REST: 0.1}
    before = in_step(**asked, method=3)
    assert apply(before, decide(before, found.evidence, at(10))).plan_shares()[PILOT] == 0.95


def test_a_version_is_not_said_to_be_worse_for_being_asked_where_all_is_worse():
    cells = evidence(
        CLEAN, arms(2, (100, 10), (1900, 190), PILOT), arms(2, (90_000, 90), (10_000, 10))
    )
    pooled = judge(in_rest(), cells)[0]
    assert pooled.champion_rate == pytest.approx(pooled.challenger_rate)


def test_the_headline_says_what_each_wave_has():
    first, then = in_waves(), in_rest()
    said = [outlook(one, evidence(CLEAN), (), at(12)).headline for one in (first, then)]
    assert said[0].startswith(
        "loans@2 answers 95 % of wave pilot (step 1 of 1), nothing of the rest yet; loans@1 the"
    )
    assert said[1].startswith(
        "loans@2 answers 10 % of the rest (step 1 of 2), 95 % of wave pilot; loans@1 the others; "
    )
    bad = evidence(CLEAN, arms(2, (50, 0), (950, 120), PILOT), arms(2, (9000, 0), (1000, 0)))
    ended = apply(then, decide(then, bad, at(12)))
    assert outlook(ended, bad, (), at(12)).headline.endswith(
        "it had got 95 % of wave pilot, 10 % of the rest at most"
    )


def test_the_deadline_names_the_wave():
    found = decide(in_waves(deadline_s=100.0), evidence(), at(100))
    assert found.outcome == Inconclusive("rollback")
    assert found.reason.startswith("no answer within 1.7 min (wave pilot, step 1): ")


def test_in_shadow_and_for_a_first_version_all_are_together():
    in_shadow = started(**(WAVES | QUICK | {"shadow_requests": 10}))
    assert in_shadow.plan_shares() == {PILOT: 0.0, REST: 0.0}
    assert in_shadow.wave is None
    first = started(champion=None, **(WAVES | QUICK))
    assert first.plan_shares() == {PILOT: 1.0, REST: 1.0}


def test_the_file_gives_each_wave_its_own_steps_and_the_release_those_of_the_others():
    file = parse_service_file(
        TEXT
        + """release:
  steps: [10%, 50%]
  dwell: 10m
  waves:
    - {name: pilot, match: {store: [3, 17]}, steps: [100%], dwell: 1d}
    - {name: north, match: {region: north}}
""",
        environment="development",
    )
    spec = spec_of(file)
    assert spec.segments == ("pilot", "north", REST)
    assert spec.wave_steps == (1, 2, 2)
    assert spec.steps == (1.0, 0.1, 0.5, 0.1, 0.5)
    assert spec.dwell_s == (86_400.0, 600.0, 600.0, 600.0, 600.0)
    assert spec.margins == (1.5, 2.0, 1.5, 2.0, 1.5)
    assert spec.share_of(0) == 0.95
    without = spec_of(parse_service_file(TEXT, environment="development"))
    assert (without.segments, without.wave_steps) == ((REST,), ())


@pytest.mark.parametrize(
    ("waves", "said"),
    [
        ("[{name: a, match: {s: 3}}, {name: b, match: {s: [4, 3]}}]", "s 3 belongs to wave a"),
        ("[{name: a, match: {s: 3}}, {name: b, match: {s: 3, r: n}}]", "s 3 belongs to wave a"),
        ("[{name: a, match: {}}]", "is empty"),
        ("[{name: a, match: {s: 3}, steps: [50%, 10%]}]", "larger than the one before"),
        ("[{name: a, match: {s: 3}, steps: [10%, 120%]}]", "120%"),
        ("[{name: a, match: {s: 3}, steps: [10%, 20%, 30%], dwell: [1m, 2m]}]", "2 times for 3"),
        ("[{name: a, match: {s: 3}}, {name: a, match: {s: 4}}]", "listed twice"),
    ],
)
def test_waves_that_make_no_sense_are_refused(waves: str, said: str):
    with pytest.raises(InputError, match="bad-service-file") as caught:
        parse_service_file(TEXT + f"release: {{waves: {waves}}}\n", environment="development")
    assert said in str(caught.value)


def test_a_wave_may_overlap_an_earlier_one_that_is_told_apart_by_another_field():
    waves = "[{name: a, match: {s: 3}}, {name: b, match: {r: n}}]"
    text = TEXT + f"release: {{waves: {waves}}}\n"
    assert len(parse_service_file(text, environment="development").release.waves) == 2


def test_a_wave_that_matches_nothing_of_the_contract_is_refused():
    text = TEXT + "release: {shadow: {requests: 0}, waves: [{name: a, match: {store: [3, 17]}}]}\n"
    file = parse_service_file(text, environment="development")
    store = Field(name="store", type="category", values=("3", "4"))
    inputs = (Field(name="x", type="float"),)
    fits = Contract(inputs=inputs, context=(store,))
    assert spec_of(file, (fits, fits)).segments == ("a", REST)
    for context in ((), (msgspec.structs.replace(store, values=("5", "6")),)):
        other = Contract(inputs=inputs, context=context)
        with pytest.raises(RefusedError) as caught:
            spec_of(file, (other, other))
        assert caught.value.code == "wave-matches-nothing"


def test_more_steps_in_waves_than_a_node_can_count_are_refused():
    three = "waves: [{name: a, match: {s: 3}}, {name: b, match: {s: 4}}, {name: c, match: {s: 5}}]"
    for steps, fits in (("[25%, 50%]", True), ("[10%, 25%, 50%]", False)):
        text = TEXT + f"release: {{steps: {steps}, {three}}}\n"
        file = parse_service_file(text, environment="development")
        if fits:
            assert spec_of(file).wave_steps == (2, 2, 2, 2)
            continue
        with pytest.raises(RefusedError) as caught:
            spec_of(file)
        assert caught.value.code == "too-many-steps"
