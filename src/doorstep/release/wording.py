"""Numbers of a release as a person would say them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from doorstep.release.metrics import METRICS
from doorstep.release.types import SLOWER, Decision, Numbers, Ranking, Release

EVIDENCE_SAID_MAX = 1e9
PERCENT_DIGITS_BELOW = 0.01


def percent(rate: float | None) -> str:
    """`4.1 %`; two digits below 1 %; `unknown` for None."""
    if rate is None:
        return "unknown"
    text = f"{rate * 100:.2f}" if 0.0 < rate < PERCENT_DIGITS_BELOW else f"{rate * 100:.1f}"
    return f"{text.removesuffix('.0') if rate and float(text) >= 1 else text} %"


def say_evidence(log_e: float) -> str:
    """`evidence 2,900 to 1`: two leading digits, from a natural log."""
    if log_e >= math.log(EVIDENCE_SAID_MAX):
        return f"evidence more than {EVIDENCE_SAID_MAX:,.0f} to 1"
    return f"evidence {say_odds(log_e)} to 1"


def say_odds(log_e: float) -> str:
    """`2,900`: two leading digits, from a natural log."""
    odds = float(f"{math.exp(log_e):.2g}")
    return f"{odds:,.0f}" if odds >= 10 else f"{odds:.2g}"


def say_time(seconds: float) -> str:
    """`45 s`, `10 min`, `1.5 h`, `2 d`: rounded, for reading only."""
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= size * (2.0 if unit == "d" else 1.0):
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"


def say_verdict(numbers: Numbers) -> str:
    """`errors 4.1 % against 0.0 % (evidence 2,900 to 1)`, of whichever side crossed."""
    log_e = numbers.log_e_rollback
    if not numbers.is_bad and numbers.log_e_advance is not None:
        log_e = numbers.log_e_advance
    where = f" in {say_segment(numbers.segment)}" if numbers.segment is not None else ""
    against = f" against {say_value(numbers, numbers.champion_rate)}"
    if numbers.method.startswith("M4") or numbers.champion_rate is None:
        against = ""
    rate = say_value(numbers, numbers.challenger_rate)
    return f"{say_name(numbers)}{where} {rate}{against} ({say_evidence(log_e)})"


def say_wave(name: str) -> str:
    return f"wave {name}" if name else "the rest"


def name_of(numbers: Numbers) -> str:
    """`errors`, `errors in north`, `conversion (experiment)`."""
    if numbers.is_experiment:
        return f"{numbers.guardrail} (experiment)"
    if numbers.segment is None:
        return numbers.guardrail
    return f"{numbers.guardrail} in {numbers.segment or 'the rest'}"


def say_segment(name: str) -> str:
    return f'segment "{name}"' if name else "the rest"


def say_step(release: Release, step: int) -> str:
    """`step 2`, or where there are waves `wave pilot, step 2`; `the rest, step 1`."""
    wave, place = release.spec.wave_of(step)
    if not release.spec.wave_steps:
        return f"step {step + 1}"
    return f"{say_wave(release.spec.segments[wave])}, step {place + 1}"


def say_ratio(numbers: Numbers) -> str:
    """`errors 0.2 % against 0.1 %, ratio 0.4 to 8.1`; an end that is open is said as such. Of
    quality: `quality loss 11 % against 10 %, difference -0.4 to +2.1 points`."""
    rates = (
        f"{say_value(numbers, numbers.challenger_rate)} against "
        f"{say_value(numbers, numbers.champion_rate)}"
    )
    if numbers.guardrail == "disagreement":
        return f"{say_name(numbers)} {percent(numbers.challenger_rate)}"
    if not numbers.is_ratio:
        return (
            f"{say_name(numbers)} {rates}, difference {say_difference(numbers.low, numbers.high)}"
        )
    return f"{numbers.guardrail} {rates}, ratio {_ratio(numbers)}"


def _ratio(numbers: Numbers) -> str:
    low, high = numbers.low or 0.0, numbers.high
    if high is None:
        return f"at least {low:.3g}" if low > 0.0 else "unknown"
    return f"{low:.3g} to {high:.3g}" if low > 0.0 else f"at most {high:.3g}"


def say_undecided(numbers: Numbers) -> str:
    """Of an experiment: `neither won: conversion 5.1 % against 5 %; no difference beyond a ratio of
    0.94 to 1.1 was seen`."""
    between = f"a ratio of {_ratio(numbers)}"
    if not numbers.is_ratio:
        between = say_difference(numbers.low, numbers.high)
    rates = (
        f"{say_value(numbers, numbers.challenger_rate)} against "
        f"{say_value(numbers, numbers.champion_rate)}"
    )
    if numbers.low is None and numbers.high is None:
        return f"neither won: {say_name(numbers)} {rates}; nothing was seen that tells them apart"
    return f"neither won: {say_name(numbers)} {rates}; no difference beyond {between} was seen"


def say_leads(numbers: Numbers) -> str:
    """Of an experiment that runs: `conversion 5.1 % against 4.8 %, ratio 0.9 to 1.2: evidence 3.1
    to 1 of 40 that it is better, 0.2 to 1 that it is worse`."""
    need = math.exp(numbers.log_rollback_at)
    better = say_evidence(numbers.log_e_advance or 0.0)
    worse = say_evidence(numbers.log_e_rollback).removeprefix("evidence ")
    return f"{say_ratio(numbers)}: {better} of {need:,.0f} that it is better, {worse} that worse"


def say_rankings(rankings: Sequence[Ranking]) -> str:
    """`AUC 0.78 (0.74 to 0.82) against 0.76 (0.72 to 0.80)`, the challenger's first; "" where it is
    not known of both."""
    of = {one.arm: f"{one.auc:.3f} ({one.low:.3f} to {one.high:.3f})" for one in rankings}
    if len(of) < 2:
        return ""
    return f"AUC {of['challenger']} against {of['champion']}"


def say_value(numbers: Numbers, value: float | None) -> str:
    """A rate in percent; of what has a unit (revenue, mean latency) the number."""
    if value is None or numbers.guardrail not in ("revenue", "mean-latency"):
        return percent(value)
    return f"{value / 1000:.3g} ms" if numbers.guardrail == "mean-latency" else f"{value:.3g}"


def say_basis(decision: Decision) -> str:
    """What a decision rests on: `errors 0.36 % against 0.41 %, ratio 0.5 to 1.6; 41,277 requests
    of the champion, 1,284 of the challenger`."""
    pooled = [one for one in decision.numbers if one.segment is None]
    requests = {
        arm: sum(one.requests for one in decision.evidence.cells if one.arm == arm)
        for arm in ("champion", "challenger")
    }
    counted = [
        f"{n:,} {'request' if n == 1 else 'requests'} of the {arm}"
        for arm, n in requests.items()
        if n
    ]
    said = [*map(_briefly, pooled), *([", ".join(counted)] if counted else [])]
    return "; ".join(said) or "nothing was counted"


def _briefly(numbers: Numbers) -> str:
    """As `say_ratio`, without what is not known."""
    if numbers.champion_rate is None:
        return f"{say_name(numbers)} {say_value(numbers, numbers.challenger_rate)}"
    return say_ratio(numbers).removesuffix(", ratio unknown").removesuffix(", difference unknown")


def say_difference(low: float | None, high: float | None) -> str:
    """`-0.4 to +2.1 points`; `unknown`."""
    if low is None or high is None:
        return "unknown"
    return f"{low * 100:+.2g} to {high * 100:+.2g} points"


def say_name(numbers: Numbers) -> str:
    """Of latency: `requests slower than the former p99`."""
    if numbers.method.startswith(SLOWER):
        return f"requests slower than the former p{numbers.method.removeprefix(SLOWER)}"
    return METRICS[numbers.guardrail].said


def say_slower(numbers: Numbers) -> str:
    """Of latency, what is compared: `share of answers slower than the champion's p90 was`."""
    limit = "was promised"
    if numbers.method.startswith(SLOWER):
        limit = f"the champion's p{numbers.method.removeprefix(SLOWER)} was"
    return f"share of answers slower than {limit}"


def say_missing(numbers: Numbers) -> str:
    """What the evidence still lacks: `evidence 3.1 to 1 of 20, about 320 more units needed`."""
    if numbers.log_e_advance is None or numbers.log_advance_at is None:
        return "no evidence is waited for here"
    if numbers.is_good:
        return f"enough evidence ({say_evidence(numbers.log_e_advance)}) but not enough time"
    need = f"{say_evidence(numbers.log_e_advance)} of {math.exp(numbers.log_advance_at):,.0f}"
    if numbers.units_missing is None:
        return f"{need}, more evidence needed"
    what = METRICS[numbers.guardrail].counted
    return f"{need}, about {numbers.units_missing:,} more {what} needed"
