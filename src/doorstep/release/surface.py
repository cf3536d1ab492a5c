"""What the operations of releases take and give."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from doorstep.core.instant import Instant


class StartRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """version: `loans@2`. rehearsal: its traffic is the caller's own rows, kept out of quality,
    business figures and retraining."""

    version: str
    rehearsal: bool = False


class ShowRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """release: its id, or a service's name: then its newest release."""

    release: str


class ListReleases(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """service: "" for all."""

    service: str = ""


class ChangeRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """release: its id, or a service's name: then its running release."""

    release: str
    why: str


class Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give the service back: to the champion while a release runs, else to the last champion. to:
    the number of the version that serves after it, which must have served before; 0 is none."""

    service: str
    why: str
    to: int | None = None


class KillVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """version: `loans@2`, that nobody may ask any more."""

    version: str
    why: str


class ReviveVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    """One guardrail now. champion, challenger: rates 0..1, None before there is any evidence.
    compared: low, high are the 95 % confidence interval of challenger / champion, or of the
    difference of their mean losses. tolerance, margin: in the same terms. log_e_*: natural
    logs, to be compared with their thresholds (rolled back beyond, may advance beyond)."""

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


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """state: shadow, step, bake, paused, done, rolled-back, inconclusive. shares: one per step, of
    the wave that is carried where there are waves. step: 1 is the first, 0 in the shadow.
    share: the challenger's, in that wave. waves: in their order; () if all are carried together.
    requests_*, failed_*: assigned to the arm since the start, and those that it did not answer, so
    that another did; in the shadow they reached no caller.
    settled: every live node reports the plan of the newest decision; silent: nodes that do not."""

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


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    releases: tuple[Release, ...]
