"""Tasks of a loop: one that fails keeps no other waiting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from doorstep.core.errors import DoorstepError, InputError, RefusedError
from doorstep.kernel.turns import in_turn


def test_each_has_its_turn_and_the_first_failure_is_raised() -> None:
    done: list[int] = []
    in_turn([partial(done.append, 1)])
    tasks = [_failing(InputError("first", "a")), partial(done.append, 2)]
    with pytest.raises(InputError, match="a"):
        in_turn([*tasks, _failing(InputError("second", "b")), partial(done.append, 3)])
    assert done == [1, 2, 3]


def test_who_leads_no_longer_does_nothing_more() -> None:
    done: list[int] = []
    lost = RefusedError("not-leader", "another leads")
    with pytest.raises(RefusedError) as refused:
        in_turn([_failing(InputError("first", "a")), _failing(lost), partial(done.append, 1)])
    assert (refused.value.code, done) == ("not-leader", [])


def _failing(error: DoorstepError) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail
