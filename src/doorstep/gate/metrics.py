"""The metrics that a quality gate may name, per task, each with its interval and paired difference.

Answers are made as the serving process makes them: the positive label when its score reaches the
version's threshold (binary), else the label with the highest score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.manifest import Manifest, Task
from doorstep.gate.types import Estimate
from doorstep.stats import intervals as of
from doorstep.stats.intervals import Floats, Interval
from doorstep.stats.ranking import auc, difference_of_aucs

CLASS_ROWS_MIN = 30
"""Below 30 rows of a class a rate's interval is wider than 0.3, and DeLong's is not yet honest."""
ROWS_MIN = 100
"""The central limit theorem on skewed losses."""
CONFIDENCE = 0.95


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """Truth and scores of the same rows. truth: index into the labels (int) or the value (float).
    scores: [rows, labels] or [rows, 1]. positive: column of the positive label, -1 if none."""

    truth: NDArray[np.float64]
    scores: NDArray[np.float64]
    positive: int
    threshold: float

    @property
    def is_positive(self) -> NDArray[np.bool_]:
        return np.equal(self.truth, self.positive)

    @property
    def chance(self) -> Floats:
        """The score of the positive label."""
        column: Floats = self.scores[:, self.positive]
        return column

    @property
    def answers(self) -> Floats:
        """The index of the answered label, or the value."""
        return answers_of(self.scores, self.positive, self.threshold)

    def take(self, rows: NDArray[np.bool_]) -> Labelled:
        return Labelled(
            truth=self.truth[rows],
            scores=self.scores[rows],
            positive=self.positive,
            threshold=self.threshold,
        )


Counted = Callable[[Labelled], tuple[int, int, str]]
"""How many rows carry the number, the least that is enough, and what they are."""
Difference = Callable[[Labelled, Labelled, float], Interval]
"""(a, b, confidence) -> a minus b."""


def _rows(one: Labelled) -> tuple[int, int, str]:
    return int(one.truth.size), ROWS_MIN, "held-out rows"


class Metric(msgspec.Struct, frozen=True):
    """measure: with confidence last."""

    name: str
    tasks: tuple[Task, ...]
    measure: Callable[[Labelled, float], Interval]
    differ: Difference
    counted: Counted = _rows
    more_is_better: bool = True
    is_share: bool = True


BINARY: tuple[Task, ...] = ("binary",)
CLASSES: tuple[Task, ...] = ("binary", "multiclass", "text-classification")
VALUES: tuple[Task, ...] = ("regression", "ranking")
DEFAULT_METRIC: dict[str, str] = {
    "binary": "auc",
    "multiclass": "accuracy",
    "text-classification": "accuracy",
    "regression": "rmse",
    "ranking": "rmse",
}


def labelled_of(manifest: Manifest, truth: NDArray[np.float64], scores: Floats) -> Labelled:
    positive = manifest.labels.index(manifest.positive) if manifest.positive else -1
    return Labelled(truth=truth, scores=scores, positive=positive, threshold=manifest.threshold)


def answers_of(scores: Floats, positive: int, threshold: float) -> Floats:
    """Label index per row (binary by the threshold, ties to the positive; else the highest score,
    ties to the first), or the value itself when there is one column."""
    if scores.shape[1] == 1:
        value: Floats = scores[:, 0]
        return value
    if positive >= 0 and scores.shape[1] == 2:
        chosen: Floats = np.where(scores[:, positive] >= threshold, positive, 1 - positive)
        return np.asarray(chosen, dtype=np.float64)
    best: Floats = scores.argmax(axis=1).astype(np.float64)
    return best


def estimate(metric: Metric, labelled: Labelled, confidence: float = CONFIDENCE) -> Estimate:
    """The metric on these rows with its interval."""
    count, enough, what = metric.counted(labelled)
    found = metric.measure(labelled, confidence) if count else of.unknown()
    return as_estimate(found, count, enough, what)


def difference(metric: Metric, mine: Labelled, champion: Labelled) -> Estimate:
    """Mine minus the champion's on the same rows, paired."""
    count, enough, what = metric.counted(mine)
    found = metric.differ(mine, champion, CONFIDENCE) if count else of.unknown()
    return as_estimate(found, count, enough, what)


def as_estimate(found: Interval, counted: int, counted_min: int, what: str) -> Estimate:
    """NaN and infinities become None: evidence is JSON."""
    return Estimate(
        value=_finite(found.estimate),
        low=_finite(found.low),
        high=_finite(found.high),
        counted=counted,
        counted_min=counted_min,
        what=what,
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def find_metric(name: str, task: Task) -> Metric | None:
    """The metric of this name, if it is measured for this task."""
    return next((one for one in metrics() if one.name == name and task in one.tasks), None)


def names_of(task: Task) -> list[str]:
    return [one.name for one in metrics() if task in one.tasks]


def trivial(metric: Metric, labelled: Labelled) -> float:
    """What a model that looks at nothing gets: the bound of the default quality gate."""
    match metric.name:
        case "auc":
            return 0.5
        case "accuracy":
            counts = np.unique(labelled.truth, return_counts=True)[1]
            return float(counts.max() / counts.sum()) if counts.size else 0.0
        case _:
            return float(labelled.truth.std()) if labelled.truth.size else 0.0


def metrics() -> tuple[Metric, ...]:
    """All of them, in the order in which messages list them."""
    return (
        Metric(
            "auc",
            BINARY,
            lambda one, c: auc(one.is_positive, one.chance, c),
            lambda a, b, c: difference_of_aucs(a.is_positive, a.chance, b.chance, c),
            counted=_rarer,
        ),
        _flagged("f1", of.f1, of.difference_of_f1, _either),
        _flagged("precision", of.precision, of.difference_of_precisions, _answered),
        _flagged("recall", of.recall, of.difference_of_recalls, _true),
        _flagged("specificity", _specificity, _difference_of_specificities, _rarer),
        Metric(
            "brier",
            BINARY,
            lambda one, c: of.brier(one.is_positive, one.chance, c),
            _difference_of(lambda one: of.brier_losses(one.is_positive, one.chance)),
            more_is_better=False,
        ),
        Metric(
            "accuracy",
            CLASSES,
            lambda one, c: of.accuracy(one.truth, one.answers, c),
            lambda a, b, c: of.difference_of_accuracies(a.truth, a.answers, b.answers, c),
            counted=_rows_of_a_rate,
        ),
        Metric(
            "log_loss",
            CLASSES,
            lambda one, c: of.log_loss(one.truth, one.scores, c),
            _difference_of(lambda one: of.log_losses(one.truth, one.scores)),
            more_is_better=False,
            is_share=False,
        ),
        _averaged("balanced_accuracy", _recall_rows),
        _averaged("f1_macro", _f1_rows),
        *_of_values(),
    )


def _of_values() -> tuple[Metric, ...]:
    return (
        Metric(
            "rmse",
            VALUES,
            lambda one, c: of.rmse(one.truth, one.answers, c),
            lambda a, b, c: of.difference_of_rmse(a.truth, a.answers, b.answers, c),
            more_is_better=False,
            is_share=False,
        ),
        Metric(
            "mae",
            VALUES,
            lambda one, c: of.mae(one.truth, one.answers, c),
            _difference_of(lambda one: np.abs(one.answers - one.truth)),
            more_is_better=False,
            is_share=False,
        ),
        Metric(
            "r2",
            VALUES,
            lambda one, c: of.r2(one.truth, one.answers, c),
            _difference_of_r2,
            is_share=False,
        ),
    )


def _difference_of(losses: Callable[[Labelled], Floats]) -> Difference:
    """The difference of two means of what each row loses."""
    return lambda a, b, c: of.difference_of_means(losses(a), losses(b), c)


def _flagged(
    name: str, measure: Callable[..., Interval], differ: Callable[..., Interval], counted: Counted
) -> Metric:
    """A metric of truth and answer as flags of the positive label."""
    return Metric(
        name,
        BINARY,
        lambda one, c: measure(one.is_positive, _flags(one), c),
        lambda a, b, c: differ(a.is_positive, _flags(a), _flags(b), c),
        counted=counted,
    )


def _averaged(name: str, per_row: Callable[[Labelled], Floats]) -> Metric:
    return Metric(name, CLASSES, lambda one, c: of.mean(per_row(one), c), _difference_of(per_row))


def _recall_rows(one: Labelled) -> Floats:
    """Rows whose mean is the mean recall over the labels that occur, and whose spread is the
    metric's own by linearisation (each row: the metric plus its influence)."""
    return _linearised(one, lambda true, answered: (true & answered, true.astype(np.float64)))


def _f1_rows(one: Labelled) -> Floats:
    """The same for the mean F1 over the labels that occur or are answered."""
    return _linearised(
        one, lambda true, answered: (2.0 * (true & answered), true.astype(np.float64) + answered)
    )


def _linearised(
    one: Labelled,
    parts: Callable[[NDArray[np.bool_], NDArray[np.bool_]], tuple[NDArray[Any], Floats]],
) -> Floats:
    answers = one.answers
    rows: list[Floats] = []
    for label in range(one.scores.shape[1]):
        above, below = parts(np.equal(one.truth, label), np.equal(answers, label))
        if below.sum() > 0:
            share = float(above.sum() / below.sum())
            rows.append(share + (above - share * below) / below.mean())
    return np.mean(rows, axis=0) if rows else np.full(one.truth.shape, math.nan)


def _specificity(truth: NDArray[np.bool_], answered: NDArray[np.bool_], c: float) -> Interval:
    return of.recall(~truth, ~answered, c)


def _difference_of_specificities(
    truth: NDArray[np.bool_], a: NDArray[np.bool_], b: NDArray[np.bool_], c: float
) -> Interval:
    return of.difference_of_recalls(~truth, ~a, ~b, c)


def _difference_of_r2(a: Labelled, b: Labelled, confidence: float) -> Interval:
    """Difference of mean squared errors over the variance of the truth, which both share."""
    spread = float(np.square(a.truth - a.truth.mean()).mean()) if a.truth.size else 0.0
    if spread == 0.0:
        return of.unknown()
    lost = of.difference_of_means(
        np.square(b.answers - b.truth) / spread, np.square(a.answers - a.truth) / spread, confidence
    )
    return Interval(lost.estimate, lost.low, lost.high, lost.n)


def _flags(one: Labelled) -> NDArray[np.bool_]:
    return np.equal(one.answers, one.positive)


def _rows_of_a_rate(one: Labelled) -> tuple[int, int, str]:
    """A share of rows has an interval that is honest for any number of them; see CLASS_ROWS_MIN."""
    return int(one.truth.size), CLASS_ROWS_MIN, "held-out rows"


def _rarer(one: Labelled) -> tuple[int, int, str]:
    positives = int(one.is_positive.sum())
    return min(positives, one.truth.size - positives), CLASS_ROWS_MIN, "rows of the rarer label"


def _true(one: Labelled) -> tuple[int, int, str]:
    return int(one.is_positive.sum()), CLASS_ROWS_MIN, "rows with the positive label"


def _answered(one: Labelled) -> tuple[int, int, str]:
    return int(_flags(one).sum()), CLASS_ROWS_MIN, "rows answered positive"


def _either(one: Labelled) -> tuple[int, int, str]:
    both = one.is_positive | _flags(one)
    return int(both.sum()), CLASS_ROWS_MIN, "rows positive or answered positive"
