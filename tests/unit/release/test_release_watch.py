"""Time that nobody watched, deadlines that wait for a person, what a first release counts."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from release_cases import arms, at, evidence, in_bake, started

from doorstep.release.decide import decide, decide_person
from doorstep.release.judge import judge
from doorstep.release.transition import apply, unwatched
from doorstep.release.types import Cell, Evidence, Finish, Hold, Person, State

HOUR_S = 3600.0


def test_a_bake_is_only_as_long_as_it_was_watched():
    release, cells = in_bake()
    began_s = (release.entered_at - at(0)) / 1e6
    own = evidence(cells, arms(release.epoch.number, (5, 0), (95, 0)))
    baked_s = began_s + release.spec.bake_s
    assert isinstance(decide(release, own, at(baked_s)).outcome, Finish)
    gap_s = 1800.0
    after = unwatched(release, at(baked_s), round(gap_s * 1e6))
    assert isinstance(decide(after, own, at(baked_s)).outcome, Hold)
    assert isinstance(decide(after, own, at(baked_s + gap_s)).outcome, Finish)


@given(st.floats(61, 30 * 86_400))
def test_unwatched_time_moves_the_deadline_by_itself(gap_s: float):
    release = started()
    gap = round(gap_s * 1e6)
    after = unwatched(release, at(gap_s), gap)
    assert after.deadline_at - release.deadline_at == gap
    assert after.state is release.state
    assert after.epochs == release.epochs


def test_a_release_that_waits_for_a_person_after_its_deadline_in_the_shadow_is_not_over():
    spec = msgspec.structs.replace(started().spec, deadline_then="ask")
    release = msgspec.structs.replace(started(), spec=spec)
    decision = decide(release, Evidence(), at(release.spec.deadline_s + 1))
    waiting = apply(release, decision)
    assert (waiting.state, waiting.is_over) == (State.INCONCLUSIVE, False)
    asked = Person("ann", "resume", "more traffic comes tomorrow")
    again = apply(waiting, decide_person(waiting, Evidence(), at(40_000), asked))
    assert again.state is State.SHADOW


def test_a_first_release_is_not_rolled_back_because_few_customers_come_often():
    release = started(champion=None, warmup_s=0.0)
    epoch = release.epoch.number
    often = Cell(
        epoch=epoch, segment="", arm="challenger", requests=4500, successes=4496,
        units=20, bad_units=4, bad_units_seen=4,
    )  # fmt: skip
    (found,) = judge(release, Evidence(cells=(often,)))
    assert not found.is_bad
    assert found.challenger_rate == 4 / 4500
    broken = msgspec.structs.replace(often, requests=200, units=200, bad_units=40)
    (found,) = judge(release, Evidence(cells=(broken,)))
    assert found.is_bad
