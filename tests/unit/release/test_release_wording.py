import math

import pytest

from doorstep.release import wording


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, "unknown"),
        (0.0, "0.0 %"),
        (0.041, "4.1 %"),
        (0.0004, "0.04 %"),
        (0.5, "50 %"),
        (1.0, "100 %"),
        (0.01, "1 %"),
        (0.00999, "1.00 %"),
    ],
)
def test_rates_read_as_percent(rate, text):
    assert wording.percent(rate) == text


@pytest.mark.parametrize(
    ("odds", "text"),
    [
        (2912, "evidence 2,900 to 1"),
        (19.6, "evidence 20 to 1"),
        (3.14, "evidence 3.1 to 1"),
        (0.02, "evidence 0.02 to 1"),
        (1e12, "evidence more than 1,000,000,000 to 1"),
    ],
)
def test_evidence_reads_as_odds(odds, text):
    assert wording.say_evidence(math.log(odds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "5 s"),
        (60, "1 min"),
        (600, "10 min"),
        (5400, "1.5 h"),
        (36000, "10 h"),
        (14 * 86400, "14 d"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert wording.say_time(seconds) == text
