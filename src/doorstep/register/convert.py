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
            return Proposal(found, parity, _served(parity))
        if nearest is None or parity.rows_agreeing > nearest.rows_agreeing:
            nearest = parity
    if nearest is None:
        nearest = _not_converted(reasons[0])
    return Proposal(None, nearest, _kept_native(nearest))


def _not_converted(reason: str) -> Parity:
    return Parity(
        passed=False, rows=0, rows_agreeing=0, difference_max=0.0, tolerance=TOLERANCE,
        reason=f"it cannot be converted: {reason}",
    )  # fmt: skip


def _served(parity: Parity) -> Finding:
    return Finding(
        check="ONNX",
        verdict=Verdict.PASS,
        reason=f"ONNX, {parity.rows_agreeing:,} of {parity.rows:,} rows agree",
        evidence=_evidence(parity),
    )


def _kept_native(parity: Parity) -> Finding:
    return Finding(
        check="ONNX",
        verdict=Verdict.PASS,
        reason=f"kept native: {parity.reason}",
        evidence=_evidence(parity),
    )


def _evidence(parity: Parity) -> dict[str, Any]:
    return {
        "rows": parity.rows,
        "rows_agreeing": parity.rows_agreeing,
        "difference_max": parity.difference_max,
        "tolerance": parity.tolerance,
    }
