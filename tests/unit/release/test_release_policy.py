"""A rule about who says yes is loosened only by the people whom it asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.people import may
from doorstep.operations import table
from doorstep.release.policy import InForce, Policy, Revised, in_force, looser_keys, strictest

NAMES = ("ada", "bea", "cem", "dee")
names = st.lists(st.sampled_from(NAMES), unique=True, max_size=3).map(tuple)
policies = st.builds(Policy, st.integers(0, 3), names, names)


def revisions(*policies: Policy, by: str = "ada") -> list[Revised]:
    return [Revised(number, by, one) for number, one in enumerate(policies, 1)]


def waits(agreed: Policy, revision: int, given: tuple[str, ...] = ()) -> InForce:
    return InForce(agreed, revision, "ada", given, agreed)


def test_the_first_rule_and_a_stricter_one_hold_at_once():
    assert in_force(revisions(Policy(1), Policy(2)), {}) == InForce(Policy(2))


def test_a_looser_rule_holds_once_as_many_as_the_old_one_asks_for_said_yes():
    asked = revisions(Policy(2), Policy(0))
    assert in_force(asked, {}) == waits(Policy(2), 2)
    assert in_force(asked, {2: ["bea", "ada"]}) == waits(Policy(2), 2, ("bea",))
    assert in_force(asked, {2: ["bea", "cem"]}) == InForce(Policy(0))
    assert in_force(asked, {1: ["bea", "cem"]}).policy == Policy(2)


def test_who_may_say_yes_to_a_looser_rule_are_those_whom_the_old_one_names():
    asked = revisions(Policy(1, ("bea",)), Policy(1, ("bea", "dee")))
    assert in_force(asked, {2: ["dee"]}).policy == Policy(1, ("bea",))
    assert in_force(asked, {2: ["bea"]}).policy == Policy(1, ("bea", "dee"))


def test_what_a_revision_asks_less_of_is_named_by_its_key():
    before = Policy(2, ("bea",), ("ada",))
    assert looser_keys(before, before) == frozenset()
    assert looser_keys(before, Policy(3, ("bea",), ("ada",))) == frozenset()
    assert looser_keys(before, Policy(1, ("bea", "cem"), ("ada",))) == {
        *("approve.people", "may.approve"),
    }
    assert looser_keys(before, Policy(2, ("bea",))) == {"may.promote"}
    held = in_force(revisions(Policy(2), Policy(0)), {})
    assert held.loosened_from == Policy(2), "what waits is not what the next one is compared with"


def test_names_alone_are_guarded_by_one_person():
    asked = revisions(Policy(0, (), ("ada",)), Policy())
    assert in_force(asked, {}) == waits(Policy(0, (), ("ada",)), 2)
    assert in_force(asked, {2: ["bea"]}) == InForce(Policy())


def test_applying_the_old_rule_again_takes_the_looser_one_away():
    found = in_force(revisions(Policy(2), Policy(0), Policy(2), Policy(0)), {2: ["bea", "cem"]})
    assert found == waits(Policy(2), 4)


def test_what_waits_takes_with_it_what_it_made_stricter():
    """A mistake that is undone leaves no rule that nobody can meet, nor loosen."""
    asked = revisions(Policy(2), Policy(1, ("bea",)), Policy(2))
    assert in_force(asked[:2], {}) == InForce(Policy(2, ("bea",)), 2, "ada", (), Policy(2))
    assert in_force(asked[:2], {2: ["cem", "dee"]}) == InForce(Policy(1, ("bea",)))
    assert in_force(asked, {}) == InForce(Policy(2))


@given(st.lists(policies, min_size=1, max_size=6))
def test_without_a_yes_no_rule_gets_looser_than_what_held(asked):
    found = [in_force(revisions(*asked[: end + 1]), {}) for end in range(len(asked))]
    for at, before in enumerate(found):
        for after in found[at:]:
            held = before.agreed if before.waiting else before.policy
            assert strictest(held, after.policy) == after.policy
    assert found[-1].policy.people >= asked[-1].people


@pytest.mark.parametrize("name", ["token.create", "subject.erase", "prediction.open"])
def test_no_scope_makes_a_person_the_owner(name: str):
    permission = table()[name].permission
    assert not any(may(scope, permission) for scope in ("approve", "release", ""))


def test_who_only_approves_starts_and_changes_nothing():
    writes = {name for name, one in table().items() if one.effect == "write"}
    allowed = {name for name in writes if may("approve", table()[name].permission)}
    assert allowed == {
        *("version.approve", "version.withdraw", "service.approve"),
        *("service.rollback", "version.kill"),
    }
