"""Traffic that is made up: 6,000 requests a minute, whose errors come one after the other.

A `Plan` says minute by minute what is true, a `Stream` is one draw of it. Both arms see the same
wave and the same incident, as they do in life: only the challenger's own rate tells them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

PER_MINUTE = 6000
HOUR = 60
RAMP = ((0.01, 10), (0.05, 20), (0.25, 40), (0.5, 0))
"""Share of the challenger and the minute until which it has it; the last one stays."""
INCIDENT = (10, 20)
"""Minutes of eight times the errors, right after a step of the ramp."""
INCIDENT_TIMES = 8.0
WAVE_MINUTES = 120


@dataclass(frozen=True)
class Plan:
    """What is true in each minute: the challenger's share, and the error rates of both arms.
    restarts: minutes in which a release bets anew."""

    pi: Floats
    rate_a: Floats
    rate_b: Floats
    restarts: tuple[int, ...]

    @property
    def minutes(self) -> int:
        return len(self.pi)


@dataclass(frozen=True)
class Stream:
    """at: number of the request at which each error came, in order. in_b: whether it was the
    challenger's. pi: the share at that time. n_b, bad_b, n_a, bad_a: per minute."""

    plan: Plan
    at: Ints
    in_b: Mask
    pi: Floats
    n_b: Ints
    bad_b: Ints
    n_a: Ints
    bad_a: Ints

    def bad_until(self, requests: float) -> int:
        """Bad answers of the challenger until then."""
        return int((self.in_b & (self.at <= requests)).sum())


def constant(pi: float, rate_a: float, rate_b: float, requests: int) -> Plan:
    minutes = math.ceil(requests / PER_MINUTE)
    one = np.ones(minutes)
    return Plan(pi * one, rate_a * one, rate_b * one, tuple(range(HOUR, minutes, HOUR)))


def ramp(rate: float, ratio: float, requests: int, height: float = 0.8) -> Plan:
    """Steps of the challenger's share, under a daily wave and an incident of both arms."""
    minutes = math.ceil(requests / PER_MINUTE)
    pi, begins = np.empty(minutes), []
    begun = 0
    for share, until in RAMP:
        pi[begun : until or minutes] = share
        begins.append(begun)
        begun = until
    now = np.arange(minutes)
    rate_a = np.clip(rate * _weather(now, height), 0.0, 0.9)
    hours = range(begins[-1] + HOUR, minutes, HOUR)
    return Plan(pi, rate_a, np.clip(rate_a * ratio, 0.0, 0.95), (*begins[1:], *hours))


def _weather(minute: Ints, height: float) -> Floats:
    wave: Floats = 1.0 + height * np.sin(2 * np.pi * minute / WAVE_MINUTES)
    is_incident = (minute >= INCIDENT[0]) & (minute < INCIDENT[1])
    return wave * np.where(is_incident, INCIDENT_TIMES, 1.0)


def late(pi: float, rate: float, ratio: float, quiet: int, requests: int) -> Plan:
    """The challenger gets worse after `quiet` requests."""
    plan = constant(pi, rate, rate, requests)
    worse = np.where(np.arange(plan.minutes) * PER_MINUTE >= quiet, ratio, 1.0)
    return Plan(plan.pi, plan.rate_a, rate * worse, plan.restarts)


def draw(rng: np.random.Generator, plan: Plan) -> Stream:
    n_b = rng.binomial(PER_MINUTE, plan.pi)
    n_a = PER_MINUTE - n_b
    bad_b, bad_a = rng.binomial(n_b, plan.rate_b), rng.binomial(n_a, plan.rate_a)
    minute = np.concatenate([np.repeat(np.arange(plan.minutes), bad) for bad in (bad_b, bad_a)])
    at = minute * PER_MINUTE + rng.integers(1, PER_MINUTE + 1, len(minute))
    order = np.argsort(at, kind="stable")
    in_b = np.arange(len(minute)) < bad_b.sum()
    pi = plan.pi[minute]
    return Stream(plan, at[order], in_b[order], pi[order], n_b, bad_b, n_a, bad_a)
