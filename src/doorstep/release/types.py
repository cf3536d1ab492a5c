"""The nouns of a release: what was asked, where it is, what was decided.

All are frozen, JSON-able msgspec structs. A release row stores its `ReleaseSpec` with the number of
the method, so that a newer Doorstep finishes it by the method it was started with.

    SHADOW -> STEP(0) -> ... -> STEP(last) -> BAKE -> DONE
    side states: PAUSED, ROLLED_BACK, INCONCLUSIVE
    first release of a service (no champion): BAKE at 100 % -> DONE
"""

from __future__ import annotations

import math
from enum import StrEnum
from itertools import pairwise
from typing import Literal

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.instant import Instant
from doorstep.core.plan import REST, Segment
from doorstep.core.servicefile_running import GuardrailName, LossName
from doorstep.release.metrics import METRICS, Metric

METHOD = 4
"""1 decided on errors alone, and 2 gave every segment the same share at the same time, bet more in
shadow, began anew eight times at most and was less patient in the last step; 3 gave
a wave that was carried the share of the bake at once, counted requests in shadow, and waited there
for what only callers bring about. What they started is finished by the same rules."""
STEPS_MAX = 1020
"""20 in each of 50 waves and of the rest."""
HISTORY_MAX = 200
HOLDBACK_MIN = 0.01
"""At 100 % there is no control beside the challenger and evidence stops: something stays back."""

SLOW_QUANTILES = (0.5, 0.9, 0.99, 0.999)
SLOWER = "M1 slower than p"
"""How latency was judged, before the quantile whose shares are shown."""
EXPERIMENT = "experiment"
WITHOUT_MARGINS = ("errors", "disagreement")
"""The others have margins of their own, one a step."""
OnDeadline = Literal["rollback", "hold", "ask"]
Opened = Literal["start", "step", "warm", "hour", "full", "stop"]
"""Why an epoch began: the release started, a step, the end of its warm-up, an hour was over, a set
of bad units filled up, or the challenger's share ended."""


class State(StrEnum):
    SHADOW = "shadow"
    STEP = "step"
    BAKE = "bake"
    DONE = "done"
    PAUSED = "paused"
    ROLLED_BACK = "rolled-back"
    INCONCLUSIVE = "inconclusive"


def _check(is_fine: bool, field: str, value: object, expected: str) -> None:
    if not is_fine:
        raise InputError("bad-release", f"release.{field} is {value!r}; expected {expected}")


class Guardrail(msgspec.Struct, frozen=True, kw_only=True):
    """What may not get worse, or what an experiment is about.

    weight: its part of alpha, all weights sum to 1. tolerance: what is still no reason to go back:
    see `metrics`. margins: per step, what must be excluded before the next; those of errors are the
    release's, disagreement has none. ceiling: error rate that is good enough whatever the
    champion's is. reference: the champion's mean loss before the release, about: any value is
    valid, a good one is fast. loss: of quality. loss_max: of a regression, the absolute error
    that counts as a loss of 1; of revenue and mean latency the value above which all count alike.
    delay_s: how long it takes until outcomes are known: only older requests are judged, by what was
    known at that age. slow_us: the champion's latency at SLOW_QUANTILES; limits: of a first
    release, the shares that may be slower. label: that counts as a conversion ("": a value above
    0), or that people would rather get. field, groups: whom fairness compares, the largest group
    first, each with the number of its requests beside which one of the smallest is looked at.
    """

    name: GuardrailName = "errors"
    weight: float = 1.0
    tolerance: float = 1.1
    margins: tuple[float, ...] = ()
    ceiling: float = 0.01
    reference: float = 0.1
    loss: LossName = "wrong"
    loss_max: float = 1.0
    delay_s: float = 0.0
    slow_us: tuple[int, ...] = ()
    limits: tuple[float, ...] = ()
    label: str = ""
    field: str = ""
    groups: tuple[tuple[str, int], ...] = ()

    @property
    def metric(self) -> Metric:
        return METRICS[self.name]

    @property
    def is_ratio(self) -> bool:
        return self.metric.compared == "ratio"

    @property
    def slow_challenger_us(self) -> tuple[int, ...]:
        if self.limits:
            return self.slow_us
        return tuple(round(one * self.tolerance) for one in self.slow_us)

    @property
    def mean(self) -> float:
        """The champion's mean before the release, as a part of `loss_max`."""
        return 1.0 - self.reference if self.metric.is_better_high else self.reference

    def margin_at(self, step: int) -> float:
        return self.margins[min(step, len(self.margins) - 1)]

    def delta(self, written: float) -> float:
        """A tolerance or margin as a difference of mean losses."""
        return written * self.mean if self.metric.compared == "part" else written

    def __post_init__(self) -> None:
        _check(0.0 < self.weight <= 1.0, "guardrails.weight", self.weight, "above 0, at most 1")
        least, most = (1.0, 100.0) if self.is_ratio else (0.0, 0.9)
        is_fine = least <= self.tolerance <= most
        _check(is_fine, "guardrails.tolerance", self.tolerance, f"{least:g} to {most:g}")
        lowest, highest = (1.0, 100.0) if self.is_ratio else (self.tolerance, 1.0)
        fits = all(lowest <= one <= highest for one in self.margins)
        said = f"{lowest:g} or more, at most {highest:g}"
        _check(fits, "guardrails.margins", self.margins, said)
        places = len(self.limits) or len(SLOW_QUANTILES) if self.name == "latency" else 0
        _check(len(self.slow_us) == places, "guardrails.slow_us", self.slow_us, f"{places} of them")
        _check(0.0 < self.reference < 1.0, "guardrails.reference", self.reference, "0 to 1")
        _check(0.0 < self.loss_max < math.inf, "guardrails.loss_max", self.loss_max, "above 0")
        _check(0.0 < self.ceiling < 1.0, "guardrails.ceiling", self.ceiling, "between 0 and 1")


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """measure: what decides who wins; its tolerance and margin are none. alpha: chance that one of
    two equal versions wins, half of it for each."""

    measure: Guardrail
    alpha: float = 0.05


class ReleaseSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a release was asked to do; frozen when it starts. Raises: InputError (`bad-release`).

    steps: shares of the challenger, rising, in (0, 1]; a step never takes more than 1 - holdback.
    wave_steps: how many of them belong to each of `segments`, which are carried one after the other
    and keep what they have reached; () carries all of them together, in one rise.
    dwell_s: shortest stay per step. margins: per step, the ratio of rates that must be excluded
    before the next. alpha: chance of a false rollback over the whole release. alpha_p: chance of
    advancing wrongly. shadow_requests: 0 means no shadow. shadow_margin: excess of the challenger's
    error rate that shadow must exclude. segments: those the release is for. waves: how they are
    told apart; whom none matches is the rest. key, unit: the fields of `ids`, by which units stick
    to a version. experiment: then there is one step, which ends when one of both has won.
    """

    method: int = METHOD
    shadow_requests: int = 1000
    shadow_sample: float = 1.0
    shadow_margin: float = 0.005
    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    dwell_s: tuple[float, ...] = (300.0, 600.0, 600.0, 600.0)
    margins: tuple[float, ...] = (5.0, 3.0, 2.0, 1.5)
    alpha: float = 0.05
    alpha_p: float = 0.05
    guardrails: tuple[Guardrail, ...] = (Guardrail(),)
    warmup_s: float = 60.0
    epoch_s: float = 3600.0
    bake_s: float = 3600.0
    holdback: float = 0.05
    deadline_s: float = 36_000.0
    deadline_then: OnDeadline = "rollback"
    segments: tuple[str, ...] = (REST,)
    waves: tuple[Segment, ...] = ()
    wave_steps: tuple[int, ...] = ()
    key: str = ""
    unit: str = ""
    experiment: Experiment | None = None

    def __post_init__(self) -> None:
        if self.method > METHOD:
            raise InputError(
                "newer-release",
                f"the release has method {self.method}, written by a newer Doorstep; this one "
                f"knows up to {METHOD}",
                "pip install --upgrade doorstep",
            )
        _check(self.method >= 1, "method", self.method, f"1 to {METHOD}")
        _check_steps(self)
        _check_numbers(self)
        weights = sum(guardrail.weight for guardrail in self.guardrails)
        _check(math.isclose(weights, 1.0), "guardrails", weights, "weights that sum to 1")
        names = [guardrail.name for guardrail in self.guardrails]
        _check(len(set(names)) == len(names), "guardrails", names, "each name once")
        for one in self.guardrails:
            is_free = one.name in WITHOUT_MARGINS or bool(one.limits)
            is_fine = is_free or len(one.margins) == len(self.steps)
            _check(is_fine, "guardrails.margins", one.margins, f"{len(self.steps)}, one a step")
        unique = 0 < len(set(self.segments)) == len(self.segments)
        _check(unique, "segments", self.segments, "at least one, each once")

    def share_of(self, step: int) -> float:
        """The challenger's share at `step`: as asked, but the hold-back stays with the champion."""
        return min(self.steps[step], self.bake_share)

    @property
    def has_open_restarts(self) -> bool:
        """Whether evidence begins anew for as long as the release takes, not only eight times."""
        return self.method >= 3

    @property
    def counts_pairs_by_unit(self) -> bool:
        """Whether units that came again were counted once in its shadow."""
        return self.method >= 4

    @property
    def asks_callers_in_shadow(self) -> bool:
        """Whether its shadow waits for what only answers to callers bring about."""
        return self.method < 4

    @property
    def bake_share(self) -> float:
        return 1.0 - self.holdback

    def wave_of(self, step: int) -> tuple[int, int]:
        """The place among `segments` that `step` carries, and the step's place in that wave."""
        for wave, count in enumerate(self.wave_steps):
            if step < count:
                return wave, step
            step -= count
        return 0, step

    def kept_in(self, wave: int) -> float:
        """The challenger's share of a wave that is carried, until all bake."""
        return self.share_of(self.steps_of(wave)[-1]) if self.method >= 4 else self.bake_share

    def steps_of(self, wave: int) -> range:
        """The steps of a wave; all of them where there are no waves."""
        first = sum(self.wave_steps[:wave])
        count = self.wave_steps[wave] if self.wave_steps else len(self.steps)
        return range(first, first + count)


def _check_steps(spec: ReleaseSpec) -> None:
    steps, n = spec.steps, len(spec.steps)
    _check(1 <= n <= STEPS_MAX, "steps", n, f"1 to {STEPS_MAX} of them")
    _check(all(0.0 < s <= 1.0 for s in steps), "steps", steps, "shares above 0, at most 1")
    if spec.wave_steps:
        counts, told = spec.wave_steps, len(spec.segments)
        fits = len(counts) == told > 1 and min(counts) > 0 and sum(counts) == n
        _check(fits, "waves", counts, f"steps of each of {told} segments, {n} together")
    for wave in range(len(spec.wave_steps) or 1):
        mine = [steps[at] for at in spec.steps_of(wave)]
        _check(all(a < b for a, b in pairwise(mine)), "steps", tuple(mine), "rising")
    _check(len(spec.dwell_s) == n, "dwell", spec.dwell_s, f"{n} durations, one a step")
    _check(all(0.0 <= s < math.inf for s in spec.dwell_s), "dwell", spec.dwell_s, "0 s or more")
    _check(len(spec.margins) == n, "margins", spec.margins, f"{n} ratios, one a step")
    _check(all(1.0 < m <= 100.0 for m in spec.margins), "margins", spec.margins, "above 1")


def _check_numbers(spec: ReleaseSpec) -> None:
    for name in ("alpha", "alpha_p"):
        value = getattr(spec, name)
        _check(0.0 < value <= 0.5, name, value, "above 0, at most 0.5")
    for name in ("warmup_s", "bake_s"):
        value = getattr(spec, name)
        _check(0.0 <= value < math.inf, name, value, "0 s or more")
    for name in ("epoch_s", "deadline_s"):
        value = getattr(spec, name)
        _check(0.0 < value < math.inf, name, value, "more than 0 s")
    _check(spec.shadow_requests >= 0, "shadow.requests", spec.shadow_requests, "0 or more")
    _check(0.0 < spec.shadow_sample <= 1.0, "shadow.sample", spec.shadow_sample, "above 0 to 1")
    _check(0.0 < spec.shadow_margin < 1.0, "shadow.margin", spec.shadow_margin, "above 0, below 1")
    _check(HOLDBACK_MIN <= spec.holdback < 1.0, "holdback", spec.holdback, "0.01 or more, below 1")


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """A longest period with one share. share: of the segments that the step carries; for others see
    `Release.share_in`. measured: false in warm-up, whose cells decide nothing but the hard kill.
    opened: why it began."""

    number: int
    share: float
    state: State
    step: int
    measured: bool
    opened: Opened
    started_at: Instant


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a release's history: it went from one state to another, by whom and why."""

    at: Instant
    before: State
    state: State
    step: int
    share: float
    by: str
    reason: str


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """champion: None for the first release of a service. step: index into `spec.steps`.

    epochs: all so far, the last is the current one. entered_at: when this state or step began;
    a pause by a person moves it and `deadline_at` on by the length of the pause. resumes: the
    state to go back to while PAUSED or INCONCLUSIVE. is_split_valid: false once units were not
    split as planned; such a release never decides on its numbers again.
    """

    id: str
    service: str
    champion: int | None
    challenger: int
    spec: ReleaseSpec
    state: State
    step: int
    epochs: tuple[Epoch, ...]
    started_at: Instant
    entered_at: Instant
    deadline_at: Instant
    changed_at: Instant
    reason: str = ""
    resumes: State | None = None
    is_split_valid: bool = True
    rehearsal: bool = False
    history: tuple[Change, ...] = ()

    @property
    def epoch(self) -> Epoch:
        return self.epochs[-1]

    @property
    def share(self) -> float:
        """Share of units that the plan gives to the challenger now, in the wave that is carried; in
        each segment where there are no waves."""
        return self.epoch.share

    @property
    def is_first(self) -> bool:
        return self.champion is None

    @property
    def is_over(self) -> bool:
        """Nothing changes any more, by itself or by a person."""
        gone = self.state is State.INCONCLUSIVE and self.resumes is None
        return gone or self.state in (State.DONE, State.ROLLED_BACK)

    @property
    def version_serving(self) -> int | None:
        """The champion of the service as this release leaves it now; None: its fallback answers."""
        return self.challenger if self.state is State.DONE else self.champion

    @property
    def wave(self) -> str | None:
        """The segment that is carried now; None where all are together: in the shadow, while it
        bakes, without waves."""
        return self.wave_in(self.epoch)

    def wave_in(self, epoch: Epoch) -> str | None:
        if not self.spec.wave_steps or epoch.state is not State.STEP:
            return None
        return self.spec.segments[self.spec.wave_of(epoch.step)[0]]

    def share_in(self, epoch: Epoch, segment: str) -> float:
        """Probability that a unit of `segment` was assigned to the challenger in `epoch`: earlier
        waves keep what they have reached, later ones are not begun."""
        spec = self.spec
        if not spec.wave_steps or epoch.state is not State.STEP or epoch.share == 0.0:
            return epoch.share
        place, now = spec.segments.index(segment), spec.wave_of(epoch.step)[0]
        if place == now:
            return epoch.share
        return spec.kept_in(place) if place < now else 0.0

    def is_split(self, epoch: Epoch, segment: str) -> bool:
        """Whether both versions were asked there, chosen by chance, and what came counts."""
        return epoch.measured and 0.0 < self.share_in(epoch, segment) < 1.0

    def plan_shares(self) -> dict[str, float]:
        """The challenger's share per segment, as `core.plan.ReleasePlan.shares` wants it."""
        return {one: self.share_in(self.epoch, one) for one in self.spec.segments}


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence of one (epoch, segment, assigned arm), merged over nodes. All are counts.

    units: distinct units first seen in this arm in this epoch (of those that nodes keep).
    first_units: of these, never seen before in the release in either arm, for the split check;
    left out where a node's set was full. bad_units: units whose first bad event of the steps is
    here. In shadow, of the challenger: bad_units are units of which it alone erred, units those of
    which the champion did. bad_units_seen: units of `units` that had a bad event in this arm, here
    or later. plus, zero, minus, alike, differ, timed, slow: as nodes report them.
    """

    epoch: int
    segment: str
    arm: Literal["champion", "challenger"]
    requests: int = 0
    successes: int = 0
    in_flight: int = 0
    units: int = 0
    first_units: int = 0
    bad_units: int = 0
    bad_units_seen: int = 0
    plus: int = 0
    zero: int = 0
    minus: int = 0
    alike: int = 0
    differ: int = 0
    timed: int = 0
    slow: tuple[int, ...] = ()


class LossCell(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal says of one metric in one (epoch, segment): losses in 0..1, one a unit.

    metric: of a guardrail, or EXPERIMENT. part: of several comparisons, which. paired: both
    versions on the same requests (shadow), else each on its own. champion, challenger: (n, sum of
    losses), of fairness of gaps. sums: (n, sum Z, sum Z^2) of the difference's estimate, for
    display. worse, better: log-wealth of each bet against "worse by at most the tolerance" and
    against "worse by at least the margin" (`margin`, of the step at which it was computed); of
    fairness of each sign, one after the other; of conversion none, where counts say all.
    """

    epoch: int
    segment: str
    paired: bool
    champion: tuple[int, float]
    challenger: tuple[int, float]
    sums: tuple[int, float, float]
    margin: float
    worse: tuple[float, ...] = ()
    better: tuple[float, ...] = ()
    metric: str = "quality"
    part: str = ""


class Ranking(msgspec.Struct, frozen=True):
    """How well one version told cases of the positive label from others: the area under its ROC
    curve, with DeLong's interval as of now. It is shown, and decides nothing."""

    arm: Literal["champion", "challenger"]
    auc: float
    low: float
    high: float
    outcomes: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of one release, in order of epoch, segment, arm. losses: what became true of its
    predictions. rankings: of a release whose quality is guarded, by version. fullest: the largest
    part of a set of bad units that is used in the current epoch, 0..1. crash_loops: nodes where
    the challenger cannot stay up."""

    cells: tuple[Cell, ...] = ()
    losses: tuple[LossCell, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    fullest: float = 0.0
    crash_loops: tuple[str, ...] = ()


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """One guardrail at one moment. Rates in 0..1, None where nothing was counted: of units that had
    an error, of requests slower than the champion's p90 was, of answers that differ; of quality
    they are mean losses, of revenue and mean latency means, of fairness gaps.

    log_e_rollback >= log_rollback_at: worse than tolerated. log_e_advance >= log_advance_at: not
    worse than the step's margin (None: nothing to advance to). segment: "" pooled, else the one
    that is judged alone. low, high: 95 % confidence sequence of the ratio of rates or means; of
    quality and fairness of the difference, for display. None for an open end. units_missing: rough
    number of further units (of both arms, in shadow: requests; of quality: outcomes) until it can
    advance, None when it cannot be said. is_experiment: then either side that crosses has won.
    """

    guardrail: str
    segment: str | None
    method: str
    champion_rate: float | None
    challenger_rate: float | None
    low: float | None = msgspec.field(name="ratio_low")
    high: float | None = msgspec.field(name="ratio_high")
    log_e_rollback: float
    log_rollback_at: float
    log_e_advance: float | None
    log_advance_at: float | None
    units_missing: int | None
    is_experiment: bool = False

    @property
    def is_ratio(self) -> bool:
        return METRICS[self.guardrail].compared != "difference"

    @property
    def is_bad(self) -> bool:
        return self.log_e_rollback >= self.log_rollback_at

    @property
    def is_good(self) -> bool:
        if self.log_e_advance is None or self.log_advance_at is None:
            return False
        return self.log_e_advance >= self.log_advance_at


class Advance(msgspec.Struct, frozen=True, tag="advance"):
    """Go to the next step, or to BAKE."""

    state: State
    step: int
    share: float


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """Stay. opens: why a new epoch begins, None when none does."""

    opens: Opened | None = None


class Rollback(msgspec.Struct, frozen=True, tag="rollback"):
    """The challenger gets nothing from now on."""

    cause: Literal["guardrail", "hard", "person", "experiment"]


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """split: the challenger gets nothing and no number decides any more. person: the share stays,
    nothing advances, guardrails still watch."""

    cause: Literal["split", "person"]


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Go on where a person paused."""


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """The challenger is the champion from now on."""

    cause: Literal["evidence", "person"]


class Inconclusive(msgspec.Struct, frozen=True, tag="inconclusive"):
    """The deadline passed without an answer."""

    then: OnDeadline


Outcome = Advance | Hold | Rollback | Pause | Resume | Finish | Inconclusive


class Person(msgspec.Struct, frozen=True):
    """Who asked, for what, and why."""

    name: str
    action: Literal["pause", "resume", "rollback", "promote"]
    why: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome with everything it was computed from, so that it can be computed again.

    release: as it was before (its history left out). split_log_e: evidence against the planned
    split. person: None when the method decided.
    """

    release: Release
    evidence: Evidence
    at: Instant
    outcome: Outcome
    reason: str
    numbers: tuple[Numbers, ...] = ()
    split_log_e: float = 0.0
    person: Person | None = None
