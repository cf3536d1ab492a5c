"""What the operations of releases take and give."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from doorstep.core.instant import Instant


class StartRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """version: `loans@2`. rehearsal: its traffic is the caller's own rows, kept out of quality,
    business figures and retraining."""

    version: str
    rehearsal: bool = False


class EstimateRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """version: `loans@2`, that would be released."""

    version: str


class ShowRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """release: its id, or a service's name: then its newest release."""

    release: str


class RecomputeRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """release: its id, or a service's name: then its running release."""

    release: str


class ListReleases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """service: "" for all."""

    service: str = ""


class ChangeRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """release: its id, or a service's name: then its running release."""

    release: str
    why: str


class WithdrawApproval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """by: whose yes; "": the caller's own. Only the owner takes back that of somebody else."""

    version: str
    why: str
    by: str = ""


class ApproveVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """version: `loans@2`, that may be released as it is."""

    version: str
    why: str


class ApproveRevision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """revision: of the service file, that asks for less than the rule in force."""

    service: str
    revision: int
    why: str


class ApprovalView(msgspec.Struct, frozen=True, kw_only=True):
    """Who said yes, when and why."""

    by: str
    at: Instant
    why: str


class Approvals(msgspec.Struct, frozen=True, kw_only=True):
    """people: how many must say yes before a release. given: by those who did, for the version on
    what its gates rest on now; of them, who asks for the release does not count."""

    version: str
    people: int
    given: tuple[ApprovalView, ...]


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Give the service back: to the champion while a release runs, else to the last champion. to:
    the number of the version that serves after it, which must have served before; 0 is none."""

    service: str
    why: str
    to: int | None = None


class KillVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """version: `loans@2`, that nobody may ask any more."""

    version: str
    why: str


class ReviveVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """version: `loans@2`, that was killed and may be asked again."""

    version: str
    why: str


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was killed, by whom and why. plan_number: of the plan with which it is so, or
    with which it is over. callers: what callers of the service get now. paused: id of its release
    that is paused, "" if none is."""

    version: str
    at: Instant
    by: str
    why: str
    plan_number: int
    callers: str
    paused: str


class GuardrailView(msgspec.Struct, frozen=True, kw_only=True):
    """One guardrail now, or the metric of an experiment (role). champion, challenger: rates 0..1,
    means of what has a unit; None before there is any evidence. compared: low, high are the 95 %
    confidence interval of challenger / champion, or of the difference of their mean losses.
    tolerance, margin: in the same terms. is_better_high: more of it is better. log_e_*: natural
    logs, to be compared with their thresholds (rolled back beyond, may advance beyond; of an
    experiment: the champion has won, the challenger has). beside: what is known besides and decides
    nothing, in words. wait_s: about how long until it has
    enough at the present traffic, None if it cannot be said. limit: the challenger's rate is held
    to it and not to the champion's; None if they are compared. said: what the rates are of."""

    name: str
    champion: float | None
    challenger: float | None
    compared: Literal["ratio", "difference"]
    low: float | None
    high: float | None
    log_e_rollback: float
    log_e_rollback_threshold: float
    log_e_advance: float
    log_e_advance_threshold: float
    tolerance: float
    margin: float
    missing: str
    wait_s: float | None = None
    role: Literal["guardrail", "experiment"] = "guardrail"
    unit: str = ""
    is_better_high: bool = False
    beside: str = ""
    limit: float | None = None
    said: str = ""


class ExperimentView(msgspec.Struct, frozen=True, kw_only=True):
    """winner: none while nobody has won, and at its end if nobody did. ends_at: when it ends
    without one. sentence: what is known, in words."""

    metric: str
    ends_at: Instant
    winner: Literal["challenger", "champion", "none"]
    sentence: str


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """action: advance, hold, rollback, pause, resume, promote, finish, inconclusive. evidence: the
    cells it was made from."""

    sequence: int
    at: Instant
    action: str
    state: str
    reason: str
    by: str
    guardrails: tuple[GuardrailView, ...] = ()
    evidence: dict[str, Any] = {}


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """needs: requests of both versions, in shadow pairs. seconds: at least its dwell time; null:
    for ever. waits_for: the guardrail that takes longest, "" where it is the dwell time."""

    name: str
    share: float
    needs: float | None
    seconds: float | None
    waits_for: str


class RegressionView(msgspec.Struct, frozen=True, kw_only=True):
    """How much is counted on average, at the last step's share, until this is rolled back.
    shadow_*: the same in shadow, null where it is not seen there."""

    guardrail: str
    what: str
    counted: str
    needs: float | None
    seconds: float | None
    shadow_needs: float | None
    shadow_s: float | None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a release of a version would need at the present traffic. total_s: until an equal
    challenger is champion, with a chance of 97.5 % or more; null: never. fits: it is through its
    steps before the deadline; reason: said where it is not."""

    version: str
    champion: int | None
    requests_per_s: float
    error_rate: float
    outcomes_per_s: float
    stages: tuple[StageView, ...]
    total_s: float | None
    deadline_s: float
    fits: bool
    reason: str
    regressions: tuple[RegressionView, ...]


class SplitView(msgspec.Struct, frozen=True, kw_only=True):
    """From `at` on the challenger had this share, of the wave in words where there are waves."""

    at: Instant
    state: str
    share: float
    wave: str = ""


class MomentView(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence at one moment by guardrail, as parts of what is enough: 1 rolls back (worse), or may
    advance (better, without those that could not)."""

    at: Instant
    worse: dict[str, float]
    better: dict[str, float]


class WaveView(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that a release carries in its turn. name: "" is the rest, everybody whom no other
    matches. match: values by context field. state: waiting; now; carried, which has been through
    its steps; ended, at which the release was stopped. share: of its units, that the challenger is
    given now. step: of `shares`, from 1; 0 before the first."""

    name: str
    match: dict[str, tuple[str, ...]]
    state: Literal["waiting", "now", "carried", "ended"]
    share: float
    shares: tuple[float, ...]
    step: int


class RecomputedDecision(msgspec.Struct, frozen=True, kw_only=True):
    """same: from what it stored, the decision is made again as it was made."""

    sequence: int
    at: Instant
    action: str
    same: bool


class ComparedCell(msgspec.Struct, frozen=True, kw_only=True):
    """counted by nodes, and recorded in the journal: (requests, those that the assigned version did
    not answer). said: how they differ, in words. explained: that is nothing to worry about."""

    epoch: int
    segment: str
    arm: str
    counted: tuple[int, int]
    recorded: tuple[int, int]
    said: str
    explained: bool


class Recomputed(msgspec.Struct, frozen=True, kw_only=True):
    """A release's decisions made again, and its evidence at `at` beside the journal. agrees: all
    are the same, and every difference is explained."""

    id: str
    service: str
    challenger: int
    at: Instant
    decisions: tuple[RecomputedDecision, ...]
    cells: tuple[ComparedCell, ...]
    agrees: bool


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """state: shadow, step, bake, paused, done, rolled-back, inconclusive. shares: one per step, of
    the wave that is carried where there are waves. step: 1 is the first, 0 in the shadow.
    share: the challenger's, in that wave. waves: in their order; () if all are carried together.
    requests_*, failed_*: assigned to the arm since the start, and those that it did not answer, so
    that another did; in the shadow they reached no caller.
    settled: every live node reports the plan of the newest decision; silent: nodes that do not.
    headline: where it stands, in a sentence. next: what comes next and when, "" if nothing does;
    next_s: the same in seconds, None if it cannot be said. split, moments: how shares and evidence
    went, oldest first; with the decisions only. deadline_at: when its steps end without evidence,
    and deadline_then what is declared for that; None where no deadline is ahead."""

    id: str
    service: str
    challenger: int
    champion: int | None
    state: str
    step: int
    share: float
    shares: tuple[float, ...]
    rehearsal: bool
    started_at: Instant
    changed_at: Instant
    ended_at: Instant | None
    reason: str
    by: str
    requests_champion: int
    requests_challenger: int
    failed_champion: int
    failed_challenger: int
    guardrails: tuple[GuardrailView, ...]
    decisions: tuple[DecisionView, ...]
    settled: bool
    silent: tuple[str, ...]
    plan_number: int
    waves: tuple[WaveView, ...] = ()
    headline: str = ""
    next: str = ""
    next_s: float | None = None
    split: tuple[SplitView, ...] = ()
    moments: tuple[MomentView, ...] = ()
    experiment: ExperimentView | None = None
    deadline_at: Instant | None = None
    deadline_then: str = ""


class ShowDifferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """release: its id, or a service's name: then its newest release."""

    release: str


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """So many requests were answered with this label by one and that one by the other."""

    champion: str
    challenger: str
    requests: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One request that both answered, differently. inputs: as recorded, without sealed fields."""

    prediction: str
    at: Instant
    segment: str
    champion: str | float
    challenger: str | float
    inputs: dict[str, Any]


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """compared: requests of the shadow that both answered; differ: of these. patterns: of labels,
    the most frequent first, those of the examples. examples: of labels the newest, of numbers those
    that are furthest apart."""

    release: str
    service: str
    champion: int | None
    challenger: int
    compared: int
    differ: int
    patterns: tuple[Pattern, ...]
    examples: tuple[Difference, ...]


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    releases: tuple[Release, ...]
