import math

import pytest

from doorstep.release.estimate import LADDER, auto_steps, estimate
from doorstep.release.types import ReleaseSpec


def test_much_traffic_takes_the_whole_ladder_in_little_more_than_its_dwell_times():
    spec, found = auto_steps(ReleaseSpec(), 100.0)
    assert spec.steps == LADDER
    assert found.fits and found.reason == ""
    assert [step.share for step in found.steps] == list(LADDER)
    assert 2400 <= found.total_s < 4000


def test_less_traffic_starts_with_a_larger_share():
    starts = [auto_steps(ReleaseSpec(), rate)[0].steps[0] for rate in (100.0, 1.0, 0.2, 0.1)]
    assert starts == sorted(starts) and starts[0] < starts[-1]


def test_too_little_traffic_says_so():
    for rate in (0.001, 0.0):
        spec, found = auto_steps(ReleaseSpec(), rate)
        assert spec.steps == (0.5,) and not found.fits
        assert "too few for these steps within 10 h" in found.reason
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
