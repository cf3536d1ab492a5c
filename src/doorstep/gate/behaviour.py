"""How a version behaves whatever the truth: finite answers, the same twice, alone as in company,
fast enough and small enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from doorstep.core.condition import Condition, Quantity
from doorstep.core.manifest import Manifest
from doorstep.formats.batch import Batch, Scorer
from doorstep.formats.load import score_columns
from doorstep.gate.metrics import as_estimate
from doorstep.gate.subject import Form, Subject
from doorstep.gate.types import (
    AgreementEvidence,
    Evidence,
    SanityEvidence,
    SizeEvidence,
    SpeedEvidence,
    UnmeasuredEvidence,
)
from doorstep.register.speed import time_rows
from doorstep.stats import intervals as of

AGREEMENT_ROWS_MAX = 64
REPEAT_TOLERANCE = 1e-9
"""The same bytes through the same code; only the order of a threaded sum may differ."""
ALONE_TOLERANCE = 1e-5
"""float32 sums in another order; the answer's third digit never depends on company."""
CALLS_MIN = 100
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
SUM_OF_ONE = 1.0


def measure_sanity(manifest: Manifest, scores: NDArray[np.float64]) -> SanityEvidence:
    """On the scores of the held-out rows."""
    is_finite = np.isfinite(scores)
    inside = scores[is_finite.all(axis=1)]
    is_probability = bool(manifest.labels)
    outside = ((inside < -1e-6) | (inside > 1 + 1e-6)).any(axis=1).sum() if is_probability else 0
    off = np.abs(inside.sum(axis=1) - SUM_OF_ONE) if is_probability and len(inside) else None
    return SanityEvidence(
        check="answers are sane",
        rows=len(scores),
        columns_expected=score_columns(manifest),
        columns_found=int(scores.shape[1]),
        not_finite=int((~is_finite.all(axis=1)).sum()),
        outside=int(outside),
        sum_difference=float(off.max()) if off is not None else None,
        distinct=len(np.unique(inside, axis=0)),
    )


def measure_agreement(scorer: Scorer, batch: Batch) -> Iterator[AgreementEvidence]:
    """The first rows asked twice, and alone against together."""
    some = batch.part(0, AGREEMENT_ROWS_MAX)
    together = scorer.score(some)
    again = scorer.score(some)
    yield AgreementEvidence(
        check="the same row gets the same answer",
        what="twice",
        rows=some.rows,
        difference=_apart(together, again),
        tolerance=REPEAT_TOLERANCE,
    )
    alone = [scorer.score(row) for row in some.parts(1)]
    yield AgreementEvidence(
        check="a row alone gets the answer that it gets in a batch",
        what="alone",
        rows=some.rows,
        difference=_apart(together, np.concatenate(alone)) if alone else None,
        tolerance=ALONE_TOLERANCE,
    )


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """The largest difference relative to max(1, |score|). Both missing is equal; one is not."""
    if one.size == 0 or one.shape != other.shape:
        return None
    both = ~(np.isnan(one) & np.isnan(other))
    gap = np.abs(one - other)[both] / np.maximum(1.0, np.abs(one[both]))
    largest = float(gap.max()) if gap.size else 0.0
    return largest if np.isfinite(largest) else 1e308


def measure_speed(
    subject: Subject, batch: Batch, conditions: Sequence[Condition]
) -> list[Evidence]:
    """Each condition on single-row latency or on size."""
    times = time_rows(subject.scorer, batch) if batch.rows else np.empty(0)
    return [_one_speed(one, subject, times) for one in conditions]


def _one_speed(one: Condition, subject: Subject, times: NDArray[np.float64]) -> Evidence:
    order, right = one.operator, one.right
    if order == "==" or order == "!=" or not isinstance(right, Quantity):
        return UnmeasuredEvidence(check=str(one), problem="expected a limit such as p99 <= 20 ms")
    if one.left == "size":
        size = size_of(subject.manifest, subject.form)
        return SizeEvidence(check=str(one), operator=order, bound_bytes=right.value, bytes=size)
    if one.left == "mean":
        found = of.mean(times)
    elif one.left in QUANTILES:
        found = of.quantile(times, QUANTILES[one.left])
    else:
        known = ", ".join([*QUANTILES, "mean", "size"])
        problem = f"{one.left} is not measured; known are {known}"
        return UnmeasuredEvidence(check=str(one), problem=problem)
    return SpeedEvidence(
        check=str(one),
        measure=one.left,
        operator=order,
        bound_ms=right.value,
        form=subject.form,
        ms=as_estimate(found, int(times.size), CALLS_MIN, "calls of one row"),
    )


def size_of(manifest: Manifest, form: Form) -> int:
    """Bytes of the model's own files in the form that serves."""
    folder = f"model/{form}/"
    own = [one.size for one in manifest.files if one.path.startswith(folder)]
    if own:
        return sum(own)
    name = manifest.onnx.file if form == "onnx" and manifest.onnx else manifest.native.file
    return sum(one.size for one in manifest.files if one.path == name)
