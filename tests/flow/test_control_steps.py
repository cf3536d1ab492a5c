"""The control plane is shot at every change of a release: before it is committed, before it is
published, and right after. The next one goes on exactly there, and nothing happens twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import dying
from control_cases import assert_exactly_once, assert_no_request_failed, path_of
from control_cases import body_of as body_that_fails

from doorstep.core.contract import Field
from doorstep.core.instant import SystemClock
from doorstep.kernel.db import Database
from doorstep.kernel.home import open_home
from doorstep.release.surface import Release
from doorstep.testing.installation import RunningInstallation
from fakes.load import BodyOf, Load, Tally

POINTS = ("decided", "committed", "published")
STORES = ("3", "17", "44", "208")
STORE = Field(name="store", type="category", values=STORES)
RAILS = "guardrails: [{name: errors, ceiling: 50%}]"
WAVES = f"""{{shadow: {{requests: 0}}, dwell: 1s, bake: 1s, steps: [50%], {RAILS},
 waves: [{{name: pilot, match: {{store: [3, 17]}}, steps: [20%, 100%]}}]}}"""
ONE_STEP = "{shadow: {requests: 0}, steps: [50%], dwell: 0s, bake: 10m}"
KINDS = ("release.advanced", "release.finished", "release.rolled-back")
LIFE_S = 300.0
"""A control plane comes up and makes a change in a few seconds; only a hang takes this long."""


class Dying(RunningInstallation):
    def command(self, **ports: int) -> list[str]:
        words = super().command(**ports)
        at = words.index("-m")
        return [*words[:at], dying.__file__, *words[at + 2 :]]


def body_of(number: int) -> bytes:
    row = {"x0": 1.0 + number % 5, "x1": 0.5, "x2": 1.0}
    context = {"id": f"k{number}", "store": STORES[number % len(STORES)]}
    return json.dumps({"rows": [row], "context": context}).encode()


def changes_in(here: RunningInstallation, release: str) -> list[str]:
    """From the database itself: nobody is there to ask."""
    opened = closing(Database(open_home(here.home).database_url, SystemClock()))
    with opened as database, database.reading() as connection:
        return dying.changes_of(connection, release)


def shot_at_every_point(
    here: RunningInstallation, deaths: Path, release: str, changes: Sequence[str]
) -> Release:
    told = [f"{release} {point} {at + 1}" for at in range(len(changes)) for point in POINTS]
    deaths.write_text("\n".join(told))
    for line in told:
        assert here.process is not None
        here.process.wait(LIFE_S)
        _, point, change = line.split()
        is_done = int(change) - (point == "decided")
        assert changes_in(here, release) == list(changes[:is_done]), line
        # It may be shot before it says that it is ready.
        with contextlib.suppress(RuntimeError):
            here.restart()
    return here.settled(release)


async def story(
    here: RunningInstallation, deaths: Path, changes: Sequence[str], body: BodyOf
) -> tuple[Release, Tally]:
    async with Load(here.data_url, path_of("loans"), body, connections=2) as load:
        await load.wait_answers(20)
        begun = await asyncio.to_thread(here.client.start_release, "loans@2")
        ended = await asyncio.to_thread(shot_at_every_point, here, deaths, begun.id, changes)
        await load.wait_answers(20)
        return ended, await load.stop()


def lived(tmp_path: Path, behaviour: str, release: str, changes: Sequence[str], body: BodyOf):
    deaths = tmp_path / "deaths"
    deaths.write_text("")
    asked = {"release": release, "context": (STORE,) if "waves" in release else ()}
    environ = {"DYING": str(deaths)}
    with Dying(tmp_path / "home", workers=1, lease_s=600.0, environ=environ) as here:
        here.register("loans", **asked)
        here.serve("loans@1")
        here.client.promote("loans", "the first")
        here.register("loans", seed=2, behaviour=behaviour, **asked)
        here.client.run_gates("loans@2")
        ended, tally = asyncio.run(story(here, deaths, changes, body))
        assert [one.action for one in ended.decisions if one.action != "hold"] == list(changes)
        events = [one for kind in KINDS for one in here.client.events("loans", kind).events]
        mine = [one for one in events if one.data["version"] == "loans@2"]
        assert sorted(one.data["decision"] for one in mine) == sorted(
            at + 1 for at, one in enumerate(ended.decisions) if one.action != "hold"
        )
        assert len(here.client.history("loans").tenures) == 1 + (ended.state == "done")
        assert here.client.verify_ledger().intact
        assert_no_request_failed(tally)
        assert tally.refused_connections == 0
        assert_exactly_once(here, tally)
        return ended, here.client.history("loans").live


def test_a_promotion_through_waves_goes_on_wherever_the_control_plane_is_shot(tmp_path: Path):
    changes = ("advance", "advance", "advance", "finish")
    ended, live = lived(tmp_path, "linear", WAVES, changes, body_of)
    assert (ended.state, live) == ("done", 2), ended.reason
    said = [one.reason for one in ended.decisions if one.action == "advance"]
    assert "the rest, step 1 at 50 % next" in said[1]
    assert "95 % everywhere next" in said[2]


def test_a_rollback_happens_once_wherever_the_control_plane_is_shot(tmp_path: Path):
    ended, live = lived(tmp_path, "raises", ONE_STEP, ("rollback",), body_that_fails)
    assert (ended.state, ended.share, live) == ("rolled-back", 0.0, 1)
