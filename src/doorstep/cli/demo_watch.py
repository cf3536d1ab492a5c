"""What the demo waits for: a release's next decision, joined outcomes, an alert, quiet."""

from __future__ import annotations

from collections.abc import Callable

from doorstep.cli.demo_traffic import Tally
from doorstep.cli.demo_world import SERVICE, SHIFTED, World
from doorstep.cli.output import note
from doorstep.cli.release_wait import RUNNING
from doorstep.core.errors import NotFoundError
from doorstep.core.outcome import OutcomeGiven
from doorstep.journal.surface import OUTCOMES_MAX
from doorstep.monitor.surface import MonitorFindingView, MonitorView
from doorstep.release.surface import Release

RELEASE_S_MAX = 200.0
JOINED_MIN = 300
"""Outcomes of what it answered as the champion, before its live quality is worth saying."""
DECIDED = {"advance": "goes on", "rollback": "rolled back", "finish": "is the champion"}


def follow(world: World, release: str, until: Callable[[Release], bool]) -> Release:
    """The release once `until` says so; each decision is told as it is made."""
    told = {one.sequence for one in world.client.release(release).decisions}

    def look() -> Release | None:
        found = world.client.release(release)
        for one in sorted(found.decisions, key=lambda one: one.sequence):
            if one.sequence not in told and one.action != "hold":
                world.shown.end()
                did = DECIDED.get(one.action, one.action)
                note(f"    {SERVICE}@{found.challenger} {did}: {one.reason}")
            told.add(one.sequence)
        return found if until(found) else None

    what = f"{SERVICE}: the challenger's evidence grows"
    return world.wait_for(what, look, expected_s=30.0, timeout_s=RELEASE_S_MAX)


def find_ended(world: World, release: str) -> Release | None:
    found = world.client.release(release)
    return found if found.state not in RUNNING else None


def find_answered(world: World, before: Tally, count: int) -> Tally | None:
    seen = world.traffic.tally().since(before)
    return seen if seen.answered + seen.failed >= count else None


def wait_quiet(world: World) -> Tally:
    """The tally once nothing is under way any more. The traffic is paused."""
    return world.wait_for("the last answers", world.traffic.settled, expected_s=1.0)


def send_outcomes(world: World) -> int:
    """What became true of every application answered so far, by its key."""
    given = [
        OutcomeGiven(key=key, label=label) for key, label in world.traffic.take_outcomes().items()
    ]
    return sum(
        world.client.record_outcomes(SERVICE, given[start : start + OUTCOMES_MAX])
        for start in range(0, len(given), OUTCOMES_MAX)
    )


def find_joined(world: World) -> MonitorView | None:
    view = world.client.monitor(SERVICE)
    return view if view.labelled_rows >= JOINED_MIN and "auc" in view.quality else None


def find_drift(world: World, told: set[str]) -> MonitorFindingView | None:
    """An alert about a shifted column that nobody was told about before. told: ids."""
    found = world.client.findings(SERVICE).findings
    mine = [one for one in found if one.kind == "drift" and one.subject in SHIFTED]
    return next((one for one in mine if one.alert and one.id not in told), None)


def find_prediction(world: World, prediction: str) -> bool | None:
    try:
        return bool(world.client.prediction(prediction).id)
    except NotFoundError:
        return None
