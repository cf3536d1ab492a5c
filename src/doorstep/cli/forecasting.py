"""What a release would need, as `doorstep release estimate` prints it and `start` warns of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from doorstep.cli.output import percent, table
from doorstep.client import Client
from doorstep.core.errors import DoorstepError
from doorstep.release.surface import Forecast
from doorstep.release.wording import say_time

FILE = "doorstep.yaml"


def forewarn(client: Client, version: str) -> list[str]:
    """What to say of a start: that the file here is not in effect, or that traffic is too small.
    Asked before it, since afterwards the release itself is in the way; said after it, since what
    refuses a start matters more."""
    said = list(_unapplied(client, version))
    with contextlib.suppress(DoorstepError):
        forecast = client.estimate_release(version)
        if not forecast.fits:
            said.append(forecast.reason)
    return said


def _unapplied(client: Client, version: str) -> Iterator[str]:
    """A release goes by the revision in effect, whatever the file that lies here says."""
    with contextlib.suppress(DoorstepError, OSError, UnicodeDecodeError):
        found = client.diff(Path(FILE).read_text(), FILE)
        keys = ", ".join(one.key for one in found.changes)
        if keys and version.startswith(f"{found.service}@"):
            yield f"{FILE} is not in effect as it is here ({keys}); next: doorstep apply {FILE}"


def forecast_text(forecast: Forecast) -> str:
    """The tables that `doorstep release estimate` prints."""
    told = f", {forecast.outcomes_per_s:.3g} outcomes/s" if forecast.outcomes_per_s else ""
    errors = f"{forecast.requests_per_s:.3g} requests/s ({percent(forecast.error_rate)} errors)"
    if forecast.champion is None:
        return f"{forecast.version} is a first version: it serves at once, and is watched for " + (
            say_time(forecast.total_s or 0.0)
        )
    stages = [
        (
            one.name,
            percent(one.share, 0) if one.share else "–",
            _count(one.needs) if one.needs else "–",
            _lasts(one.seconds),
            one.waits_for,
        )
        for one in forecast.stages
    ]
    lines = [
        f"{forecast.version} at {errors}{told}",
        "",
        table(("stage", "share", "requests", "time", "waits for"), stages, right=(1, 2, 3)),
        "",
    ]
    if forecast.fits:
        lines.append(
            f"an equal challenger is champion after {_lasts(forecast.total_s)} at most, in about "
            f"97 of 100 releases; the deadline of its steps is {say_time(forecast.deadline_s)}"
        )
    else:
        lines.append(forecast.reason)
    if forecast.regressions:
        lines += ["", _regressions(forecast)]
    return "\n".join(lines)


def _regressions(forecast: Forecast) -> str:
    rows = [
        (
            one.what,
            f"{_count(one.needs)} {one.counted}",
            _lasts(one.seconds),
            "–" if one.shadow_needs is None else f"{_count(one.shadow_needs)} {one.counted}",
            "–" if one.shadow_needs is None else _lasts(one.shadow_s),
        )
        for one in forecast.regressions
    ]
    head = ("rolled back, if", "after about", "time", "in shadow", "time")
    return table(head, rows, right=(1, 2, 3, 4))


def _count(n: float | None) -> str:
    return "∞" if n is None else f"{float(f'{n:.3g}'):,.0f}"


def _lasts(seconds: float | None) -> str:
    return "never" if seconds is None else say_time(seconds)
