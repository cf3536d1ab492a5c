"""The published vectors of the method, to 1e-6, from the JSON file and by brute force."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from stats_cases import residual_log_e

from doorstep.stats import eprocess as e

VECTORS = json.loads(Path(__file__).with_name("rollout-test-vectors.json").read_text())
THREE = [(0.01, 3, 40), (0.05, 9, 70), (0.25, 40, 60)]
FIRST = (0.5, 0.1, 260, 1740, 200, 1800)
SECOND = (0.05, 0.1, 30, 170, 380, 3420)
QUIET = [(0.5, 300, 310), (0.5, 290, 300), (0.5, 120, 60)]

COMPUTED = [
    lambda: e.share_log_e([(0.05, 12, 60)], 1.0, +1),
    lambda: e.share_log_e([(0.05, 12, 60)], 1.1, +1),
    lambda: e.share_log_e([(0.5, 30, 40)], 2.0, -1),
    lambda: e.share_log_e(THREE, 1.0, +1),
    lambda: e.share_log_e([*THREE, (1.0, 500, 0)], 1.0, +1),
    lambda: e.share_log_e([(0.5, 4600, 5000)], 1.0, -1, e.GRID_KPI),
    lambda: e.share_interval(THREE),
    lambda: e.share_interval([(0.5, 30, 40)]),
    lambda: residual_log_e([FIRST]),
    lambda: residual_log_e([FIRST], 0.01),
    lambda: residual_log_e([FIRST], 0.06, -1),
    lambda: residual_log_e([FIRST, SECOND]),
    lambda: e.residual_wealth(np.array([True]), np.array([0.3]), 0.05, 0.1, 0.0, +1),
    lambda: e.paired_log_e(60, 9900, 40),
    lambda: e.paired_log_e(60, 9900, 40, 0.001),
    lambda: e.paired_log_e(40, 9900, 60, 0.002, -1),
    lambda: e.one_sample_log_e(45, 1500, 0.02),
    lambda: e.one_sample_log_e(10, 1500, 0.02, -1),
    lambda: e.split_log_e([((0.5, 0.5), (5200, 4800))]),
    lambda: e.split_log_e([((0.05, 0.95), (620, 9380)), ((0.5, 0.5), (5200, 4800))]),
    lambda: e.log_mean_exp([3.2, -0.5, 0.1, -1.0]),
    lambda: e.log_mean_exp([3.2, -0.5, 0.1, -1.0], [3, 1, 1, 1]),
    lambda: e.residual_half_width(20_000, 20_000, 1.0),
    lambda: e.residual_half_width(20_000, 20_000, 1.0, n_best=5000),
    lambda: e.share_log_e(QUIET, 1.0, +1),
    lambda: e.share_log_e_restarted(QUIET, [1, 2], 1.0, +1),
]


@pytest.mark.parametrize(
    ("vector", "compute"),
    list(zip(VECTORS, COMPUTED, strict=True)),
    ids=[v["name"] for v in VECTORS],
)
def test_vector_is_met_to_six_digits(vector, compute):
    np.testing.assert_allclose(compute(), vector["value"], rtol=0, atol=1e-6)


def test_share_equals_the_product_over_shuffled_single_events():
    events = [(pi, True) for pi, b, _ in THREE for _ in range(b)]
    events += [(pi, False) for pi, _, a in THREE for _ in range(a)]
    random.Random(7).shuffle(events)
    wealth = [1.0] * 5
    for pi, in_b in events:
        for k, h in enumerate(e.GRID_RARE):
            null = pi / (pi + 1 - pi)
            bet = pi * math.exp(h) / (pi * math.exp(h) + 1 - pi)
            wealth[k] *= bet / null if in_b else (1 - bet) / (1 - null)
    assert math.log(sum(wealth) / 5) == pytest.approx(8.118631, abs=1e-6)


def test_clean_canary_needs_496_units_at_a_ceiling_of_one_percent():
    from doorstep.stats.planner import clean_units_needed

    assert [clean_units_needed(c) for c in (0.01, 0.02, 0.005)] == [496, 247, 994]
