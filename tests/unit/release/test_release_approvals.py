"""Whose yes counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorstep.release.approvals import Approval, may_release

NAMES = st.sampled_from(["ada", "bea", "cem", "dee"])


def approval(by: str, basis: str) -> Approval:
    return Approval(
        service="loans", number=2, environment="production", basis=basis, by=by, at=1, why="seen"
    )


@given(
    st.lists(st.builds(approval, NAMES, st.sampled_from(["now", "before"])), max_size=8),
    st.lists(NAMES, min_size=1, max_size=2),
    NAMES,
)
def test_only_others_count_each_once_and_only_for_what_holds_now(rows, asked_by, registered_by):
    found = may_release(rows, "now", asked_by, registered_by)
    assert len(set(found)) == len(found)
    assert not {*asked_by, registered_by} & set(found)
    assert all(any((one.by, one.basis) == (name, "now") for one in rows) for name in found)
    others = {one.by for one in rows if one.basis == "now"} - {*asked_by, registered_by}
    assert set(found) == others
