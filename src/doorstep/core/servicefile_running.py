"""What a service file says about a version that runs: release, serving, watching.

The defaults of a release are measured: error rate at most alpha over any horizon, and challengers
that are no worse get through.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from doorstep.core.condition import Condition
from doorstep.core.filereaders import Group, ListOf, MapOf, OneOf, Word, choice
from doorstep.core.filewords import (
    QUALITY_METRICS,
    SLO_METRICS,
    category,
    condition,
    count,
    duration,
    literal,
    name,
    number,
    parse_share,
    rate,
    share,
    show_share,
    text,
)
from doorstep.core.servicefile_types import SecretRef
from doorstep.core.yamltext import Scalar

DAY_S = 86400.0
YEAR_S = 366 * DAY_S
STEPS_MAX = 20
FALLBACKS_MAX = 8
STEP_SHARES = (0.01, 0.05, 0.25, 0.5)
"""What `steps: auto` chooses from."""
MARGINS = (5.0, 3.0, 2.0, 1.5)
Watched: TypeAlias = Literal["drift", "quality", "slo"]
WATCHED: tuple[Watched, ...] = ("drift", "quality", "slo")
DURATION = duration(0.001, YEAR_S)


class ShadowSpec(msgspec.Struct, frozen=True, kw_only=True):
    requests: Annotated[
        int,
        count(0, 10**9),
        "requests that the challenger scores unseen before the first step; 0 for no shadow",
        "1000: no errors are proven after 496 at a ceiling of 1 %, with room for some",
    ] = 1000


class DeadlineSpec(msgspec.Struct, frozen=True, kw_only=True):
    after_s: Annotated[
        float, DURATION, "how long evidence may take", "10h: every measured run ended by then"
    ] = 36000.0
    then: Annotated[
        Literal["rollback", "hold", "ask"],
        "what happens without enough evidence; never promotion",
        "rollback: the champion is known to work",
    ] = "rollback"


GuardrailName: TypeAlias = Literal[
    "errors", "latency", "mean-latency", "quality", "disagreement", "fairness",
    "conversion", "revenue",
]  # fmt: skip
LossName: TypeAlias = Literal["wrong", "brier", "log-loss"]
OF_OUTCOMES = ("conversion", "revenue")
"""Metrics of what became of a case: no outcome by the time of `monitor.outcomes.delay` is one."""


class Guardrail(msgspec.Struct, frozen=True, kw_only=True):
    """tolerance and margins are ratios to the champion for errors and latency, parts of the
    champion's for mean-latency, conversion and revenue, and differences for quality (points as a
    fraction), disagreement (share of answers; it has no margins) and fairness (gap). ceiling is
    read for errors only, loss for quality only."""

    name: Annotated[GuardrailName, "what is compared"]
    tolerance: Annotated[
        float,
        number(0, 100),
        "worse than the champion by more than this rolls back",
        "1.1 times for errors and latency; 0 for quality, conversion and revenue; 0.02 for "
        "disagreement, 0.05 for fairness and mean-latency",
    ] = 1.1
    margins: Annotated[
        tuple[float, ...],
        ListOf(number(0, 100), least=1, most=STEPS_MAX, lone=True),
        "not worse than this must be proven before each next step",
        "5, 3, 2, 1.5 times for errors and latency, 0.005 for quality (0.002 for its brier loss), "
        "0.05 for the others",
    ] = MARGINS
    ceiling: Annotated[
        float,
        share(0.0001, 1.0),
        "error rate below which a step may advance although the champion has no errors",
        "1 %: proven after 496 challenger requests without an error",
    ] = 0.01

    loss: Annotated[
        LossName,
        choice("wrong", "brier", "log-loss"),
        "what an answer costs that was not right; of a regression it is its absolute error",
        "wrong: 1 for a wrong answer; brier and log-loss need probabilities, and fewer outcomes",
    ] = "wrong"

    @classmethod
    def defaults_for(cls, written: dict[str, Any]) -> dict[str, Any]:
        """Of the kind that is named; a tolerance that is larger than a margin takes it along."""
        quality = (0.002,) if written.get("loss") == "brier" else (0.005,)
        kinds: dict[str, tuple[float, tuple[float, ...]]] = {
            "quality": (0.0, quality),
            "disagreement": (0.02, (0.02,)),
            "fairness": (0.05, (0.05,)),
            "mean-latency": (0.05, (0.05,)),
            "conversion": (0.0, (0.05,)),
            "revenue": (0.0, (0.05,)),
        }
        tolerance, margins = kinds.get(str(written.get("name")), (1.1, MARGINS))
        least = written.get("tolerance", tolerance)
        if not isinstance(least, float):
            return {"tolerance": tolerance, "margins": margins}
        return {"tolerance": tolerance, "margins": tuple(max(one, least) for one in margins)}

    @property
    def is_ratio(self) -> bool:
        return self.name in {"errors", "latency"}

    def faults(self) -> Iterator[tuple[str, str]]:
        kind = "ratio to the champion" if self.is_ratio else "difference"
        if self.is_ratio is not (self.tolerance >= 1):
            expected = "1 or more" if self.is_ratio else "less than 1"
            yield "tolerance", f"is not a {kind}; expected {expected}"
        if any(self.is_ratio is not (margin > 1) for margin in self.margins):
            expected = "more than 1" if self.is_ratio else "less than 1"
            yield "margins", f"each is a {kind}; expected {expected}"
        if list(self.margins) != sorted(self.margins, reverse=True):
            yield "margins", "may only shrink from step to step"
        if min(self.margins) < self.tolerance and self.name != "disagreement":
            said = f"{min(self.margins):g} is below the tolerance, {self.tolerance:g}"
            yield "margins", f"{said}: what is tolerated could never be shown"
        if self.loss != "wrong" and self.name != "quality":
            yield "loss", f"is for quality; {self.name} has none"

    def margin_at(self, step: int, steps: int) -> float:
        """Margin of step `step` (from 0) of `steps`: the last margin belongs to the last step."""
        return _from_the_end(self.margins, step, steps)


class Wave(msgspec.Struct, frozen=True, kw_only=True):
    """A segment, as text values per context field; every field must match. steps, dwell_s: () for
    those of the release."""

    name: Annotated[str, name("segment"), "of the segment"]
    match: Annotated[
        dict[str, tuple[str, ...]],
        MapOf(ListOf(category(), least=1, most=1000, lone=True), "context field", 10),
        "values of context fields that belong to it",
    ]
    steps: Annotated[
        tuple[float, ...],
        ListOf(share(0.0001, 1.0), least=1, most=STEPS_MAX),
        "shares that the challenger is given in this wave, one after the other",
        "those of the release",
    ] = ()
    dwell_s: Annotated[
        tuple[float, ...],
        ListOf(duration(0, YEAR_S), least=1, most=STEPS_MAX, lone=True),
        "shortest time in each of its steps; one value for all",
        "that of the release",
    ] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        if not self.match:
            yield "match", "is empty; expected at least one context field"
        yield from _step_faults(self.steps, self.dwell_s)

    def overlap(self, other: Wave) -> str:
        """`store 3`: what this wave and an earlier one both match, in so many words; "" for
        nothing, or only for rows that the earlier one picks out by a further field."""
        mine = {field: set(self.match.get(field, ())) for field in other.match}
        shared = {field: mine[field] & set(other.match[field]) for field in other.match}
        is_alike = self.match.keys() == other.match.keys()
        if not all(shared.values()) or not (is_alike or shared == mine):
            return ""
        return ", ".join(f"{field} {min(found)}" for field, found in sorted(shared.items()))


class ExperimentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A release that asks which version is better, instead of whether the new one is no worse."""

    metric: Annotated[
        Literal["conversion", "revenue", "quality", "errors"], "which decides who wins"
    ]
    share: Annotated[
        float,
        share(0.01, 0.95),
        "of the traffic that the challenger is given until there is a winner",
        "50 %: it takes the fewest requests",
    ] = 0.5
    for_s: Annotated[
        float,
        duration(1, YEAR_S),
        "after which it ends without a winner",
        "14d: two of each day of the week",
    ] = 14 * DAY_S


class ReleaseSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a version is carried onto its service. Frozen into the release when it starts."""

    shadow: Annotated[ShadowSpec, "scoring without answering, before the steps"] = ShadowSpec()
    steps: Annotated[
        tuple[float, ...],
        ListOf(share(0.0001, 1.0), least=1, most=STEPS_MAX, word="auto"),
        "shares of the traffic that the challenger is given, one after the other",
        "auto: from 1, 5, 25, 50 %, starting where the measured traffic can decide in time",
    ] = ()
    dwell_s: Annotated[
        tuple[float, ...],
        ListOf(duration(0, YEAR_S), least=1, most=STEPS_MAX, lone=True),
        "shortest time in each step; one value for all",
        "5, 10, 10, 10 minutes: slow faults need time to show",
    ] = (300.0, 600.0, 600.0, 600.0)
    bake_s: Annotated[
        float,
        duration(0, YEAR_S),
        "time at full share, less the holdback, before it is done",
        "60m: an hour of full load, with the champion still beside it",
    ] = 3600.0
    holdback: Annotated[
        float,
        share(0.0, 0.5),
        "share that stays on the champion while it bakes",
        "5 %: without it evidence stops",
    ] = 0.05
    alpha: Annotated[
        float,
        share(0.0001, 0.2),
        "chance that a release of an equal challenger is rolled back, over any horizon",
        "5 %: measured 4.3 % at most in a million requests",
    ] = 0.05
    deadline: Annotated[DeadlineSpec, "what happens when evidence stays away"] = DeadlineSpec()
    guardrails: Annotated[
        tuple[Guardrail, ...],
        ListOf(Group(Guardrail, short="name"), least=1, most=10),
        "what rolls a release back, and must be proven for it to advance",
        "errors: the one measure that every service has, without outcomes",
    ] = (Guardrail(name="errors"),)
    waves: Annotated[
        tuple[Wave, ...],
        ListOf(Group(Wave), most=50),
        "segments, carried one after the other; the rest is implied, and last",
        "none: everybody at once",
    ] = ()
    experiment: Annotated[
        ExperimentSpec | None,
        Group(ExperimentSpec),
        "a test of the challenger against the champion that one of them wins",
        "none: the challenger must be no worse",
    ] = None

    def dwell_s_at(self, step: int, steps: int, wave: Wave | None = None) -> float:
        """Shortest time in step `step` (from 0) of `steps`, counted from the last as margins."""
        return _from_the_end((wave and wave.dwell_s) or self.dwell_s, step, steps)

    def faults(self) -> Iterator[tuple[str, str]]:
        is_default = self.dwell_s == (300.0, 600.0, 600.0, 600.0)
        yield from _step_faults(self.steps, () if is_default else self.dwell_s)
        for at, wave in enumerate(self.waves):
            for earlier in self.waves[:at]:
                if both := wave.overlap(earlier):
                    yield f"waves[{at}].match", f"{both} belongs to wave {earlier.name} already"
        if self.experiment is not None and (self.steps or self.waves):
            said = "has one step for everybody; remove steps and waves"
            yield "experiment", said
        for key, names in (
            ("guardrails", [one.name for one in self.guardrails]),
            ("waves", [one.name for one in self.waves]),
        ):
            if len(set(names)) < len(names):
                yield key, "a name is listed twice; expected each once"


def _step_faults(steps: tuple[float, ...], dwell_s: tuple[float, ...]) -> Iterator[tuple[str, str]]:
    if any(a >= b for a, b in pairwise(steps)):
        yield "steps", "each share must be larger than the one before"
    if steps and dwell_s and len(dwell_s) not in {1, len(steps)}:
        yield "dwell", f"{len(dwell_s)} times for {len(steps)} steps; expected one, or one for each"


def _from_the_end(values: tuple[float, ...], step: int, steps: int) -> float:
    """values[step] when there are as many; fewer steps use the last ones, more repeat the first."""
    return values[max(0, step + len(values) - steps)]


class FallbackSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the chain: ask a version, or give a constant answer. when: only to rows whose
    fields satisfy it."""

    kind: Annotated[
        Literal["champion", "previous", "answer"],
        choice("champion", "previous"),
        "the version that serves, or the champion before it",
        "answer, if one is given",
    ] = "answer"
    when: Annotated[
        Condition | None,
        condition("amount > 10000"),
        "which rows get the answer, by a field",
        "none: all",
    ] = None
    answer: Annotated[
        str | float | None, literal(), "constant answer", "none: ask the champion"
    ] = None

    def faults(self) -> Iterator[tuple[str, str]]:
        if (self.kind == "answer") is (self.answer is None):
            yield "answer", "expected champion, previous, or {answer: VALUE}"
        if self.when is not None and self.kind != "answer":
            yield "when", "belongs to an answer; a version is asked for every row"
        if self.when is not None and self.when.needs_champion:
            yield "when", "compares a field of the row; expected a number or text"


class RecordSpec(msgspec.Struct, frozen=True):
    """What the journal keeps of the inputs. share: of the requests, for sample; else 1."""

    mode: Literal["full", "no-inputs", "sample"] = "full"
    share: float = 1.0


def _parse_record(scalar: Scalar) -> RecordSpec:
    match scalar.text.split():
        case ["full"]:
            return RecordSpec()
        case ["no-inputs"]:
            return RecordSpec("no-inputs")
        case ["sample", portion]:
            found = parse_share(Scalar(portion, False, scalar.line, scalar.column))
            if 0 < found < 1:
                return RecordSpec("sample", found)
    raise ValueError


def _show_record(record: RecordSpec) -> str:
    return f"sample {show_share(record.share)}" if record.mode == "sample" else record.mode


RECORD = Word(
    "full, no-inputs or sample 10%",
    _parse_record,
    {"type": "string", "pattern": r"^(full|no-inputs|sample\s+[0-9.]+\s*%?)$"},
    _show_record,
)


class ServeSpec(msgspec.Struct, frozen=True, kw_only=True):
    timeout_s: Annotated[
        float,
        duration(0.001, 600),
        "after which the next link of the fallback answers",
        "1 s: long for a table model, short for a caller who waits",
    ] = 1.0
    cache_s: Annotated[
        float,
        duration(0.001, 7 * DAY_S, zero_word="none"),
        "how long an answer to the same row may be given again",
        "none: every answer is computed",
    ] = 0.0
    fallback: Annotated[
        tuple[FallbackSpec, ...],
        ListOf(Group(FallbackSpec, short="kind"), most=FALLBACKS_MAX),
        "who answers when the assigned version fails, in order",
        "champion: callers never see a challenger's failure",
    ] = (FallbackSpec(kind="champion"),)
    record: Annotated[
        RecordSpec,
        RECORD,
        "what the journal keeps of the inputs",
        "full: drift and replay need them",
    ] = RecordSpec()
    access: Annotated[
        Literal["open", "keys"],
        choice("open", "keys"),
        "whether callers need an API key (doorstep token create)",
        "open: a node that others reach over the network asks for keys anyway",
    ] = "open"
    limit: Annotated[
        float,
        rate(),
        "requests per second on all nodes together; more are refused with 429",
        "none: each key has its own limit",
    ] = 0.0

    def faults(self) -> Iterator[tuple[str, str]]:
        kinds = [one.kind for one in self.fallback]
        if any(one.kind == "answer" and one.when is None for one in self.fallback[:-1]):
            yield "fallback", "nothing is reached after a constant answer; put it last"
        for kind in ("champion", "previous"):
            if kinds.count(kind) > 1:
                yield "fallback", f"{kind} is listed twice"


class DriftSpec(msgspec.Struct, frozen=True, kw_only=True):
    window_s: Annotated[
        float,
        duration(10, YEAR_S),
        "requests of this much time are compared with the training data",
        "1h: the shortest window of the report",
    ] = 3600.0


class OutcomesSpec(msgspec.Struct, frozen=True, kw_only=True):
    delay_s: Annotated[
        float,
        duration(1, YEAR_S, "none"),
        "how long it takes until what became true is known; only older predictions are judged",
        "none: predictions are judged by the outcomes that there are",
    ] = 0.0
    unit: Annotated[
        str,
        text("a unit such as EUR", length_max=20),
        "what the value of a case is counted in; its mean and sum are shown",
        "none: outcomes of classes have no value",
    ] = ""


class MonitorSpec(msgspec.Struct, frozen=True, kw_only=True):
    drift: Annotated[DriftSpec, "whether the traffic has changed"] = DriftSpec()
    outcomes: Annotated[OutcomesSpec, "when what became true is known, and its value"] = (
        OutcomesSpec()
    )
    quality: Annotated[
        tuple[Condition, ...],
        ListOf(condition("f1 >= 0.6", QUALITY_METRICS)),
        "what must hold live, once outcomes are known",
        "none: measured and shown, not judged",
    ] = ()
    slo: Annotated[
        tuple[Condition, ...],
        ListOf(condition("availability >= 99.9%", SLO_METRICS)),
        "what callers are promised",
        "none: measured and shown, not judged",
    ] = ()


class AlertSpec(msgspec.Struct, frozen=True, kw_only=True):
    when: Annotated[
        tuple[Watched, ...],
        ListOf(choice(*WATCHED), least=1, most=3),
        "which findings somebody is told about",
        "all: a finding that nobody hears of helps nobody",
    ] = WATCHED
    to: Annotated[Literal["console", "webhook"], "the channel", "console: it is always there"] = (
        "console"
    )
    url: Annotated[
        SecretRef | str | None,
        OneOf(
            (
                (SecretRef, Group(SecretRef)),
                (str, text("an address such as https://...", r"https?://[^\s]+")),
            )
        ),
        "where the webhook is, best as {secret: NAME}",
        "none",
    ] = None

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.to == "webhook" and self.url is None:
            yield "url", "a webhook needs a url, such as {secret: CHAT_WEBHOOK}"
        if self.to != "webhook" and self.url is not None:
            yield "url", f"channel {self.to} has no url; expected to: webhook"
        if len(set(self.when)) < len(self.when):
            yield "when", "a name is listed twice; expected each once"
