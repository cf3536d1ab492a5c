"""Whether the traffic has changed against the reference of the version that answers it.

Detection is `stats.distances.drift_report` (Holm over all tests of all columns, 0.5 % a window);
how much it matters comes from distances, never the other way round: to ask for a size as well
would hide small changes that are certain.
"""

from __future__ import annotations

from typing import Any

from doorstep.core.manifest import ColumnProfile, Profile
from doorstep.explain.words import number
from doorstep.gate.sentences import percent
from doorstep.monitor.pairs import SUBJECT as PAIRS
from doorstep.monitor.pairs import judges_pairs, observe_pairs
from doorstep.monitor.types import DriftWindow, Observation, ServiceFacts, Severity
from doorstep.monitor.wording import counted
from doorstep.stats.codes import CODE_OTHER_KNOWN, CODE_UNSEEN, CODES
from doorstep.stats.distances import (
    DRIFT_ALPHA,
    ColumnCounts,
    ColumnDrift,
    Kind,
    drift_report,
    normal_scores,
)

ROWS_MIN = 200
"""Fewer rows find only what a person would see at once, and the tests are rough."""
CLEAR_P_MIN = 0.05
"""An open drift is over when nothing is left to see, not when it just misses the alarm."""
UNIT_KS = 0.8
WARNING = {"shift_sd": 0.25, "jensen_shannon": 0.02, "missing": 0.05, "unseen": 0.01}
CRITICAL = {"shift_sd": 0.8, "jensen_shannon": 0.15, "missing": 0.3, "unseen": 0.2}
IMPORTANCE_MIN = 0.02
"""A column that moves the answers by under 2 % of all movement never makes a drift critical."""
MANY_SHARE = 0.5


def compared_columns(
    facts: ServiceFacts,
) -> tuple[dict[str, ColumnProfile], dict[str, Kind]]:
    """Journal column -> its reference, and -> its kind, for all that the window and the profile
    both have. Of two scores that add up to one, only the positive label's is looked at."""
    if facts.reference is None or facts.drift is None:
        return {}, {}
    known = _journal_names(facts.reference, facts.positive)
    found = {
        name: known[name]
        for name, counts in facts.drift.columns.items()
        if name in known and counts.rows and sum(known[name].counts)
    }
    kinds: dict[str, Kind] = {
        name: "category" if one.type in ("category", "text") else "number"
        for name, one in found.items()
    }
    return found, kinds


def _journal_names(reference: Profile, positive: str) -> dict[str, ColumnProfile]:
    names = {f"{prefix}.{one.name}": one for one in reference.columns for prefix in ("in", "ctx")}
    scores = {f"out.{one.name}": one for one in reference.scores}
    if len(scores) == 2:
        kept = f"out.{positive}" if f"out.{positive}" in scores else list(scores)[-1]
        scores = {kept: scores[kept]}
    return names | scores


def drift_subjects(facts: ServiceFacts) -> frozenset[str]:
    """The subjects whose drift can be judged as long as this version is the champion."""
    if facts.reference is None:
        return frozenset()
    names = {subject_of(one) for one in _journal_names(facts.reference, facts.positive)}
    return frozenset(names | {PAIRS} if judges_pairs(facts.reference) else names)


def column_report(facts: ServiceFacts) -> list[ColumnDrift]:
    """Every column compared, in the order of the window; [] where there is nothing to compare."""
    profiles, kinds = compared_columns(facts)
    if facts.drift is None or not profiles:
        return []
    reference = {name: ColumnCounts(one.counts, one.nulls) for name, one in profiles.items()}
    return drift_report(reference, facts.drift.columns, kinds)


def observe_drift(facts: ServiceFacts) -> list[Observation]:
    """One observation per column that is surely drifted or surely not, and one of how they go
    together; none for those between, and none at all for a window with under `ROWS_MIN` rows."""
    window = facts.drift
    if window is None or window.rows < ROWS_MIN:
        return []
    report = column_report(facts)
    profiles, _ = compared_columns(facts)
    drifted = sum(one.drifted for one in report)
    is_broad = len(report) > 3 and drifted / len(report) >= MANY_SHARE
    found = []
    for one in report:
        if one.drifted:
            found.append(_bad(facts.service, window, profiles[one.column], one, is_broad))
        elif min(one.p_holm.values()) > CLEAR_P_MIN:
            found.append(_fine(window, one))
    pairs = observe_pairs(facts, [subject_of(one.column) for one in report if one.drifted])
    return [*found, pairs] if pairs else found


def subject_of(column: str) -> str:
    """`in.age` -> `age`; `out.bad` -> `score of bad`."""
    place, _, name = column.partition(".")
    return f"score of {name}" if place == "out" else name


def _fine(window: DriftWindow, one: ColumnDrift) -> Observation:
    return Observation(
        kind="drift",
        subject=subject_of(one.column),
        is_bad=False,
        since=window.since,
        until=window.until,
    )


def _bad(
    service: str,
    window: DriftWindow,
    profile: ColumnProfile,
    one: ColumnDrift,
    is_broad: bool,
) -> Observation:
    counts = window.columns[one.column]
    unseen = _unseen_change(profile, counts)
    severity = severity_of(one, unseen, profile)
    return Observation(
        kind="drift",
        subject=subject_of(one.column),
        is_bad=True,
        since=window.since,
        until=window.until,
        severity=severity,
        sentence=_sentence(one, profile, counts, unseen, counted(window)),
        cause=_cause(one, unseen, is_broad),
        next=f"doorstep monitor {service}",
        numbers=_numbers(one, profile, counts, unseen, window.rows),
    )


def severity_of(one: ColumnDrift, unseen: float, profile: ColumnProfile) -> Severity:
    """From distances: how far, how many missing, how many never seen; and whether it matters."""
    is_text = profile.type in ("category", "text")
    sizes = {
        "shift_sd": 0.0
        if is_text or one.wasserstein_sd != one.wasserstein_sd
        else one.wasserstein_sd,
        "jensen_shannon": one.jensen_shannon if is_text else 0.0,
        "missing": abs(one.missing_change),
        "unseen": unseen,
    }
    matters = profile.importance == 0.0 or profile.importance >= IMPORTANCE_MIN
    if matters and any(sizes[name] >= limit for name, limit in CRITICAL.items()):
        return "critical"
    return "warning" if any(sizes[name] >= limit for name, limit in WARNING.items()) else "info"


def _unseen_change(profile: ColumnProfile, counts: ColumnCounts) -> float:
    """Share of values that the reference never had, beyond its own; 0 for numbers."""
    if profile.type not in ("category", "text"):
        return 0.0
    before = profile.counts[CODE_UNSEEN] / max(1, sum(profile.counts))
    return max(0.0, counts.codes[CODE_UNSEEN] / max(1, sum(counts.codes)) - before)


def _sentence(
    one: ColumnDrift, profile: ColumnProfile, counts: ColumnCounts, unseen: float, requests: str
) -> str:
    """requests: how many in how long, `2,000 requests in 1 h`."""
    name = subject_of(one.column)
    if abs(one.missing_change) >= WARNING["missing"]:
        before = profile.nulls / max(1, profile.nulls + sum(profile.counts))
        now = counts.missing / max(1, counts.rows)
        change = f"{percent(now)} of {requests}, in training {percent(before)}"
        return f"{name} is missing in {change}"
    if unseen >= WARNING["unseen"]:
        return f"{name} has values never seen in training in {percent(unseen)} of {requests}"
    if profile.type in ("category", "text"):
        return f"{name} has drifted: {_category_moved(profile, counts)} of {requests}"
    if one.p_holm.get("location", 1.0) <= DRIFT_ALPHA:
        first = normal_scores(profile.counts)[0]
        side = "higher" if _mean(first, counts.codes) > _mean(first, profile.counts) else "lower"
        size = number(round(one.wasserstein_sd, 3))
        return f"{name} is {side} than in training by {size} standard deviations, of {requests}"
    return f"{name} is spread differently than in training, of {requests}"


def _mean(scores: Any, counts: tuple[int, ...]) -> float:
    return float(sum(s * n for s, n in zip(scores, counts, strict=True)) / max(1, sum(counts)))


def _category_moved(profile: ColumnProfile, counts: ColumnCounts) -> str:
    before, now = _shares(profile.counts), _shares(counts.codes)
    at = max(range(CODES), key=lambda code: abs(now[code] - before[code]))
    names = {CODE_OTHER_KNOWN: "the rarer values", CODE_UNSEEN: "values never seen in training"}
    own = f"'{profile.categories[at]}'" if at < len(profile.categories) else f"value {at}"
    return f"{names.get(at, own)} went from {percent(before[at])} to {percent(now[at])}"


def _shares(counts: tuple[int, ...]) -> list[float]:
    total = max(1, sum(counts))
    return [one / total for one in counts]


def _cause(one: ColumnDrift, unseen: float, is_broad: bool) -> str:
    if abs(one.missing_change) >= WARNING["missing"]:
        return "whoever sends this field stopped or started filling it in"
    if unseen >= WARNING["unseen"]:
        return "a new value, or a new way to spell one, at the source"
    if (
        one.column.startswith("in.")
        and one.ks >= UNIT_KS
        and one.wasserstein_sd == one.wasserstein_sd
    ):
        return "another unit or another source: hardly any value is where training had them"
    if is_broad:
        return "most columns moved together: other customers, another season or another caller"
    if one.column.startswith("out."):
        return "the inputs changed; see the drifted columns"
    return "the population or how this field is collected has changed"


def _numbers(
    one: ColumnDrift, profile: ColumnProfile, counts: ColumnCounts, unseen: float, rows: int
) -> dict[str, Any]:
    """What the finding was computed from: both windows by code, and the tests."""
    return {
        "column": one.column,
        "rows": rows,
        "p_holm": one.p_holm,
        "shift_sd": _or_none(one.wasserstein_sd),
        "ks": _or_none(one.ks),
        "psi": _or_none(one.psi),
        "jensen_shannon": _or_none(one.jensen_shannon),
        "missing_change": one.missing_change,
        "unseen": unseen,
        "reference": [*profile.counts, profile.nulls],
        "now": [*counts.codes, counts.missing],
    }


def _or_none(value: float) -> float | None:
    return value if value == value else None
