"""Releases whose shadow is judged by what became true, and by groups; over HTTP, with revenue."""

from __future__ import annotations

import json
import random
from itertools import count

import httpx
import pytest
from control_cases import path_of
from test_control_fairness import FAVOURABLE, SEX
from test_control_quality import Truth, as_model

from doorstep.core.outcome import OutcomeGiven
from doorstep.release.surface import Release
from doorstep.testing.installation import RunningInstallation

RELEASE = """{{shadow: {{requests: 200}}, steps: [50%], dwell: 1s, bake: 1s,
 deadline: {{after: 2h}}, guardrails: [{{name: errors, ceiling: 50%}},
   {{name: quality, loss: {loss}, tolerance: 0.02, margins: 0.3}},
   {{name: fairness, tolerance: 0.3, margins: 0.8}},
   {{name: revenue, tolerance: 0.5, margins: 0.9}}]}}"""
MORE = FAVOURABLE + "monitor: {outcomes: {delay: 5s, unit: EUR}}\n"
ROWS = 100
LOOKS = 3
WAIT_S = 300
"""A minute, five times: the journal is read every ten seconds at most."""


def sell(here: RunningInstallation, service: str, truth: Truth, seed: int) -> None:
    """Some people ask, all at once; what they turn out to be and what they pay is told at once."""
    generator = random.Random(seed)
    rows = [{f"x{at}": generator.gauss(0, 1) for at in range(3)} for _ in range(ROWS)]
    context = [{"id": f"{seed}-{at}", "sex": "fm"[at % 2]} for at in range(ROWS)]
    url = f"{here.data_url}{path_of(service)}"
    body = json.dumps({"rows": rows, "context": context})
    answer = httpx.post(url, content=body, timeout=60).json()
    here.client.record_outcomes(
        service,
        [
            OutcomeGiven(
                prediction=one["id"], label=truth(row), value=generator.uniform(20.0, 40.0)
            )
            for one, row in zip(answer["predictions"], rows, strict=True)
        ],
    )


def released(here: RunningInstallation, service: str, truth: Truth) -> Release:
    """Once it is over. Callers come until it is, at every few looks only: the journal is read in a
    tenth of the time, so who comes without a pause makes the evidence late."""
    release = here.client.start_release(f"{service}@2").id
    looks = count()

    def look() -> Release | None:
        found, at = here.client.release(release), next(looks)
        if found.ended_at is None and at % LOOKS == 0:
            sell(here, service, truth, 1 + at)
        return found if found.ended_at else None

    return here.wait(look, "an end", WAIT_S)


@pytest.mark.parametrize(("loss", "is_good"), [("brier", True), ("log-loss", False)])
def test_the_shadow_is_judged_by_probabilities_and_groups_and_the_step_by_what_people_pay(
    installation: RunningInstallation, loss: str, is_good: bool
) -> None:
    here, service = installation, f"shadow-{loss}"
    asked = {"release": RELEASE.format(loss=loss), "more": MORE, "context": (SEX,)}
    here.register(service, **asked)
    here.serve(f"{service}@1")
    here.client.promote(service, "the first")
    here.register(service, seed=7, **asked)
    here.client.run_gates(f"{service}@2")
    truth = as_model(7 if is_good else 0)
    sell(here, service, truth, 0)
    ended = released(here, service, truth)
    rails = {one.name: one for one in ended.guardrails}
    assert list(rails) == ["errors", "quality", "fairness", "revenue"]
    first = ended.decisions[0]
    shadowed = {one.name: one for one in first.guardrails}
    for name in ("quality", "fairness"):
        assert shadowed[name].champion is not None and shadowed[name].challenger is not None, name
    if not is_good:
        assert (ended.state, first.action) == ("rolled-back", "rollback"), ended.reason
        assert "quality loss" in ended.reason
        assert ended.requests_challenger >= 20 and ended.headline.endswith("any caller")
        return
    assert ended.state == "done", ended.reason
    assert (first.state, first.action) == ("step", "advance")
    assert shadowed["quality"].log_e_advance >= shadowed["quality"].log_e_advance_threshold > 0
    revenue = rails["revenue"]
    assert revenue.champion is not None and 20 < revenue.champion < 40
    assert revenue.challenger is not None and 20 < revenue.challenger < 40
    assert here.client.recompute(ended.id).agrees
