"""A release that is taken back because it treats one group of people worse, over HTTP."""

from __future__ import annotations

import json
import random

import httpx
import numpy as np
import pytest
from control_cases import path_of

from doorstep.core.contract import Field
from doorstep.core.errors import RefusedError
from doorstep.testing.home import linear_weights
from doorstep.testing.installation import RunningInstallation

RELEASE = """{shadow: {requests: 0}, steps: [50%], dwell: 1s, bake: 1s,
 guardrails: [errors, fairness, mean-latency]}"""
FAVOURABLE = "environments: {local: {model: {favourable: good}}}\n"
SEX = Field(name="sex", type="category", values=("f", "m"), protected=True)


def answer_of(seed: int, row: dict[str, float]) -> str:
    weights, offsets = linear_weights(3, 2, seed)
    scores = np.array(list(row.values())) @ weights + offsets
    return "bad" if scores[0] >= scores[1] else "good"


def apply_for(here: RunningInstallation, service: str, seed: int) -> None:
    """90 people, two thirds of them men: the second version answers these well, and no woman."""
    generator = random.Random(seed)
    rows: list[dict[str, float]] = []
    while len(rows) < 90:
        row = {f"x{at}": generator.gauss(0, 1) for at in range(3)}
        if answer_of(7, row) == ("bad" if len(rows) % 3 == 0 else "good"):
            rows.append(row)
    context = [
        {"id": f"{seed}-{at}", "sex": "f" if at % 3 == 0 else "m"} for at in range(len(rows))
    ]
    url = f"{here.data_url}{path_of(service)}"
    body = json.dumps({"rows": rows, "context": context})
    assert httpx.post(url, content=body, timeout=60).status_code == 200


def test_a_version_that_is_unfair_to_a_group_is_taken_back(
    installation: RunningInstallation,
) -> None:
    here, service = installation, "fair"
    asked = {"release": RELEASE, "more": FAVOURABLE}
    here.register(service, **asked, context=(SEX,))
    here.serve(f"{service}@1")
    here.client.promote(service, "the first")
    here.register(service, seed=7, **asked, context=(SEX,))
    here.client.run_gates(f"{service}@2")
    with pytest.raises(RefusedError) as early:
        here.client.start_release(f"{service}@2")
    assert early.value.code in ("no-groups", "no-traffic")
    for seed in range(2):
        apply_for(here, service, seed)
    release = here.client.start_release(f"{service}@2").id
    for seed in range(2, 32):
        apply_for(here, service, seed)
    ended = here.wait(
        lambda: one if (one := here.client.release(release)).ended_at else None, "an end"
    )
    assert ended.state == "rolled-back" and "gap between groups 100 %" in ended.reason
    rails = {one.name: one for one in ended.guardrails}
    assert list(rails) == ["errors", "fairness", "mean-latency"]
    assert rails["mean-latency"].challenger is not None
    assert rails["mean-latency"].compared == "ratio"
