"""The rules of a release, each at both sides of its boundary."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release_cases import (
    QUICK,
    arms,
    at,
    evidence,
    in_bake,
    in_step,
    shadow,
    started,
)

from doorstep.core.errors import InputError, RefusedError
from doorstep.release.decide import decide, decide_person, is_made_again, recompute
from doorstep.release.transition import apply, begin
from doorstep.release.types import (
    METHOD,
    Advance,
    Decision,
    Evidence,
    Finish,
    Guardrail,
    Hold,
    Inconclusive,
    Pause,
    Person,
    Release,
    ReleaseSpec,
    Resume,
    Rollback,
    State,
)

CLEAN = evidence(arms(1, (60_000, 0), (600, 0)))
counts = st.integers(0, 400)


def test_shadow_goes_to_the_first_step_on_requests_and_evidence():
    release = started()
    decision = decide(release, shadow(0, 1200, 0), at(60))
    assert decision.outcome == Advance(State.STEP, 0, 0.01)
    assert isinstance(decide(release, shadow(0, 999, 0), at(60)).outcome, Hold)
    assert isinstance(decide(release, shadow(30, 1200, 30), at(60)).outcome, Hold)


def test_shadow_with_many_errors_of_the_challenger_only_rolls_back():
    decision = decide(started(), shadow(20, 300, 0), at(60))
    assert decision.outcome == Rollback("guardrail")
    assert decision.reason.startswith("errors 6.2 % against 0.0 % (evidence ")


def test_a_decision_is_made_again_whatever_its_words_but_not_with_other_numbers():
    decision = decide(started(), shadow(20, 300, 0), at(60))
    (first, *rest) = decision.numbers
    assert is_made_again(decision)
    assert is_made_again(msgspec.structs.replace(decision, reason="said otherwise"))
    for changed, is_same in ((1e-12, True), (0.5, False)):
        moved = msgspec.structs.replace(first, log_e_rollback=first.log_e_rollback + changed)
        stored = msgspec.structs.replace(decision, numbers=(moved, *rest))
        assert is_made_again(stored) is is_same
    assert not is_made_again(msgspec.structs.replace(decision, outcome=Hold()))
    assert not is_made_again(msgspec.structs.replace(decision, numbers=()))


LAST = {"steps": (0.5,), "dwell_s": (600.0,), "margins": (1.5,)}


def test_the_last_step_waits_for_the_ratio_before_it_is_content_with_the_ceiling():
    """Five errors in 5,000 of either arm are far under 1 %, and no proof that it is no worse."""
    release, seen = in_step(**LAST), evidence(arms(1, (5000, 5), (5000, 5)))
    hasty = decide(release, seen, at(600))
    assert isinstance(hasty.outcome, Hold)
    assert hasty.reason.endswith("needed, or a rate under the ceiling in 1.8 h"), hasty.reason
    assert isinstance(decide(release, seen, at(7199)).outcome, Hold)
    patient = decide(release, seen, at(7200))
    assert patient.outcome == Advance(State.BAKE, 0, 0.95)
    for decision in (hasty, patient):
        assert recompute(decision) == decision
    earlier = in_step(**LAST, method=2)
    assert decide(earlier, seen, at(600)).outcome == Advance(State.BAKE, 0, 0.95)


def test_the_last_step_is_never_patient_beyond_half_of_what_the_deadline_leaves():
    release = in_step(**LAST, deadline_s=2000.0)
    seen = evidence(arms(1, (5000, 5), (5000, 5)))
    assert isinstance(decide(release, seen, at(999)).outcome, Hold)
    assert isinstance(decide(release, seen, at(1000)).outcome, Advance)


def test_who_has_no_error_in_many_units_need_not_be_waited_for():
    release = in_step(**LAST)
    assert isinstance(
        decide(release, evidence(arms(1, (4900, 0), (4900, 0))), at(600)).outcome, Hold
    )
    clean = evidence(arms(1, (5000, 0), (5000, 0)))
    assert isinstance(decide(release, clean, at(600)).outcome, Advance)


def test_a_unit_that_comes_again_in_shadow_is_one_for_rolling_back():
    seen = evidence(list(shadow(0, 400, 0).cells))
    often = msgspec.structs.replace(seen.cells[0], plus=60, bad_units=3, units=2)
    again = [decide(started(method=method), evidence([often]), at(60)).outcome for method in (3, 4)]
    assert again == [Rollback("guardrail"), Hold()]


def test_an_earlier_method_bets_more_in_shadow():
    found = [
        decide(started(method=method), shadow(20, 300, 0), at(60)).numbers[0].log_e_rollback
        for method in (1, 2, 3)
    ]
    assert found[0] == found[1] > found[2]


STORED = Path(__file__).resolve().parents[2] / "golden" / "releases" / "method-3.jsonl"


@pytest.mark.parametrize("line", STORED.read_bytes().splitlines())
def test_what_a_doorstep_with_method_3_decided_and_stored_is_made_again(line: bytes):
    """Drawn releases with and without waves, outcomes and revenue, as that Doorstep wrote them."""
    stored = msgspec.json.decode(line, type=Decision)
    assert stored.release.spec.method == 3
    assert is_made_again(stored)


def test_a_step_needs_its_dwell_time_and_its_evidence():
    release = in_step()
    assert isinstance(decide(release, CLEAN, at(299.9)).outcome, Hold)
    assert decide(release, CLEAN, at(300)).outcome == Advance(State.STEP, 1, 0.05)
    few = evidence(arms(1, (49_500, 0), (495, 0)))
    assert isinstance(decide(release, few, at(300)).outcome, Hold)
    enough = evidence(arms(1, (49_600, 0), (496, 0)))
    assert isinstance(decide(release, enough, at(300)).outcome, Advance)


def test_evidence_of_earlier_steps_does_not_carry_a_step_without_traffic():
    second = apply(in_step(), decide(in_step(), CLEAN, at(300)))
    assert isinstance(decide(second, CLEAN, at(3000)).outcome, Hold)
    own = evidence(list(CLEAN.cells), arms(2, (380, 0), (19, 0)))
    assert "fewer than 20 requests" in decide(second, own, at(3000)).reason
    own = evidence(list(CLEAN.cells), arms(2, (380, 0), (20, 0)))
    assert isinstance(decide(second, own, at(3000)).outcome, Advance)


def test_the_last_step_goes_to_bake_with_a_hold_back_and_bake_to_done():
    baking, cells = in_bake(bake_s=60.0)
    assert baking.share == 0.95
    more = evidence(cells, arms(2, (50, 0), (950, 0)))
    assert isinstance(decide(baking, more, at(60.9)).outcome, Hold)
    done = apply(baking, decide(baking, more, at(61)))
    assert (done.state, done.share, done.version_serving) == (State.DONE, 1.0, 2)


def test_bake_without_requests_never_finishes():
    baking, cells = in_bake(bake_s=60.0)
    assert isinstance(decide(baking, evidence(cells), at(10**6)).outcome, Hold)


def test_errors_of_the_challenger_roll_back_with_a_sentence():
    found = decide(in_step(), evidence(arms(1, (30_000, 9), (300, 12))), at(20))
    assert found.outcome == Rollback("guardrail")
    assert found.reason.startswith("errors 4 % against 0.03 % (evidence ")
    after = apply(in_step(), found)
    assert (after.state, after.share, after.version_serving) == (State.ROLLED_BACK, 0.0, 1)


def test_errors_of_both_arms_alike_hold():
    assert isinstance(
        decide(in_step(), evidence(arms(1, (9900, 99), (100, 1))), at(9)).outcome, Hold
    )


def test_rollback_beats_advance_and_the_deadline():
    cells = evidence(arms(1, (594_000, 0), (6000, 30)))
    found = decide(in_step(), cells, at(10**7))
    assert all(one.is_good for one in found.numbers)
    assert found.outcome == Rollback("guardrail")


def test_a_wrong_split_pauses_before_anything_else_and_for_good():
    cells = evidence(arms(1, (3000, 0), (600, 80)))
    release = in_step()
    found = decide(release, cells, at(10))
    assert found.outcome == Pause("split")
    paused = apply(release, found)
    assert (paused.state, paused.share) == (State.PAUSED, 0.0)
    assert isinstance(decide(paused, CLEAN, at(10**7)).outcome, Hold)
    for action in ("resume", "promote"):
        with pytest.raises(RefusedError, match="not split as planned"):
            decide_person(paused, CLEAN, at(20), Person("ana", action, "sure"))
    back = decide_person(paused, CLEAN, at(20), Person("ana", "rollback", "router was wrong"))
    assert apply(paused, back).state is State.ROLLED_BACK


def test_hard_kill_needs_twenty_requests_without_one_success():
    release = in_step(steps=(0.5,), dwell_s=(0.0,), margins=(2.0,), alpha=1e-9)
    dead = [msgspec.structs.replace(c, successes=0) for c in arms(1, (20, 0), (20, 0))]
    assert decide(release, evidence(dead), at(1)).outcome == Rollback("hard")
    almost = [msgspec.structs.replace(c, requests=19) for c in dead]
    assert isinstance(decide(release, evidence(almost), at(1)).outcome, Hold)
    one = [msgspec.structs.replace(c, successes=1) for c in dead]
    assert not isinstance(decide(release, evidence(one), at(1)).outcome, Rollback)


def test_hard_kill_works_during_warm_up():
    release = started(shadow_requests=0, warmup_s=60.0)
    assert not release.epoch.measured
    dead = [msgspec.structs.replace(c, successes=0) for c in arms(1, (20, 0), (20, 0))]
    assert decide(release, evidence(dead), at(1)).outcome == Rollback("hard")


def test_a_crash_loop_rolls_back_even_in_shadow():
    found = decide(started(), Evidence(crash_loops=("node-a",)), at(1))
    assert found.outcome == Rollback("hard")
    assert found.reason == "the challenger cannot stay up on node-a"


def test_warm_up_is_not_evidence():
    release = started(shadow_requests=0, warmup_s=60.0)
    bad = evidence(arms(1, (30_000, 10), (300, 30)))
    assert isinstance(decide(release, bad, at(59)).outcome, Hold)
    assert decide(release, bad, at(59)).outcome == Hold(None)
    warm = decide(release, bad, at(60))
    assert warm.outcome == Hold("warm")
    after = apply(release, warm)
    assert after.epoch.measured and after.share == 0.01
    assert not isinstance(decide(after, bad, at(61)).outcome, Rollback)


@pytest.mark.parametrize(("then", "share"), [("rollback", 0.0), ("hold", 0.01), ("ask", 0.01)])
def test_the_deadline_is_inconclusive_and_does_what_was_declared(then, share):
    release = in_step(deadline_then=then)
    few = evidence(arms(1, (990, 9), (10, 0)))
    assert isinstance(decide(release, few, at(35_999)).outcome, Hold)
    found = decide(release, few, at(36_000))
    assert found.outcome == Inconclusive(then)
    assert found.reason.startswith(
        "no answer within 10 h: errors 0.0 % against 0.91 %, ratio at most"
    )
    after = apply(release, found)
    assert (after.state, after.share) == (State.INCONCLUSIVE, share)
    assert after.is_over is (then == "rollback")
    assert not isinstance(decide(after, CLEAN, at(10**6)).outcome, Advance)


def test_an_inconclusive_release_that_holds_is_still_watched_and_a_person_may_go_on():
    release = in_step(deadline_then="ask")
    held = apply(release, decide(release, evidence(), at(36_000)))
    bad = evidence(arms(1, (30_000, 0), (300, 30)))
    assert decide(held, bad, at(36_100)).outcome == Rollback("guardrail")
    again = apply(held, decide_person(held, CLEAN, at(40_000), Person("ana", "resume", "wait")))
    assert (again.state, again.deadline_at) == (State.STEP, at(76_000))
    assert isinstance(decide(again, CLEAN, at(40_001)).outcome, Advance)


def test_a_pause_stops_both_clocks_but_not_the_guardrails():
    release = in_step()
    paused = apply(release, decide_person(release, CLEAN, at(100), Person("ana", "pause", "look")))
    assert (paused.state, paused.share) == (State.PAUSED, 0.01)
    assert isinstance(decide(paused, CLEAN, at(10**6)).outcome, Hold)
    bad = evidence(arms(1, (30_000, 0), (300, 30)))
    assert decide(paused, bad, at(101)).outcome == Rollback("guardrail")
    resumed = decide_person(paused, CLEAN, at(1100), Person("ana", "resume", "seen"))
    assert resumed.outcome == Resume()
    going = apply(paused, resumed)
    assert (going.state, going.deadline_at) == (State.STEP, at(37_000))
    assert isinstance(decide(going, CLEAN, at(1299)).outcome, Hold)
    assert isinstance(decide(going, CLEAN, at(1300)).outcome, Advance)


def test_first_release_bakes_at_full_share_under_the_ceiling():
    release = started(champion=None, bake_s=60.0, warmup_s=0.0)
    assert (release.state, release.share, release.version_serving) == (State.BAKE, 1.0, None)
    assert isinstance(decide(release, evidence(), at(10**6)).outcome, Hold)
    fine = evidence(arms(1, (0, 0), (500, 2)))
    assert decide(release, fine, at(60)).outcome == Finish("evidence")
    bad = decide(release, evidence(arms(1, (0, 0), (500, 30))), at(10))
    assert bad.outcome == Rollback("guardrail")
    assert bad.reason.startswith("errors 6 % (evidence ")
    assert apply(release, bad).version_serving is None


def test_people_may_roll_back_and_promote_with_a_reason_only():
    release = in_step()
    with pytest.raises(RefusedError, match="needs a reason"):
        decide_person(release, CLEAN, at(1), Person("ana", "rollback", " "))
    promoted = decide_person(release, evidence(), at(1), Person("ana", "promote", "hot fix"))
    assert promoted.outcome == Finish("person")
    done = apply(release, promoted)
    assert done.version_serving == 2 and done.history[-1].by == "ana"
    with pytest.raises(RefusedError, match="is over"):
        decide_person(done, CLEAN, at(2), Person("ana", "rollback", "no"))


def test_a_person_cannot_promote_over_a_crossed_guardrail():
    bad = evidence(arms(1, (30_000, 0), (300, 30)))
    with pytest.raises(RefusedError, match="errors 10 % against 0"):
        decide_person(in_step(), bad, at(1), Person("ana", "promote", "trust me"))


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_pause_and_resume_only_where_they_mean_something(action):
    release = in_step()
    if action == "pause":
        release = apply(release, decide_person(release, CLEAN, at(1), Person("a", "pause", "b")))
    with pytest.raises(RefusedError):
        decide_person(release, CLEAN, at(2), Person("a", action, "b"))


def test_a_new_epoch_each_hour_and_before_a_set_is_full():
    release = in_step()
    assert decide(release, evidence(), at(3600)).outcome == Hold("hour")
    assert decide(release, evidence(), at(3599)).outcome == Hold(None)
    assert decide(release, evidence(fullest=0.75), at(10)).outcome == Hold("full")
    assert decide(release, evidence(fullest=0.74), at(10)).outcome == Hold(None)
    turned = apply(release, decide(release, evidence(), at(3600)))
    assert (turned.epoch.number, turned.share, turned.entered_at) == (2, 0.01, at(0))


def test_a_segment_alone_can_roll_back():
    release = in_step(segments=("north", "south"), steps=(0.5,), dwell_s=(0.0,), margins=(2.0,))
    found = decide(
        release,
        evidence(arms(1, (9000, 90), (9000, 70), "north"), arms(1, (900, 2), (900, 30), "south")),
        at(1),
    )
    assert found.outcome == Rollback("guardrail")
    assert 'errors in segment "south" 3.3 % against 0.22 %' in found.reason


def test_a_decision_on_an_older_state_is_refused():
    release = in_step()
    decision = decide(release, CLEAN, at(300))
    moved = apply(release, decision)
    with pytest.raises(RefusedError, match="changed since"):
        apply(moved, decision)


def test_the_same_version_cannot_be_released_over_itself():
    with pytest.raises(RefusedError, match="is the champion already"):
        started(champion=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": ()},
        {"steps": (0.5, 0.1)},
        {"steps": (0.0, 0.1)},
        {"steps": (0.1, 1.5)},
        {"dwell_s": (1.0,)},
        {"margins": (1.0, 1.0, 1.0, 1.0)},
        {"alpha": 0.0},
        {"alpha_p": 0.6},
        {"holdback": 0.0},
        {"deadline_s": 0.0},
        {"warmup_s": float("nan")},
        {"shadow_requests": -1},
        {"guardrails": ()},
        {"guardrails": (Guardrail(weight=0.5),)},
        {"segments": ()},
        {"segments": ("a", "a")},
        {"segments": ("a", "b"), "wave_steps": (4,)},
        {"segments": ("a", "b"), "wave_steps": (4, 0)},
        {"segments": ("a",), "wave_steps": (4,)},
        {"segments": ("a", "b"), "wave_steps": (2, 2), "steps": (0.1, 0.5, 0.5, 0.1)},
    ],
)
def test_a_release_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="bad-release"):
        ReleaseSpec(**wrong)


def test_a_release_of_a_newer_doorstep_is_refused_as_that():
    with pytest.raises(InputError, match="newer-release"):
        ReleaseSpec(method=METHOD + 1)


def test_a_step_of_everything_leaves_the_hold_back():
    assert in_step(steps=(1.0,), dwell_s=(0.0,), margins=(2.0,)).share == 0.95


def test_documents_travel_as_json():
    decision = decide(in_step(), evidence(arms(1, (30_000, 9), (300, 12))), at(20))
    again = msgspec.json.decode(msgspec.json.encode(decision), type=Decision)
    assert again == decision == recompute(again)
    release = apply(in_step(), decision)
    assert msgspec.json.decode(msgspec.json.encode(release), type=Release) == release


cells_of_epoch = st.builds(
    lambda a, b, bad_a, bad_b: arms(1, (a + bad_a, bad_a), (b + bad_b, bad_b)),
    st.integers(0, 50_000),
    st.integers(0, 2_000),
    counts,
    counts,
)


@settings(max_examples=60, deadline=None)
@given(cells_of_epoch, st.integers(0, 40_000), st.sampled_from(["step", "shadow", "first"]))
def test_every_decision_can_be_computed_again_and_applied(cells, seconds, kind):
    release = {"step": in_step(), "shadow": started(), "first": started(champion=None, **QUICK)}[
        kind
    ]
    decision = decide(release, evidence(cells), at(seconds))
    assert recompute(decision) == decision
    after = apply(release, decision)
    stopped = isinstance(decision.outcome, Rollback | Pause | Inconclusive)
    assert after.share >= release.share or stopped


@settings(max_examples=60, deadline=None)
@given(cells_of_epoch, st.integers(0, 40_000))
def test_inconclusive_evidence_never_advances(cells, seconds):
    decision = decide(in_step(), evidence(cells), at(seconds))
    if not all(one.is_good for one in decision.numbers):
        assert not isinstance(decision.outcome, Advance | Finish)
    if any(one.is_bad for one in decision.numbers):
        assert isinstance(decision.outcome, Rollback | Pause)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**7), st.sampled_from([1, None]), st.booleans(), st.integers(0, 5))
def test_no_evidence_never_advances(seconds, champion, has_shadow, turns):
    release = started(
        champion=champion, shadow_requests=1000 if has_shadow else 0, deadline_then="hold"
    )
    for turn in range(turns + 1):
        decision = decide(release, Evidence(), at(seconds + turn))
        assert not isinstance(decision.outcome, Advance | Finish)
        release = apply(release, decision)
    assert release.version_serving == champion


def test_same_evidence_worse_for_the_challenger_is_never_better_for_it():
    rank = {Rollback: 0, Hold: 1, Advance: 2}
    found = [
        rank[type(decide(in_step(), evidence(arms(1, (99_000, 60), (1000, bad))), at(300)).outcome)]
        for bad in range(40)
    ]
    assert found == sorted(found, reverse=True) and set(found) == {0, 1, 2}


def test_begin_in_each_way():
    assert started().state is State.SHADOW
    assert in_step().state is State.STEP
    assert begin.__doc__
