"""ONNX proposed and judged: conversions are tried in turn until one answers as the model does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from doorstep.core.manifest import Manifest, Parity
from doorstep.core.verdict import Finding, Verdict
from doorstep.formats.batch import Scorer
from doorstep.formats.convert import Converted, convert, styles_for
from doorstep.formats.load import score_columns
from doorstep.formats.onnx import OnnxScorer
from doorstep.register.parity import TOLERANCE, Decision, Group, check_parity


@dataclass(frozen=True, slots=True)
class Proposal:
    """converted: None keeps the model native. parity: of the conversion that came nearest."""

    converted: Converted | None
    parity: Parity
    finding: Finding


def propose_onnx(
    estimator: Any, draft: Manifest, native: Scorer, groups: list[Group], decision: Decision
) -> Proposal:
    """The first conversion on which every row agrees, or none and the reason why."""
    reasons: list[str] = []
    nearest: Parity | None = None
    for style in styles_for(estimator, draft.native):
        found = convert(estimator, draft.native, draft.contract, style)
        if isinstance(found, str):
            reasons.append(found)
            continue
        columns = score_columns(draft)
        scorer = OnnxScorer(found.data, found.form, draft.contract, scores=columns)
        parity = check_parity(native, scorer, groups, decision)
        if parity.passed:
            agree = f"ONNX, {parity.rows_agreeing:,} of {parity.rows:,} rows agree"
            return Proposal(found, parity, _finding(parity, agree))
        if nearest is None or parity.rows_agreeing > nearest.rows_agreeing:
            nearest = parity
    if nearest is None:
        nearest = _not_converted(reasons[0])
    return Proposal(None, nearest, _finding(nearest, f"kept native: {nearest.reason}"))


def _not_converted(reason: str) -> Parity:
    return Parity(
        passed=False, rows=0, rows_agreeing=0, difference_max=0.0, tolerance=TOLERANCE,
        reason=f"it cannot be converted: {reason}",
    )  # fmt: skip


def _finding(parity: Parity, reason: str) -> Finding:
    names = ("rows", "rows_agreeing", "difference_max", "tolerance")
    evidence = {name: getattr(parity, name) for name in names}
    return Finding(check="ONNX", verdict=Verdict.PASS, reason=reason, evidence=evidence)
