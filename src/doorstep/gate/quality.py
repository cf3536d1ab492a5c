"""Quality on held-out rows: against numbers, against the champion, by slice and by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.condition import Champion, Condition, Quantity
from doorstep.core.errors import InputError
from doorstep.core.manifest import Manifest
from doorstep.core.servicefile_types import SliceSpec
from doorstep.formats.columns import Table
from doorstep.gate.metrics import (
    CONFIDENCE,
    DEFAULT_METRIC,
    Labelled,
    Metric,
    difference,
    estimate,
    find_metric,
    names_of,
    trivial,
)
from doorstep.gate.types import (
    GROUPS_MAX,
    ChampionEvidence,
    ColumnChange,
    Estimate,
    Evidence,
    FairnessEvidence,
    GroupAnswers,
    GroupQuality,
    Order,
    QualityEvidence,
    SlicesEvidence,
    UnmeasuredEvidence,
    Unseen,
)

TOLERANCE_SHARE = 0.05
"""The largest loss of a metric in [0, 1] that the default comparison may leave open."""
NEGLIGIBLE_SHARE = 0.002
"""With many rows any difference is certain; a loss this small is not a reason to refuse."""
NEGLIGIBLE_RELATIVE = 0.005
TOLERANCE_RELATIVE = 0.1
"""The same for errors in the unit of the truth, of the champion's error."""


@dataclass(frozen=True)
class Measured:
    """The held-out rows with truth and scores. champion: its name, "" if there is none.
    of_champion: None with a problem that says why its rows could not be scored."""

    manifest: Manifest
    table: Table
    mine: Labelled
    champion: str
    of_champion: Labelled | None
    champion_problem: str
    unseen: Unseen
    changed: tuple[ColumnChange, ...]


def truth_of(table: Table, manifest: Manifest) -> NDArray[np.float64]:
    """The label column as label indices or values; NaN where it is missing.

    Raises: InputError (`no-column`, `unknown-labels`).
    """
    column = table.column(manifest.label)
    if not manifest.labels:
        return column.as_numbers()
    index = {label: float(at) for at, label in enumerate(manifest.labels)}
    texts = column.as_texts()
    strange = sorted({text for text in texts if text is not None and text not in index})
    if strange:
        raise InputError(
            "unknown-labels",
            f"the hold-out has labels that this version never answers: {', '.join(strange[:5])}; "
            f"it answers {', '.join(manifest.labels[:10])}",
        )
    return np.array([np.nan if text is None else index[text] for text in texts])


def aligned(
    scores: NDArray[np.float64], champion: Manifest, mine: Labelled, manifest: Manifest
) -> Labelled:
    """The champion's scores in this version's order of labels, with the champion's threshold.

    Raises: InputError (`other-labels`) if they do not answer the same labels.
    """
    if set(champion.labels) != set(manifest.labels):
        raise InputError("other-labels", "the champion answers other labels")
    if manifest.labels:
        scores = scores[:, [champion.labels.index(label) for label in manifest.labels]]
    return Labelled(
        truth=mine.truth, scores=scores, positive=mine.positive, threshold=champion.threshold
    )


def quality_evidence(measured: Measured, conditions: Sequence[Condition]) -> Iterator[Evidence]:
    """Each condition; without any, the metric of the task against a model that looks at nothing.
    Without one that names the champion, also the default comparison with it."""
    task = measured.manifest.task
    default = find_metric(DEFAULT_METRIC[task], task)
    assert default is not None
    if not conditions:
        bound = round(trivial(default, measured.mine), 4)
        order: Order = ">" if default.more_is_better else "<"
        yield _against_number(measured, default, order, bound, f"{default.name} {order} {bound:g}")
    for one in conditions:
        yield _one_condition(measured, one)
    if not any(one.needs_champion for one in conditions):
        yield _default_champion(measured, _first_metric(measured, conditions) or default)


def _first_metric(measured: Measured, conditions: Sequence[Condition]) -> Metric | None:
    found = (find_metric(one.left, measured.manifest.task) for one in conditions)
    return next((one for one in found if one is not None), None)


def _one_condition(measured: Measured, one: Condition) -> Evidence:
    task, check = measured.manifest.task, str(one)
    metric = find_metric(one.left, task)
    if metric is None:
        known = ", ".join(names_of(task))
        problem = f"{one.left} is not measured for {task}; measured are {known}"
        return UnmeasuredEvidence(check=check, problem=problem, next="use one of them")
    if one.operator == "==" or one.operator == "!=":
        problem = f"a measured {one.left} is never exactly a number; use <= or >="
        return UnmeasuredEvidence(check=check, problem=problem)
    match one.right:
        case Champion(offset=offset):
            return _against_champion(measured, metric, one.operator, offset.value, check)
        case Quantity(value=value):
            return _against_number(measured, metric, one.operator, value, check)
        case _:
            return UnmeasuredEvidence(check=check, problem="expected a number or champion")


def _against_number(
    measured: Measured, metric: Metric, order: Order, bound: float, check: str
) -> QualityEvidence:
    return QualityEvidence(
        check=check,
        metric=metric.name,
        operator=order,
        bound=bound,
        found=estimate(metric, measured.mine),
        unseen=measured.unseen,
        changed=measured.changed,
    )


def _default_champion(measured: Measured, metric: Metric) -> Evidence:
    order: Order = ">=" if metric.more_is_better else "<="
    check = f"{metric.name} not worse than champion"
    found = _against_champion(measured, metric, order, 0.0, check)
    if not isinstance(found, ChampionEvidence) or found.of_champion.value is None:
        return found
    size = abs(found.of_champion.value)
    slack = NEGLIGIBLE_SHARE if metric.is_share else NEGLIGIBLE_RELATIVE * size
    tolerance = TOLERANCE_SHARE if metric.is_share else TOLERANCE_RELATIVE * size
    signed = -slack if metric.more_is_better else slack
    return msgspec.structs.replace(found, slack=signed, tolerance=tolerance)


def _against_champion(
    measured: Measured, metric: Metric, order: Order, slack: float, check: str
) -> Evidence:
    nothing = Estimate(value=None, low=None, high=None, counted=0, counted_min=0)
    theirs = measured.of_champion
    if measured.champion and theirs is None:
        problem = f"champion {measured.champion} could not be scored: {measured.champion_problem}"
        return UnmeasuredEvidence(check=check, problem=problem)
    return ChampionEvidence(
        check=check,
        metric=metric.name,
        operator=order,
        slack=slack,
        champion=measured.champion,
        found=estimate(metric, measured.mine),
        of_champion=estimate(metric, theirs) if theirs else nothing,
        difference=difference(metric, measured.mine, theirs) if theirs else nothing,
        tolerance=None,
        unseen=measured.unseen,
        changed=measured.changed,
    )


def slice_evidence(measured: Measured, asked: SliceSpec) -> Evidence:
    """The metric in every part of the data that `by` makes; intervals widened for their number
    (Bonferroni), so that the chance of any false fail stays at 5 % in all."""
    one, by = asked.check, ", ".join(asked.by)
    check = f"{one} by {by}"
    metric = find_metric(one.left, measured.manifest.task)
    if metric is None or not isinstance(one.right, Quantity):
        problem = f"{one} cannot be measured by {by} for {measured.manifest.task}"
        return UnmeasuredEvidence(check=check, problem=problem)
    if one.operator == "==" or one.operator == "!=":
        return UnmeasuredEvidence(check=check, problem="use <= or >=")
    parts = groups_of(measured.table, asked.by)
    if len(parts) > GROUPS_MAX:
        problem = f"{by} makes {len(parts):,} parts; at most {GROUPS_MAX} can be judged"
        return UnmeasuredEvidence(check=check, problem=problem)
    large = {name: rows for name, rows in parts.items() if rows.sum() >= asked.min_rows}
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(large))
    return SlicesEvidence(
        check=check,
        metric=metric.name,
        operator=one.operator,
        bound=one.right.value,
        by=by,
        rows_min=asked.min_rows,
        groups=tuple(
            GroupQuality(
                name=name,
                rows=int(rows.sum()),
                found=_in_group(metric, measured.mine.take(rows), confidence),
            )
            for name, rows in large.items()
        ),
        small={name: int(rows.sum()) for name, rows in parts.items() if name not in large},
        unseen=measured.unseen,
    )


def _in_group(metric: Metric, part: Labelled, confidence: float) -> Estimate:
    """The author's min_rows says what is enough here; a group needs only rows that carry it."""
    found = estimate(metric, part, confidence)
    return msgspec.structs.replace(found, counted_min=min(found.counted_min, 10))


def groups_of(table: Table, by: tuple[str, ...]) -> dict[str, NDArray[np.bool_]]:
    """Name of each part -> its rows; several columns are joined by " / ". Rows where one of them
    is missing belong to none. Raises: InputError (`no-column`)."""
    columns = [table.column(name).as_texts() for name in by]
    names = np.array(
        ["" if None in row else " / ".join(map(str, row)) for row in zip(*columns, strict=True)],
        dtype=object,
    )
    found = sorted({name for name in names if name})
    return {name: np.asarray(names == name, dtype=np.bool_) for name in found}


def fairness_evidence(measured: Measured, one: Condition, favourable: str) -> Iterator[Evidence]:
    """Shares answered `favourable` in the groups of every protected field.

    favourable: the label that a person would rather get; "" or a label that the version does not
    have is inconclusive."""
    manifest = measured.manifest
    fields = [*manifest.contract.inputs, *manifest.contract.context]
    protected = [field.name for field in fields if field.protected]
    problem, following = "", ""
    if one.left != "selection_rate_ratio":
        problem = f"{one.left} is planned; measured today is selection_rate_ratio"
    elif not manifest.labels:
        problem = f"selection rates need labels, and this is a {manifest.task}"
    elif not protected:
        problem = "no field of the contract is marked protected, so there are no groups"
    elif not isinstance(one.right, Quantity) or one.operator in ("==", "!="):
        problem = "expected a bound such as selection_rate_ratio >= 0.8"
    elif favourable not in manifest.labels:
        problem = _no_favourable(favourable, manifest.labels)
        following = "write model.favourable in the service file"
    if problem:
        yield UnmeasuredEvidence(check=str(one), problem=problem, next=following)
        return
    for attribute in protected:
        yield _groups_evidence(measured, one, attribute, favourable)


def _no_favourable(favourable: str, labels: tuple[str, ...]) -> str:
    """The positive label is no substitute: it is as often the bad news as the good."""
    known = ", ".join(repr(label) for label in labels[:10])
    if not favourable:
        return (
            f"model.favourable is not set: which of {known} would a person rather get? "
            "Without it, who is selected and who is refused cannot be told apart"
        )
    return f"model.favourable is {favourable!r}, which the version never answers; it has {known}"


def _groups_evidence(
    measured: Measured, one: Condition, attribute: str, favourable: str
) -> Evidence:
    check = f"{one} by {attribute}"
    if attribute not in measured.table:
        problem = f"the hold-out has no column {attribute}, so its groups cannot be compared"
        return UnmeasuredEvidence(check=check, problem=problem)
    parts = groups_of(measured.table, (attribute,))
    if len(parts) > GROUPS_MAX:
        problem = f"{attribute} has {len(parts):,} values; at most {GROUPS_MAX} are groups"
        return UnmeasuredEvidence(check=check, problem=problem)
    assert isinstance(one.right, Quantity)
    assert one.operator in ("<=", ">=", "<", ">")
    chosen = measured.mine.answers == measured.manifest.labels.index(favourable)
    return FairnessEvidence(
        check=check,
        attribute=attribute,
        favourable=favourable,
        operator=one.operator,
        bound=one.right.value,
        groups=tuple(
            GroupAnswers(name=name, rows=int(rows.sum()), selected=int(chosen[rows].sum()))
            for name, rows in parts.items()
        ),
        missing=measured.table.column(attribute).missing_rows,
    )
