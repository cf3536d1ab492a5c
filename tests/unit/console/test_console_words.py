"""Values are said as a person would say them, and what is not known is never a number."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from doorstep.console import words
from doorstep.console.measures import say_undecided
from doorstep.core.instant import SECOND_US, parse_instant
from doorstep.release.surface import Release, ShowRelease
from fakes.console import FakeDoorstep
from fakes.console_releases import RELEASE_STEP

NOW = parse_instant("2026-11-22T14:02:03Z")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (119, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (9 * 3600 + 1800, "9 h 30 min"),
        (10 * 3600 + 1800, "10 h"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (20 * 86_400 + 3600, "20 d"),
        (-120, "2 min"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert words.span(seconds) == text


def test_the_past_the_future_and_never_are_told_apart() -> None:
    assert words.ago(NOW - 120 * SECOND_US, NOW) == "2 min ago"
    assert words.ago(NOW + 120 * SECOND_US, NOW) == "in 2 min"
    assert words.ago(NOW, NOW) == "just now"
    assert words.ago(0, NOW) == words.ago(None, NOW) == "never"


def test_the_exact_time_is_utc_and_says_so() -> None:
    assert words.exact(NOW) == "2026-11-22 14:02:03 UTC"
    assert words.iso(NOW) == "2026-11-22T14:02:03Z"


def test_an_instant_outside_of_the_calendar_is_shown_as_it_is() -> None:
    assert words.exact(10**20) == str(10**20)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.00005, "under 0.01 %"),
        (0.0001, "0.01 %"),
        (0.0044, "0.44 %"),
        (0.05, "5 %"),
        (0.125, "12.5 %"),
        (1.0, "100 %"),
        (None, "no data"),
        (math.nan, "no data"),
    ],
)
def test_a_share_is_said_in_percent(share: float | None, text: str) -> None:
    assert words.rate(share) == text


@pytest.mark.parametrize(
    ("log_e", "text"),
    [
        (-3.0, "none yet"),
        (0.0, "none yet"),
        (math.log(1.2), "1.2 to 1"),
        (math.log(20), "20 to 1"),
        (math.log(2900), "2,900 to 1"),
        (50.0, "over 1,000,000 to 1"),
        (math.inf, "certain"),
        (math.nan, "none yet"),
    ],
)
def test_evidence_is_said_as_odds(log_e: float, text: str) -> None:
    assert words.odds(log_e) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.781, "0.781"), (1240.4, "1,240"), (0, "0"), (18.42, "18.4"), (1e-9, "1.00e-09")],
)
def test_a_number_has_three_digits(number: float, text: str) -> None:
    assert words.number(number) == text


def test_a_number_that_a_person_wrote_stays_as_it_was_written() -> None:
    assert words.plain(50.0) == "50"
    assert words.plain(0.75) == "0.75"


def test_decimals_fit_the_largest_of_a_column() -> None:
    assert words.decimals([0.184, -0.004]) == 3
    assert words.decimals([12.0]) == 1
    assert words.decimals([1e-30]) == 8
    assert words.decimals([]) == words.decimals([math.nan, 0.0]) == 0


def test_the_end_of_a_uuid_is_kept_since_neighbours_share_its_start() -> None:
    first = words.short("0197cafe-0003-7abc-8def-4e07408562be.0")
    second = words.short("0197cafe-0003-7abc-8def-4e07408562bf.0")
    assert first != second
    assert words.short("loans-1") == "loans-1"
    assert words.short("a" * 64) == "a" * 12


def test_values_of_a_row_are_shown_as_sent() -> None:
    assert words.value(None) == "missing"
    assert words.value(True) == "true"
    assert words.value(10**30) == "1e+30"
    assert words.value(math.nan) == "no data"
    assert words.value({"a": [1]}) == '{"a": [1]}'


@given(st.text())
def test_no_text_from_outside_makes_a_page_large(text: str) -> None:
    assert len(words.clip(text * 50)) <= words.TEXT_MAX + 40
    assert len(words.as_json({"text": text * 500})) <= words.JSON_MAX + 40


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_is_said_without_failing(number: float) -> None:
    said: list[Any] = [
        words.number(number),
        words.rate(number),
        words.odds(number),
        words.ratio(number),
        words.value(number),
        words.fixed(number, 2),
        words.plain(number),
        words.count(number),
    ]
    assert all(isinstance(one, str) and "nan" not in one and "inf" not in one for one in said)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (
            "Pipeline(steps=[('c', ColumnTransformer(transformers=[('o', OneHotEncoder(), ['a']), "
            "('s', StandardScaler(), ['b'])])), ('l', LogisticRegression(max_iter=1000))])",
            "LogisticRegression",
        ),
        (
            "Pipeline(steps=[('s', StandardScaler()), ('v', VotingClassifier(estimators="
            "[('a', Ridge()), ('b', Lasso())]))])",
            "VotingClassifier",
        ),
        ("RandomForestClassifier(n_estimators=30)", "RandomForestClassifier"),
        ("credit.serve:predict", "credit.serve:predict"),
        ("", ""),
    ],
)
def test_a_model_is_named_by_what_answers(estimator: str, expected: str) -> None:
    assert words.model(estimator) == expected


def test_who_promotes_is_told_which_guardrails_have_not_decided() -> None:
    shown = FakeDoorstep().ask("release.show", ShowRelease(release=RELEASE_STEP))
    assert isinstance(shown, Release)
    rail = shown.guardrails[0]
    need = rail.log_e_advance_threshold
    assert need

    def said(*reached: float) -> str:
        rails = [structs.replace(rail, name=f"r{at}", log_e_advance=one * need)
                 for at, one in enumerate(reached)]  # fmt: skip
        return say_undecided(structs.replace(shown, guardrails=tuple(rails)))

    assert said(1.0, 0.2, 0.9) == "2 of 3 guardrails have not decided: r1, r2."
    assert said(0.0) == "1 of 1 guardrail has not decided: r0."
    assert said(1.0, 1.5) == "Each guardrail has what it needs for this step."
    assert said() == "No guardrail compares it with another version."
