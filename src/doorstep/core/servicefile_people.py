"""What a service file says about people: reasons, reviews, approvals, retraining, privacy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from doorstep.core.condition import Condition
from doorstep.core.filereaders import Group, ListOf, choice
from doorstep.core.filewords import (
    choice_of,
    condition,
    count,
    cron,
    duration,
    literal,
    share,
    text,
)
from doorstep.core.people import NAME
from doorstep.core.servicefile_running import DAY_S, YEAR_S
from doorstep.core.servicefile_types import COLUMN


class ExplainSpec(msgspec.Struct, frozen=True, kw_only=True):
    reasons: Annotated[
        int,
        count(1, 20),
        "how many reasons an answer gives",
        "4: as many as a notice of a credit decision gives",
    ] = 4
    immutable: Annotated[
        tuple[str, ...], ListOf(COLUMN), "fields that a person cannot change", "none"
    ] = ()


class ReviewRule(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction that a person looks at. within_s, otherwise: only for those that are held."""

    when: Annotated[
        Condition | None, condition("confidence < 0.6"), "predictions of which this holds", "none"
    ] = None
    sample: Annotated[
        float | None, share(0.000001, 1.0), "this share of all, drawn at random", "none"
    ] = None
    hold: Annotated[bool, "whether the caller waits for the person", "false: answered at once"] = (
        False
    )
    within_s: Annotated[
        float | None, duration(1, YEAR_S), "how long a held prediction may wait", "4h when held"
    ] = None
    otherwise: Annotated[
        str | float | None,
        literal(),
        "the answer when nobody decided in time",
        "none: must be said when held",
    ] = None

    @classmethod
    def defaults_for(cls, written: dict[str, Any]) -> dict[str, Any]:
        return {"within_s": 4 * 3600.0} if written.get("hold") else {}

    def faults(self) -> Iterator[tuple[str, str]]:
        if (self.when is None) is (self.sample is None):
            yield "when", "expected either when or sample"
        if self.hold and self.otherwise is None:
            yield "otherwise", "missing; a held prediction needs an answer for when time is up"
        for key, value in (("within", self.within_s), ("otherwise", self.otherwise)):
            if not self.hold and value is not None:
                yield key, "is only for predictions that are held; add hold: true"


class RetrainTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of a finding, a schedule or a number of outcomes."""

    finding: Annotated[
        Literal["", "drift", "quality"],
        choice("drift", "quality"),
        "a finding of this kind",
        "none",
    ] = ""
    schedule: Annotated[str, cron(), "minute hour day month weekday, in UTC", "none"] = ""
    new_outcomes: Annotated[
        int | None, count(1, 10**12), "outcomes since the last training", "none"
    ] = None

    def faults(self) -> Iterator[tuple[str, str]]:
        given = [bool(self.finding), bool(self.schedule), self.new_outcomes is not None]
        if sum(given) != 1:
            yield "schedule", "expected exactly one of drift, quality, schedule, new_outcomes"


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """People who must say yes, none of them the one who asks."""

    people: Annotated[
        int,
        count(0, 10),
        "how many people must approve",
        "by risk: low 0, medium 1, high 2",
    ] = 0

    gone: ClassVar = {"role": "nothing acted on it; may.approve names who may"}


APPROVAL = Group(
    Approval,
    short="people",
    short_reads=choice_of({"none": 0, "person": 1}, "none, person or {people: 2}"),
)


def _names() -> ListOf:
    return ListOf(text("the name of a person, such as bea", NAME), least=1, most=50, lone=True)


class MaySpec(msgspec.Struct, frozen=True, kw_only=True):
    """Who may, by the name of their token; `local` is the owner of the installation."""

    approve: Annotated[
        tuple[str, ...],
        _names(),
        "who may say yes to a version",
        "anybody whose token is good for it, who neither registered it nor asks for its release",
    ] = ()
    promote: Annotated[
        tuple[str, ...],
        _names(),
        "who may promote a version before the evidence does",
        "anybody whose token is good for it",
    ] = ()


class RetrainSpec(msgspec.Struct, frozen=True, kw_only=True):
    when: Annotated[
        tuple[RetrainTrigger, ...],
        ListOf(Group(RetrainTrigger, short="finding"), most=10),
        "what starts a training",
        "never by itself",
    ] = ()

    gone: ClassVar = {"approve": "nothing acted on it; approve holds for every version"}


class PrivacySpec(msgspec.Struct, frozen=True, kw_only=True):
    keep_s: Annotated[
        float,
        duration(3600, 100 * YEAR_S),
        "how long predictions are kept",
        "by risk: low and medium 400 days, a year and a month; high 800 days, two years",
    ] = 400 * DAY_S
