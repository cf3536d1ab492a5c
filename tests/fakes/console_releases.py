"""Three releases of the console's fake bank: one on its way, one rolled back, one done."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.release.surface import (
    DecisionView,
    Difference,
    Differences,
    GuardrailView,
    MomentView,
    Pattern,
    Release,
    SplitView,
    WaveView,
)

MINUTE = 60 * SECOND_US
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def guardrails(progress: float) -> tuple[GuardrailView, ...]:
    """Evidence grows with `progress` 0..1; quality waits for outcomes."""
    need = math.log(20)
    against = math.log(60)

    def one(name: str, rates: tuple[float, float], spread: float, up: float) -> GuardrailView:
        centre = math.log(rates[1] / rates[0])
        wide = spread / math.sqrt(0.15 + progress)
        return GuardrailView(
            name=name,
            champion=rates[0],
            challenger=rates[1],
            compared="ratio",
            low=math.exp(centre - wide),
            high=math.exp(centre + wide),
            log_e_rollback=up * progress,
            log_e_rollback_threshold=against,
            log_e_advance=need * progress * (1.25 if name == "errors" else 0.8),
            log_e_advance_threshold=need,
            tolerance=1.1,
            margin=3.0,
            missing="" if name == "errors" and progress > 0.8 else "about 1,900 more requests",
        )

    quality = GuardrailView(
        name="quality",
        champion=None,
        challenger=None,
        compared="difference",
        low=None,
        high=None,
        log_e_rollback=0.0,
        log_e_rollback_threshold=against,
        log_e_advance=0.0,
        log_e_advance_threshold=need,
        tolerance=0.0,
        margin=0.005,
        missing="outcomes of 240 requests; none has arrived",
    )
    revenue = msgspec.structs.replace(
        one("revenue (experiment)", (41.2, 43.9), 0.3, 0.5),
        tolerance=1.0,
        margin=0.95,
        role="experiment",
        unit="value",
        is_better_high=True,
        missing="revenue 43.9 against 41.2, ratio 0.8 to 1.4",
    )
    return (
        one("errors", (0.0041, 0.0036), 0.62, 0.2),
        one("latency", (0.0100, 0.0124), 0.34, 1.6),
        quality,
        revenue,
    )


def split(start: Instant, *changes: tuple[float, str, float]) -> tuple[SplitView, ...]:
    """changes: (minutes after the start, state, share)."""
    return tuple(
        SplitView(at=start + round(minute * MINUTE), state=state, share=share)
        for minute, state, share in changes
    )


def wave(
    name: str, state: Any, share: float, step: int, match: dict[str, tuple[str, ...]]
) -> WaveView:
    return WaveView(
        name=name, match=match, state=state, share=share, shares=(0.01, 0.05, 0.25, 0.5), step=step
    )


def moments(start: Instant, minutes: int, worst: float = 0.4) -> tuple[MomentView, ...]:
    """Evidence that grows to `worst` against it, and for it with a fall at each step."""
    return tuple(
        MomentView(
            at=start + minutes * MINUTE * place // 60,
            worse={"errors": worst * place / 60, "latency": 0.3 * place / 60, "quality": 0.0},
            better={"errors": (place % 20) / 17, "latency": (place % 30) / 35, "quality": 0.0},
        )
        for place in range(1, 61)
    )


def differences(release: Release, ids: tuple[str, ...]) -> Differences:
    """ids: of the examples."""
    answers = (("good", "bad"), ("bad", "good"))
    return Differences(
        release=release.id,
        service=release.service,
        champion=release.champion,
        challenger=release.challenger,
        compared=1_000,
        differ=23,
        patterns=tuple(
            Pattern(champion=a, challenger=b, requests=n)
            for (a, b), n in zip(answers, (19, 4), strict=True)
        ),
        examples=tuple(
            Difference(
                prediction=prediction,
                at=release.started_at + place * SECOND_US,
                segment="rest",
                champion=answers[place % 5 == 4][0],
                challenger=answers[place % 5 == 4][1],
                inputs={"income": 2_900.0 + 7 * place, "duration": 24 + place, "purpose": "car"},
            )
            for place, prediction in enumerate(ids)
        ),
    )


RELEASE_STEP = "rel-0197c9d4-3f2a-7b1c-9000-8a6f11d20c44"
RELEASE_BACK = "rel-0197a1b4-1c2d-7e3f-9000-5b6c7d8e9f01"
RELEASE_DONE = "rel-01979f00-77aa-7b2c-9000-13579bdf0246"


def releases(now: Instant) -> tuple[Release, ...]:
    """Newest first: one in its second step, one rolled back, one finished."""
    return (_stepping(now), _rolled_back(now), _finished(now))


def _decision(sequence: int, at: Instant, action: str, state: str, reason: str) -> DecisionView:
    person = action in ("pause", "resume", "promote")
    progress = min(1.0, sequence / 9)
    return DecisionView(
        sequence=sequence,
        at=at,
        action=action,
        state=state,
        reason=reason,
        by="mira" if person else "doorstep",
        guardrails=guardrails(progress),
        evidence={"cells": [{"arm": "challenger", "requests": 310 * sequence, "bad": sequence}]},
    )


def _stepping(now: Instant) -> Release:
    start = now - 47 * MINUTE
    story = (
        (5, "advance", "shadow", "shadow: 1,000 pairs, 0 more errors than the champion"),
        (14, "hold", "step", "errors have evidence 6 to 1, 20 to 1 needed"),
        (20, "pause", "paused", "waiting for the data team to confirm the new income source"),
        (26, "resume", "step", "confirmed by the data team"),
        (31, "advance", "step", "every guardrail may advance at margin 5×"),
        (44, "hold", "step", "latency has evidence 11 to 1, 20 to 1 needed"),
    )
    return Release(
        id=RELEASE_STEP,
        service="loans",
        challenger=4,
        champion=2,
        state="step",
        step=2,
        share=0.05,
        shares=(0.01, 0.05, 0.25, 0.5),
        rehearsal=False,
        started_at=start,
        changed_at=start + 31 * MINUTE,
        ended_at=None,
        reason="Holds at 5 %: latency needs about 1,900 more requests, quality waits for outcomes.",
        by="mira",
        requests_champion=41_277,
        requests_challenger=1_284,
        failed_champion=3,
        failed_challenger=4,
        guardrails=guardrails(0.86),
        decisions=tuple(
            _decision(place + 1, start + minute * MINUTE, action, state, reason)
            for place, (minute, action, state, reason) in enumerate(story)
        ),
        settled=True,
        silent=(),
        plan_number=118,
        headline="loans@4 answers 5 %, loans@2 the rest (step 2 of 4); nothing speaks against it "
        "so far",
        next="next are 25 % in about 12 min at the present traffic, mostly for latency",
        next_s=720.0,
        split=split(start, (0, "shadow", 0.0), (5, "step", 0.01), (31, "step", 0.05)),
        waves=(
            wave("pilot", "now", 0.05, 2, {"store": ("3", "17", "44", "208", "391")}),
            wave("north", "waiting", 0.0, 0, {"region": ("north",)}),
            wave("", "waiting", 0.0, 0, {}),
        ),
        moments=moments(start, 47),
    )


def _rolled_back(now: Instant) -> Release:
    start = now - 6 * DAY
    reason = (
        "Rolled back: errors 4.1 % against 0.4 % (evidence 2,900 to 1). Clients saw 0 failures."
    )
    bad = GuardrailView(
        name="errors",
        champion=0.004,
        challenger=0.041,
        compared="ratio",
        low=4.6,
        high=24.0,
        log_e_rollback=math.log(2900),
        log_e_rollback_threshold=math.log(60),
        log_e_advance=0.0,
        log_e_advance_threshold=math.log(20),
        tolerance=1.1,
        margin=5.0,
        missing="",
    )
    decisions = (
        _decision(1, start + 5 * MINUTE, "advance", "step", "shadow: 1,000 pairs agree"),
        _decision(2, start + 11 * MINUTE, "rollback", "rolled-back", reason),
    )
    return Release(
        id=RELEASE_BACK,
        service="loans",
        challenger=3,
        champion=2,
        state="rolled-back",
        step=1,
        share=0.0,
        shares=(0.01, 0.05, 0.25, 0.5),
        rehearsal=False,
        started_at=start,
        changed_at=start + 11 * MINUTE,
        ended_at=start + 11 * MINUTE,
        reason=reason,
        by="jonas",
        requests_champion=9_902,
        requests_challenger=1_121,
        failed_champion=3,
        failed_challenger=46,
        guardrails=(bad, *guardrails(0.5)[1:2]),
        decisions=decisions,
        settled=True,
        silent=("node-b",),
        plan_number=97,
        headline="loans@3 was taken back after 11 min; it had got 1 % at most",
        split=split(start, (0, "shadow", 0.0), (5, "step", 0.01), (11, "rolled-back", 0.0)),
        moments=moments(start, 11, 1.4),
    )


def _finished(now: Instant) -> Release:
    start = now - 15 * DAY
    decisions = tuple(
        _decision(place + 1, start + minutes * MINUTE, action, "step", reason)
        for place, (minutes, action, reason) in enumerate(
            (
                (6, "advance", "shadow: 1,000 pairs agree"),
                (18, "advance", "every guardrail may advance"),
                (55, "advance", "every guardrail may advance"),
                (74, "advance", "every guardrail may advance"),
                (93, "advance", "every guardrail may advance; bakes at 95 %"),
                (153, "finish", "baked for 60 minutes without a finding"),
            )
        )
    )
    return Release(
        id=RELEASE_DONE,
        service="loans",
        challenger=2,
        champion=1,
        state="done",
        step=4,
        share=1.0,
        shares=(0.01, 0.05, 0.25, 0.5),
        rehearsal=False,
        started_at=start,
        changed_at=start + 153 * MINUTE,
        ended_at=start + 153 * MINUTE,
        reason="Done: loans@2 serves all traffic; every guardrail held over 61,204 requests.",
        by="mira",
        requests_champion=61_204,
        requests_challenger=58_931,
        failed_champion=3,
        failed_challenger=110,
        guardrails=guardrails(1.0),
        decisions=decisions,
        settled=True,
        silent=(),
        plan_number=71,
        headline="loans@2 became the champion; its release took 2.5 h",
        split=split(
            start,
            *((0, "shadow", 0.0), (6, "step", 0.01), (18, "step", 0.05), (55, "step", 0.25)),
            *((74, "step", 0.5), (93, "bake", 0.95), (153, "done", 1.0)),
        ),
        moments=moments(start, 153),
    )
