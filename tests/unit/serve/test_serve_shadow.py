"""Which records a shadow scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from doorstep.core.plan import ReleasePlan
from doorstep.core.record import Kind, PredictionMeta
from doorstep.serve.shadow import Target

REQUESTS = 2000


def record(request: bytes, **changes: Any) -> PredictionMeta:
    said: dict[str, Any] = {
        "request": request, "row": 0, "at": 0, "version": 1, "assigned": 1, "status": 0,
        "kind": int(Kind.LIVE), "release": "r", "epoch": 1, "share": 0.0, "segment": "", "key": "",
        "unit": "u", "latency_us": 1, "warnings": (), "texts": (),
    }  # fmt: skip
    return PredictionMeta(**(said | changes))


def wanted(sample: float, rows: list[PredictionMeta]) -> int:
    release = ReleasePlan(id="r", challenger=2, state="shadow", epoch=1, sample=sample)
    target = cast(Target, SimpleNamespace(release=release))
    return sum(Target.wants(target, row) for row in rows)


@pytest.mark.parametrize("sample", [0.1, 0.25, 0.5, 0.9])
def test_the_sample_is_the_share_of_requests_that_was_asked_for(sample: float) -> None:
    rows = [record(at.to_bytes(16, "big")) for at in range(REQUESTS)]
    assert abs(wanted(sample, rows) / REQUESTS - sample) < 0.05
    assert (wanted(0.0, rows), wanted(1.0, rows)) == (0, REQUESTS)


def test_other_releases_and_other_kinds_are_not_scored() -> None:
    request = bytes(16)
    assert wanted(1.0, [record(request)]) == 1
    assert wanted(1.0, [record(request, release="other")]) == 0
    assert wanted(1.0, [record(request, kind=int(Kind.SHADOW))]) == 0
