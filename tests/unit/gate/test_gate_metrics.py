from __future__ import annotations

import numpy as np
import pytest

from doorstep.core.servicefile_write import SUGGESTED
from doorstep.gate.metrics import (
    Labelled,
    answers_of,
    difference,
    estimate,
    find_metric,
    metrics,
    names_of,
)

TASKS = ("binary", "multiclass", "text-classification", "regression", "ranking")


def binary(seed: int = 0, rows: int = 400, noise: float = 1.0) -> Labelled:
    generator = np.random.default_rng(seed)
    truth = (generator.random(rows) < 0.4).astype(float)
    score = 1 / (1 + np.exp(-(2 * truth - 1 + noise * generator.normal(size=rows))))
    return Labelled(
        truth=truth, scores=np.column_stack([1 - score, score]), positive=1, threshold=0.5
    )


def values(rows: int = 400) -> Labelled:
    generator = np.random.default_rng(1)
    truth = generator.normal(size=rows)
    return Labelled(
        truth=truth,
        scores=(truth + generator.normal(size=rows))[:, None],
        positive=-1,
        threshold=0.5,
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_has_an_interval_around_it_and_does_not_differ_from_itself(task) -> None:
    labelled = values() if task in ("regression", "ranking") else binary()
    assert names_of(task)
    for name in names_of(task):
        metric = find_metric(name, task)
        assert metric is not None
        found = estimate(metric, labelled)
        assert found.low < found.value < found.high, name
        same = difference(metric, labelled, labelled)
        assert same.value == pytest.approx(0, abs=1e-12), name


def test_linearised_metrics_agree_with_scikit_learn() -> None:
    from sklearn.metrics import balanced_accuracy_score, f1_score

    one = binary(noise=2)
    for name, expected in (
        ("balanced_accuracy", balanced_accuracy_score(one.truth, one.answers)),
        ("f1_macro", f1_score(one.truth, one.answers, average="macro")),
    ):
        metric = find_metric(name, "multiclass")
        assert metric is not None
        assert estimate(metric, one).value == pytest.approx(expected, abs=1e-12)


def test_what_init_suggests_is_measured_for_the_task() -> None:
    for task, text in SUGGESTED.items():
        assert task is None or find_metric(text.split()[0], task), text


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1_macro"])
def test_linearised_intervals_cover(name: str) -> None:
    metric = find_metric(name, "binary")
    assert metric is not None
    truth = np.mean([estimate(metric, binary(seed, 2000, 2.0)).value for seed in range(100)])
    inside = 0
    for seed in range(200):
        found = estimate(metric, binary(1000 + seed, 300, 2.0))
        inside += found.low <= truth <= found.high
    assert inside / 200 >= 0.9


def test_a_better_model_differs_upwards_where_more_is_better() -> None:
    good, bad = binary(noise=0.5), binary(noise=3.0)
    for metric in metrics():
        if "binary" in metric.tasks:
            sign = 1 if metric.more_is_better else -1
            assert sign * difference(metric, good, bad).value > 0, metric.name


def test_the_threshold_belongs_to_the_positive_label() -> None:
    scores = np.array([[0.3, 0.7], [0.31, 0.69]])
    assert answers_of(scores, 0, 0.31).tolist() == [1.0, 0.0]
    assert answers_of(scores, 1, 0.7).tolist() == [1.0, 0.0]


def test_without_rows_nothing_is_known() -> None:
    empty = Labelled(truth=np.empty(0), scores=np.empty((0, 2)), positive=1, threshold=0.5)
    for metric in metrics():
        if "binary" in metric.tasks:
            assert estimate(metric, empty).value is None
