"""From steps of load to a knee, to machines and to money."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.cli.benching import read_calibration
from doorstep.core.condition import parse_condition
from doorstep.core.errors import InputError, UsageError
from doorstep.serve.capacity import (
    HEADROOM,
    QUANTILES,
    Step,
    Traffic,
    broken_by,
    find_knee,
    judge_slo,
    keeps_up,
    machines_for,
    parse_load,
    quantiles_ms,
    scale_knee,
    size,
)

P99 = parse_condition("p99 <= 50 ms")
AVAILABLE = parse_condition("availability >= 99.9%")
RATES = st.floats(0.01, 1e6)


def step(
    offered: float, p99: float = 1.0, answered: float | None = None, errors: float = 0.0
) -> Step:
    return Step(
        offered=offered,
        answered=offered if answered is None else answered,
        requests=100,
        errors=errors,
        latency_ms=dict.fromkeys(QUANTILES, p99),
    )


STEPS = st.lists(
    st.builds(step, RATES, st.floats(0.1, 200), st.none() | RATES, st.floats(0, 1)), min_size=1
)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=300))
def test_a_percentile_was_measured_and_enough_are_not_above_it(values: list[float]) -> None:
    found = quantiles_ms(values)
    assert list(found.values()) == sorted(found.values())
    for name, value in found.items():
        assert value in values
        assert sum(one <= value for one in values) / len(values) >= QUANTILES[name] - 1e-9


def test_no_latencies_have_no_percentiles_and_keep_no_promise() -> None:
    assert quantiles_ms([]) == {}
    silent = Step(offered=1, answered=0, requests=1, errors=1, latency_ms={})
    assert broken_by(silent, [P99, AVAILABLE]) == [P99, AVAILABLE]


@given(STEPS)
def test_the_knee_is_the_highest_rate_that_is_held(steps: list[Step]) -> None:
    knee = find_knee(steps, [P99, AVAILABLE])
    held = [one for one in steps if keeps_up(one) and not broken_by(one, [P99, AVAILABLE])]
    assert (knee is None) == (not held)
    assert knee is None or knee.offered == max(one.offered for one in held)


@given(STEPS)
def test_a_promise_more_never_moves_the_knee_up(steps: list[Step]) -> None:
    free, bound = find_knee(steps, []), find_knee(steps, [P99])
    assert bound is None or (free is not None and bound.offered <= free.offered)


@pytest.mark.parametrize(
    ("one", "broken"),
    [
        (step(10, p99=50), []),
        (step(10, p99=50.1), [P99]),
        (step(10, errors=0.001), []),
        (step(10, errors=0.0011), [AVAILABLE]),
    ],
)
def test_a_promise_is_kept_up_to_its_bound(one: Step, broken: list[object]) -> None:
    assert broken_by(one, [P99, AVAILABLE]) == broken


def test_three_percent_may_be_missing() -> None:
    assert keeps_up(step(100, answered=97))
    assert not keeps_up(step(100, answered=96.9))


def test_the_slo_is_judged_at_the_present_traffic() -> None:
    steps = [step(10), step(20), step(30, p99=60)]
    assert judge_slo(steps, [P99], 20) == "kept"
    assert judge_slo(steps, [P99], 21) == "broken"
    assert judge_slo([step(10, p99=60), step(20, p99=60)], [P99], 0) == "broken"
    assert judge_slo([step(10, p99=60), step(20)], [P99], 0) == "unclear"
    assert judge_slo([step(10, p99=60)], [], 1000) == "kept"


@given(RATES, RATES)
def test_machines_bear_the_load_without_the_spare_and_one_less_would_not(
    per_s: float, knee: float
) -> None:
    needed = machines_for(per_s, knee) - 1
    assert needed >= 1
    assert needed * knee * HEADROOM >= per_s * (1 - 1e-9)
    assert (needed - 1) * knee * HEADROOM < per_s * (1 + 1e-9)


@given(RATES, RATES, RATES)
def test_more_load_never_needs_fewer_machines(per_s: float, more: float, knee: float) -> None:
    assert machines_for(per_s + more, knee) >= machines_for(per_s, knee)


@given(RATES, st.floats(1, 100), st.floats(1, 100))
def test_a_knee_that_goes_there_and_back_is_the_same(knee: float, a: float, b: float) -> None:
    assert math.isclose(scale_knee(scale_knee(knee, a, b), b, a), knee)
    assert math.isclose(scale_knee(knee, a, b) / knee, a / b)


def test_the_arithmetic_is_shown() -> None:
    found = size("1,000,000 users", 5000, Traffic(per_user=1, peak=3, price=0.1))
    assert (found.per_s, found.machines) == (50_000, 16)
    assert found.cost_a_month == pytest.approx(16 * 0.1 * 730)
    assert found.arithmetic == (
        "1,000,000 users x 1/min / 60 x peak 3 = 50,000/s; ceil(50,000 / (5,000 x 0.7)) + 1 spare "
        "= 16 machines; 16 x 0.1 an hour x 730 h = 1,168.00 a month"
    )
    assert size("50/s", None, Traffic()).machines is None


@pytest.mark.parametrize("text", ["many", "-1 users", "0 users", "10", "10 /min", ""])
def test_a_load_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_load(text, Traffic())


@pytest.mark.parametrize(
    ("text", "traffic"),
    [
        ("9" * 400 + " users", Traffic()),
        ("9" * 400 + "/s", Traffic()),
        ("10 users", Traffic(per_user=math.nan)),
        ("10 users", Traffic(peak=math.inf)),
    ],
)
def test_a_load_that_no_number_of_machines_bears_is_refused(text: str, traffic: Traffic) -> None:
    with pytest.raises(UsageError, match="is no load"):
        size(text, 100.0, traffic)


@pytest.mark.parametrize("cpu_ms", ["0", "-1", "null", '"1"'])
def test_a_calibration_that_nothing_can_be_divided_by_is_refused(
    tmp_path: Path, cpu_ms: str
) -> None:
    file = tmp_path / "there.json"
    words = '{"cpu_ms": %s, "cores": 2, "python": "3.11", "machine": "x"}'
    file.write_text(words % cpu_ms)
    with pytest.raises(InputError) as caught:
        read_calibration(file)
    assert caught.value.code == "bad-calibration"
    file.write_text(words % 12.5)
    assert read_calibration(file).cpu_ms == 12.5
