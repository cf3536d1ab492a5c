"""What a node takes for a renewal of the challengers' lease: a rise that it saw itself."""

from __future__ import annotations

import math
from pathlib import Path

from doorstep.serve.feed import PlanFeed
from doorstep.testing.home import TestHome


def feed_of(home: TestHome, tmp_path: Path) -> PlanFeed:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    return PlanFeed(home.path, state)


def test_the_pointer_that_lies_there_at_the_start_renews_nothing_and_its_next_rise_does(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    home.publish()
    feed = feed_of(home, tmp_path)
    assert feed.poll() is not None
    assert feed.renewed_s == -math.inf
    home.renew()
    assert feed.poll() is None
    assert feed.renewed_s > 0


def test_the_first_plan_that_ever_comes_is_a_renewal(tmp_path: Path) -> None:
    home = TestHome(tmp_path / "home")
    feed = feed_of(home, tmp_path)
    home.publish()
    feed.poll()
    assert feed.renewed_s > 0


def test_a_home_that_comes_back_to_a_node_which_knew_it_renews_nothing(tmp_path: Path) -> None:
    home = TestHome(tmp_path / "home")
    home.publish()
    feed_of(home, tmp_path).poll()
    pointer = home.path / "plan" / "current"
    away = pointer.rename(pointer.with_name("away"))
    feed = feed_of(home, tmp_path)
    away.rename(pointer)
    feed.poll()
    assert feed.renewed_s == -math.inf
    home.renew()
    feed.poll()
    assert feed.renewed_s > 0
