"""Evidence in, finding out: pure, so that a stored verdict can be computed again.

`decide(evidence)` is the only place where a gate gets its verdict; `recompute(finding)` does it
again from what was stored. The rules are in `gate.rules`, their error rates in
docs/decisions/0003-gate-verdicts.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import msgspec

from doorstep.core.condition import Quantity
from doorstep.core.errors import InputError
from doorstep.core.plural import plural
from doorstep.core.verdict import Finding, Verdict, worst
from doorstep.gate import sentences as say
from doorstep.gate.rules import (
    is_large,
    is_leak,
    is_other_unit,
    judge,
    judge_against_champion,
    loss_of,
    meets,
    rows_needed,
    size_of,
    worst_end,
)
from doorstep.gate.types import (
    AgreementEvidence,
    ChampionEvidence,
    DataEvidence,
    Estimate,
    Evidence,
    FairnessEvidence,
    Order,
    QualityEvidence,
    SanityEvidence,
    SchemaEvidence,
    SizeEvidence,
    SlicesEvidence,
    SpeedEvidence,
    UnmeasuredEvidence,
    Unseen,
    UnseenEvidence,
)

SUM_DIFFERENCE_MAX = 1e-3
"""float32 softmax over a few hundred labels stays within 1e-5; a thousandth is another thing."""
MORE_ROWS = "name more held-out rows under data.holdout, then doorstep register MODEL"
NOT_SEEN = "no data that this model has not seen"


def decide(evidence: Evidence) -> Finding:
    """The verdict on what a gate measured, with the reason as one sentence."""
    verdict, reason, following = _answer(evidence)
    return Finding(
        check=evidence.check,
        verdict=verdict,
        reason=reason,
        evidence=msgspec.json.decode(msgspec.json.encode(evidence)),
        next=following,
    )


def recompute(finding: Finding) -> Finding:
    """The same finding again, from its stored evidence. Raises: InputError (`bad-evidence`)."""
    try:
        evidence = msgspec.convert(finding.evidence, Evidence)
    except msgspec.ValidationError as error:
        raise InputError("bad-evidence", f"{finding.check}: {error}") from None
    return decide(evidence)


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Of a whole gate run: a release needs pass, so every gate must pass."""
    return worst(one.verdict for one in findings)


Answer = tuple[Verdict, str, str]


def _answer(evidence: Evidence) -> Answer:
    match evidence:
        case QualityEvidence():
            return _quality(evidence)
        case ChampionEvidence():
            return _champion(evidence)
        case SlicesEvidence():
            return _slices(evidence)
        case FairnessEvidence():
            from doorstep.gate.fairness import answer

            return answer(evidence)
        case SpeedEvidence():
            return _speed(evidence)
        case DataEvidence():
            return _data(evidence)
        case UnmeasuredEvidence():
            verdict = Verdict.FAIL if evidence.is_fault else Verdict.INCONCLUSIVE
            return verdict, evidence.problem, evidence.next
        case UnseenEvidence():
            verdict = Verdict.INCONCLUSIVE if is_leak(evidence.unseen) else Verdict.PASS
            return verdict, say.of_unseen(evidence.unseen), ""
        case SchemaEvidence():
            return _schema(evidence)
        case SizeEvidence():
            return _size(evidence)
        case SanityEvidence():
            return _sanity(evidence)
        case AgreementEvidence():
            return _agreement(evidence)
        case _:
            assert_never(evidence)


def _quality(evidence: QualityEvidence) -> Answer:
    verdict = judge(evidence.found, evidence.operator, evidence.bound)
    rows = evidence.unseen.rows
    said = f"{evidence.metric} {say.with_interval(evidence.found)} on {rows:,} held-out rows"
    if verdict is Verdict.FAIL:
        bound = f"{say.missed(evidence.operator)} {say.measured(evidence.bound)}"
        reason = f"{said}: the whole interval is {bound}{say.most_changed(evidence.changed)}"
        return verdict, reason, ""
    return _unless_seen(
        verdict,
        said + _why_open(verdict, evidence.found, evidence.operator, evidence.bound, rows),
        evidence.unseen,
    )


def _unless_seen(verdict: Verdict, reason: str, unseen: Unseen) -> Answer:
    """A model may fail on rows it has seen; it never passes on them."""
    if is_leak(unseen):
        seen = f"{NOT_SEEN}: {say.of_unseen(unseen)}; on them {reason}"
        return Verdict.INCONCLUSIVE, seen, "name a hold-out that was never trained on"
    return verdict, reason, MORE_ROWS if verdict is Verdict.INCONCLUSIVE else ""


def _why_open(verdict: Verdict, found: Estimate, order: Order, bound: float, rows: int) -> str:
    if verdict is not Verdict.INCONCLUSIVE:
        return ""
    if found.counted < found.counted_min:
        return f": {say.too_few(found)}"
    if found.value is None:
        return ": it cannot be measured on these rows"
    needed = rows_needed(found, order, bound, rows)
    more = f"; about {plural(needed, 'row')} would settle it" if needed else ""
    side = "no better than" if found.value == bound else say.missed(order)
    return f" is {side} {say.measured(bound)}, but its interval is not{more}"


def _champion(evidence: ChampionEvidence) -> Answer:
    verdict = judge_against_champion(evidence)
    if not evidence.champion:
        return verdict, "there is no champion to compare with: this would be the first version", ""
    loss, ends = _loss(evidence)
    rows = evidence.unseen.rows
    side = say.missed(evidence.operator) if loss > 0 else "better than"
    relation = f"is {side}" if loss else "differs from"
    said = (
        f"{evidence.metric} {say.with_interval(evidence.found)} {relation} champion "
        f"{say.measured(evidence.of_champion.value)} by {say.measured(abs(loss))} {ends} "
        f"on {rows:,} held-out rows"
    )
    if verdict is Verdict.FAIL:
        return verdict, said + say.most_changed(evidence.changed), ""
    if verdict is Verdict.INCONCLUSIVE:
        said += _why_not_settled(evidence)
    elif evidence.tolerance is not None:
        said += f"; a loss of {say.measured(evidence.tolerance)} is ruled out"
    return _unless_seen(verdict, said, evidence.unseen)


def _loss(evidence: ChampionEvidence) -> tuple[float, str]:
    """The size of the difference and its interval, both told as "by how much" in the direction
    that the sentence takes."""
    found = evidence.difference
    if found.value is None:
        return 0.0, "[-, -]"
    loss = loss_of(found.value, evidence.operator)
    sign = 1.0 if (found.value >= 0) else -1.0
    ends = sorted(sign * one for one in (found.low, found.high) if one is not None)
    text = ", ".join(say.measured(one) for one in ends) if len(ends) == 2 else "-, -"
    return loss, f"[{text}]"


def _why_not_settled(evidence: ChampionEvidence) -> str:
    found, rows = evidence.difference, evidence.unseen.rows
    if found.value is None or found.counted < found.counted_min:
        return f": {say.too_few(found)}"
    if evidence.tolerance is None:
        needed = rows_needed(found, evidence.operator, evidence.slack, rows)
        more = f"; about {plural(needed, 'row')} would settle it" if needed else ""
        return f": more than the slack of {say.measured(abs(evidence.slack))}, but not surely{more}"
    end = worst_end(found, evidence.operator)
    hidden = say.measured(loss_of(end, evidence.operator)) if end is not None else "any size"
    return (
        f": a loss of {hidden} is not ruled out, and {say.measured(evidence.tolerance)} is the "
        "most that these rows may hide"
    )


def _slices(evidence: SlicesEvidence) -> Answer:
    verdicts = [judge(one.found, evidence.operator, evidence.bound) for one in evidence.groups]
    verdict = worst([*verdicts, *(Verdict.INCONCLUSIVE for _ in evidence.small)])
    open_ones = [
        f"'{one.name}' {say.with_interval(one.found)} ({plural(one.rows, 'row')})"
        for one, its in zip(evidence.groups, verdicts, strict=True)
        if its is verdict and its is not Verdict.PASS
    ]
    reason = f"{evidence.metric} holds in all {len(verdicts)} groups of {evidence.by}"
    if open_ones:
        side = "surely" if verdict is Verdict.FAIL else "perhaps"
        bound = f"{say.missed(evidence.operator)} {say.measured(evidence.bound)}"
        listed = ", ".join(open_ones[: say.NAMED_MAX])
        reason = f"{evidence.metric} by {evidence.by} is {side} {bound}: {listed}"
    reason += _small_groups(evidence)
    if verdict is Verdict.FAIL:
        return verdict, reason, ""
    return _unless_seen(verdict, reason, evidence.unseen)


def _small_groups(evidence: SlicesEvidence) -> str:
    if not evidence.small:
        return "" if evidence.groups else f": no row has {evidence.by}"
    largest = sorted(evidence.small.items(), key=lambda one: -one[1])[: say.NAMED_MAX]
    named = ", ".join(f"{plural(rows, 'row')} of '{name}'" for name, rows in largest)
    return f"; {named}, {evidence.rows_min:,} needed"


def _speed(evidence: SpeedEvidence) -> Answer:
    verdict = judge(evidence.ms, evidence.operator, evidence.bound_ms)
    low, high = evidence.ms.low, evidence.ms.high
    span = f"[{'-' if low is None else f'{low:.3g}'}, {'-' if high is None else f'{high:.3g}'}]"
    value = "unknown" if evidence.ms.value is None else f"{evidence.ms.value:.3g}"
    calls = f"{evidence.ms.counted:,} calls of one row, {evidence.form} form"
    said = f"{evidence.measure} {value} ms {span} over {calls}"
    if verdict is Verdict.PASS:
        return verdict, said, ""
    if evidence.ms.counted < evidence.ms.counted_min:
        return verdict, f"{said}: {say.too_few(evidence.ms)}", ""
    sure = "" if verdict is Verdict.FAIL else ", but its interval is not"
    return verdict, f"{said} is above {evidence.bound_ms:g} ms{sure}", ""


def _data(evidence: DataEvidence) -> Answer:
    units = [one for one in evidence.columns if is_other_unit(one)]
    if units:
        first = max(units, key=size_of)
        others = f" (and {len(units) - 1} more)" if len(units) > 1 else ""
        reason = f"another unit? {say.of_column(first)}{others}"
        return Verdict.FAIL, reason, f"look at how {first.column} is made in both files"
    large = sorted((one for one in evidence.columns if is_large(one)), key=size_of, reverse=True)
    if large:
        named = ", ".join(say.of_column(one) for one in large[:2])
        count = f"{len(large)} of {len(evidence.columns)} columns"
        return Verdict.PASS, f"same units, but {count} differ from training: {named}", ""
    rows = f"{evidence.rows:,} held-out and {evidence.reference_rows:,} training rows"
    return Verdict.PASS, f"{len(evidence.columns)} columns look alike in {rows}", ""


def _schema(evidence: SchemaEvidence) -> Answer:
    if not evidence.breaks:
        return Verdict.PASS, f"callers of {evidence.against} need no change", ""
    more = len(evidence.breaks) - 3
    tail = f"; and {more} more" if more > 0 else ""
    return Verdict.FAIL, "; ".join(evidence.breaks[:3]) + tail, ""


def _size(evidence: SizeEvidence) -> Answer:
    size = Quantity(float(f"{evidence.bytes:.3g}"), "bytes")
    if meets(evidence.bytes, evidence.operator, evidence.bound_bytes):
        return Verdict.PASS, str(size), ""
    limit = Quantity(evidence.bound_bytes, "bytes")
    return Verdict.FAIL, f"{size} is {say.missed(evidence.operator)} {limit}", ""


def _sanity(evidence: SanityEvidence) -> Answer:
    faults = list(_faults(evidence))
    if faults:
        return Verdict.FAIL, "; ".join(faults), ""
    if evidence.rows < 2:
        return Verdict.INCONCLUSIVE, f"{plural(evidence.rows, 'row')}: 2 are needed", ""
    return Verdict.PASS, f"{plural(evidence.rows, 'row')} answered, all finite and in range", ""


def _faults(evidence: SanityEvidence) -> Iterable[str]:
    if evidence.columns_found != evidence.columns_expected:
        yield (
            f"{evidence.columns_found} scores a row, the manifest says {evidence.columns_expected}"
        )
    rows = plural(evidence.rows, "row")
    if evidence.not_finite:
        yield f"{evidence.not_finite:,} of {rows} got a score that is not a number"
    if evidence.outside:
        yield f"{evidence.outside:,} of {rows} got a probability outside 0 to 1"
    if evidence.sum_difference is not None and evidence.sum_difference > SUM_DIFFERENCE_MAX:
        yield f"probabilities of a row sum to 1 only within {evidence.sum_difference:.2g}"
    if evidence.rows > 1 and evidence.distinct == 1:
        yield f"all {plural(evidence.rows, 'row')} got the same answer"


def _agreement(evidence: AgreementEvidence) -> Answer:
    asked = "asked twice" if evidence.what == "twice" else "asked alone and together"
    if evidence.difference is None:
        return Verdict.INCONCLUSIVE, f"no row could be {asked}", ""
    has_met = evidence.difference <= evidence.tolerance
    size = f"{evidence.difference:.2g}, allowed {evidence.tolerance:g}"
    reason = f"rows {asked} differ by {size}"
    if has_met:
        agree = f"agree within {size}" if evidence.difference else "agree exactly"
        reason = f"{plural(evidence.rows, 'row')} {asked} {agree}"
    return (Verdict.PASS if has_met else Verdict.FAIL), reason, ""
