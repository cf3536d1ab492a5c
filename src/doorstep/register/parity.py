"""Does the ONNX form answer as the native one does? On real rows, and on the rows that hurt.

All rows must agree, or the native form serves. Conversions go wrong silently: categorical splits,
isotonic calibration and tokenisers have all been seen to give other answers without an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract, Field
from doorstep.core.manifest import Parity
from doorstep.formats.batch import Batch, Scorer
from doorstep.formats.columns import Table
from doorstep.formats.table import to_batch
from doorstep.register.split import sample_rows

ROWS_MAX = 5000
EDGE_BASE_ROWS = 12
EDGE_COLUMNS_MAX = 200
TOLERANCE = 1e-4
CHUNK_ROWS = 1000
UNSEEN_TEXT = "~unseen~"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are compared together. what: how a person would name them."""

    what: str
    batch: Batch


@dataclass(frozen=True, slots=True)
class Decision:
    """How scores become an answer. positive: its column, or None; threshold: of its score."""

    positive: int | None
    threshold: float
    is_classification: bool


def parity_groups(holdout: Table, train: Table | None, contract: Contract) -> list[Group]:
    """Up to 5,000 rows: held-out ones, as many training ones as there is room for, and made-up ones
    at the edges: missing values, categories never seen, zeros, bounds and neighbours of them."""
    room = ROWS_MAX if train is None else ROWS_MAX // 2
    found = [Group("held-out rows", to_batch(holdout.take(sample_rows(holdout, room)), contract))]
    if train is not None:
        left = ROWS_MAX - found[0].batch.rows
        rows = train.take(sample_rows(train, left))
        found.append(Group("training rows", to_batch(rows, contract)))
    found.extend(_edges(found[0].batch, contract))
    return found


def _edges(batch: Batch, contract: Contract) -> Iterator[Group]:
    """One group per field and kind of edge, each a few real rows with that one field changed."""
    base = batch.part(0, EDGE_BASE_ROWS)
    for at, field in enumerate(contract.numbers[:EDGE_COLUMNS_MAX]):
        if not field.required:
            yield Group(f"{field.name} missing", _with_number(base, at, [np.nan]))
        values = edge_numbers(field, batch.numbers[:, at])
        yield Group(f"{field.name} at its bounds", _with_number(base, at, values))
    for at, field in enumerate(contract.texts[:EDGE_COLUMNS_MAX]):
        if not field.required:
            yield Group(f"{field.name} missing", _with_text(base, at, None))
        if field.type == "text":
            yield Group(f"{field.name} empty", _with_text(base, at, ""))
            yield Group(f"{field.name} with marks", _with_text(base, at, "don't e-mail, café 3.5"))
        elif field.unseen == "allow":
            what = f"a value of {field.name} never seen in training"
            yield Group(what, _with_text(base, at, UNSEEN_TEXT))


def edge_numbers(field: Field, values: NDArray[np.float64]) -> list[float]:
    """Bounds, zero, and the float32 neighbours of a few observed values, where a tree that compares
    in another precision takes the other branch."""
    if field.type == "bool":
        return [0.0, 1.0]
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return [0.0]
    low, high = float(finite.min()), float(finite.max())
    found = [low, high, low - 1.0, high + 1.0, 0.0]
    if field.type == "float":
        middle = np.float32(np.median(finite))
        up = np.nextafter(middle, np.float32(np.inf))
        found += [float(middle), float(up), high * 10.0]
    return found


def _with_number(base: Batch, at: int, values: list[float]) -> Batch:
    numbers = base.numbers.copy()
    numbers[:, at] = np.resize(np.array(values), base.rows)
    return Batch(numbers, base.texts)


def _with_text(base: Batch, at: int, value: str | None) -> Batch:
    texts = list(base.texts)
    texts[at] = [value] * base.rows
    return Batch(base.numbers, texts)


def check_parity(native: Scorer, onnx: Scorer, groups: list[Group], decision: Decision) -> Parity:
    """Compare every row of every group. A row that one form refuses and the other answers is a
    difference; one that both refuse is not."""
    rows = agreeing = 0
    largest, reasons = 0.0, []
    for group in groups:
        expected, found = _answers(native, group.batch), _answers(onnx, group.batch)
        rows += group.batch.rows
        if isinstance(expected, str) or isinstance(found, str):
            same = isinstance(expected, str) and isinstance(found, str)
            agreeing += group.batch.rows if same else 0
            reasons += [] if same else [_one_refuses(group.what, expected)]
            continue
        close = rows_agree(expected, found, decision)
        agreeing += int(close.sum())
        largest = max(largest, _difference(expected, found))
        if not close.all():
            reasons.append(_differ(group.what, expected, found, close))
    return Parity(
        passed=rows > 0 and agreeing == rows,
        rows=rows,
        rows_agreeing=agreeing,
        difference_max=largest,
        tolerance=TOLERANCE,
        reason=reasons[0] if reasons else f"{agreeing:,} of {rows:,} rows agree",
    )


def _answers(scorer: Scorer, batch: Batch) -> NDArray[np.float64] | str:
    """The scores, or what was said when the model refused the rows."""
    try:
        parts = [scorer.score(part) for part in batch.parts(CHUNK_ROWS)]
    except Exception as error:  # noqa: BLE001  a model raises anything, and that is an answer here
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"
    return np.concatenate(parts) if parts else np.zeros((0, 1))


def rows_agree(
    native: NDArray[np.float64], onnx: NDArray[np.float64], decision: Decision
) -> NDArray[np.bool_]:
    """bool [rows]: every score within 1e-4 (of the larger of 1 and its size, for a regression), and
    the same answer unless the native one is within 1e-4 of changing. NaN agrees with NaN only."""
    if native.shape != onnx.shape:
        return np.zeros(len(native), np.bool_)
    scale = 1.0 if decision.is_classification else np.maximum(1.0, np.abs(native))
    with np.errstate(invalid="ignore"):
        close = (np.abs(native - onnx) <= TOLERANCE * scale) | (native == onnx)
    close |= np.isnan(native) & np.isnan(onnx)
    agree = np.asarray(close.all(axis=1), dtype=np.bool_)
    if not decision.is_classification:
        return agree
    same = _answer(native, decision) == _answer(onnx, decision)
    return np.asarray(agree & (same | (_margin(native, decision) <= 2 * TOLERANCE)), np.bool_)


def _answer(scores: NDArray[np.float64], decision: Decision) -> NDArray[np.int64]:
    if decision.positive is None:
        largest: NDArray[np.int64] = np.argmax(scores, axis=1).astype(np.int64)
        return largest
    above: NDArray[np.int64] = np.where(scores[:, decision.positive] >= decision.threshold, 1, 0)
    return above


def _margin(scores: NDArray[np.float64], decision: Decision) -> NDArray[np.float64]:
    if decision.positive is not None:
        return np.abs(scores[:, decision.positive] - decision.threshold)
    ordered = np.sort(scores, axis=1)
    margin: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return margin


def _difference(native: NDArray[np.float64], onnx: NDArray[np.float64]) -> float:
    if native.shape != onnx.shape:
        return float("1e308")
    with np.errstate(invalid="ignore"):
        gaps = np.abs(native - onnx)
    gaps = gaps[np.isfinite(gaps)]
    return float(gaps.max()) if gaps.size else 0.0


def _one_refuses(what: str, native: NDArray[np.float64] | str) -> str:
    if isinstance(native, str):
        return f"{what}: the model refuses it ({native}) and the ONNX form answers"
    return f"{what}: the ONNX form refuses it and the model answers"


def _differ(
    what: str,
    native: NDArray[np.float64],
    onnx: NDArray[np.float64],
    close: NDArray[np.bool_],
) -> str:
    if native.shape != onnx.shape:
        return f"{what}: {onnx.shape[1]} columns of scores instead of {native.shape[1]}"
    bad = int((~close).sum())
    gap = _difference(native[~close], onnx[~close])
    return f"{what}: {bad:,} of {len(close):,} answer differently (by up to {gap:.2g})"
