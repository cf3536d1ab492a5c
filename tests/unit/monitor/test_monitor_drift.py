from __future__ import annotations

import numpy as np
import pytest
from monitor_cases import DRIFTS, HOUR, T0, facts_of, reference_of, rows_of, window_of

from doorstep.core.manifest import ColumnProfile, Profile
from doorstep.monitor.decide import evaluate
from doorstep.monitor.drift import (
    column_report,
    compared_columns,
    drift_subjects,
    observe_drift,
)
from doorstep.monitor.gather import comparable
from doorstep.monitor.types import DriftWindow
from doorstep.stats.distances import ColumnCounts

REFERENCE = reference_of(rows_of(np.random.default_rng(0), 50_000))


def test_a_personal_field_is_not_compared_because_no_live_record_has_its_value() -> None:
    rows = rows_of(np.random.default_rng(5), 2000)
    window = window_of(REFERENCE, {**rows, "income": np.full(2000, np.nan)})
    both = (REFERENCE, comparable(REFERENCE, {"income"}))
    bad = [[one.is_bad for one in observe_drift(facts_of(each, window))] for each in both]
    assert list(map(any, bad)) == [True, False]
    assert not any("income" in one for one in drift_subjects(facts_of(both[1], window)))


def test_traffic_as_in_training_raises_hardly_any_alarm() -> None:
    generator = np.random.default_rng(11)
    alarms = 0
    for rows in (500, 5000):
        for _ in range(150):
            window = window_of(REFERENCE, rows_of(generator, rows))
            alarms += any(one.is_bad for one in observe_drift(facts_of(REFERENCE, window)))
    assert alarms / 300 <= 0.0167


@pytest.mark.parametrize("name", DRIFTS)
def test_every_kind_of_drift_is_found_at_5000_rows_and_the_column_is_named(name: str) -> None:
    column, drift = DRIFTS[name]
    generator = np.random.default_rng(5)
    found = 0
    for _ in range(20):
        columns = rows_of(generator, 5000)
        drift(columns, generator)
        seen = observe_drift(facts_of(REFERENCE, window_of(REFERENCE, columns)))
        found += {one.subject for one in seen if one.is_bad} == {column}
    assert found >= 17


def drifted(name: str, rows: int = 5000):
    columns = rows_of(np.random.default_rng(3), rows)
    column, drift = DRIFTS[name]
    drift(columns, np.random.default_rng(4))
    found = evaluate(facts_of(REFERENCE, window_of(REFERENCE, columns)), T0 + HOUR)
    return next(one for one in found if one.subject == column)


@pytest.mark.parametrize(
    ("name", "says", "severity"),
    [
        ("mean by 0.1 sd", "income is higher than in training by", "info"),
        ("mean by 0.5 sd", "rate is higher than in training by", "warning"),
        ("missing from 2 to 6 %", "income", "info"),
        ("a value never seen", "purpose has values never seen in training in", "warning"),
        ("a category by 5 points", "purpose has drifted: '", "info"),
    ],
)
def test_a_finding_is_a_sentence_with_its_size(name: str, says: str, severity: str) -> None:
    found = drifted(name)
    assert found.sentence.startswith(says)
    assert "5,000 requests in 1 h" in found.sentence
    assert found.severity == severity
    assert found.alert is (severity != "info")
    assert found.cause


def test_a_column_in_another_unit_is_critical_and_called_so() -> None:
    columns = rows_of(np.random.default_rng(3), 1000)
    columns["amount"] = columns["amount"] / 100
    found = evaluate(facts_of(REFERENCE, window_of(REFERENCE, columns)), T0 + HOUR)[0]
    assert (found.subject, found.severity) == ("amount", "critical")
    assert "lower" in found.sentence
    assert "another unit" in found.cause


def test_when_most_columns_move_together_the_cause_is_the_crowd() -> None:
    columns = rows_of(np.random.default_rng(3), 5000)
    for name in ("income", "amount", "age", "rate", "tail", "tenure"):
        columns[name] = columns[name] + np.nanstd(columns[name])
    found = evaluate(facts_of(REFERENCE, window_of(REFERENCE, columns)), T0 + HOUR)
    assert len(found) >= 5
    assert all("moved together" in one.cause for one in found)


def test_a_column_that_hardly_matters_is_never_critical() -> None:
    import msgspec

    columns = rows_of(np.random.default_rng(3), 1000)
    columns["tail"] = columns["tail"] + 50
    weights = {"tail": 0.019, "income": 0.981}
    reference = msgspec.structs.replace(
        REFERENCE,
        columns=tuple(
            msgspec.structs.replace(one, importance=weights.get(one.name, 0.0))
            for one in REFERENCE.columns
        ),
    )
    found = evaluate(facts_of(reference, window_of(reference, columns)), T0 + HOUR)[0]
    assert (found.subject, found.severity) == ("tail", "warning")


@pytest.mark.parametrize(("rows", "is_judged"), [(199, False), (200, True)])
def test_too_few_rows_are_not_judged(rows: int, is_judged: bool) -> None:
    columns = rows_of(np.random.default_rng(3), rows)
    columns["income"] = columns["income"] + 4000
    found = observe_drift(facts_of(REFERENCE, window_of(REFERENCE, columns)))
    assert bool(found) is is_judged


def test_without_a_window_or_a_reference_nothing_is_said() -> None:
    assert observe_drift(facts_of(REFERENCE, None)) == []
    window = window_of(REFERENCE, rows_of(np.random.default_rng(3), 500))
    assert column_report(facts_of(None, window)) == []  # type: ignore[arg-type]


def test_of_two_complementary_scores_one_is_looked_at() -> None:
    score = ColumnProfile(name="bad", type="float", counts=(1,) * 32, nulls=0, edges=(0.0,) * 31)
    other = ColumnProfile(name="good", type="float", counts=(1,) * 32, nulls=0, edges=(0.0,) * 31)
    reference = Profile(format=1, rows=32, columns=(), scores=(score, other))
    counts = ColumnCounts((10,) * 32)
    window = DriftWindow(
        since=0, until=1, rows=320, columns={"out.bad": counts, "out.good": counts}
    )
    facts = facts_of(reference, window, positive="bad")
    assert list(compared_columns(facts)[0]) == ["out.bad"]
    assert observe_drift(facts)[0].subject == "score of bad"
