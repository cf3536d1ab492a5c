import math

import pytest

from doorstep.release.estimate import estimate
from doorstep.release.types import ReleaseSpec


def test_much_traffic_needs_little_more_than_the_dwell_times():
    found = estimate(ReleaseSpec(), 100.0)
    assert found.fits and found.reason == ""
    assert [step.share for step in found.steps] == list(ReleaseSpec().steps)
    assert 2100 <= found.total_s < 4000


def test_too_little_traffic_says_so():
    for rate in (0.01, 0.0):
        found = estimate(ReleaseSpec(), rate)
        assert not found.fits
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
