from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from doorstep.core.manifest import ColumnProfile
from doorstep.stats.codes import (
    CODES,
    EDGES,
    MISSING,
    code_numbers,
    code_texts,
    count_codes,
    quantile_edges,
)

NUMBERS = arrays(
    np.float64,
    st.integers(0, 200),
    elements=st.floats(allow_nan=True, allow_infinity=True, width=64),
)


def profile(categories: tuple[str, ...], known: tuple[str, ...] = ()) -> ColumnProfile:
    return ColumnProfile(
        name="purpose", type="category", categories=categories, known=known, counts=(), nulls=0
    )


@settings(deadline=None)
@given(NUMBERS)
def test_every_number_has_a_code_and_every_missing_one_has_none(values: np.ndarray) -> None:
    edges = quantile_edges(values)
    codes = code_numbers(values, edges)
    assert len(edges) == EDGES
    assert (np.diff(edges[np.isfinite(edges)]) >= 0).all()
    assert ((codes == MISSING) == np.isnan(values)).all()
    assert count_codes(codes).sum() == (~np.isnan(values)).sum()


@settings(deadline=None)
@given(NUMBERS)
def test_a_larger_number_never_has_a_smaller_code(values: np.ndarray) -> None:
    present = np.sort(values[~np.isnan(values)])
    codes = code_numbers(present, quantile_edges(values)).astype(int)
    assert (np.diff(codes) >= 0).all()


def test_a_continuous_column_fills_all_bins_about_equally() -> None:
    values = np.random.default_rng(0).normal(size=32_000)
    counts = count_codes(code_numbers(values, quantile_edges(values)))
    assert counts.min() > 900
    assert counts.max() < 1100


def test_a_value_on_an_edge_belongs_to_the_bin_above_it() -> None:
    assert code_numbers([0.9, 1.0, 1.1], [1.0]).tolist() == [0, 1, 1]


def test_ties_collapse_bins() -> None:
    values = np.array([0.0] * 90 + [1.0] * 10)
    counts = count_codes(code_numbers(values, quantile_edges(values)))
    assert sorted(counts[counts > 0].tolist()) == [10, 90]


def test_of_nothing_there_are_zeros() -> None:
    assert quantile_edges(np.array([np.nan])).tolist() == [0.0] * EDGES
    assert count_codes(code_numbers([], [1.0])).tolist() == [0] * CODES


def test_texts_are_frequent_known_unseen_or_missing() -> None:
    codes = code_texts(["car", "boat", "tank", None, "car"], profile(("car",), ("car", "boat")))
    assert codes.tolist() == [0, 30, 31, MISSING, 0]
