"""What a page works out from answers: sums, places on rulers, times between decisions. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from doorstep.console import marks, timeline
from doorstep.console.words import rate, span
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


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A stop on the way of a release: shadow, a step or a wave, bake, done. note: how long it was
    there, and what of it. is_end: the release ended here, and not as it should."""

    name: str
    place: Literal["past", "now", "next"]
    note: str = ""
    is_end: bool = False


def stages_of(shown: Release, now: Instant) -> tuple[Stage, ...]:
    """Where it has been and where it is: each decision to advance leads one place on."""
    stays = stays_of(shown, now)
    here = len(stays) - 1
    places = _places(shown)
    found = []
    for name, first, count in places:
        stay = span(sum(stays[first : first + count]))
        is_here = first <= here < first + count and shown.state != "done"
        place: Literal["past", "now", "next"] = "past" if first <= here else "next"
        note = _here(shown, name, stay) if is_here else stay if place == "past" else ""
        is_end = is_here and shown.ended_at is not None
        found.append(Stage(name=name, place="now" if is_here else place, note=note, is_end=is_end))
    done = Stage(name="done", place="now", note="champion")
    return (*found, done if shown.state == "done" else Stage(name="done", place="next"))


def _places(shown: Release) -> list[tuple[str, int, int]]:
    """(name, its first place among the stays, how many are its)."""
    if shown.champion is None:
        return [("bake", 0, 1)]
    found = [("shadow", 0, 1)] if has_shadow(shown) else []
    waves = [(f"wave {one.name}" if one.name else "the rest", one.shares) for one in shown.waves]
    at = 1
    for name, shares in waves or [(rate(one), (one,)) for one in shown.shares]:
        found.append((name, at, len(shares)))
        at += len(shares)
    return [*found, ("bake", at, 1)]


def _here(shown: Release, name: str, stay: str) -> str:
    ends = {"rolled-back": "rolled back here after", "inconclusive": "no answer here after"}
    if shown.state in ends:
        return f"{ends[shown.state]} {stay}"
    what = ""
    if name == "shadow":
        what = "callers see only the champion"
    elif name != "bake":
        what = f"step {shown.step} of {len(shown.shares)}"
        what += f", {rate(shown.share)}" if shown.waves else ""
    said = f"{'paused here, ' if shown.state == 'paused' else ''}{what}"
    return f"{said}, {stay}" if what else f"{said}{stay}"


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


def verdict_of(guardrail: GuardrailView) -> tuple[str, str]:
    """(its state, what the evidence says of it so far)."""
    is_rail = guardrail.role == "guardrail"
    if guardrail.log_e_rollback >= guardrail.log_e_rollback_threshold:
        return "fail", "worse than tolerated" if is_rail else "the champion has won"
    enough = guardrail.log_e_advance_threshold
    if enough and guardrail.log_e_advance >= enough:
        return "pass", "good enough to advance" if is_rail else "the challenger has won"
    if not enough:
        return "none", "only watched"
    return "none", "not yet known"


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
