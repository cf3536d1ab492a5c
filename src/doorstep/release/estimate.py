"""What a release will need, said before it starts. Pure; a forecast, never a decision.

Two questions. How long does an equal challenger take through every stage: with a chance of 97.5 %
each guardrail has its evidence by then. And how much must be seen of the regressions that matter
until they are taken back: means. Both at the traffic that the service has now.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import msgspec

from doorstep.release.decide import CEILING_PART, patience_s
from doorstep.release.types import SLOW_QUANTILES, Experiment, Guardrail, ReleaseSpec
from doorstep.release.wording import percent, say_segment, say_time
from doorstep.stats import planner

DISCORDANT = 0.7
"""Of a champion's mistakes, how often an equal challenger is right where it is wrong: measured 6 to
7 % of answers at 10 % mistakes. It decides how much pairs are worth."""
SHARE_SLOWER = 1.5
WORSE_PART = 0.1
POINTS = (0.01, 0.02)
ERRORS_FROM_NONE = 0.01
"""What errors "double" to where the champion has none."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What a service sees. units_per_s: distinct units; taken as requests where each comes once.
    of_segment: parts of them, by wave; {} where it has no waves."""

    units_per_s: float = 0.0
    error_rate: float = 0.0
    outcomes_per_s: float = 0.0
    of_segment: Mapping[str, float] = {}

    def part(self, segment: str | None) -> float:
        return 1.0 if segment is None else self.of_segment.get(segment, 0.0)


class StepEstimate(msgspec.Struct, frozen=True):
    """share: of the challenger. units: of both arms that this step needs, of the wave that it
    carries. seconds: in this step, at least its dwell time. wave: "" the rest, None without waves.
    waits_for: the guardrail that takes longest, "" where it is the dwell time."""

    share: float
    units: float
    seconds: float
    wave: str | None = None
    waits_for: str = ""


class Regression(msgspec.Struct, frozen=True, kw_only=True):
    """One that is looked for: how much is counted (of both arms, at the last step's share) until it
    is rolled back, and how long that takes. pairs, pairs_s: the same in shadow; None where shadow
    does not see it."""

    guardrail: str
    what: str
    counted: str
    units: float
    seconds: float
    pairs: float | None = None
    pairs_s: float | None = None


class Estimate(msgspec.Struct, frozen=True):
    """fits: all steps and the shadow end before the deadline. reason: said when they do not.
    total_s: until the bake."""

    shadow_s: float
    steps: tuple[StepEstimate, ...]
    total_s: float
    fits: bool
    reason: str
    shadow_pairs: float = 0.0
    shadow_waits_for: str = ""
    regressions: tuple[Regression, ...] = ()


class _Seen(msgspec.Struct, frozen=True):
    spec: ReleaseSpec
    traffic: Traffic

    def told_part(self, guardrail: Guardrail) -> float:
        """What counts for it of each unit: outcomes, where those are counted."""
        if guardrail.metric.read != "outcomes":
            return 1.0
        if self.traffic.units_per_s <= 0.0:
            return 0.0
        return self.traffic.outcomes_per_s / self.traffic.units_per_s


def estimate(spec: ReleaseSpec, units_per_s: float | Traffic, error_rate: float = 0.0) -> Estimate:
    """How long each step takes with so many distinct units and this error rate of both versions. No
    traffic: infinite times, and it does not fit."""
    traffic = (
        units_per_s
        if isinstance(units_per_s, Traffic)
        else Traffic(units_per_s=units_per_s, error_rate=error_rate)
    )
    seen = _Seen(spec, traffic)
    pairs, shadow_s, shadow_waits = _shadow(seen)
    steps = tuple(_steps(seen, pairs, shadow_s))
    total_s = shadow_s + sum(one.seconds for one in steps)
    # An experiment lasts as long as it may; that nobody wins is an answer.
    fits = total_s <= spec.deadline_s or spec.experiment is not None
    return Estimate(
        shadow_s=shadow_s,
        steps=steps,
        total_s=total_s,
        fits=fits,
        reason="" if fits else _why(seen, shadow_s, shadow_waits, steps),
        shadow_pairs=pairs,
        shadow_waits_for=shadow_waits,
        regressions=tuple(_regressions(seen)),
    )


def _shadow(seen: _Seen) -> tuple[float, float, str]:
    """(pairs, seconds, guardrail that takes longest)."""
    spec, traffic = seen.spec, seen.traffic
    if not spec.shadow_requests:
        return 0.0, 0.0, ""
    per_s = traffic.units_per_s * spec.shadow_sample
    rate = min(traffic.error_rate, 0.5)
    # Versions that fail at random, each on its own requests, differ the most.
    errors = planner.pairs_within(rate, spec.shadow_margin, spec.alpha_p)
    found = [(_time(max(errors, spec.shadow_requests), per_s), "errors")]
    for one in spec.guardrails:
        if one.name == "disagreement":
            need = planner.below_within(one.tolerance / 2.0, one.tolerance, spec.alpha_p)
            found.append((_time(need, per_s), one.name))
        if one.name == "quality":
            wrong = DISCORDANT * one.reference / 2.0
            need = planner.pairs_within(wrong, one.margin_at(0), spec.alpha_p / 2.0)
            found.append((_time(need, per_s * seen.told_part(one)) + one.delay_s, one.name))
    seconds, name = max(found)
    pairs = max(spec.shadow_requests, seconds * per_s) if math.isfinite(seconds) else math.inf
    return pairs, seconds, name


def _steps(seen: _Seen, pairs: float, done_s: float) -> Iterator[StepEstimate]:
    spec = seen.spec
    for wave in range(len(spec.wave_steps) or 1):
        segment = spec.segments[wave] if spec.wave_steps else None
        per_s = seen.traffic.units_per_s * seen.traffic.part(segment)
        mine = 0.0
        for at in spec.steps_of(wave):
            share = spec.share_of(at)
            needs = {
                one.name: _units_needed(seen, one, at, mine, pairs * seen.traffic.part(segment))
                for one in spec.guardrails
            }
            waits = {
                name: _time(need, per_s) + (spec.warmup_s if need else 0.0)
                for name, need in needs.items()
            }
            for one in spec.guardrails:
                if one.delay_s and needs[one.name]:
                    waits[one.name] += one.delay_s
            if at + 1 == len(spec.steps):
                long_s = min(patience_s(spec), max(0.0, spec.deadline_s - done_s) / 2)
                sure_s = spec.warmup_s + _time(_sure_units(seen, at, mine), per_s)
                waits["errors"] = min(sure_s, max(waits["errors"], long_s))
            longest = max(waits, key=lambda name: waits[name])
            is_short = waits[longest] <= spec.dwell_s[at]
            stay_s = max(spec.dwell_s[at], waits[longest], spec.warmup_s)
            if per_s <= 0.0:
                stay_s = math.inf
            yield StepEstimate(
                share, max(needs.values()), stay_s, segment, "" if is_short else longest
            )
            done_s += stay_s
            mine += max(0.0, stay_s - spec.warmup_s) * per_s * share if per_s else 0.0


def _sure_units(seen: _Seen, at: int, mine: float) -> float:
    """Until nobody has to be patient in the last step any more: see `decide`."""
    errors = next(one for one in seen.spec.guardrails if one.name == "errors")
    low = msgspec.structs.replace(errors, ceiling=errors.ceiling * CEILING_PART)
    return _units_needed(seen, low, at, mine, 0.0)


def _units_needed(seen: _Seen, guardrail: Guardrail, at: int, mine: float, pairs: float) -> float:
    """Units of both arms in this step, when the challenger already has `mine` from earlier steps of
    the wave, and the shadow had `pairs` of it."""
    spec, share, alpha = seen.spec, seen.spec.share_of(at), seen.spec.alpha_p
    match guardrail.name:
        case "errors":
            rate, margin, limit = seen.traffic.error_rate, spec.margins[at], guardrail.ceiling
            return _rare(share, rate, margin, limit, alpha, mine)
        case "latency":
            margin = guardrail.margin_at(at)
            return max(
                _rare(share, 1.0 - q, margin, min(margin * (1.0 - q), 0.9), alpha, mine)
                for q in SLOW_QUANTILES[:3]
            )
        case "disagreement":
            return 0.0
        case _:
            return _journaled(seen, guardrail, at, pairs)


def _rare(
    share: float, rate: float, margin: float, limit: float, alpha: float, mine: float
) -> float:
    by_ratio = planner.alike_within(share, rate, margin, alpha)
    by_limit = planner.below_within(rate, limit, alpha)
    return min(by_ratio, max(0.0, by_limit - mine) / share)


def _journaled(seen: _Seen, guardrail: Guardrail, at: int, pairs: float) -> float:
    """Units that must have come to something: none where the pairs of the shadow have shown it."""
    spec, part = seen.spec, seen.told_part(guardrail)
    margin = guardrail.delta(guardrail.margin_at(at))
    in_shadow = spec.shadow_requests and guardrail.name == "quality"
    alpha = spec.alpha_p / 2.0 if in_shadow else spec.alpha_p
    if in_shadow:
        wrong = DISCORDANT * guardrail.reference / 2.0
        if pairs * part >= planner.pairs_within(wrong, margin, alpha):
            return 0.0
    if guardrail.name == "fairness":
        # Blocks of one request of the small group and m of the large: their gap varies by at most
        # (1 + 1/m) / 4; M2 at one half with a quarter of a variance is M3 with it.
        m = max((count for _, count in guardrail.groups), default=1)
        blocks = planner.difference_within(0.5, (1.0 + 1.0 / m) / 16.0, margin, alpha)
        return blocks * (1.0 + m) / spec.share_of(at)
    counted = planner.difference_within(
        spec.share_of(at), _variance(guardrail.reference), margin, alpha
    )
    return counted / part if part > 0.0 else math.inf


def _variance(mean_loss: float) -> float:
    return mean_loss * (1.0 - mean_loss)


def _time(units: float, per_s: float) -> float:
    if units <= 0:
        return 0.0
    return units / per_s if per_s > 0 else math.inf


def _regressions(seen: _Seen) -> Iterator[Regression]:
    for one in seen.spec.guardrails:
        alpha = seen.spec.alpha * one.weight
        match one.name:
            case "errors":
                yield _of_errors(seen, one, alpha)
            case "latency":
                yield _of_latency(seen, one, alpha)
            case "quality":
                yield from (_of_quality(seen, one, alpha, points) for points in POINTS)
            case "conversion" | "revenue" | "mean-latency":
                yield _of_part(seen, one, alpha)
            case _:
                pass
    test = seen.spec.experiment
    if test is not None and test.measure.metric.read != "nodes":
        yield _of_experiment(seen, test)


def _of_part(seen: _Seen, guardrail: Guardrail, alpha: float) -> Regression:
    """A tenth worse than the champion's."""
    share = min(max(seen.spec.steps), seen.spec.bake_share)
    delta = WORSE_PART * guardrail.mean
    units = planner.difference_needed(share, _variance(guardrail.reference), delta, alpha)
    return _regression(
        seen, guardrail, f"{guardrail.metric.said} a tenth worse than the champion's", units
    )


def _of_experiment(seen: _Seen, test: Experiment) -> Regression:
    """The smallest difference that mostly ends it before its time is over."""
    rail, share = test.measure, seen.spec.share_of(0)
    counted_s = max(seen.spec.deadline_s - rail.delay_s, 0.0)
    n = seen.traffic.units_per_s * seen.told_part(rail) * counted_s
    need = planner.OVERHEAD * math.log(2.0 / test.alpha)
    v = share * (1.0 - share)
    delta = math.sqrt(2.0 * _variance(rail.reference) * need / (v * n)) if n and v else math.inf
    is_part = rail.metric.compared == "part" and rail.mean > 0.0
    said = percent(delta / rail.mean) if is_part else f"{delta * 100:.2g} points"
    what = f"{rail.metric.said} of both differs by {said}" if n else "any difference"
    found = _regression(seen, rail, what, n if n else math.inf)
    return msgspec.structs.replace(found, seconds=seen.spec.deadline_s if n else math.inf)


def _of_errors(seen: _Seen, guardrail: Guardrail, alpha: float) -> Regression:
    share, rate = max(seen.spec.steps), seen.traffic.error_rate
    share = min(share, seen.spec.bake_share)
    if rate > 0.0:
        units = planner.share_requests_needed(share, rate, 2.0, guardrail.tolerance, alpha)
        what = f"errors double ({percent(rate)} to {percent(2.0 * rate)})"
    else:
        units = planner.requests_needed(share, ERRORS_FROM_NONE, 0.0, alpha)
        what = f"errors {percent(ERRORS_FROM_NONE)}, from none"
    return _regression(seen, guardrail, what, units)


def _of_latency(seen: _Seen, guardrail: Guardrail, alpha: float) -> Regression:
    share = min(max(seen.spec.steps), seen.spec.bake_share)
    needs = [
        planner.share_requests_needed(
            share, 1.0 - q, slower / (1.0 - q), 1.0, alpha / len(SLOW_QUANTILES)
        )
        for q, slower in zip(SLOW_QUANTILES, _slower(guardrail), strict=True)
        if slower > 1.0 - q
    ]
    what = f"every answer takes {SHARE_SLOWER:g} times as long"
    return _regression(seen, guardrail, what, min(needs, default=math.inf))


def _slower(guardrail: Guardrail) -> Iterator[float]:
    """Share of the challenger's requests over each of its limits, if each took 1.5 times as long:
    read from the champion's quantiles, log times against those of a normal distribution."""
    logs = [math.log(max(one, 1)) for one in guardrail.slow_us]
    z = [NormalDist().inv_cdf(q) for q in SLOW_QUANTILES]
    spread = max((logs[1] - logs[0]) / (z[1] - z[0]), 1e-6)
    for limit in guardrail.slow_challenger_us:
        at = math.log(max(limit, 1)) - math.log(SHARE_SLOWER)
        place = next((n for n in range(3) if at <= logs[n + 1]), 2)
        slope = max((logs[place + 1] - logs[place]) / (z[place + 1] - z[place]), 1e-6)
        below = (
            z[0] + (at - logs[0]) / spread
            if at < logs[0]
            else z[place] + (at - logs[place]) / slope
        )
        yield 1.0 - NormalDist().cdf(below)


def _of_quality(seen: _Seen, guardrail: Guardrail, alpha: float, points: float) -> Regression:
    share = min(max(seen.spec.steps), seen.spec.bake_share)
    units = planner.difference_needed(share, _variance(guardrail.reference), points, alpha)
    alone = DISCORDANT * guardrail.reference / 2.0
    pairs = planner.pairs_needed(max(alone, points) + points / 2, max(alone - points / 2, 0), alpha)
    what = f"quality {points * 100:g} point{'s' if points > POINTS[0] else ''} worse"
    per_s = seen.traffic.outcomes_per_s
    pairs_s = _time(pairs, per_s * seen.spec.shadow_sample) + guardrail.delay_s
    found = _regression(seen, guardrail, what, units)
    return msgspec.structs.replace(found, pairs=pairs, pairs_s=pairs_s)


def _regression(seen: _Seen, guardrail: Guardrail, what: str, units: float) -> Regression:
    is_outcome = guardrail.metric.read == "outcomes"
    per_s = seen.traffic.outcomes_per_s if is_outcome else seen.traffic.units_per_s
    return Regression(
        guardrail=guardrail.name,
        what=what,
        counted="outcomes" if is_outcome else "requests",
        units=units,
        seconds=_time(units, per_s) + guardrail.delay_s,
    )


def _why(seen: _Seen, shadow_s: float, shadow_waits: str, steps: tuple[StepEstimate, ...]) -> str:
    """Where the time goes, and what would help."""
    spec, traffic = seen.spec, seen.traffic
    for step in steps:
        if step.wave is not None and traffic.part(step.wave) <= 0.0 and traffic.units_per_s:
            said = (
                f"no request of {say_segment(step.wave)} has come lately, or since it was declared"
            )
            return f"traffic is too small: {said}, so its wave would never end"
    slowest = max(steps, key=lambda one: one.seconds)
    name, seconds = slowest.waits_for, slowest.seconds
    where = f"the step at {percent(slowest.share)}"
    where += f" of {say_segment(slowest.wave)}" if slowest.wave is not None else ""
    if shadow_s >= seconds:
        name, seconds, where = shadow_waits, shadow_s, "the shadow"
    took = f"needs about {say_time(seconds)}" if math.isfinite(seconds) else "would never end"
    rate = f"{traffic.units_per_s:.3g} requests a second"
    if name == "quality":
        rate = f"{traffic.outcomes_per_s:.3g} outcomes a second"
    because = f" for {name}" if name else ""
    hours = f"the deadline is {say_time(spec.deadline_s)}"
    return (
        f"traffic is too small: at {rate}, {where} {took}{because}; {hours}. {_advice(seen, name)}"
    )


def _advice(seen: _Seen, name: str) -> str:
    spec = seen.spec
    if name == "quality" and not spec.shadow_requests:
        rail = next(one for one in spec.guardrails if one.name == "quality")
        wrong = DISCORDANT * rail.reference / 2.0
        pairs = planner.pairs_within(wrong, rail.margins[-1], spec.alpha_p / 2.0)
        alone = planner.difference_within(
            spec.share_of(len(spec.steps) - 1), _variance(rail.reference), rail.margins[-1]
        )
        took_s = _time(pairs, seen.traffic.outcomes_per_s) + rail.delay_s
        took = say_time(took_s) if math.isfinite(took_s) else "no end"
        return (
            f"In shadow about {pairs:,.0f} outcomes suffice instead of {alone:,.0f} ({took}): "
            "release.shadow.requests; or take a larger margin, or a later deadline"
        )
    if name == "quality":
        return "Take a larger margin for quality, a later deadline, or let a person decide"
    return "Take larger steps, a later deadline, or let a person decide"
