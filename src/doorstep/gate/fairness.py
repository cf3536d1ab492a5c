"""Selection rates of groups, judged without crying wolf. Gates and live monitors share it.

The raw four-fifths rule on five truly equal groups fires in 97 % of samples at 30 rows a group and
in 37 % at 300. Here: fail only if the upper end of the ratio's 95 % interval (Katz 1978, Holm over
the groups) is below the bound: 6.5 % at 30 rows, none at 300. A ratio that is below while its
interval is not, and a group that is too small to say, are inconclusive.
"""

from __future__ import annotations

from doorstep.core.plural import plural
from doorstep.core.verdict import Verdict, worst
from doorstep.gate import sentences as say
from doorstep.gate.rules import is_upward, meets
from doorstep.gate.types import FairnessEvidence, GroupAnswers
from doorstep.stats.intervals import Interval, ratio_of_rates

GROUP_ROWS_MIN = 30
SELECTED_EXPECTED_MIN = 5.0
CONFIDENCE = 0.95


def answer(evidence: FairnessEvidence) -> tuple[Verdict, str, str]:
    """Verdict and sentence on one attribute, from the counts alone."""
    reference = best_group(evidence.groups)
    if len(evidence.groups) < 2:
        return Verdict.INCONCLUSIVE, f"{evidence.attribute} has fewer than two groups", ""
    if reference is None:
        return Verdict.INCONCLUSIVE, _small(evidence.groups, evidence.groups), ""
    small = [one for one in evidence.groups if not is_judged(one, evidence.groups)]
    judged = [one for one in evidence.groups if one not in small and one is not reference]
    ratios = ranked_ratios(judged, reference)
    verdicts = _step_down([_judge(found, evidence) for _, found in ratios])
    verdict = worst([*verdicts, *(Verdict.INCONCLUSIVE for _ in small)])
    named = [
        f"'{one.name}' {found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}] "
        f"({one.selected:,} of {one.rows:,})"
        for one, found in ratios
    ]
    listed = ", ".join(named[: say.NAMED_MAX]) or "no group could be compared"
    tail = f"; {_small(tuple(small), evidence.groups)}" if small else ""
    reason = (
        f"share answered '{evidence.favourable}' by {evidence.attribute}, against "
        f"'{reference.name}' ({reference.selected:,} of {reference.rows:,}): {listed}{tail}"
    )
    return verdict, reason, ""


def best_group(groups: tuple[GroupAnswers, ...]) -> GroupAnswers | None:
    """The group with the highest selection rate among those large enough to be judged."""
    eligible = [one for one in groups if is_judged(one, groups)]
    return max(eligible, key=lambda one: one.selected / one.rows, default=None)


def is_judged(one: GroupAnswers, groups: tuple[GroupAnswers, ...]) -> bool:
    """At least 30 rows, and 5 selections expected at the pooled rate."""
    return one.rows >= rows_needed(groups)


def rows_needed(groups: tuple[GroupAnswers, ...]) -> int:
    rows = sum(one.rows for one in groups)
    rate = sum(one.selected for one in groups) / rows if rows else 0.0
    by_rate = SELECTED_EXPECTED_MIN / rate if rate > 0 else 10**9
    return max(GROUP_ROWS_MIN, int(-(-by_rate // 1)))


def ranked_ratios(
    groups: list[GroupAnswers], reference: GroupAnswers
) -> list[tuple[GroupAnswers, Interval]]:
    """Each group's ratio to the reference, smallest upper end first; the k-th of m has Holm's
    confidence 1 - 0.05 / (m - k), so that the chance of any false fail stays 5 %."""
    first = sorted(groups, key=lambda one: _ratio(one, reference, CONFIDENCE).high)
    count = len(first)
    return [
        (one, _ratio(one, reference, 1 - (1 - CONFIDENCE) / (count - place)))
        for place, one in enumerate(first)
    ]


def _ratio(one: GroupAnswers, reference: GroupAnswers, confidence: float) -> Interval:
    return ratio_of_rates(one.selected, one.rows, reference.selected, reference.rows, confidence)


def _judge(found: Interval, evidence: FairnessEvidence) -> Verdict:
    if not found.is_known:
        return Verdict.INCONCLUSIVE
    best = found.high if is_upward(evidence.operator) else found.low
    if not meets(best, evidence.operator, evidence.bound):
        return Verdict.FAIL
    is_met = meets(found.estimate, evidence.operator, evidence.bound)
    return Verdict.PASS if is_met else Verdict.INCONCLUSIVE


def _step_down(verdicts: list[Verdict]) -> list[Verdict]:
    """Holm: after the first group that does not fail, none after it does."""
    first = next((i for i, one in enumerate(verdicts) if one is not Verdict.FAIL), len(verdicts))
    return [
        Verdict.INCONCLUSIVE if place > first and one is Verdict.FAIL else one
        for place, one in enumerate(verdicts)
    ]


def _small(small: tuple[GroupAnswers, ...], groups: tuple[GroupAnswers, ...]) -> str:
    needed = rows_needed(groups)
    named = ", ".join(
        f"{plural(one.rows, 'row')} of '{one.name}'" for one in small[: say.NAMED_MAX]
    )
    return f"{named}, {needed:,} needed" if needed < 10**9 else f"{named}, none selected"
