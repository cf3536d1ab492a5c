"""What outcomes say besides quality: values of cases, and labels that no longer come."""

from __future__ import annotations

import numpy as np
import pytest

from doorstep.core.condition import parse_condition
from doorstep.core.instant import SECOND_US
from doorstep.monitor.decide import asked_subjects, evaluate
from doorstep.monitor.labels import DAY_US, pauses_of, say_stopped, values_of
from doorstep.monitor.types import QualityWindow, ServiceFacts, TrafficWindow
from doorstep.stats.intervals import normal_quantile

T0 = 20_000 * DAY_US
WEEK = 7 * DAY_US


def window(**changes) -> QualityWindow:
    fields = {"since": T0, "until": T0 + WEEK, "rows": 2000, "labelled": 1200, "metrics": {}}
    return QualityWindow(**(fields | changes))


def test_values_are_of_each_version_and_each_day_with_their_interval():
    value = np.array([10.0, 20.0, np.nan, 30.0, 5.0])
    at = np.array([T0, T0 + 1, T0 + 2, T0 + DAY_US, T0])
    found = values_of(np.array([2, 2, 2, 2, 1]), at, value)
    assert [(one.version, one.day, one.total, one.mean.counted) for one in found] == [
        (2, "", 60.0, 3), (2, "2024-10-04", 30.0, 2), (2, "2024-10-05", 30.0, 1),
        (1, "", 5.0, 1), (1, "2024-10-04", 5.0, 1),
    ]  # fmt: skip
    half = normal_quantile(0.95) * 10.0 / np.sqrt(3)
    assert found[0].mean.low == pytest.approx(20.0 - half)
    assert found[2].mean.low is None, "one case says nothing of the spread"
    assert values_of(np.array([1]), np.array([T0]), np.array([np.nan])) == ()


def test_a_pause_is_long_only_against_those_before():
    hour = 3600 * SECOND_US
    came = np.array([T0 + at * 6 * hour for at in range(12)])
    assert pauses_of(came, T0 + 96 * hour) == (30 * 3600.0, 6 * 3600.0)
    assert pauses_of(came[:3], T0 + WEEK) == (0.0, 0.0)
    assert pauses_of(np.empty(0, dtype=np.int64), T0) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"newest": (300, 20)}, "7% of 300 predictions of the newest day"),
        ({"newest": (300, 170)}, ""),
        ({"newest": (150, 0)}, ""),
        # Counted in buckets, there are more labels than predictions at the edge of a day.
        ({"newest": (300, 310), "labelled": 2000}, ""),
        ({"newest": (300, 20), "labelled": 1900}, "7% of 300 predictions of the newest day"),
        ({"silent_s": 30 * 3600.0, "pause_s": 6 * 3600.0}, "no outcome has come for 1.2 d"),
        ({"silent_s": 30 * 3600.0, "pause_s": 11 * 3600.0}, ""),
        ({"silent_s": 20 * 3600.0, "pause_s": 600.0}, ""),
    ],
)
def test_labels_have_stopped_where_they_came_before(changes, said):
    found = say_stopped(window(**changes))
    assert said in found and bool(found) == bool(said)


def test_labels_that_stop_are_found_and_the_finding_ends_when_they_come_again():
    traffic = TrafficWindow(since=T0, until=T0 + DAY_US, rows=0, errors=0, statuses=(), latency=())

    def facts(quality: QualityWindow, known=()) -> ServiceFacts:
        return ServiceFacts(
            service="loans", version=1, quality=quality, traffic=traffic, known=known,
            promised=(parse_condition("auc >= 0.7"),),
        )  # fmt: skip

    found = evaluate(facts(window(delay_s=86_400.0, newest=(300, 9))), T0 + WEEK)
    (one,) = [each for each in found if each.subject == "outcomes"]
    assert (one.kind, one.state) == ("data", "open")
    assert "3% of 300 predictions" in one.sentence
    again = window(delay_s=86_400.0, newest=(300, 180), until=T0 + WEEK + 1)
    ended = evaluate(facts(again, tuple(found)), T0 + WEEK + 1)
    assert [each.state for each in ended if each.subject == "outcomes"] == ["resolved"]


def test_a_service_that_declares_a_delay_awaits_outcomes_though_it_promises_nothing():
    facts = ServiceFacts(service="loans", version=1, quality=window(delay_s=60.0))
    assert ("data", "outcomes") in asked_subjects(facts)
