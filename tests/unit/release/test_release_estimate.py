import math

import pytest

from doorstep.cli.forecasting import forecast_text
from doorstep.core.contract import Contract, Field
from doorstep.core.servicefile import parse_service_file
from doorstep.journal.summary import Cell
from doorstep.release.estimate import Traffic, estimate
from doorstep.release.forecast import _marked, choose_spec, forecast_of
from doorstep.release.spec import Before
from doorstep.release.types import Guardrail, ReleaseSpec


def test_much_traffic_needs_little_more_than_the_dwell_times():
    found = estimate(ReleaseSpec(), 100.0)
    assert found.fits and found.reason == ""
    assert [step.share for step in found.steps] == list(ReleaseSpec().steps)
    assert 2100 <= found.total_s < 4000


def test_too_little_traffic_says_so():
    for rate in (0.01, 0.0):
        found = estimate(ReleaseSpec(), rate)
        assert not found.fits
        assert found.reason.startswith("traffic is too small: at ")
        assert "; the deadline is 10 h. " in found.reason
    assert estimate(ReleaseSpec(), 0.0).total_s == math.inf


def test_the_first_step_without_errors_needs_the_published_units():
    found = estimate(ReleaseSpec(shadow_requests=0), 10.0)
    assert found.steps[0].units == pytest.approx(49_600)
    assert found.steps[1].units == 0.0


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.02])
def test_steps_are_never_shorter_than_their_dwell_time(rate):
    spec = ReleaseSpec()
    found = estimate(spec, 1000.0, rate)
    assert all(s.seconds >= d for s, d in zip(found.steps, spec.dwell_s, strict=True))


QUALITY = Guardrail(
    name="quality", weight=0.5, tolerance=0.0, margins=(0.01,) * 4, reference=0.1, delay_s=60.0
)
BOTH = (Guardrail(weight=0.5), QUALITY)


def test_quality_without_a_shadow_is_offered_one_that_is_cheaper():
    spec = ReleaseSpec(guardrails=BOTH, shadow_requests=0)
    found = estimate(spec, Traffic(units_per_s=20.0, outcomes_per_s=2.0))
    assert not found.fits
    assert "for quality; the deadline is 10 h. In shadow about " in found.reason
    point = next(one for one in found.regressions if one.what == "quality 1 point worse")
    assert point.counted == "outcomes"
    assert 4.0 < point.units / point.pairs < 7.0
    many = estimate(spec, Traffic(units_per_s=2000.0, outcomes_per_s=2000.0))
    assert many.fits


def test_with_a_shadow_its_pairs_carry_the_steps():
    found = estimate(ReleaseSpec(guardrails=BOTH), Traffic(units_per_s=20.0, outcomes_per_s=10.0))
    assert found.fits
    assert found.shadow_waits_for == "quality"
    assert [one.seconds for one in found.steps[1:]] == [600.0, 600.0, 600.0]


def test_without_outcomes_quality_never_ends():
    found = estimate(ReleaseSpec(guardrails=BOTH), Traffic(units_per_s=20.0))
    assert found.shadow_s == math.inf
    assert "at 0 outcomes a second, the shadow would never end for quality" in found.reason


def test_each_wave_needs_its_own_requests():
    spec = ReleaseSpec(
        shadow_requests=0,
        segments=("pilot", ""),
        wave_steps=(1, 1),
        steps=(0.5, 0.5),
        dwell_s=(60.0, 60.0),
        margins=(1.5, 1.5),
    )
    found = estimate(spec, Traffic(units_per_s=10.0, of_segment={"pilot": 0.01, "": 0.99}))
    assert [one.wave for one in found.steps] == ["pilot", ""]
    assert found.steps[0].seconds > 10 * found.steps[1].seconds
    silent = estimate(spec, Traffic(units_per_s=10.0, of_segment={"": 1.0}))
    assert silent.reason.startswith(
        'traffic is too small: no request of segment "pilot" has come lately, or since'
    )


@pytest.mark.parametrize(
    ("per_s", "steps"),
    [
        (100.0, (0.01, 0.05, 0.25, 0.5)),
        (1.0, (0.05, 0.25, 0.5)),
        (0.1, (0.25, 0.5)),
        (0.0, (0.5,)),
    ],
)
def test_auto_steps_begin_with_the_smallest_share_that_fits_the_deadline(per_s, steps):
    file = parse_service_file(
        "doorstep: 1\nservice: loans\nmodel: {task: binary, label: y}\n"
        "data: {holdout: {path: h.csv}}\n"
    )
    plain = Contract(inputs=(Field(name="x", type="float"),))
    spec = choose_spec(file, Traffic(units_per_s=per_s), (plain, plain), Before())
    assert spec.steps == steps
    assert estimate(spec, per_s).fits is (per_s > 0.0)


def test_the_forecast_reads_as_a_table():
    rails = tuple(
        Guardrail(**one)
        for one in (
            {"weight": 0.5},
            {
                "name": "latency",
                "weight": 0.5,
                "margins": (5.0, 3.0, 2.0, 1.5),
                "slow_us": (10_000, 20_000, 50_000, 90_000),
            },
        )
    )
    traffic = Traffic(units_per_s=100.0, error_rate=0.001)
    text = forecast_text(forecast_of("loans@2", 1, ReleaseSpec(guardrails=rails), traffic))
    assert text.startswith("loans@2 at 100 requests/s (0.1 % errors)\n")
    assert "errors double (0.10 % to 0.20 %)" in text
    assert "an equal challenger is champion after 3.7 h at most" in text
    first = forecast_text(forecast_of("loans@1", None, ReleaseSpec(), traffic))
    assert first == "loans@1 is a first version: it serves at once, and is watched for 1 h"


def test_a_first_release_with_a_promise_has_no_steps_to_forecast():
    file = parse_service_file(
        "doorstep: 1\nservice: loans\nmodel: {task: binary, label: y}\n"
        "data: {holdout: {path: h.csv}}\nmonitor: {slo: ['p99 <= 50 ms']}\n"
    )
    spec = choose_spec(file, Traffic(), (), Before())
    assert [one.name for one in spec.guardrails] == ["errors", "latency"]
    found = forecast_of("loans@1", None, spec, Traffic())
    assert (found.fits, found.stages) == (True, ())


def test_what_cases_come_to_is_forecast_by_its_own_size():
    rail = Guardrail(name="conversion", weight=0.5, tolerance=0.0, margins=(0.05,), reference=0.95)
    spec = ReleaseSpec(
        guardrails=(Guardrail(weight=0.5), rail),
        shadow_requests=0,
        steps=(0.5,),
        dwell_s=(0.0,),
        margins=(1.5,),
    )
    found = estimate(spec, Traffic(units_per_s=10.0))
    assert found.steps[0].waits_for == "conversion"
    assert found.steps[0].units > 246_000, "the published mean, and what comes late"
    tenth = next(one for one in found.regressions if one.guardrail == "conversion")
    assert tenth.what == "conversion a tenth worse than the champion's"
    assert 60_000 < tenth.units < 90_000


def test_what_came_before_waves_were_declared_says_nothing_of_their_traffic():
    def cell(at: int, segment: str, rows: int) -> Cell:
        return Cell(
            at=at, version=1, assigned=1, kind=1, segment=segment, rows=rows,
            statuses=(rows,), errors=0, warned=0, latency=(),
        )  # fmt: skip

    live = [cell(0, "", 10_000), cell(20, "", 800), cell(20, "pilot", 20), cell(30, "pilot", 9)]
    assert _marked(live, {"pilot"}) == live[3:]
    assert _marked(live[:3], {"pilot"}) == live[1:3]
    assert _marked(live, set()) == live
