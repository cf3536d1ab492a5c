"""What people see of a release: where it stands, how it went, and on what the versions differ."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
from control_cases import assert_no_request_failed, traffic

from doorstep.core.ids import parse_prediction_id
from doorstep.release.surface import Differences, Release
from doorstep.testing.installation import RunningInstallation

SHADOW = "{shadow: {requests: 100}, steps: [50%], dwell: 1s, bake: 1s, deadline: {after: 1h}}"


def cli(here: RunningInstallation, *words: str) -> str:
    command = [sys.executable, "-m", "doorstep.cli.main", *words, "--home", str(here.home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_release_shows_how_it_went_and_on_what_the_versions_differ(
    installation: RunningInstallation,
) -> None:
    here, client, service = installation, installation.client, "seen"
    here.register(service, release=SHADOW)
    here.serve(f"{service}@1")
    here.register(service, seed=7, release=SHADOW)

    async def story() -> tuple[Release, Differences, Release]:
        async with traffic(here, service) as load:
            begun = await asyncio.to_thread(here.serve, f"{service}@2")

            def apart() -> Differences | None:
                found = client.differences(begun.id)
                return found if found.differ else None

            found = await asyncio.to_thread(here.wait, apart, "answers that differ")
            ended = await asyncio.to_thread(
                here.wait,
                lambda: one if (one := client.release(begun.id)).ended_at else None,
                "its end",
            )
            assert_no_request_failed(await load.stop())
            return begun, found, ended

    begun, found, ended = asyncio.run(story())
    assert f"{service}@2 is asked in the shadow" in begun.headline
    assert (ended.state, ended.next) == ("done", "")
    assert f"{service}@2 became the champion; its release took" in ended.headline
    assert [(one.state, one.share) for one in ended.split] == [
        ("shadow", 0.0), ("step", 0.5), ("bake", 0.95), ("done", 1.0),
    ]  # fmt: skip
    assert [one.at for one in ended.moments] == sorted(one.at for one in ended.moments)
    assert max(one.better.get("errors", 0.0) for one in ended.moments) >= 1.0
    assert all(one.worse["errors"] < 1.0 for one in ended.moments)
    check_differences(here, found)
    with httpx.Client(trust_env=False, follow_redirects=True) as browser:
        browser.get(client.invite())
        page = browser.get(f"{here.console_url}/releases/{ended.id}")
    assert page.status_code == 200
    assert "Answered differently" in page.text and "Who answered" in page.text
    said = cli(here, "release", "show", ended.id)
    assert said.startswith(ended.headline)
    said = cli(here, "release", "show", ended.id, "--differences")
    assert "requests were answered differently" in said
    assert "x0=" in said


def check_differences(here: RunningInstallation, found: Differences) -> None:
    assert (found.champion, found.challenger) == (1, 2)
    assert 0 < found.differ <= found.compared
    assert sum(one.requests for one in found.patterns) == found.differ
    assert {(one.champion, one.challenger) for one in found.examples} == {
        (one.champion, one.challenger) for one in found.patterns
    }
    example = found.examples[0]
    assert example.champion != example.challenger
    parse_prediction_id(example.prediction)
    shown = here.client.prediction(example.prediction)
    assert (shown.answer, shown.inputs) == (example.champion, example.inputs)
    assert shown.answered_by == 1
