"""Gates, measured in a process of their own: model code never runs in the control plane.

`kernel.child.run_child("doorstep.gate.child", encode(request))` answers with the findings. What is
measured here becomes evidence; the verdicts come from `gate.decide`, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.condition import Condition, parse_condition
from doorstep.core.errors import DoorstepError, InputError
from doorstep.core.verdict import Finding
from doorstep.formats.columns import Table
from doorstep.formats.table import read_table, to_batch
from doorstep.gate.behaviour import measure_agreement, measure_sanity, measure_speed
from doorstep.gate.compatibility import contract_breaks, version_breaks
from doorstep.gate.decide import decide
from doorstep.gate.metrics import labelled_of
from doorstep.gate.quality import (
    Measured,
    aligned,
    fairness_evidence,
    quality_evidence,
    slice_evidence,
    truth_of,
)
from doorstep.gate.reference import column_changes, find_seen
from doorstep.gate.rules import size_of
from doorstep.gate.subject import ScoringFault, Subject, as_served, load_subject, score_rows
from doorstep.gate.types import (
    ColumnChange,
    DataEvidence,
    Evidence,
    GateRequest,
    SchemaEvidence,
    UnmeasuredEvidence,
    UnseenEvidence,
)

CHANGED_KEPT = 5
"""Columns named with a quality verdict; the data gate keeps all of them."""
SIZE_DEFAULT = "size <= 2 GB"
"""What can be loaded at all."""


def main(request: bytes) -> bytes:
    """GateRequest as JSON in, list of Finding as JSON out.

    Raises: InputError (`bad-gate-request`, or what the bundle or the hold-out has wrong),
    RefusedError (`untrusted-model`).
    """
    return msgspec.json.encode(run(decode_request(request)))


def decode_request(request: bytes) -> GateRequest:
    try:
        return msgspec.json.decode(request, type=GateRequest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InputError("bad-gate-request", f"the request cannot be read: {error}") from None


def run(request: GateRequest) -> list[Finding]:
    """Every gate of the request, in the order in which they are shown."""
    subject = load_subject(request.version)
    champion = load_subject(request.champion) if request.champion else None
    return findings_of(request, subject, champion)


def findings_of(request: GateRequest, subject: Subject, champion: Subject | None) -> list[Finding]:
    """The same of versions that are loaded already."""
    return [decide(one) for one in _measure(request, subject, champion)]


def _measure(
    request: GateRequest, subject: Subject, champion: Subject | None
) -> Iterator[Evidence]:
    yield from _schema(request, subject, champion)
    if not request.holdout:
        yield UnmeasuredEvidence(
            check="held-out data",
            problem="there is no held-out data",
            next="name it under data.holdout of the service file",
        )
        return
    table = read_table(Path(request.holdout), texts=_text_columns(subject))
    yield from _on_rows(request, subject, champion, table)


def _text_columns(subject: Subject) -> list[str]:
    contract = subject.manifest.contract
    texts = [one.name for one in (*contract.inputs, *contract.context) if not one.is_number]
    return [*texts, subject.manifest.label] if subject.manifest.labels else texts


def _schema(
    request: GateRequest, subject: Subject, champion: Subject | None
) -> Iterator[SchemaEvidence]:
    if request.promised is not None:
        yield SchemaEvidence(
            check="schema: callers of the service file",
            against="the service file's contract",
            breaks=contract_breaks(request.promised, subject.manifest.contract),
        )
    if champion is not None:
        yield SchemaEvidence(
            check="schema: callers of the champion",
            against=champion.name,
            breaks=version_breaks(champion.manifest, subject.manifest),
        )


def _on_rows(
    request: GateRequest, subject: Subject, champion: Subject | None, table: Table
) -> Iterator[Evidence]:
    truth = truth_of(table, subject.manifest)
    table, truth = table.take(~np.isnan(truth)), truth[~np.isnan(truth)]
    batch = as_served(to_batch(table, subject.manifest.contract), subject.manifest.contract)
    try:
        scores = score_rows(subject.scorer, batch)
    except ScoringFault as fault:
        yield _fault_evidence(fault, table)
        return
    yield measure_sanity(subject.manifest, scores)
    yield from measure_agreement(subject.scorer, batch)
    if _can_be_measured(subject, scores):
        yield from _on_scores(request, subject, champion, table, truth, scores)
    yield from measure_speed(subject, batch, _speed_conditions(request))


def _fault_evidence(fault: ScoringFault, table: Table) -> UnmeasuredEvidence:
    return UnmeasuredEvidence(
        check="answers are sane",
        problem=f"the version raised {fault} at held-out row {fault.row + 1:,} of {table.rows:,}",
        is_fault=True,
    )


def _can_be_measured(subject: Subject, scores: NDArray[np.float64]) -> bool:
    """Whether the scores have the shape that metrics need; if not, the sanity gate has failed."""
    expected = len(subject.manifest.labels) or 1
    return scores.shape[1] == expected and len(scores) > 0


def _speed_conditions(request: GateRequest) -> tuple[Condition, ...]:
    limit = f"p99 <= {request.timeout_ms:g} ms"
    return request.gates.speed or (parse_condition(limit), parse_condition(SIZE_DEFAULT))


def _on_scores(
    request: GateRequest,
    subject: Subject,
    champion: Subject | None,
    table: Table,
    truth: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> Iterator[Evidence]:
    profile = subject.read_profile()
    changes = column_changes(table, subject.manifest.contract, profile) if profile else ()
    measured = _measured(subject, champion, table, truth, scores, changes)
    yield UnseenEvidence(check="the hold-out is new to the model", unseen=measured.unseen)
    if profile is not None:
        yield DataEvidence(
            check="the hold-out is in the units of training",
            rows=table.rows,
            reference_rows=profile.rows,
            columns=changes,
        )
    yield from quality_evidence(measured, request.gates.quality)
    for asked in request.gates.slices:
        yield slice_evidence(measured, asked)
    for condition in request.gates.fairness:
        yield from fairness_evidence(measured, condition, request.favourable)


def _measured(
    subject: Subject,
    champion: Subject | None,
    table: Table,
    truth: NDArray[np.float64],
    scores: NDArray[np.float64],
    changes: tuple[ColumnChange, ...],
) -> Measured:
    mine = labelled_of(subject.manifest, truth, scores)
    theirs, problem = None, ""
    if champion is not None:
        try:
            contract = champion.manifest.contract
            found = score_rows(champion.scorer, as_served(to_batch(table, contract), contract))
            theirs = aligned(found, champion.manifest, mine, subject.manifest)
        except ScoringFault as fault:
            problem = f"it raised {fault}"
        except DoorstepError as error:
            problem = error.message
    return Measured(
        manifest=subject.manifest,
        table=table,
        mine=mine,
        champion=champion.name if champion else "",
        of_champion=theirs,
        champion_problem=problem,
        unseen=find_seen(table, subject.manifest, subject.read_background()),
        changed=tuple(sorted(changes, key=size_of, reverse=True)[:CHANGED_KEPT]),
    )
