"""What a service file makes of a release, and what a shadow refuses to be judged on."""

from __future__ import annotations

import pytest

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import RefusedError
from doorstep.core.servicefile import ServiceFile, parse_service_file
from doorstep.release.baselines import Baseline
from doorstep.release.spec import Before, guarded, masked_inputs, spec_of

PLAIN = Contract(inputs=(Field(name="x", type="float"),))
PERSONAL = Contract(inputs=(Field(name="x", type="float", personal="drop"),))
TEXT = """doorstep: 1
service: loans
model: {task: binary, label: y}
data:
  holdout: {path: h.csv}
"""


SHADOW = "release: {shadow: {requests: 1000}}\n"


def file_of(more: str = "") -> ServiceFile:
    return parse_service_file(TEXT + more, environment="development")


@pytest.mark.parametrize("record", ["no-inputs", "sample 10%"])
def test_a_shadow_is_refused_where_the_journal_does_not_keep_all_inputs(record: str) -> None:
    left_open = file_of(f"serve: {{record: {record}}}\n")
    assert spec_of(left_open, (PLAIN, PLAIN)).shadow_requests == 0, "a default gives way"
    file = file_of(f"serve: {{record: {record}}}\n{SHADOW}")
    with pytest.raises(RefusedError) as caught:
        spec_of(file, (PLAIN, PLAIN))
    assert caught.value.code == "shadow-needs-inputs"
    assert spec_of(file).shadow_requests == 1000, "a first release has no shadow"


@pytest.mark.parametrize(
    ("contracts", "more"),
    [
        ((PERSONAL, PLAIN), ""),
        ((PLAIN, PERSONAL), ""),
        ((PLAIN, PLAIN), "contract: {inputs: {x: {type: float, personal: drop}}}\n"),
    ],
)
def test_a_shadow_is_refused_where_an_input_that_it_needs_is_personal(
    contracts: tuple[Contract, Contract], more: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        spec_of(file_of(more + SHADOW), contracts)
    assert caught.value.code == "shadow-needs-inputs"
    assert spec_of(file_of(more), contracts).shadow_requests == 0, "a default gives way"
    without = file_of(more + "release: {shadow: {requests: 0}}\n")
    assert spec_of(without, contracts).shadow_requests == 0


def test_what_the_challenger_does_not_read_may_be_personal() -> None:
    others = Contract(inputs=(Field(name="name", type="text", personal="pseudonymise"),))
    assert masked_inputs(file_of(), (others, PLAIN)) == ()
    assert spec_of(file_of(), (PLAIN, PLAIN)).shadow_requests == 1000


def test_a_first_release_is_held_to_what_callers_were_promised() -> None:
    slo = 'monitor: {slo: ["p99 <= 50 ms", "p50 <= 5 ms", "availability >= 99.5%"]}\n'
    errors, latency = spec_of(file_of(slo)).guardrails
    assert errors.ceiling == pytest.approx(0.005)
    assert (latency.slow_us, latency.limits) == ((50_000, 5_000), (0.01, 0.5))
    assert [one.name for one in spec_of(file_of()).guardrails] == ["errors"]
    assert [one.name for one in spec_of(file_of(slo), (PLAIN, PLAIN)).guardrails] == ["errors"]


def test_an_experiment_has_one_step_of_its_own_length_and_no_shadow() -> None:
    file = file_of(
        "monitor: {outcomes: {delay: 1d}}\n"
        "release: {experiment: {metric: conversion, share: 40%, for: 7d}}\n"
    )
    assert guarded(file) == {"errors", "conversion"}
    before = Before({"conversion": Baseline(reference=0.95, label="yes")})
    spec = spec_of(file, (PLAIN, PLAIN), before)
    assert (spec.steps, spec.shadow_requests) == ((0.4,), 0)
    assert spec.deadline_s == 7 * 86_400 and spec.epoch_s == 7 * 86_400 / 40
    assert spec.experiment is not None
    measure = spec.experiment.measure
    assert (measure.tolerance, measure.margins, measure.delay_s) == (0.0, (0.0,), 86_400.0)
    assert [one.name for one in spec.guardrails] == ["errors"]
    assert spec_of(file).experiment is None, "a first release has nobody to be tested against"
