"""What an edit of the service file changes, when, and whether it loosens a gate or guardrail."""

from __future__ import annotations

import pytest

from doorstep.core.servicefile import parse_service_file
from doorstep.register.decide import changes

BASE = """service: loans
model: {label: risk, positive: bad}
data: {holdout: test.csv}
"""


def keys(before: str, after: str) -> dict[str, bool]:
    """key -> whether it loosens."""
    old, new = (parse_service_file(BASE + text) for text in (before, after))
    return {one.key: one.loosens for one in changes(old, new)}


def test_an_edit_is_told_key_by_key_as_the_file_says_it():
    old = parse_service_file(BASE + "serve: {timeout: 200 ms}")
    new = parse_service_file(BASE + "serve: {timeout: 2s, fallback: [champion, {answer: bad}]}")
    found = [(one.key, one.now, one.after, one.takes_effect) for one in changes(old, new)]
    assert found == [
        ("serve.timeout", "200 ms", "2s", "at once"),
        ("serve.fallback", "[champion]", "[champion, {answer: bad}]", "at once"),
    ]


def test_nothing_changes_by_comments_layout_or_defaults_that_are_written():
    assert keys("", "\n# more\nserve: {record: full}\n") == {}


def test_a_first_revision_changes_what_it_writes():
    found = changes(None, parse_service_file(BASE))
    assert {one.key for one in found} >= {"service", "model.label", "data.holdout.path"}
    assert not [one for one in found if one.now or one.loosens]
    assert "release.steps" not in {one.key for one in found}


@pytest.mark.parametrize(
    ("part", "key", "effect"),
    [
        ("contract: {enforce: reject}", "contract.enforce", "at the next register"),
        ('gates: {quality: ["auc >= 0.8"]}', "gates.quality", "when gates run next"),
        ("release: {bake: 1m}", "release.bake", "with the next release"),
        ('monitor: {quality: ["auc >= 0.7"]}', "monitor.quality", "at once"),
        ("serve: {cache: 60s}", "serve.cache", "once no release runs"),
        ("serve: {timeout: 2s}", "serve.timeout", "at once"),
    ],
)
def test_each_part_takes_effect_when_it_is_next_asked_for(part, key, effect):
    old, new = parse_service_file(BASE), parse_service_file(BASE + part)
    (found,) = changes(old, new)
    assert (found.key, found.takes_effect) == (key, effect)


def quality(*conditions: str) -> str:
    return "gates: {quality: [" + ", ".join(f'"{one}"' for one in conditions) + "]}"


@pytest.mark.parametrize(
    ("before", "after", "loosens"),
    [
        (quality("auc >= 0.8"), quality("auc >= 0.75"), True),
        (quality("auc >= 0.8"), quality("auc >= 0.85"), False),
        (quality("auc >= 0.8"), quality("auc >= 0.8", "f1 >= 0.5"), False),
        (quality("auc >= 0.8", "f1 >= 0.5"), quality("auc >= 0.8"), True),
        (quality("auc >= champion - 0.005"), quality("auc >= champion - 0.01"), True),
        (quality("auc >= champion - 0.005"), quality("auc >= champion"), False),
        (quality("brier <= 0.2"), quality("brier <= 0.3"), True),
        (quality("brier <= 0.2"), quality("brier <= 0.1"), False),
        (quality("auc >= 0.8"), quality("auc >= champion"), True),
    ],
)
def test_a_gate_is_loosened_when_something_passes_that_did_not(before, after, loosens):
    assert keys(before, after) == {"gates.quality": loosens}


def guardrail(words: str) -> str:
    return f"release: {{guardrails: [{{name: errors, {words}}}]}}"


@pytest.mark.parametrize(
    ("before", "after", "loosens"),
    [
        ("tolerance: 1.1", "tolerance: 1.5", True),
        ("tolerance: 1.5", "tolerance: 1.1", False),
        ("ceiling: 1%", "ceiling: 5%", True),
        ("margins: [3, 2]", "margins: [4, 2]", True),
        ("margins: [4, 2]", "margins: [3, 2]", False),
    ],
)
def test_a_guardrail_is_loosened_when_it_tolerates_more(before, after, loosens):
    assert set(keys(guardrail(before), guardrail(after)).values()) == {loosens}


def test_a_guardrail_that_is_taken_away_and_a_slice_that_is_no_longer_asked_loosen():
    both = "release: {guardrails: [errors, latency]}"
    assert True in keys(both, "release: {guardrails: [errors]}").values()
    slices = 'gates: {slices: [{check: "recall >= 0.5", by: [region]}]}'
    assert set(keys(slices, "").values()) == {True}
    tighter = slices.replace("0.5", "0.6")
    assert set(keys(slices, tighter).values()) == {False}
