"""Where a release stands and when it may go on; and what is kept of how it went."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from release_cases import arms, at, evidence, in_bake, in_step, shadow, started

from doorstep.core.instant import SECOND_US
from doorstep.release.decide import decide
from doorstep.release.judge import judge
from doorstep.release.moments import MOMENTS_MAX, Moment, Reading, kept_with, moment_of
from doorstep.release.outlook import Outlook, outlook
from doorstep.release.transition import apply
from doorstep.release.types import Evidence, Release


def seen(release: Release, found: Evidence, now_s: float) -> Outlook:
    return outlook(release, found, judge(release, found), at(now_s))


def test_what_is_missing_is_said_as_a_time_at_the_present_traffic() -> None:
    release = in_step(dwell_s=(0.0,) * 4)
    found = seen(release, evidence(arms(1, (990, 0), (10, 0))), 100)
    # 486 clean units of the challenger are missing at 1 %: 48,600 of both, at 10 a second.
    assert found.next_s is not None and 4_000 < found.next_s < 6_000
    assert found.waits_s == {"errors": found.next_s}
    assert found.next == "next are 5 % in about 1.4 h at the present traffic, mostly for errors"
    assert found.headline == (
        "loans@2 answers 1 %, loans@1 the others (step 1 of 4); nothing speaks against it so far"
    )


def test_twice_the_traffic_halves_the_time_but_never_the_dwell() -> None:
    release = in_step(dwell_s=(0.0,) * 4)
    slow = seen(release, evidence(arms(1, (990, 0), (10, 0))), 200)
    quick = seen(release, evidence(arms(1, (990, 0), (10, 0))), 100)
    assert slow.next_s == 2 * (quick.next_s or 0.0)
    dwelling = in_step(dwell_s=(86_400.0,) * 4)
    assert seen(dwelling, evidence(arms(1, (990, 0), (10, 0))), 100).next_s == 86_300


def test_the_last_step_is_patient_only_so_long() -> None:
    release = in_step(steps=(0.5,), dwell_s=(20.0,), margins=(1.5,), bake_s=40.0)
    found = evidence(arms(1, (600, 0), (600, 0)))
    numbers = decide(release, found, at(30)).numbers
    said = outlook(release, found, numbers, at(30))
    # Ten times less than the ceiling would take minutes; twice the bake, 80 s, is over in 50.
    assert (said.waits_s["errors"] or 0) > 100
    assert said.next_s == 50
    assert (
        said.next
        == "next are 95 %, the bake, in about 50 s at the present traffic, mostly for errors"
    )


def test_without_traffic_nothing_is_promised() -> None:
    found = seen(in_step(dwell_s=(0.0,) * 4), evidence(), 100)
    assert found.next_s is None
    assert "cannot be said when" in found.next


def test_doubts_are_said_before_they_decide() -> None:
    release = in_step(steps=(0.5,), dwell_s=(0.0,), margins=(2.0,))
    found = seen(release, evidence(arms(1, (500, 2), (500, 10))), 60)
    assert "some evidence is against it: errors, evidence" in found.headline
    assert found.headline.endswith("and 20 to 1 takes it back")


def test_shadow_bake_and_ends_have_sentences_of_their_own() -> None:
    waiting = started(shadow_requests=1_000)
    found = seen(waiting, shadow(0, 400, 0), 40)
    assert found.headline.startswith("loans@2 is asked in the shadow")
    assert found.next.startswith("next are 1 % in about 1.9 min")
    baking, cells = in_bake()
    found = seen(baking, evidence(cells), 30)
    assert "all but 5 %, which stay with loans@1" in found.headline
    assert found.next.startswith("it becomes the champion in about")
    ended = apply(baking, decide(baking, evidence(arms(2, (50, 0), (950, 400))), at(60)))
    found = seen(ended, evidence(), 90)
    assert found.headline == ("loans@2 was taken back after 1 min; it had got 95 % at most")
    assert (found.next, found.next_s) == ("", None)
    first = started(champion=None)
    assert "the first version" in seen(first, evidence(), 10).headline


def test_moments_are_parts_of_what_is_enough() -> None:
    release = in_step(steps=(0.5,), dwell_s=(0.0,), margins=(2.0,))
    bad = moment_of(at(1), judge(release, evidence(arms(1, (500, 0), (500, 60)))))
    assert bad.readings[0].worse > 1.0
    good = moment_of(at(1), judge(release, evidence(arms(1, (2000, 0), (2000, 0)))))
    assert good.readings[0].better is not None and good.readings[0].better >= 1.0
    assert msgspec.json.decode(msgspec.json.encode((good,)), type=tuple[Moment, ...]) == (good,)


def test_however_long_a_release_lasts_what_is_kept_is_bounded_and_spans_all_of_it() -> None:
    kept: tuple[Moment, ...] = ()
    for second in range(0, 400_000, 5):
        new = Moment(second * SECOND_US, (Reading("errors", 0.0, None),))
        kept = kept_with(kept, new) or kept
        assert len(kept) <= MOMENTS_MAX
    assert len(kept) > MOMENTS_MAX // 4
    assert kept[0].at == 0 and kept[-1].at > 390_000 * SECOND_US
    gaps = [b.at - a.at for a, b in pairwise(kept)]
    assert max(gaps) < 400_000 * SECOND_US / 20
