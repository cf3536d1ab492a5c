"""How a release begins, and what it is after a decision. Pure; the store saves what comes out."""

from __future__ import annotations

from typing import assert_never

import msgspec

from doorstep.core.errors import RefusedError
from doorstep.core.instant import SECOND_US, Instant
from doorstep.release.decide import without_history
from doorstep.release.types import (
    HISTORY_MAX,
    Advance,
    Change,
    Decision,
    Epoch,
    Finish,
    Hold,
    Inconclusive,
    Opened,
    Pause,
    Release,
    ReleaseSpec,
    Resume,
    Rollback,
    State,
)

METHOD_NAME = "doorstep"
"""Who decided, in the history, when no person did."""


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """What a release starts from. champion: None for the first version of a service."""

    id: str
    service: str
    champion: int | None
    challenger: int
    spec: ReleaseSpec
    rehearsal: bool = False


def begin(what: Beginning, now: Instant) -> Release:
    """SHADOW, or the first step without shadow, or BAKE at 100 % for the first version.

    Raises: RefusedError (`same-version`).
    """
    if what.champion == what.challenger:
        raise RefusedError(
            "same-version", f"{what.service}@{what.challenger} is the champion already"
        )
    if what.champion is None:
        state, share = State.BAKE, 1.0
    elif what.spec.shadow_requests > 0:
        state, share = State.SHADOW, 0.0
    else:
        state, share = State.STEP, what.spec.share_of(0)
    first = Epoch(
        number=1,
        share=share,
        state=state,
        step=0,
        measured=state is State.SHADOW or what.spec.warmup_s == 0.0,
        opened="start",
        started_at=now,
    )
    return Release(
        id=what.id,
        service=what.service,
        champion=what.champion,
        challenger=what.challenger,
        spec=what.spec,
        state=state,
        step=0,
        epochs=(first,),
        started_at=now,
        entered_at=now,
        deadline_at=now + round(what.spec.deadline_s * SECOND_US),
        changed_at=now,
        rehearsal=what.rehearsal,
    )


def apply(release: Release, decision: Decision) -> Release:
    """`release` after `decision`.

    Raises: RefusedError (`release-changed`) when the decision was made on another state of it.
    """
    if without_history(release) != decision.release:
        raise RefusedError(
            "release-changed", f"release {release.id} changed since the decision was made"
        )
    after = _after(release, decision)
    return after if isinstance(decision.outcome, Hold) else _remember(release, after, decision)


def _after(release: Release, decision: Decision) -> Release:
    now, outcome = decision.at, decision.outcome
    match outcome:
        case Hold(opens=None):
            return release
        case Hold(opens=opens):
            return _turn(release, now, release.share, opens or "hour")
        case Advance(state=state, step=step, share=share):
            moved = msgspec.structs.replace(release, state=state, step=step, entered_at=now)
            return _turn(moved, now, share, "step")
        case Rollback():
            return _stop(release, now, State.ROLLED_BACK, 0.0)
        case Finish():
            return _stop(release, now, State.DONE, 1.0)
        case Pause(cause=cause):
            return _paused(release, now, cause == "split")
        case Inconclusive(then=then):
            return _inconclusive(release, now, then == "rollback")
        case Resume():
            return _resumed(release, now)
        case _:
            assert_never(outcome)


def unwatched(release: Release, now: Instant, gap: Instant) -> Release:
    """`release` after `gap` microseconds in which nobody decided: they count neither for the step
    or the bake nor for the deadline, because its challenger was not watched."""
    return msgspec.structs.replace(
        release,
        entered_at=release.entered_at + gap,
        deadline_at=release.deadline_at + gap,
        changed_at=now,
    )


def _turn(release: Release, now: Instant, share: float, opened: Opened) -> Release:
    """A new epoch. After a step it is a warm-up, whose cells are not evidence."""
    has_warmup = opened == "step" and release.spec.warmup_s > 0.0
    stays = release.resumes or release.state
    epoch = Epoch(
        number=release.epoch.number + 1,
        share=share,
        state=stays,
        step=release.step,
        measured=not has_warmup and opened != "stop",
        opened=opened,
        started_at=now,
    )
    return msgspec.structs.replace(release, epochs=(*release.epochs, epoch))


def _stop(release: Release, now: Instant, state: State, share: float) -> Release:
    ended = msgspec.structs.replace(release, state=state, entered_at=now, resumes=None)
    return _turn(ended, now, share, "stop")


def _paused(release: Release, now: Instant, is_split_wrong: bool) -> Release:
    paused = msgspec.structs.replace(
        release,
        state=State.PAUSED,
        resumes=release.resumes or release.state,
        is_split_valid=not is_split_wrong,
    )
    return _turn(paused, now, 0.0, "stop") if is_split_wrong else paused


def _inconclusive(release: Release, now: Instant, goes_back: bool) -> Release:
    if goes_back:
        return _stop(release, now, State.INCONCLUSIVE, 0.0)
    return msgspec.structs.replace(release, state=State.INCONCLUSIVE, resumes=release.state)


def _resumed(release: Release, now: Instant) -> Release:
    """The time of a pause counts neither for the step nor for the deadline; after an inconclusive
    end the deadline begins again."""
    paused = now - release.changed_at
    deadline_at = release.deadline_at + paused
    if release.state is State.INCONCLUSIVE:
        deadline_at = now + round(release.spec.deadline_s * SECOND_US)
    return msgspec.structs.replace(
        release,
        state=release.resumes or State.STEP,
        resumes=None,
        entered_at=release.entered_at + paused,
        deadline_at=deadline_at,
    )


def _remember(before: Release, after: Release, decision: Decision) -> Release:
    change = Change(
        at=decision.at,
        before=before.state,
        state=after.state,
        step=after.step,
        share=after.share,
        by=decision.person.name if decision.person else METHOD_NAME,
        reason=decision.reason,
    )
    return msgspec.structs.replace(
        after,
        history=(*before.history, change)[-HISTORY_MAX:],
        changed_at=decision.at,
        reason=decision.reason,
    )
