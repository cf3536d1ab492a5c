"""The reference profile: what the training data and the model's answers on it look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract, Field
from doorstep.core.manifest import ColumnProfile, PairProfile, Profile
from doorstep.formats.batch import Batch
from doorstep.formats.columns import Column, Table
from doorstep.stats.codes import (
    CATEGORIES_MAX,
    code_numbers,
    code_texts,
    count_codes,
    quantile_edges,
)
from doorstep.stats.pairs import COLUMNS_MAX, score_table, spreads

KNOWN_MAX = 2000
TEXT_REPEATS_MIN = 10
IMPORTANCE_ROWS_MAX = 500
IMPORTANCE_COLUMNS_MAX = 200


def profile_table(
    table: Table,
    contract: Contract,
    scores: NDArray[np.float64],
    labels: Sequence[str],
    importance: dict[str, float],
) -> Profile:
    """The profile of `table` (inputs, then those context fields it has) and of the model's `scores`
    on rows of it, float64 [n, labels or 1]."""
    fields = [*contract.inputs, *contract.context]
    columns = tuple(
        profile_field(table.column(field.name), field, importance.get(field.name, 0.0))
        for field in fields
        if field.name in table
    )
    names = list(labels) or ["prediction"]
    answers = tuple(_profile_numbers(name, "float", scores[:, at]) for at, name in enumerate(names))
    pairs = profile_pairs(table, [one for one in fields if one.personal == "no"], columns)
    return Profile(format=1, rows=table.rows, columns=columns, scores=answers, pairs=pairs)


def profile_pairs(
    table: Table, fields: Sequence[Field], columns: Sequence[ColumnProfile]
) -> PairProfile:
    """How the numbers among these fields go together: the most important ones, if they are many."""
    named = {one.name: one for one in columns}
    numbers = [one for one in fields if one.is_number and one.name in named]
    known = [named[one.name] for one in numbers if max(named[one.name].counts) < table.rows]
    chosen = sorted(known, key=lambda one: -one.importance)[:COLUMNS_MAX]
    if len(chosen) < 2:
        return PairProfile()
    codes = [code_numbers(table.column(one.name).as_numbers(), one.edges) for one in chosen]
    tables = [score_table(one.counts) for one in chosen]
    scores = np.column_stack([of[one] for of, one in zip(tables, codes, strict=True)])
    found = (tuple(np.nan_to_num(one).round(6).tolist()) for one in spreads(scores))
    return PairProfile(
        columns=tuple(one.name for one in chosen), correlations=next(found), spreads=next(found)
    )


def profile_field(column: Column, field: Field, importance: float = 0.0) -> ColumnProfile:
    """One field's reference. Numbers: edges, codes, mean, sd (population) and bounds of the finite
    values. Texts: the 30 most frequent values; free text keeps no other known value."""
    if field.is_number:
        return _profile_numbers(field.name, field.type, column.as_numbers(), importance)
    texts = column.as_texts()
    frequent, known = _shown_values(texts, field)
    bare = ColumnProfile(
        name=field.name,
        type=field.type,
        categories=frequent,
        known=known,
        counts=(),
        nulls=column.missing_rows,
        importance=importance,
    )
    counts = count_codes(code_texts(texts, bare))
    return msgspec.structs.replace(bare, counts=tuple(counts.tolist()))


def _shown_values(texts: list[str | None], field: Field) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The values a profile may carry: of a personal field none, of free text those that at least
    ten rows have, because a profile must not repeat what one person wrote."""
    if field.personal != "no":
        return (), ()
    counts = Counter(text for text in texts if text is not None)
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    if field.type == "text":
        often = tuple(text for text, count in ordered[:CATEGORIES_MAX] if count >= TEXT_REPEATS_MIN)
        return often, often
    known = tuple(text for text, _ in ordered[:KNOWN_MAX])
    unused = tuple(value for value in field.values if value not in counts)
    return known[:CATEGORIES_MAX], (*known, *unused)


def _profile_numbers(
    name: str, kind: str, values: NDArray[np.float64], importance: float = 0.0
) -> ColumnProfile:
    finite = values[np.isfinite(values)]
    edges = np.nan_to_num(quantile_edges(values), posinf=1e308, neginf=-1e308)
    has = finite.size > 0
    return ColumnProfile(
        name=name,
        type=kind,  # type: ignore[arg-type]
        edges=tuple(edges.tolist()),
        counts=tuple(count_codes(code_numbers(values, edges)).tolist()),
        nulls=int(np.isnan(values).sum()),
        mean=float(finite.mean()) if has else 0.0,
        sd=float(finite.std()) if has else 0.0,
        minimum=float(finite.min()) if has else 0.0,
        maximum=float(finite.max()) if has else 0.0,
        importance=importance,
    )


def measure_importance(
    score: Callable[[Batch], NDArray[np.float64]], batch: Batch, contract: Contract
) -> dict[str, float]:
    """How much each input moves the answers, as a share of the total: the mean absolute change of
    the scores when its column is shifted by half the rows (a permutation without randomness).

    The rows should be in no order (Breiman 2001 permutes at random). Empty for fewer than two rows
    or more than 200 inputs; all zero if nothing moves anything.
    """
    if batch.rows < 2 or len(contract.inputs) > IMPORTANCE_COLUMNS_MAX:
        return {}
    base = score(batch)
    by = batch.rows // 2
    moved: dict[str, float] = {}
    for at, field in enumerate(contract.numbers):
        numbers = batch.numbers.copy()
        numbers[:, at] = np.roll(numbers[:, at], by)
        moved[field.name] = _change(base, score(Batch(numbers, batch.texts)))
    for at, field in enumerate(contract.texts):
        texts = list(batch.texts)
        texts[at] = texts[at][-by:] + texts[at][:-by]
        moved[field.name] = _change(base, score(Batch(batch.numbers, texts)))
    total = sum(moved.values())
    return {name: round(one / total, 6) if total else 0.0 for name, one in moved.items()}


def _change(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    return float(np.nanmean(np.abs(after - before)))
