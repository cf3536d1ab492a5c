"""Releases over HTTP with real traffic: what may not start, a person's words, the way back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from control_cases import (
    assert_exactly_once,
    assert_no_request_failed,
    body_of,
    last_asked_for,
    path_of,
    traffic,
)

from doorstep.core.errors import DoorstepError, RefusedError
from doorstep.journal.surface import TrafficBucket
from doorstep.release.surface import Recomputed, Release
from doorstep.testing.installation import RunningInstallation
from fakes.load import Tally

LONG = "{shadow: {requests: 0}, steps: [20%, 50%], dwell: 10m, bake: 10m}"
"""Does nothing by itself while a test looks at it."""


def refusal(what) -> str:
    with pytest.raises(DoorstepError) as caught:
        what()
    return caught.value.code


def test_what_may_not_be_released_is_refused_and_changes_nothing(
    installation: RunningInstallation,
):
    here, client = installation, installation.client
    here.register("strict", release=LONG)
    size = last_asked_for(here)
    assert refusal(lambda: client.start_release("strict@1")) == "gate-not-passed"
    assert refusal(lambda: client.start_release("strict@2")) == "no-version"
    assert refusal(lambda: client.start_release("nobody@1")) == "no-service"
    assert refusal(lambda: client.start_release("strict")) == "bad-version"
    assert refusal(lambda: client.rollback("strict", "why not")) == "nothing-to-roll-back"
    assert refusal(lambda: client.rollback("strict", "why not", 0)) == "nothing-to-roll-back"
    assert last_asked_for(here) == size
    here.serve("strict@1")
    assert refusal(lambda: client.start_release("strict@1")) == "release-running"
    client.promote("strict", "it is fine")
    assert refusal(lambda: client.rollback("strict", "why not")) == "nothing-to-roll-back"
    assert refusal(lambda: client.start_release("strict@1")) == "same-version"
    here.register("strict", seed=2, release=LONG)
    here.serve("strict@2")
    here.register("strict", seed=3, release=LONG)
    client.run_gates("strict@3")
    size = last_asked_for(here)
    assert refusal(lambda: client.start_release("strict@3")) == "release-running"
    assert refusal(lambda: client.start_release("strict@2")) == "release-running"
    assert refusal(lambda: client.start_release("strict@1")) in ("release-running", "same-version")
    assert refusal(lambda: client.resume("strict", "it is not paused")) != ""
    assert refusal(lambda: client.pause("strict", "  ")) == "no-reason"
    assert refusal(lambda: client.pause("strict", "x" * 1001)) == "bad-reason"
    assert last_asked_for(here) == size


def test_a_verdict_of_gates_expires_with_the_gates_and_with_the_champion(
    installation: RunningInstallation,
):
    here, client = installation, installation.client
    here.register("expiring", release=LONG)
    here.register("expiring", seed=2, release=LONG)
    client.run_gates("expiring@2")
    here.serve("expiring@1")
    assert refusal(lambda: client.start_release("expiring@2")) == "gate-outdated"
    client.run_gates("expiring@2")
    here.register("expiring", seed=3, release=LONG, more='gates: {quality: ["auc >= 0.01"]}')
    assert refusal(lambda: client.start_release("expiring@2")) == "gate-outdated"
    assert here.serve("expiring@2").challenger == 2


def test_a_release_is_paused_resumed_and_promoted_on_a_persons_word(
    installation: RunningInstallation,
):
    here, client = installation, installation.client
    here.register("spoken", release=LONG)
    here.serve("spoken@1")
    here.register("spoken", seed=2, release=LONG)
    release = here.serve("spoken@2").id
    assert client.release(release).state == "step"
    paused = client.pause("spoken", "lunch")
    assert (paused.state, paused.share, paused.reason) == ("paused", 0.2, "local: lunch")
    resumed = client.resume("spoken", "back")
    assert (resumed.state, resumed.step, resumed.share) == ("step", 1, 0.2)
    done = client.promote("spoken", "seen enough")
    assert (done.state, done.share) == ("done", 1.0)
    assert refusal(lambda: client.pause(release, "too late")) != ""
    assert [one.version for one in client.history("spoken").tenures] == [2, 1]
    said = [(one.action, one.by, one.reason) for one in client.release(release).decisions]
    assert [what for what, _, _ in said] == ["pause", "resume", "promote"]
    assert [why for _, _, why in said] == ["local: lunch", "local: back", "local: seen enough"]
    assert client.verify_ledger().intact


def test_a_rollback_while_it_runs_is_sent_twice_and_goes_back_once(
    installation: RunningInstallation,
):
    here, client = installation, installation.client
    here.register("twice-back", release=LONG)
    here.serve("twice-back@1")
    here.register("twice-back", seed=2, release=LONG)
    here.serve("twice-back@2")
    client.promote("twice-back", "go")
    client.rollback("twice-back", "no")
    assert refusal(lambda: client.rollback("twice-back", "no")) == "rolled-back-already"
    assert client.history("twice-back").live == 1


def test_going_further_back_needs_a_version_that_is_named(installation: RunningInstallation):
    here, client, service = installation, installation.client, "further"
    for number in (1, 2, 3):
        here.register(service, seed=number, release=LONG)
        here.serve(f"{service}@{number}")
        client.promote(service, "go")

    def again(to: int | None = None) -> DoorstepError:
        with pytest.raises(DoorstepError) as caught:
            client.rollback(service, "no", to)
        return caught.value

    client.rollback(service, "no")
    size = last_asked_for(here)
    said = again()
    assert said.code == "rolled-back-already"
    assert f"{service}@2 serves since " in said.message
    back = f"doorstep rollback {service} --to 1 goes to {service}@1 (or to @3)"
    assert said.hint == back
    assert again(4).code == "never-served"
    # What serves already is no change: a retry of the same words is harmless.
    client.rollback(service, "no", 2)
    assert (last_asked_for(here), client.history(service).live) == (size, 2)
    for to in (1, 1, 3):
        here.settled(client.rollback(service, "on purpose", to).id)
        assert client.history(service).live == to
    # A release that was rolled back counts as well: what served before it stays.
    here.register(service, seed=5, release=LONG)
    here.serve(f"{service}@4")
    assert again(1).code == "release-running"
    client.rollback(service, "no")
    assert again().code == "rolled-back-already"
    assert client.history(service).live == 3
    here.settled(client.rollback(service, "out of service", 0).id)
    assert again().code == "nothing-to-roll-back"
    history = client.history(service)
    assert (history.live, client.service(service).champion) == (None, None)
    assert f"no version serves instead of {service}@3" in history.events[0].sentence
    (now,) = client.status(service)
    assert (now.state, now.headline) == ("watch", "no version serves any more")
    assert "became the champion" in client.releases(service)[1].headline
    here.settled(client.rollback(service, "and back", 3).id)
    assert client.history(service).live == 3
    assert client.verify_ledger().intact


@pytest.mark.parametrize(
    ("more", "status", "answer"),
    [("", 503, None), ("serve: {fallback: [champion, {answer: good}]}", 200, "good")],
)
def test_a_first_version_that_is_taken_back_leaves_its_fallback_or_503(
    installation: RunningInstallation, more: str, status: int, answer: str | None
):
    here, client, service = installation, installation.client, f"first-{status}"
    here.register(service, release=LONG, more=more)
    begun = here.serve(f"{service}@1")
    client.rollback(service, "it is upside down")
    ended = here.settled(begun.id)
    assert (ended.state, ended.reason) == ("rolled-back", "local: it is upside down")
    said = httpx.post(
        f"{here.data_url}{path_of(service)}", content=body_of(1), trust_env=False, timeout=30
    )
    assert said.status_code == status
    body = said.json()
    if answer is None:
        assert body["error"]["code"] == "unavailable"
    else:
        assert (body["version"], body["predictions"][0]["answer"]) == (0, answer)
    assert client.service(service).champion is None
    history = client.history(service)
    assert (history.live, history.events[0].kind) == (None, "release.rolled-back")
    assert client.status(service)[0].state == "waiting"
    with pytest.raises(RefusedError) as again:
        client.rollback(service, "sent twice")
    assert again.value.code == "nothing-to-roll-back"
    # Another version can be released, or the same one again.
    assert here.serve(f"{service}@1").state == "bake"
    assert client.history(service).live == 1
    assert client.verify_ledger().intact


def test_what_nodes_counted_is_what_the_journal_says_in_the_shadow_and_in_a_step(
    installation: RunningInstallation,
):
    here, client, service = installation, installation.client, "counted"
    release = "{shadow: {requests: 50}, steps: [50%], dwell: 10m, bake: 10m}"
    here.register(service, release=release)
    here.serve(f"{service}@1")
    here.register(service, seed=2, release=release)

    async def story() -> Tally:
        async with traffic(here, service) as load:
            begun = await asyncio.to_thread(here.serve, f"{service}@2")
            in_step = lambda: client.release(begun.id).state == "step"  # noqa: E731
            await asyncio.to_thread(here.wait, in_step, "the first step")
            await load.wait_answers(300)
            return await load.stop()

    tally = asyncio.run(story())

    def same() -> Recomputed | None:
        found = client.recompute(service)
        return None if any(one.said for one in found.cells) else found

    found = here.wait(same, "the same counts at both places")
    assert found.agrees
    assert {(one.arm, one.counted[0] > 0) for one in found.cells} >= {
        ("champion", True),
        ("challenger", True),
    }
    shadowed, *stepped = (one for one in found.cells if one.arm == "challenger")
    assert all(one.counted == one.recorded for one in found.cells)
    assert shadowed.recorded[0] >= 50
    answered = sum(version == 2 for version in tally.answered.values())
    assert sum(one.recorded[0] for one in stepped) == answered
    client.rollback(service, "it was only to count")
    ended = client.recompute(found.id)
    assert ended.agrees, ended.cells


@pytest.mark.parametrize("when", ["step", "champion"])
def test_a_rollback_under_load_fails_nobody_and_is_complete_once_settled(
    installation: RunningInstallation, when: str
):
    here, client, service = installation, installation.client, f"back-{when}"
    here.register(service, release=LONG)
    here.serve(f"{service}@1")
    here.register(service, seed=2, release=LONG)
    here.serve(f"{service}@2")
    if when == "champion":
        here.settled(client.promote(service, "go").id)

    async def story() -> tuple[Tally, Tally, float]:
        async with traffic(here, service) as before:
            await before.wait_answers(300)
            began_s = time.monotonic()
            back = await asyncio.to_thread(client.rollback, service, "it is bad")
            await asyncio.to_thread(here.settled, back.id)
            took_s = time.monotonic() - began_s
            # These requests are sent after the rollback was complete.
            async with traffic(here, service) as after:
                await after.wait_answers(300)
                late = await after.stop()
            return await before.stop(), late, took_s

    tally, late, took_s = asyncio.run(story())
    print(f"rolled back from {when} in {took_s:.2f} s")
    assert 2 in tally.answered.values()
    assert set(late.answered.values()) == {1}
    for one in (tally, late):
        assert_no_request_failed(one)
        assert_exactly_once(here, one)
    assert client.history(service).live == 1
    assert client.verify_ledger().intact


def test_a_challenger_that_raises_is_taken_back_by_itself_and_no_client_notices(
    installation: RunningInstallation,
):
    here, client, service = installation, installation.client, "raising"
    release = "{shadow: {requests: 0}, steps: [50%], dwell: 20s, bake: 1s}"
    here.register(service, release=release)
    here.serve(f"{service}@1")
    here.register(service, seed=2, behaviour="raises", release=release)

    async def story() -> tuple[Release, Tally]:
        async with traffic(here, service) as load:
            await load.wait_answers(100)
            begun = await asyncio.to_thread(here.serve, f"{service}@2")
            ended = await asyncio.to_thread(
                here.wait, lambda: _over(client.release(begun.id)), "the end of the release"
            )
            await asyncio.to_thread(here.settled, begun.id)
            return ended, await load.stop()

    ended, tally = asyncio.run(story())
    assert ended.state == "rolled-back"
    assert ended.decisions[-1].by == "doorstep"
    assert ended.decisions[-1].evidence["cells"]
    assert_no_request_failed(tally)
    assert_exactly_once(here, tally)
    assert client.verify_ledger().intact
    # Nobody saw an error, and it is not hidden that the challenger made some.
    assert ended.failed_champion == 0
    assert 0 < ended.failed_challenger < ended.requests_challenger
    again = client.recompute(ended.id)
    assert again.agrees, again.cells
    assert [one.sequence for one in again.decisions] == [one.sequence for one in ended.decisions]
    assert sum(one.counted[1] for one in again.cells) == ended.failed_challenger
    assert client.status(service)[0].rescued > 0
    # The counts that ended it, in its own page and in the list, whatever nodes forget later.
    cells = [one for one in ended.decisions[-1].evidence["cells"] if one["arm"] == "challenger"]
    assert ended.requests_challenger == sum(one["requests"] for one in cells)
    listed = next(one for one in client.releases(service) if one.id == ended.id)
    assert listed.failed_challenger == ended.failed_challenger
    assert _charged(client.traffic(service).buckets, 1) == (0, 0)
    failed, rescued = _charged(client.traffic(service).buckets, 2)
    assert failed == rescued > 0


def _charged(buckets: tuple[TrafficBucket, ...], version: int) -> tuple[int, int]:
    """(failed, and of these answered by another) of one version."""
    mine = [one for one in buckets if one.version == version]
    return sum(one.failed for one in mine), sum(one.rescued for one in mine)


def _over(release: Release) -> Release | None:
    return release if release.state not in ("shadow", "step", "bake") else None


@pytest.mark.postgres
def test_the_whole_story_with_the_database_on_postgresql(postgres_url: str, tmp_path: Path):
    with RunningInstallation(tmp_path / "home", database=postgres_url, workers=1) as here:
        client = here.client
        assert client.installation().database == "postgresql"
        here.register("loans")
        here.serve("loans@1")
        here.register("loans", seed=2)

        async def story() -> tuple[Release, Tally]:
            async with traffic(here, "loans") as load:
                await load.wait_answers(100)
                begun = await asyncio.to_thread(here.serve, "loans@2")
                ended = await asyncio.to_thread(
                    here.wait, lambda: _over(client.release(begun.id)), "the end of the release"
                )
                await asyncio.to_thread(client.rollback, "loans", "to see that it goes")
                await asyncio.to_thread(here.settled, begun.id)
                return ended, await load.stop()

        ended, tally = asyncio.run(story())
        assert ended.state == "done"
        assert_no_request_failed(tally)
        assert_exactly_once(here, tally)
        assert [one.version for one in client.history("loans").tenures] == [1, 2, 1]
        with pytest.raises(RefusedError):
            client.rollback("loans", "again")
        assert client.verify_ledger().intact
        assert not (here.home / "doorstep.db").exists()
