"""Small drawings are honest: they start at zero, keep inside their frame, and leave gaps."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.console import marks

FINITE = st.floats(min_value=-1e12, max_value=1e12)
ANY = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


def test_nothing_known_draws_nothing() -> None:
    spark = marks.sparkline([None, math.nan])
    assert spark.last is None
    assert spark.line == ""


def test_a_missing_number_is_a_gap_and_not_a_zero() -> None:
    spark = marks.sparkline([1.0, None, 1.0])
    assert spark.line.count("M") == 2


def test_zero_requests_lie_on_the_baseline() -> None:
    spark = marks.sparkline([0, 10])
    assert spark.line.startswith("M1.0 22.0")


@given(st.lists(ANY, max_size=80))
def test_a_sparkline_stays_inside_its_frame(values: list[float | None]) -> None:
    spark = marks.sparkline(values, 100, 24)
    places = [float(text) for text in re.findall(r"-?\d+\.?\d*", spark.line)]
    assert all(0 <= place <= 100 for place in places)


def test_a_small_share_can_still_be_seen() -> None:
    champion, challenger = marks.split([0.999, 0.001], 96)
    assert challenger.width >= 1.9
    assert champion.width + challenger.width == pytest.approx(96, abs=0.2)


def test_no_share_draws_nothing() -> None:
    assert marks.split([1.0, 0.0])[1].width == 0


@given(FINITE, FINITE, st.integers(1, 500))
def test_a_bar_is_never_longer_than_its_track(value: float, whole: float, width: int) -> None:
    assert 0 <= marks.fill(value, whole, width) <= width


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bar_of_no_number_is_empty(value: float) -> None:
    assert marks.fill(value, 1.0, 96) == 0


@given(st.lists(ANY, max_size=20))
def test_all_rulers_of_a_page_share_an_axis_around_one(numbers: list[float | None]) -> None:
    low, high = marks.ratio_domain(numbers)
    assert marks.RATIO_FLOOR <= low < 1 < high <= marks.RATIO_CEILING


def test_a_ruler_carries_both_thresholds_in_their_order() -> None:
    ruler = marks.ruler((0.5, 2.0), 1.0, (1.1, 3.0), marks.ratio_scale((0.4, 4.0)))
    assert ruler.low is not None
    assert ruler.high is not None
    assert ruler.estimate is not None
    assert ruler.low < ruler.estimate < ruler.tolerance.x < ruler.high < ruler.margin.x


def test_an_interval_that_goes_on_past_the_axis_says_so() -> None:
    ruler = marks.ruler((0.001, 900.0), None, (1.1, 3.0), marks.ratio_scale((0.4, 4.0)))
    assert (ruler.low_beyond, ruler.high_beyond) == (True, True)
    inside = marks.ruler((0.5, 2.0), None, (1.1, 3.0), marks.ratio_scale((0.4, 4.0)))
    assert (inside.low_beyond, inside.high_beyond) == (False, False)


def test_no_interval_draws_no_interval() -> None:
    ruler = marks.ruler((None, None), None, (1.1, 3.0), marks.ratio_scale((0.4, 4.0)))
    assert ruler.low is None
    assert ruler.high is None
    assert ruler.estimate is None


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_signed_bars_touch_zero_and_stay_inside(amounts: list[float]) -> None:
    zero, bars = marks.signed(amounts, 260)
    for amount, bar in zip(amounts, bars, strict=True):
        assert bar.x >= -0.2
        assert bar.x + bar.width <= 260.2
        if math.isfinite(amount):
            edge = bar.x if amount >= 0 else bar.x + bar.width
            assert edge == pytest.approx(zero, abs=0.3)


def test_shares_of_nothing_are_zero() -> None:
    assert marks.shares([]) == ()
    assert marks.shares([0, math.nan]) == (0.0, 0.0)


def test_two_windows_of_different_size_are_compared_by_share() -> None:
    same = marks.histogram([10, 30], [1000, 3000], 20, 10)
    assert same.bars[1][1] == pytest.approx(2)
    assert "L10.0 2" in same.outline


def test_an_empty_window_has_no_outline() -> None:
    assert marks.histogram([1, 2], [0, 0]).outline == ""


def test_a_metric_stands_between_the_labelled_ends_with_its_promise() -> None:
    ruler = marks.metric_ruler((0.78, 0.76, 0.80), 0.74)
    assert ruler is not None
    assert ruler.bound is not None
    assert ruler.start < ruler.bound < ruler.low < ruler.estimate < ruler.high < ruler.end
    assert 0 <= ruler.ends[0] < 0.74
    assert 0.80 < ruler.ends[1] <= 1


def test_a_metric_without_a_promise_or_without_width_is_still_drawn() -> None:
    ruler = marks.metric_ruler((1.0, 1.0, 1.0), None)
    assert ruler is not None
    assert ruler.bound is None
    assert ruler.ends == (0.95, 1.0)


def test_a_metric_that_is_not_known_is_not_drawn() -> None:
    assert marks.metric_ruler((0.7, math.nan, 0.8), 0.74) is None
