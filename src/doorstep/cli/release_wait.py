"""Waiting for a release: until it has ended, or until every node does what it decided."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from doorstep.cli.output import note, percent, progress, when
from doorstep.cli.release_view import serves_first

if TYPE_CHECKING:
    from doorstep.client import Client
    from doorstep.release.surface import Release

POLL_S = 0.3
RUNNING = ("shadow", "step", "bake", "paused")


def follow(client: Client, release: Release, timeout_s: float) -> Release:
    """Print each decision as it is made, until the release has ended or the time is over."""
    deadline = time.monotonic() + timeout_s
    said = 0
    with progress() as shown:
        while True:
            release = client.release(release.id)
            for decision in sorted(release.decisions, key=lambda one: one.sequence):
                if decision.sequence > said and decision.action != "hold":
                    said = decision.sequence
                    shown.end()
                    note(f"  {when(decision.at)}  {decision.reason}")
            if release.state not in RUNNING or time.monotonic() > deadline:
                return settle(client, release)
            asked = f"{release.requests_champion:,} + {release.requests_challenger:,}"
            shown.stage(
                f"{release.service}@{release.challenger} {release.state}{wave_now(release)} "
                f"{percent(release.share, 0)}",
                detail=f" · {asked} requests",
            )
            time.sleep(POLL_S)


def wave_now(release: Release) -> str:
    now = next((one for one in release.waves if one.state == "now"), None)
    return f" {now.name or 'the rest'}" if now else ""


def settle(client: Client, release: Release, timeout_s: float = 10.0) -> Release:
    """Wait until every live node confirms the plan of the newest decision."""
    deadline = time.monotonic() + timeout_s
    while not release.settled and time.monotonic() < deadline:
        time.sleep(POLL_S / 3)
        release = client.release(release.id)
    return release


def exit_code(release: Release) -> int:
    """0 done, or serving as the first version; 1 rolled back; 4 not decided yet."""
    if serves_first(release):
        return 0 if release.settled else 4
    if release.state in ("rolled-back",):
        return 1
    return 0 if release.state == "done" else 4
