"""The business promise of a service, `goal:`, measured per version.

Each measure is a mean over the cases of one version since it first answered, with a confidence
sequence: it may be looked at all the time, and its verdict does not come from looking often.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.condition import Condition, Quantity
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import TRAFFIC
from doorstep.core.servicefile import ServiceFile
from doorstep.gate.rules import is_upward, meets
from doorstep.gate.types import Order
from doorstep.journal import query
from doorstep.journal.duck import quote_name, quote_text
from doorstep.journal.joined import OutcomeArrays
from doorstep.journal.operations import count_rows
from doorstep.journal.sql import ask_sql
from doorstep.journal.tables import Span
from doorstep.kernel.app import App
from doorstep.monitor.surface import GoalNow
from doorstep.monitor.types import PromiseState
from doorstep.register.store import get_version
from doorstep.register.views import manifest_of
from doorstep.release import store as releases
from doorstep.stats.sequences import mean_sequence, rate_sequence

VERSIONS_MAX = 12
MEAN_CASES_MIN = 50
"""The sequence of a mean without bounds is right in the limit only; that of a rate always."""
Chosen = NDArray[np.bool_]
EVERY_S = 60.0
YOUNG_CASES, EVERY_YOUNG_S = 1_000, 5.0
"""With few cases each look says something new, and costs little."""
RATIO_OF_TIME = 20.0
"""A look that takes a second is not repeated for twenty."""
BUCKET_S = 3_600
WHAT = {
    "error_rate": "requests",
    "selection_rate": "answers",
    "conversion": "cases that are due",
    "default_rate": "cases answered otherwise, with an outcome",
    "mean_value": "cases with a value",
}
"""What a measure counts; all others count cases with an outcome."""


class Counted(msgspec.Struct, frozen=True):
    """n cases, their sum and their sum of squares."""

    n: int
    total: float
    squares: float


class Goals:
    """What the last look of this process found, by service, and when the next is due."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[GoalNow, ...]] = {}
        self.due_s: dict[str, float] = {}


def goals_of(app: App, service: str, goal: Condition | None) -> tuple[GoalNow, ...]:
    """By version, newest first; of versions that were not looked at yet nothing is known."""
    found = app.kept.get(Goals, Goals).found.get(service, ())
    return tuple(one for one in found if goal is not None and one.text == str(goal))


def look_at_goal(app: App, service: str, file: ServiceFile) -> None:
    """Measure the goal of every version that served, unless it was done lately."""
    kept, now_s = app.kept.get(Goals, Goals), app.clock.monotonic_s()
    if file.goal is None or now_s < kept.due_s.get(service, now_s):
        return
    began_s = time.monotonic()
    kept.found[service] = measure_goal(app, service, file, app.clock.now())
    took_s = time.monotonic() - began_s
    is_young = max((one.counted for one in kept.found[service]), default=0) < YOUNG_CASES
    every_s = max(EVERY_YOUNG_S if is_young else EVERY_S, RATIO_OF_TIME * took_s)
    kept.due_s[service] = now_s + every_s


def measure_goal(app: App, service: str, file: ServiceFile, now: Instant) -> tuple[GoalNow, ...]:
    assert file.goal is not None
    since = _first_answers(app, service)
    numbers = sorted(since, reverse=True)[:VERSIONS_MAX]
    if not numbers:
        return ()
    start = min(since[one] for one in numbers)
    counted = _count(app, service, file, Span(start, now), numbers)
    nothing = Counted(0, 0.0, 0.0)
    return tuple(judge_goal(file.goal, one, counted.get(one, nothing)) for one in numbers)


def _first_answers(app: App, service: str) -> dict[int, Instant]:
    """Version -> when it first answered callers."""
    with app.database.reading() as connection:
        tenures = releases.list_tenures(connection, service)
        rows = releases.list_releases(connection, service)
    found: dict[int, Instant] = {}
    told = [(one.version, one.since) for one in tenures]
    told += [
        (row.release.challenger, epoch.started_at)
        for row in rows
        for epoch in row.release.epochs
        if epoch.share > 0.0
    ]
    for number, at in told:
        found[number] = min(at, found.get(number, at))
    return found


def judge_goal(goal: Condition, version: int, counted: Counted) -> GoalNow:
    """Kept: the whole sequence meets the bound; broken: none of it does."""
    low, high = sequence_of(goal.left, counted)
    value = counted.total / counted.n if counted.n else None
    what = WHAT.get(goal.left, "cases with an outcome")
    said = f"no {what} yet"
    if value is not None:
        said = f"{_say(goal.left, value)} [{_say(goal.left, low)}, {_say(goal.left, high)}]"
        said += f" of {counted.n:,} {what}"
    return GoalNow(
        version=version,
        text=str(goal),
        state=_state(goal, low, high) if counted.n >= _least(goal) else "not-yet-known",
        measured=said,
        value=value,
        low=low if value is not None else None,
        high=high if value is not None else None,
        counted=counted.n,
    )


def sequence_of(name: str, counted: Counted) -> tuple[float, float]:
    if name == "mean_value":
        return mean_sequence(counted.n, counted.total, counted.squares)
    return rate_sequence(round(counted.total), counted.n)


def _least(goal: Condition) -> int:
    return MEAN_CASES_MIN if goal.left == "mean_value" else 1


def _state(goal: Condition, low: float, high: float) -> PromiseState:
    assert isinstance(goal.right, Quantity)
    order: Order = goal.operator  # type: ignore[assignment]  # `check` lets no other pass
    best, worst = (high, low) if is_upward(order) else (low, high)
    if meets(worst, order, goal.right.value):
        return "kept"
    return "not-yet-known" if meets(best, order, goal.right.value) else "broken"


def _say(name: str, value: float) -> str:
    return f"{value:,.4g}" if name == "mean_value" else f"{value * 100:.3g} %"


def _count(
    app: App, service: str, file: ServiceFile, span: Span, numbers: Iterable[int]
) -> dict[int, Counted]:
    assert file.goal is not None
    match file.goal.left:
        case "error_rate":
            return _errors(app, service, span)
        case "selection_rate":
            return _selected(app, service, file.model.favourable, span)
        case "conversion":
            return _converted(app, service, file, span, numbers)
        case name:
            arrays = _outcomes(app, service, span)
            labels = _positives(app, service, numbers)
            return {one: _of_outcomes(arrays, name, one, labels[one]) for one in labels}


def _errors(app: App, service: str, span: Span) -> dict[int, Counted]:
    """Of the requests whose turn it was: those that it did not answer."""
    sums: dict[int, tuple[int, int]] = {}
    for one in count_rows(app, service, span.since, span.until, BUCKET_S):
        if one.kind in TRAFFIC:
            rows, failed = sums.get(one.assigned, (0, 0))
            sums[one.assigned] = rows + one.rows, failed + one.failed
    return {number: _rate(failed, rows) for number, (rows, failed) in sums.items()}


def _selected(app: App, service: str, favourable: str, span: Span) -> dict[int, Counted]:
    kinds = ", ".join(str(int(one)) for one in TRAFFIC)
    sql = (
        f'SELECT version, count(*), count(*) FILTER ("out.answer" = {quote_text(favourable)}) '  # noqa: S608
        f'FROM {quote_name(service)} WHERE kind IN ({kinds}) AND "out.answer" IS NOT NULL '
        "GROUP BY version"
    )
    found = ask_sql(app.home.path, sql, (service,), span, limit=1_000, timeout_s=30.0)
    return {int(number): _rate(int(k), int(n)) for number, n, k in found.rows}


def _converted(
    app: App, service: str, file: ServiceFile, span: Span, numbers: Iterable[int]
) -> dict[int, Counted]:
    """Of the predictions that are due: those whose outcome is the positive label. One that has no
    outcome by then did not convert."""
    due = Span(span.since, span.until - round(file.monitor.outcomes.delay_s * SECOND_US))
    arrays, labels = _outcomes(app, service, due), _positives(app, service, numbers)
    rows: dict[int, int] = {}
    for one in count_rows(app, service, due.since, due.until, 60):
        if one.kind in TRAFFIC:
            rows[one.version] = rows.get(one.version, 0) + one.rows
    found = {}
    for number, positive in labels.items():
        k = int(((arrays.version == number) & (arrays.label == positive)).sum())
        found[number] = _rate(k, max(rows.get(number, 0), k))
    return found


def _outcomes(app: App, service: str, span: Span) -> OutcomeArrays:
    arrays: OutcomeArrays = query.ask(
        query.Question(
            what="outcomes_joined",
            home=str(app.home.path),
            service=service,
            since=span.since,
            until=span.until,
        )
    )
    return arrays


def _positives(app: App, service: str, numbers: Iterable[int]) -> dict[int, str]:
    """The positive label of each version; "" of those that answer numbers."""
    with app.database.reading() as connection:
        rows = [get_version(connection, service, one) for one in numbers]
    return {one.number: manifest_of(app.home.bundles, one.digest).positive for one in rows}


def _of_outcomes(arrays: OutcomeArrays, name: str, version: int, positive: str) -> Counted:
    mine = arrays.version == version
    if name == "mean_value":
        value = arrays.value[mine & np.isfinite(arrays.value)]
        return Counted(len(value), float(value.sum()), float(value @ value))
    known = np.array([one is not None for one in arrays.label], dtype=bool)
    answered = np.array([one is not None for one in arrays.answer], dtype=bool)
    label, answer = arrays.label[mine & known & answered], arrays.answer[mine & known & answered]
    if name == "accuracy":
        # Of several labels too.
        return _rate(int((label == answer).sum()), len(label))
    truth = np.asarray(label == positive, dtype=bool)
    said = np.asarray(answer == positive, dtype=bool)
    cases, events = _cases(name, truth, said)
    return _rate(int((cases & events).sum()), int(cases.sum()))


def _cases(name: str, truth: Chosen, said: Chosen) -> tuple[Chosen, Chosen]:
    """Which cases count, and which of them are events. truth, said: positive."""
    match name:
        case "precision":
            return said, truth
        case "recall":
            return truth, said
        case "specificity":
            return ~truth, ~said
        case "default_rate":
            return ~said, truth
        case _:
            return np.ones_like(truth), truth


def _rate(k: int, n: int) -> Counted:
    return Counted(n, float(k), float(k))
