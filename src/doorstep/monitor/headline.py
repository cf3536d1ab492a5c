"""A service in one sentence made from facts, and in one word. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from doorstep.core.instant import SECOND_US, Instant, to_text
from doorstep.core.plural import plural
from doorstep.journal.watched import Watched, WatchedVersion
from doorstep.monitor.types import MonitorFinding
from doorstep.monitor.wording import say_unloaded
from doorstep.release.callers import Callers
from doorstep.release.store import KillRow, TenureRow
from doorstep.release.types import Release
from doorstep.release.wording import percent, say_time


def state_of(
    champion: int | None,
    release: Release | None,
    findings: Sequence[MonitorFinding],
    kill: KillRow | None,
    unloaded: Collection[int] = (),
    *,
    was_served: bool = False,
) -> str:
    """waiting, releasing, healthy, watch, broken or killed; see `surface.ServiceStatus`.
    was_served: some version was the champion before."""
    if kill is not None:
        return "killed"
    if champion is None and release is None:
        return "watch" if was_served else "waiting"
    # Drift says that the question changed, not that the answers are wrong: look, not broken.
    if champion in unloaded or any(
        one.severity == "critical" and one.kind != "drift" for one in findings
    ):
        return "broken"
    if unloaded or any(one.severity != "info" for one in findings):
        return "watch"
    return "releasing" if release is not None else "healthy"


def headline(
    service: str,
    champion: int | None,
    tenures: Sequence[TenureRow],
    release: Release | None,
    findings: Sequence[MonitorFinding],
    now: Instant,
    callers: Callers,
    unloaded: Mapping[int, str] = {},
    elsewhere: Watched | None = None,
) -> str:
    """What cannot be loaded; else who serves since when; what is being released; what is wrong."""
    parts = say_unloaded(service, unloaded)
    if callers.kill is not None:
        parts.insert(0, _killed(callers.kill, callers.get))
    elif champion is None and release is None and elsewhere is not None and elsewhere.newest:
        parts.append(_watched(service, elsewhere, elsewhere.newest))
    elif callers.serving is None or callers.serving not in unloaded:
        parts.append(_who(service, champion, tenures, release, now))
    if release is not None and not release.is_first:
        parts.append(_releasing(service, release))
    drifted = [one.subject for one in findings if one.kind == "drift" and one.severity != "info"]
    if drifted:
        more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
        parts.append(f"{', '.join(drifted[:3])}{more} drifted")
    parts += [one.sentence for one in findings if one.kind != "drift" and one.severity != "info"]
    return "; ".join(parts)


def _killed(kill: KillRow, get: str) -> str:
    name = f"{kill.service}@{kill.number}"
    return (
        f"{name} was killed by {kill.by} at {to_text(kill.at)[:19]}Z: {kill.why}; callers "
        f'get {get}; undo it with doorstep revive {name} --why "..."'
    )


def _who(
    service: str,
    champion: int | None,
    tenures: Sequence[TenureRow],
    release: Release | None,
    now: Instant,
) -> str:
    if champion is not None and tenures:
        share = 1.0 - (release.share if release is not None else 0.0)
        what = "all traffic" if share >= 1.0 else f"{percent(share)} of the traffic"
        since = say_time((now - tenures[0].since) / SECOND_US)
        return f"{service}@{champion} has served {what} for {since}"
    if release is not None:
        watched = "its release is paused" if release.state.value == "paused" else "watched"
        return f"{service}@{release.challenger}, the first version, serves all traffic, {watched}"
    return "no version serves any more" if tenures else "no version serves"


def _watched(service: str, known: Watched, newest: WatchedVersion) -> str:
    """`loans@2 (v7) is watched, served elsewhere: 1,200 rows, the last at ...`."""
    name = f"{service}@{newest.number} ({newest.name})"
    if not newest.rows:
        return f"{name} is watched, served elsewhere: no rows yet"
    left_out = [f"{known.refused:,} refused"] if known.refused else []
    left_out += [f"{known.lost:,} lost before they were recorded"] if known.lost else []
    last = f"the last at {to_text(newest.last)[:19]}Z"
    said = ", ".join((f"{plural(newest.rows, 'row')}", last, *left_out))
    return f"{name} is watched, served elsewhere: {said}"


def _releasing(service: str, release: Release) -> str:
    name = f"{service}@{release.challenger}"
    match release.state.value:
        case "shadow":
            return f"{name} scores in the shadow"
        case "paused" | "inconclusive":
            return f"the release of {name} is {release.state.value} at {percent(release.share)}"
        case _:
            return f"{name} takes {percent(release.share)}"
