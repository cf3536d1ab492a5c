"""Which outcomes a service can have."""

from __future__ import annotations

import pytest

from doorstep.core.instant import SECOND_US
from doorstep.core.outcome import LABELS_SAID_MAX, OutcomeGiven, outcome_fault, sort_out

LABELS = {("bad", "good")}
NUMBER = {()}


@pytest.mark.parametrize(
    ("label", "value", "known", "said"),
    [
        ("bad", None, LABELS, ""),
        ("Bad", None, LABELS, "label 'Bad'"),
        ("unknown", None, LABELS, "expected \"label\" with one that loans knows: 'bad', 'good'"),
        (None, 1.0, LABELS, "found value 1;"),
        (None, 1.5, NUMBER, ""),
        ("1.5", None, NUMBER, 'loans predicts a number; expected "value"'),
        # One version has a label more than the other: both may have meant it.
        ("late", None, {("bad", "good"), ("bad", "good", "late")}, ""),
        # Nothing was registered, so nothing is known to be wrong.
        ("anything", None, set(), ""),
        (None, 7.0, set(), ""),
    ],
)
def test_an_outcome_is_one_that_a_version_of_the_service_could_have_predicted(
    label, value, known, said
):
    found = outcome_fault(label, value, "loans", known)
    assert said in found
    assert bool(found) is bool(said)


def test_many_and_long_labels_are_cut_short():
    labels = tuple(f"{number:04d}" + "x" * 200 for number in range(500))
    found = outcome_fault("y" * 900, None, "loans", {labels})
    assert f"and {500 - LABELS_SAID_MAX} more" in found
    assert len(found) < 1500


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            OutcomeGiven(key="a", value=1.0, at=2 * 86_400 * SECOND_US),
            "1970-01-03T00:00:00Z, in the f",
        ),
        (OutcomeGiven(key="a\0b", value=1.0), "the character NUL"),
        (OutcomeGiven(key="a", label="\0"), "the character NUL"),
        (OutcomeGiven(key=2**63, value=1.0), "larger than 64 bits"),
        (OutcomeGiven(key="a", value=1.0, at=10**5000), "larger than 64 bits"),
    ],
)
def test_what_no_request_may_say_is_refused_and_takes_nothing_along(given, said):
    good = OutcomeGiven(key=2**63 - 1, value=1.0)
    records, refused = sort_out("loans", [good, given, good], set(), 1)
    assert [one.key for one in records] == [str(2**63 - 1)] * 2
    assert [one.index for one in refused] == [1]
    assert said in refused[0].reason
