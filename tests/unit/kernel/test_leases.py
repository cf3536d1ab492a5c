from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorstep.kernel.leases import LEASE_S, Lease, Sighting, is_free, see

HELD = Lease("leader", 3, 5, "a")
looks = st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=30)


def test_a_lease_is_free_only_once_it_stood_still_for_its_length():
    sighting = Sighting(HELD, 100.0)
    assert not is_free(sighting, 100.0 + LEASE_S - 0.001)
    assert is_free(sighting, 100.0 + LEASE_S)


def test_a_lease_that_nobody_holds_is_free_at_once():
    assert is_free(Sighting(None, 0.0), 0.0)
    assert is_free(Sighting(Lease("leader", 3, 5, ""), 0.0), 0.0)


def test_a_change_of_the_row_starts_the_wait_anew():
    first = see(None, HELD, 100.0)
    assert see(first, HELD, 105.0) is first
    beat = Lease("leader", 3, 6, "a")
    assert see(first, beat, 106.0) == Sighting(beat, 106.0)


@given(looks)
def test_a_lease_that_is_renewed_in_time_is_never_free(steps: list[tuple[float, bool]]):
    now_s, unrenewed_s, lease = 0.0, 0.0, HELD
    sighting = see(None, lease, now_s)
    for wait_s, renews in steps:
        now_s += wait_s
        unrenewed_s += wait_s
        if renews:
            lease, unrenewed_s = Lease("leader", 3, lease.beat + 1, "a"), 0.0
        sighting = see(sighting, lease, now_s)
        assert not (is_free(sighting, now_s) and unrenewed_s < LEASE_S - 1e-6)
