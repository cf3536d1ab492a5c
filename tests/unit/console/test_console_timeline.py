"""Everything that happened to a service lies on one time axis, and gaps stay gaps."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from doorstep.console import story, timeline
from doorstep.console.measures import has_shadow, stays_of, totals_of
from doorstep.core.instant import SECOND_US
from doorstep.govern.surface import Stop
from doorstep.journal.surface import Traffic, TrafficBucket
from fakes import console_data, console_releases

NOW = 1_795_000_000 * SECOND_US
MINUTE = 60 * SECOND_US


def traffic(*rows: tuple[int, int, int, int]) -> Traffic:
    """rows: (minute, version, requests, errors) of ten minutes; twice as many are rescued."""
    return Traffic(
        service="loans",
        since=NOW - 10 * MINUTE,
        until=NOW,
        bucket_s=60,
        buckets=tuple(
            TrafficBucket(
                at=NOW - 10 * MINUTE + minute * MINUTE,
                version=version,
                requests=requests,
                errors=errors,
                assigned=requests + 2 * errors,
                failed=3 * errors,
                rescued=2 * errors,
                latency_ms_p50=1.0,
                latency_ms_p99=9.0,
            )
            for minute, version, requests, errors in rows
        ),
    )


def trace(figure: dict[str, Any], axis: str) -> dict[str, Any]:
    return next(one for one in figure["data"] if one["yaxis"] == axis)


def test_no_traffic_is_zero_requests_but_no_latency_and_no_error_rate() -> None:
    figure = timeline.figure(traffic((0, 2, 60, 3), (9, 2, 30, 0)), (), (), 2, None)
    assert trace(figure, "y2")["y"] == [60, *[0] * 8, 30]
    assert trace(figure, "y3")["y"] == [5.0, *[None] * 8, 0.0]
    # A line as long as its bucket: one minute between two silent ones is seen too.
    latency = trace(figure, "y4")
    assert latency["y"] == [9.0, 9.0, *[None] * 8, 9.0, 9.0]
    assert latency["x"][1] - latency["x"][0] == 60_000


def test_errors_are_shares_of_all_versions_together() -> None:
    figure = timeline.figure(traffic((0, 2, 90, 0), (0, 4, 10, 10)), (), (), 2, None)
    assert trace(figure, "y3")["y"][0] == 10.0


def test_failures_that_another_version_answered_are_drawn_on_top_of_the_errors() -> None:
    figure = timeline.figure(traffic((0, 2, 90, 0), (0, 4, 10, 10)), (), (), 2, None)
    errors, rescued = [one for one in figure["data"] if one["yaxis"] == "y3"]
    assert (errors["name"], errors["y"][0]) == ("errors", 10.0)
    assert (rescued["name"], rescued["y"][0]) == ("failed, another answered", 20.0)


def test_a_version_is_charged_with_what_it_failed_although_another_answered() -> None:
    champion, challenger = totals_of(traffic((0, 2, 90, 0), (1, 4, 10, 10)))
    assert (champion["failed"], champion["failure_rate"]) == (0, 0.0)
    assert (challenger["assigned"], challenger["failed"], challenger["rescued"]) == (30, 30, 20)
    assert challenger["failure_rate"] == 1.0


def test_the_champion_is_neutral_and_the_newest_other_version_has_the_accent() -> None:
    assert timeline.series_colours([2, 1, 4], 2) == {2: "$series-1", 4: "$accent", 1: "$series-2"}


def test_answers_of_nobody_and_of_a_constant_have_names() -> None:
    assert timeline.version_name("loans", 0) == "fallback answer"
    assert timeline.version_name("loans", -1) == "nobody (error)"


def test_marks_are_what_changed_and_not_that_nothing_did() -> None:
    seen = story.marks_of(console_releases.releases(NOW), (), "loans", NOW - 60 * MINUTE)
    assert [one.action for one in seen] == ["start", "advance", "pause", "resume", "advance"]
    assert list(seen) == sorted(seen, key=lambda one: one.at)


def test_marks_before_the_axis_are_left_out() -> None:
    assert story.marks_of(console_releases.releases(NOW), (), "loans", NOW) == ()


def test_a_lane_lasts_from_the_finding_to_its_end_and_inside_the_axis() -> None:
    window = (NOW - 40 * MINUTE, NOW)
    lanes = story.lanes_of(console_data.findings(NOW), window)
    by_column = {one.column: one for one in lanes}
    assert set(by_column) == {"income", "purpose", "amount"}
    assert by_column["income"].since == window[0]
    assert by_column["income"].until == NOW
    assert by_column["amount"].until == NOW - 38 * MINUTE


def test_a_shift_that_is_not_a_number_has_no_words() -> None:
    broken = tuple(
        msgspec.structs.replace(one, numbers={"shift_sd": float("nan")})
        for one in console_data.findings(NOW)
    )
    lanes = story.lanes_of(broken, (NOW - 60 * MINUTE, NOW))
    assert lanes and all(one.shift_sd is None for one in lanes)


def test_the_promise_is_drawn_only_if_there_is_one() -> None:
    with_promise = timeline.figure(traffic((0, 2, 1, 0)), (), (), 2, 50.0)
    without = timeline.figure(traffic((0, 2, 1, 0)), (), (), 2, None)
    assert any(shape.get("y0") == 50.0 for shape in with_promise["layout"]["shapes"])
    assert without["layout"]["shapes"] == []


def test_no_drift_is_said() -> None:
    figure = timeline.figure(traffic((0, 2, 1, 0)), (), (), 2, None)
    texts = [one["text"] for one in figure["layout"]["annotations"]]
    assert "drift: no column differed from its reference" in texts


def test_names_from_outside_are_no_markup_in_a_chart() -> None:
    lane = story.Lane(column="<b>x</b>", since=NOW - MINUTE, until=NOW, shift_sd=0.4)
    mark = story.Mark(at=NOW - MINUTE, action="start", text="<i>v</i>", reason="<img>")
    figure = timeline.figure(traffic((0, 2, 1, 0)), (mark,), (lane,), 2, None)
    texts = json.dumps(
        [one["text"] for one in figure["layout"]["annotations"]]
        + [trace(figure, "y5")["hovertext"], trace(figure, "y")["hovertext"]]
        + figure["layout"]["yaxis5"]["ticktext"]
    )
    assert "<" not in texts


def test_a_year_of_buckets_does_not_make_a_page_of_megabytes() -> None:
    wide = msgspec.structs.replace(traffic((0, 2, 1, 0)), since=NOW - 525_600 * MINUTE)
    figure = timeline.figure(wide, (), (), 2, None)
    assert len(trace(figure, "y2")["x"]) == 2000


def test_a_version_that_was_killed_and_revived_is_on_the_axis() -> None:
    stops = (
        Stop(version=2, since=NOW - 9 * MINUTE, until=NOW - 4 * MINUTE, by="ada", why="it leaks"),
        Stop(version=1, since=NOW - 90 * MINUTE, until=None, by="ada", why="older"),
    )
    seen = story.marks_of((), stops, "loans", NOW - 60 * MINUTE)
    assert [(one.action, one.text, one.reason) for one in seen] == [
        ("kill", "loans@2 killed", "it leaks"), ("revive", "loans@2 revived", ""),
    ]  # fmt: skip
    drawn = timeline._mark_points(seen)
    assert drawn["marker"]["symbol"] == ["x", "circle-open"]
    assert drawn["marker"]["color"] == ["$bad", "$ink"]


def test_a_release_without_a_shadow_spent_nothing_in_one():
    (shown,) = (
        one for one in console_releases.releases(NOW) if one.id == console_releases.RELEASE_STEP
    )
    without = msgspec.structs.replace(shown, split=shown.split[1:])
    assert stays_of(without, NOW) == (0.0, *stays_of(shown, NOW))
    assert has_shadow(shown) and not has_shadow(without)
