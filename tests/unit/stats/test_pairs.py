import numpy as np
import pytest

from doorstep.stats.codes import code_numbers, count_codes, quantile_edges
from doorstep.stats.pairs import (
    R_MAX,
    correlations,
    cross_products,
    kurtosis_of,
    pair_report,
    score_table,
    spreads,
)

REFERENCE_ROWS = 20_000


def rows_of(generator: np.random.Generator, rows: int) -> np.ndarray:
    """Normal ones that go together, two nearly equal halves, rare values, counts, missing ones, a
    copy of the first, a constant."""
    found, common = generator.normal(size=(rows, 8)), generator.normal(size=rows)
    found[:, 1] = 0.9 * found[:, 0] + 0.44 * found[:, 1]
    found[:, 2] = common > 0
    found[:, 3] = common + 0.3 * found[:, 3] > 0
    found[:, 4] = generator.random(rows) < 0.05
    found[:, 5] = generator.poisson(1.1, rows)
    found[generator.random(rows) < 0.02, 5] = np.nan
    found[:, 6] = found[:, 0]
    found[:, 7] = 3.0
    return found


REFERENCE = rows_of(np.random.default_rng(0), REFERENCE_ROWS)
EDGES = [quantile_edges(column) for column in REFERENCE.T]
COUNTS = [
    tuple(count_codes(code_numbers(column, edges)).tolist())
    for column, edges in zip(REFERENCE.T, EDGES, strict=True)
]
TABLES = [score_table(one) for one in COUNTS]
KURTOSIS = np.array([kurtosis_of(one, REFERENCE_ROWS - sum(one)) for one in COUNTS])
NAMES = [f"c{at}" for at in range(8)]


def scores_of(rows: np.ndarray) -> np.ndarray:
    coded = (code_numbers(*one) for one in zip(rows.T, EDGES, strict=True))
    return np.column_stack([table[one] for table, one in zip(TABLES, coded, strict=True)])


def now_of(rows: np.ndarray) -> np.ndarray:
    codes = [count_codes(code_numbers(*one)) for one in zip(rows.T, EDGES, strict=True)]
    return correlations(len(rows), codes, TABLES, cross_products(scores_of(rows)))


BEFORE, SPREAD = spreads(scores_of(REFERENCE))


def report(rows: np.ndarray):
    return pair_report(NAMES, BEFORE, SPREAD, now_of(rows), KURTOSIS, (REFERENCE_ROWS, len(rows)))


def test_counts_and_products_give_the_correlations_that_rows_give() -> None:
    known = np.isfinite(BEFORE)
    assert now_of(REFERENCE)[known] == pytest.approx(BEFORE[known], abs=1e-9)
    plain = np.corrcoef(scores_of(REFERENCE)[:, :2].T)[0, 1]
    assert pytest.approx(plain, abs=1e-9) == BEFORE[0]
    assert not np.isfinite(BEFORE[6])  # the first with the constant


def test_products_of_parts_add_up_exactly() -> None:
    scores = scores_of(REFERENCE)
    parts = [cross_products(scores[start : start + 777]) for start in range(0, REFERENCE_ROWS, 777)]
    assert (sum(parts) == cross_products(scores)).all()


def test_the_spread_is_one_for_normal_columns_and_wider_for_halves_that_go_together() -> None:
    assert SPREAD[0] == pytest.approx(1.0, abs=0.15)
    halves = SPREAD[2 * 7 - 1]  # of columns 2 and 3
    r = 0.8
    assert halves > 1 / np.sqrt(1 - r**2) > 1.6


def test_copies_of_each_other_are_compared_too() -> None:
    rows = rows_of(np.random.default_rng(1), 1000)
    assert BEFORE[5] > R_MAX
    rows[:, 6] = np.random.default_rng(2).permutation(rows[:, 6])
    assert {("c0", "c6"), ("c1", "c6")} == {
        (one.one, one.other) for one in report(rows) if one.drifted
    }


def test_nothing_has_changed_and_hardly_any_window_says_so() -> None:
    generator = np.random.default_rng(3)
    windows = [report(rows_of(generator, rows)) for rows in (200, 2000) for _ in range(150)]
    assert sum(any(one.drifted for one in window) for window in windows) <= 5


def test_few_rows_say_nothing_of_rare_values() -> None:
    compared = {(one.one, one.other) for one in report(rows_of(np.random.default_rng(4), 300))}
    assert ("c0", "c1") in compared
    assert ("c0", "c4") not in compared
    many = {(one.one, one.other) for one in report(rows_of(np.random.default_rng(4), 3000))}
    assert ("c0", "c4") in many
    assert not report(rows_of(np.random.default_rng(4), 3))
