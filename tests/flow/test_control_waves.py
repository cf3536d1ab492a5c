"""A release in waves over HTTP: a few stores, then everybody, each on its own evidence."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import httpx
import pytest
from control_cases import assert_exactly_once, assert_no_request_failed, path_of

from doorstep.core.contract import Field
from doorstep.core.errors import RefusedError
from doorstep.release.surface import Release
from doorstep.testing.installation import RunningInstallation
from fakes.load import Load, Tally

STORES = ("3", "17", "44", "208")
STORE = Field(name="store", type="category", values=STORES)
WAVES = """{shadow: {requests: 0}, dwell: 1s, bake: 1s, steps: [50%],
 guardrails: [{name: errors, ceiling: 50%}],
 waves: [{name: pilot, match: {store: [3, 17]}, steps: [100%]}]}"""


def body_of(number: int) -> bytes:
    row = {"x0": 1.0 + number % 5, "x1": 0.5, "x2": 1.0}
    context = {"id": f"k{number}", "store": STORES[number % len(STORES)]}
    return json.dumps({"rows": [row], "context": context}).encode()


def answered_by(here: RunningInstallation, service: str, store: str) -> Counter[int]:
    """Versions that answer 200 customers of a store."""
    found: Counter[int] = Counter()
    with httpx.Client(base_url=here.data_url, timeout=60) as client:
        for number in range(200):
            row = {"x0": 1.0, "x1": 0.5, "x2": 1.0}
            context = {"id": f"{store}-{number}", "store": store}
            said = client.post(path_of(service), json={"rows": [row], "context": context}).json()
            found[said["version"]] += 1
    return found


def test_the_pilot_stores_come_first_and_the_rest_only_after_them(
    installation: RunningInstallation,
):
    here, client, service = installation, installation.client, "waves"
    asked = {"release": WAVES, "context": (STORE,)}
    here.register(service, **asked)
    here.serve(f"{service}@1")
    client.promote(service, "the first")
    here.register(service, seed=2, **asked)
    client.run_gates(f"{service}@2")
    release = here.settled(client.start_release(f"{service}@2").id)
    first = [(one.name, one.state, one.share) for one in release.waves]
    assert first == [("pilot", "now", 0.95), ("", "waiting", 0.0)]
    client.pause(release.id, "to look at it")
    here.settled(release.id)
    assert answered_by(here, service, "208") == {1: 200}
    assert answered_by(here, service, "17")[2] > 150
    client.resume(release.id, "seen")
    ended, tally = asyncio.run(carried(here, service, release.id))
    assert ended.state == "done", ended.reason
    assert [(one.name, one.state) for one in ended.waves] == [("pilot", "carried"), ("", "carried")]
    said = [one.reason for one in ended.decisions if one.action == "advance"]
    assert len(said) == 2
    assert 'in segment "pilot"' in said[0] and said[0].endswith("; the rest, step 1 at 50 % next")
    assert "in the rest" in said[1] and said[1].endswith("; 95 % everywhere next")
    assert_no_request_failed(tally)
    assert_exactly_once(here, tally)
    forecast = client.estimate_release(f"{service}@1")
    assert forecast.champion == 2 and forecast.requests_per_s > 0.0
    assert [one.name for one in forecast.stages] == [
        'segment "pilot", step 1',
        "the rest, step 1",
        "bake",
    ]


async def carried(here: RunningInstallation, service: str, release: str) -> tuple[Release, Tally]:
    async with Load(here.data_url, path_of(service), body_of, connections=4) as load:
        waited = asyncio.to_thread(here.wait, lambda: over(here, release), "the release to end")
        ended = await waited
    return ended, load.tally


def over(here: RunningInstallation, release: str) -> Release | None:
    found = here.client.release(release)
    return found if found.ended_at is not None else None


def test_a_wave_that_matches_no_store_of_the_contract_is_refused_at_the_start(
    installation: RunningInstallation,
):
    here, client, service = installation, installation.client, "no-such-store"
    asked = {"release": WAVES.replace("[3, 17]", "[5, 6]"), "context": (STORE,)}
    here.register(service, **asked)
    here.serve(f"{service}@1")
    client.promote(service, "the first")
    here.register(service, seed=2, **asked)
    client.run_gates(f"{service}@2")
    for refused in (client.start_release, client.estimate_release):
        with pytest.raises(RefusedError) as caught:
            refused(f"{service}@2")
        assert caught.value.code == "wave-matches-nothing"
