"""An A/B experiment over HTTP: what cases come to decides which version wins."""

from __future__ import annotations

import itertools
import json
import random

import httpx
import pytest
from control_cases import path_of

from doorstep.core.errors import InputError, RefusedError
from doorstep.core.outcome import OutcomeGiven
from doorstep.release.surface import Release
from doorstep.testing.installation import RunningInstallation

EXPERIMENT = """{experiment: {metric: conversion, share: 50%, for: 1h},
 shadow: {requests: 0}, dwell: 1s, bake: 1s}"""
MONITOR = "monitor: {outcomes: {delay: 5s, unit: EUR}}\n"


def visit(here: RunningInstallation, service: str, rates: dict[int, float], seed: int) -> None:
    """60 callers ask; by the version that answers, some of them buy something."""
    generator = random.Random(seed)
    rows = [{f"x{at}": generator.gauss(0, 1) for at in range(3)} for _ in range(60)]
    body = {"rows": rows, "context": [{"id": f"{seed}-{at}"} for at in range(60)]}
    url = f"{here.data_url}{path_of(service)}"
    answer = httpx.post(url, content=json.dumps(body), timeout=60).json()
    bought = [
        OutcomeGiven(prediction=one["id"], value=generator.uniform(5, 50))
        for one in answer["predictions"]
        if generator.random() < rates[one.get("version", answer["version"])]
    ]
    here.client.record_outcomes(service, bought)


def played(here: RunningInstallation, service: str, rates: dict[int, float]) -> Release:
    """How the release ended to which callers came until it did, others each time: who comes before
    the node splits its traffic tells nothing of the challenger."""
    release = here.client.start_release(f"{service}@2").id
    seeds = itertools.count(2)

    def look() -> Release | None:
        found = here.client.release(release)
        if found.ended_at is None:
            visit(here, service, rates, next(seeds))
        return found if found.ended_at else None

    return here.wait(look, "a winner")


def test_a_conversion_metric_without_a_time_for_outcomes_is_refused(
    installation: RunningInstallation,
) -> None:
    with pytest.raises((InputError, RefusedError), match="metric without outcomes"):
        installation.register("early", release=EXPERIMENT)


@pytest.mark.parametrize("winner", ["challenger", "champion"])
def test_the_version_wins_that_more_people_buy_from(
    installation: RunningInstallation, winner: str
) -> None:
    here, service = installation, f"shop-{winner}"
    asked = {"release": EXPERIMENT, "more": MONITOR}
    here.register(service, **asked)
    here.serve(f"{service}@1")
    here.client.promote(service, "the first")
    here.register(service, seed=7, **asked)
    here.client.run_gates(f"{service}@2")
    with pytest.raises(RefusedError, match="no outcome of") as early:
        here.client.start_release(f"{service}@2")
    assert early.value.code == "no-outcomes"
    visit(here, service, {1: 0.3}, 1)
    rates = {1: 0.1, 2: 0.4} if winner == "challenger" else {1: 0.4, 2: 0.1}
    ended = played(here, service, rates)
    assert ended.state == ("done" if winner == "challenger" else "rolled-back"), ended.reason
    assert ended.experiment is not None and ended.experiment.winner == winner
    assert ended.experiment.sentence.startswith(f"the {winner} won: conversion ")
    tested = next(one for one in ended.guardrails if one.role == "experiment")
    assert (
        tested.name == "conversion (experiment)"
        and tested.compared == "ratio"
        and tested.is_better_high
    )
    assert here.client.verify_ledger().intact
