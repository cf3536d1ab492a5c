"""Releases that outcomes decide, over HTTP and with real traffic."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from control_cases import path_of

from doorstep.core.errors import RefusedError
from doorstep.core.outcome import OutcomeGiven
from doorstep.release.surface import Release
from doorstep.testing.home import linear_weights
from doorstep.testing.installation import RunningInstallation

RAILS = """{shadow: {requests: 0}, steps: [50%], dwell: 1s, bake: 1s, deadline: {after: 1h},
 guardrails: [errors, {name: latency, tolerance: 20, margins: 50},
   {name: quality, tolerance: 0.1, margins: 0.25}]}"""
Truth = Callable[[dict[str, float]], str]


def rows(count: int, seed: int) -> list[dict[str, float]]:
    generator = random.Random(seed)
    return [{f"x{at}": generator.gauss(0, 1) for at in range(3)} for _ in range(count)]


def as_model(seed: int) -> Truth:
    """What the tiny model of this seed answers is true."""
    weights, offsets = linear_weights(3, 2, seed)

    def truth(row: dict[str, float]) -> str:
        scores = np.array(list(row.values())) @ weights + offsets
        return "bad" if scores[0] >= scores[1] else "good"

    return truth


def by_chance(row: dict[str, float]) -> str:
    return random.Random(str(row)).choice(["bad", "good"])


def live(here: RunningInstallation, service: str, truth: Truth, count: int, seed: int) -> None:
    """Callers ask, and what becomes true of their rows is told at once."""
    asked = rows(count, seed)

    def ask(row: dict[str, float]) -> Any:
        body = json.dumps({"rows": [row], "context": {"id": f"{seed}-{row['x0']}"}})
        answer = caller.post(f"{here.data_url}{path_of(service)}", content=body)
        return answer.json()["predictions"][0]["id"]

    # Making a client takes longer than an answer.
    with httpx.Client(timeout=60) as caller, ThreadPoolExecutor(4) as crowd:
        ids = list(crowd.map(ask, asked))
    told = [
        OutcomeGiven(prediction=one, label=truth(row)) for one, row in zip(ids, asked, strict=True)
    ]
    here.client.record_outcomes(service, told)


def released(here: RunningInstallation, service: str, truth: Truth) -> Release:
    """The release of the newest version, once it is over."""
    release = here.client.start_release(f"{service}@2").id
    for seed in range(2, 40):
        found = here.client.release(release)
        if found.ended_at is not None:
            return found
        live(here, service, truth, 300, seed)
    return here.wait(
        lambda: one if (one := here.client.release(release)).ended_at else None, "a verdict"
    )


@pytest.mark.parametrize("is_good", [False, True])
def test_a_release_is_decided_by_what_became_true(
    installation: RunningInstallation, is_good: bool
) -> None:
    here, service = installation, f"judged-{is_good}".lower()
    here.register(service, release=RAILS)
    here.serve(f"{service}@1")
    here.client.promote(service, "the first")
    here.register(service, seed=7, release=RAILS)
    here.client.run_gates(f"{service}@2")
    with pytest.raises(RefusedError) as early:
        here.client.start_release(f"{service}@2")
    assert early.value.code == "no-outcomes"
    truth = by_chance if is_good else as_model(0)
    live(here, service, truth, 300, 1)
    ended = released(here, service, truth)
    rails = {one.name: one for one in ended.guardrails}
    assert list(rails) == ["errors", "latency", "quality"]
    quality = rails["quality"]
    assert quality.compared == "difference" and quality.margin == 0.25
    assert quality.champion is not None and quality.challenger is not None
    assert quality.low is not None and quality.high is not None
    if is_good:
        assert ended.state == "done", ended.reason
        assert 0.4 < quality.challenger < 0.6
        assert rails["latency"].challenger is not None
    else:
        assert ended.state == "rolled-back"
        assert "quality loss" in ended.reason and "against 0.0 %" in ended.reason
        assert quality.challenger > 0.15
    assert here.client.verify_ledger().intact
