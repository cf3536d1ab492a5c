"""The hold-out beside the training data: same units and kinds of values, but not the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract, Field
from doorstep.core.manifest import ColumnProfile, Manifest, Profile
from doorstep.formats.columns import Table, row_hashes, table_digest
from doorstep.gate.types import ColumnChange, Unseen
from doorstep.stats.codes import CODE_UNSEEN, CODES, MISSING, code_numbers, code_texts, count_codes
from doorstep.stats.distances import jensen_shannon, ks, wasserstein_sd

SEEN_METRIC = "holdout_rows_in_training"
"""What `register` counted on the machine that had both files, kept in the lineage."""


def column_changes(
    holdout: Table, contract: Contract, profile: Profile
) -> tuple[ColumnChange, ...]:
    """Every input column that both have, hold-out against reference, in contract order."""
    known = {one.name: one for one in profile.columns}
    return tuple(
        _change(holdout, field, known[field.name])
        for field in contract.inputs
        if field.name in known and field.name in holdout
    )


def _change(holdout: Table, field: Field, reference: ColumnProfile) -> ColumnChange:
    if field.is_number:
        return _number_change(holdout.column(field.name).as_numbers(), field, reference)
    codes = code_texts(holdout.column(field.name).as_texts(), reference)
    counts = count_codes(codes)
    strange = _share_unseen(counts.tolist()) - _share_unseen(reference.counts)
    return ColumnChange(
        column=field.name,
        divergence=_finite(jensen_shannon(reference.counts, counts)),
        unseen=max(0.0, strange),
        missing_holdout=_share_missing(codes),
        missing_reference=_reference_missing(reference),
    )


def _number_change(
    values: NDArray[np.float64], field: Field, reference: ColumnProfile
) -> ColumnChange:
    codes = code_numbers(values, reference.edges)
    counts = count_codes(codes)
    present = values[np.isfinite(values)]
    mine = float(np.median(present)) if present.size else None
    theirs = reference.edges[CODES // 2 - 1] if sum(reference.counts) and reference.edges else None
    return ColumnChange(
        column=field.name,
        shift_sd=_finite(wasserstein_sd(reference.counts, counts)),
        ks=_finite(ks(reference.counts, counts)),
        holdout_p50=mine,
        reference_p50=theirs,
        scale=mine / theirs if mine is not None and theirs else None,
        missing_holdout=_share_missing(codes),
        missing_reference=_reference_missing(reference),
        range_min=field.range_min,
        range_max=field.range_max,
    )


def _share_unseen(counts: Sequence[int]) -> float:
    """Of the values that are there. Free text and personal fields have unseen values in training
    too, because their profile does not keep them."""
    return counts[CODE_UNSEEN] / max(1, sum(counts)) if counts else 0.0


def _share_missing(codes: NDArray[np.uint8]) -> float:
    return float((codes == MISSING).mean()) if codes.size else 0.0


def _reference_missing(reference: ColumnProfile) -> float:
    rows = sum(reference.counts) + reference.nulls
    return reference.nulls / rows if rows else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def find_seen(holdout: Table, manifest: Manifest, background: Table | None) -> Unseen:
    """Whether the version may have trained on the held-out rows.

    By the digest of the training data in the lineage; by what `register` counted where it had both
    files; else by the background sample, if it was drawn from training data.
    """
    rows = holdout.rows
    trained = [one for one in manifest.lineage.data if one.role == "train"]
    if table_digest(holdout) in {one.digest for one in trained}:
        return Unseen(compared="training data", rows=rows, shared=rows, is_same_file=True)
    names = [*(field.name for field in manifest.contract.inputs), manifest.label]
    if SEEN_METRIC in manifest.lineage.metrics:
        return Unseen(
            compared="training data",
            rows=rows,
            shared=min(rows, int(manifest.lineage.metrics[SEEN_METRIC])),
            compared_rows=sum(one.rows for one in trained),
            by_chance=_twins(row_hashes(holdout, [name for name in names if name in holdout])),
        )
    if background is not None and trained and (both := _common(holdout, background, names)):
        mine, theirs = row_hashes(holdout, both), row_hashes(background, both)
        return Unseen(
            compared="background sample",
            rows=rows,
            shared=int(np.isin(theirs, mine).sum()),
            compared_rows=background.rows,
            by_chance=_twins(mine),
        )
    return Unseen(compared="nothing", rows=rows)


def _common(one: Table, other: Table, names: list[str]) -> list[str]:
    """The columns to compare: the inputs and, where both have it, the label. [] if an input is
    missing on either side, when equal rows would mean little."""
    shared = [name for name in names if name in one and name in other]
    return shared if len(shared) >= len(names) - 1 else []


def _twins(hashes: NDArray[np.uint64]) -> float:
    """Share of rows that have an equal row in the same table."""
    if hashes.size == 0:
        return 0.0
    _, counts = np.unique(hashes, return_counts=True)
    return float(counts[counts > 1].sum() / hashes.size)
