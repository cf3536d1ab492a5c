"""What a page works out from answers: sums, places on rulers, times between decisions. Pure."""

from __future__ import annotations

from typing import Any

from doorstep.console import marks, timeline
from doorstep.core.condition import Quantity, parse_condition
from doorstep.core.errors import InputError
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.plural import plural
from doorstep.journal.surface import Traffic
from doorstep.monitor.surface import MonitorView, Promise
from doorstep.release.surface import GuardrailView, Release

COUNTED = ("requests", "errors", "assigned", "failed", "rescued")


def totals_of(traffic: Traffic) -> tuple[dict[str, Any], ...]:
    """Per version over the range: its counts, its share of the answers, how many of the requests
    whose turn it was it failed, and the largest p99 of a bucket."""
    sums: dict[int, dict[str, Any]] = {}
    for one in traffic.buckets:
        fresh = {"version": one.version, **dict.fromkeys(COUNTED, 0), "worst_ms": None}
        found = sums.setdefault(one.version, fresh)
        for name in COUNTED:
            found[name] += getattr(one, name)
        if one.latency_ms_p99 is not None:
            found["worst_ms"] = max(found["worst_ms"] or 0.0, one.latency_ms_p99)
    whole = sum(one["requests"] for one in sums.values())
    return tuple(
        {
            **one,
            "name": timeline.version_name(traffic.service, one["version"]),
            "share": one["requests"] / whole if whole else None,
            "failure_rate": one["failed"] / one["assigned"] if one["assigned"] else None,
        }
        for one in sorted(sums.values(), key=lambda one: (-one["requests"], -one["assigned"]))
    )


def say_undecided(shown: Release) -> str:
    """What a person who promotes now decides without."""
    rails = [one for one in shown.guardrails if one.role == "guardrail"]
    judged = [one for one in rails if one.log_e_advance_threshold]
    undecided = [one.name for one in judged if one.log_e_advance < one.log_e_advance_threshold]
    if not judged:
        return "No guardrail compares it with another version."
    if not undecided:
        return "Each guardrail has what it needs for this step."
    have = "has" if len(undecided) == 1 else "have"
    of = f"{len(undecided)} of {plural(len(judged), 'guardrail')}"
    return f"{of} {have} not decided: {', '.join(undecided)}."


def ruler_of(guardrail: GuardrailView, domain: tuple[float, float]) -> marks.Ruler:
    """domain: of the ratios of the page; a difference has an axis of its own."""
    interval, thresholds = (
        (guardrail.low, guardrail.high),
        (guardrail.tolerance, guardrail.margin),
    )
    scale = marks.ratio_scale(domain)
    if guardrail.compared == "difference":
        scale = marks.difference_scale([*interval, *thresholds])
    return marks.ruler(interval, estimate_of(guardrail), thresholds, scale)


def estimate_of(guardrail: GuardrailView) -> float | None:
    """challenger / champion, or the difference; None before there is any evidence."""
    champion, challenger = guardrail.champion, guardrail.challenger
    if champion is None or challenger is None:
        return None
    if guardrail.compared == "difference":
        return challenger - champion
    return challenger / champion if champion else None


def stays_of(shown: Release, now: Instant) -> tuple[float, ...]:
    """Seconds spent in shadow, then in each step, then baking; as far as it got. None in a shadow
    that there was not."""
    decisions = sorted(shown.decisions, key=lambda one: one.sequence)
    entered = [shown.started_at, *(one.at for one in decisions if one.action == "advance")]
    left = [*entered[1:], shown.ended_at or now]
    stays = tuple((end - start) / SECOND_US for start, end in zip(entered, left, strict=True))
    return stays if has_shadow(shown) or shown.champion is None else (0.0, *stays)


def has_shadow(shown: Release) -> bool:
    return not shown.split or shown.split[0].state == "shadow"


def metrics_of(shown: MonitorView) -> tuple[dict[str, Any], ...]:
    bounds = _bounds(shown.promises)
    return tuple(
        {
            "name": name,
            "estimate": estimate,
            "promise": bounds.get(name, (None, ""))[1],
            "ruler": marks.metric_ruler(estimate, bounds.get(name, (None, ""))[0]),
        }
        for name, estimate in shown.quality.items()
    )


def _bounds(promises: tuple[Promise, ...]) -> dict[str, tuple[float, str]]:
    """Metric -> (its promised number, the promise). Promises against a champion have no number."""
    found: dict[str, tuple[float, str]] = {}
    for promise in promises:
        try:
            condition = parse_condition(promise.text)
        except InputError:
            continue
        if isinstance(condition.right, Quantity):
            found.setdefault(condition.left, (condition.right.value, promise.text))
    return found
