"""The facts that a look at a service needs: read here, judged in `decide`."""

from __future__ import annotations

import math
from collections.abc import Collection

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.manifest import Manifest, Profile, decode_part
from doorstep.core.record import TRAFFIC
from doorstep.core.servicefile import ServiceFile, read_stored
from doorstep.gate.metrics import Labelled, labelled_of
from doorstep.journal import query
from doorstep.journal.joined import OutcomeArrays
from doorstep.journal.operations import windows_of
from doorstep.journal.retain import NOTICE, Due, read_notice
from doorstep.journal.summary import HOUR_S, Cell, Summary
from doorstep.journal.troubles import FILE, Trouble, read_troubles
from doorstep.journal.watched import WatchedVersion, read_watched
from doorstep.journal.windows import column_codes
from doorstep.kernel.app import App
from doorstep.monitor.decide import LATE_S, QUALITY_WINDOW_S, latest_window
from doorstep.monitor.facts import drift_window, quality_window, traffic_window, was_asked
from doorstep.monitor.labels import DAY_US, pauses_of, values_of
from doorstep.monitor.types import MonitorFinding, QualityWindow, ServiceFacts
from doorstep.register import store as versions
from doorstep.register.views import manifest_of
from doorstep.release import store as releases

TRAFFIC_WINDOW_S = 3_600.0
SHOWN_S = 86_400.0
LATE_OF_WINDOW = 1 / 12
"""Short windows are closed after a twelfth of their length, long ones after two minutes."""


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """One service that has a champion, or whose newest version another service serves: what is
    known before the journal is asked. elsewhere: of the latter, what was recorded of it."""

    file: ServiceFile
    version: versions.VersionRow
    manifest: Manifest
    profile: Profile | None
    served_since: Instant
    elsewhere: WatchedVersion | None = None

    def as_of(self, now: Instant) -> Instant:
        """The time at which it is judged: what was imported long after it happened, at its end, up
        to the whole hour; everything else, also what is recorded while it happens, now."""
        if self.elsewhere is None or now - self.elsewhere.last < SHOWN_S * SECOND_US:
            return now
        hour_us = HOUR_S * SECOND_US
        return min(now, (self.elsewhere.last // hour_us + 1) * hour_us)

    def past_window(self, now: Instant) -> tuple[Instant, Instant] | None:
        """Of what was imported long after it happened, the last window; else None."""
        until = self.as_of(now)
        length_us = round(self.file.monitor.drift.window_s * SECOND_US)
        return (until - length_us, until) if until < now else None


class QualitySeen(msgspec.Struct, frozen=True, kw_only=True):
    """outcomes: how many the journal had. judged: by promise with an incident: end of the last
    window of it that was judged. until: when it was looked at. week: by all outcomes; fresh: by
    those received since."""

    outcomes: int = -1
    judged: dict[str, Instant] = {}
    until: Instant = 0
    week: QualityWindow | None = None
    fresh: dict[str, QualityWindow] = {}


class QualityKept:
    """What was seen per service and version, joined again by a look that has more to see."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], QualitySeen] = {}

    def get(self, key: tuple[str, int]) -> QualitySeen:
        return self.seen.get(key, QualitySeen())


def watched(app: App, service: str) -> Watched | None:
    """None for a service without a champion or a watched version, or whose file cannot be read.
    Raises: NotFoundError (`no-service`)."""
    with app.database.reading() as connection:
        row = versions.get_service(connection, service)
        file, _ = read_stored(row.file, app.home.environment)
        if file is None:
            return None
        tenures = releases.list_tenures(connection, service)
        running = releases.find_running(connection, service)
        number, since = None, row.created_at
        if tenures and tenures[0].until is None:
            number, since = tenures[0].version, tenures[0].since
        elif running is not None and running.release.is_first:
            number, since = running.release.challenger, running.release.started_at
        elsewhere = None
        if number is None and (known := read_watched(app.home.path, service)) is not None:
            elsewhere = known.newest
        if elsewhere is not None and elsewhere.rows:
            number, since = elsewhere.number, elsewhere.first
        if number is None:
            return None
        version = versions.get_version(connection, service, number)
    path = app.home.bundles / version.digest / "reference" / "profile.json"
    profile = decode_part(path.read_bytes(), Profile, "profile") if path.is_file() else None
    manifest = manifest_of(app.home.bundles, version.digest)
    hidden = manifest.contract.hidden(file.ids.subject or file.ids.key)
    return Watched(
        file=file,
        version=version,
        manifest=manifest,
        profile=comparable(profile, hidden) if profile else None,
        served_since=since,
        elsewhere=elsewhere,
    )


def comparable(profile: Profile, hidden: Collection[str]) -> Profile:
    """Without personal fields: the training data had their values, and live records have not."""
    columns = tuple(one for one in profile.columns if one.name not in hidden)
    return msgspec.structs.replace(profile, columns=columns)


def gather(
    app: App, seen: Watched, now: Instant, known: tuple[MonitorFinding, ...] = ()
) -> ServiceFacts:
    """Everything that `decide.evaluate` may know about this service at `now`."""
    drift_s = seen.file.monitor.drift.window_s
    late_s = min(LATE_S, drift_s * LATE_OF_WINDOW)
    window = seen.past_window(now) or latest_window(now, drift_s, late_s)
    now = seen.as_of(now)
    quality = quality_of(app, seen, now, known)
    facts = _facts(app, seen, now, window, quality.week, known)
    return msgspec.structs.replace(facts, fresh=quality.fresh)


def gather_shown(app: App, seen: Watched, now: Instant) -> ServiceFacts:
    """The same for a person who looks: of the last closed window in which the champion was asked,
    if that is not more than a day ago. It is as long as whole buckets of what is kept, which are
    minutes for hours that are over: else a shorter window would show all of its minute."""
    drift_s = seen.file.monitor.drift.window_s
    late_s = min(LATE_S, drift_s * LATE_OF_WINDOW)
    past, now = seen.past_window(now), seen.as_of(now)
    recent = _summary(app, seen.version.service, now - round(SHOWN_S * SECOND_US), now)
    mine = [one.at for one in recent.cells if _is_of(one, seen.version.number)]
    newest = max(mine, default=now - 1) + 1
    shown_s = math.ceil(drift_s / recent.bucket_s) * recent.bucket_s
    closes = newest + round((shown_s + late_s) * SECOND_US)
    window = past or latest_window(min(now, closes), shown_s, late_s)
    # A control plane that does not lead never looks, so there the asking has to do it.
    looks = app.leader_term > 0
    quality = quality_seen(app, seen) if looks else quality_of(app, seen, now).week
    return _facts(app, seen, now, window, quality, ())


def _is_of(cell: Cell, version: int) -> bool:
    return cell.version == version and cell.kind in TRAFFIC


def _facts(
    app: App,
    seen: Watched,
    now: Instant,
    window: tuple[Instant, Instant],
    quality: QualityWindow | None,
    known: tuple[MonitorFinding, ...],
) -> ServiceFacts:
    service, number = seen.version.service, seen.version.number
    since, until = window
    drift_s = (until - since) / SECOND_US
    summary = _summary(app, service, since, until)
    recent_since = now - round(min(TRAFFIC_WINDOW_S, max(drift_s, 60.0)) * SECOND_US)
    recent = _summary(app, service, recent_since, now)
    told = {kind for alert in seen.file.alert for kind in alert.when}
    return ServiceFacts(
        service=service,
        version=number,
        positive=seen.manifest.positive,
        reference=seen.profile,
        drift=drift_window(summary, number, since, until),
        traffic=traffic_window(recent, recent_since, now),
        quality=quality,
        slo=seen.file.monitor.slo,
        promised=seen.file.monitor.quality,
        served_since=seen.served_since,
        had_traffic=_was_asked(app, service, now),
        unloaded=unloaded_of(app, service),
        leaving=leaving_of(app, service),
        troubles=troubles_of(app, service),
        alert_kinds=frozenset(told),
        known=known,
        unit=seen.file.monitor.outcomes.unit,
    )


def leaving_of(app: App, service: str) -> dict[str, Due]:
    """What of the service's records goes soon, by node."""
    notices = {
        path.parent.name: read_notice(path.parent).services
        for path in sorted(app.home.journal.glob(f"*/{NOTICE}"))
    }
    return {node: said[service] for node, said in notices.items() if service in said}


def troubles_of(app: App, service: str) -> dict[str, list[Trouble]]:
    """What is the matter with files of the service, or of nobody knows which, by node."""
    noted = {
        path.parent.name: [
            one for one in read_troubles(path.parent) if one.service in ("", service)
        ]
        for path in sorted(app.home.journal.glob(f"*/{FILE}"))
    }
    return {node: found for node, found in noted.items() if found}


def unloaded_of(app: App, service: str) -> dict[int, str]:
    """Why versions cannot be loaded, as live nodes say, by number."""
    found: dict[int, str] = {}
    for report in app.nodes.alive():
        for name, why in report.unloaded.items():
            owner, _, number = name.rpartition("@")
            if owner == service:
                found[int(number)] = f"{why} (node {report.node})"
    return found


def _was_asked(app: App, service: str, now: Instant) -> bool:
    """In the day before `now`: silence is news only where somebody used to ask."""
    day_since = now - round(SHOWN_S * SECOND_US)
    return was_asked(_summary(app, service, day_since, now), day_since, now)


def _summary(app: App, service: str, since: Instant, until: Instant) -> Summary:
    windows = windows_of(app)
    with windows.lock:
        return column_codes(app.home.path, service, since, until, cache=windows.cache)


def quality_of(
    app: App, seen: Watched, now: Instant, known: tuple[MonitorFinding, ...] = ()
) -> QualitySeen:
    """Quality of the champion's live predictions of a week, as far as outcomes are known: the last
    week, or the last one whose outcomes are due, where the service file declares a delay.

    Joining new outcomes takes a child process: this is for a look; who shows a page asks
    `quality_seen`.
    """
    key = (seen.version.service, seen.version.number)
    delay_us = round(seen.file.monitor.outcomes.delay_s * SECOND_US)
    week_us = round(QUALITY_WINDOW_S * SECOND_US)
    now = _due_until(now, delay_us) + delay_us
    since = now - week_us
    summary = _summary(app, seen.version.service, since - delay_us, now)
    outcomes = sum(summary.outcomes.values())
    due = _Due(summary, seen.version.number, since - delay_us, now - delay_us)
    judged = _judged(known)
    kept = app.kept.get(QualityKept, QualityKept)
    found = kept.get(key)
    # With a delay, what is judged is never the same again: predictions fall due.
    as_before = (found.outcomes, found.judged, found.until if delay_us else now)
    if not due.rows():
        found = QualitySeen(outcomes=outcomes, judged=judged, until=now)
    elif found.week is None or as_before != (outcomes, judged, now):
        arrays = _joined(app, seen.version.service, due.since, due.until) if outcomes else None
        if arrays is not None and arrays.is_cut:
            # There were too many: what is known is told of the time that was read.
            due = msgspec.structs.replace(due, since=int(arrays.at[0]))

        def known_since(at: Instant) -> QualityWindow:
            return _quality_window(seen, arrays, due, at, delay_us)

        found = QualitySeen(
            outcomes=outcomes,
            judged=judged,
            until=now,
            week=_with_labels(seen, known_since(0), arrays, due),
            fresh={promise: known_since(at) for promise, at in judged.items()},
        )
    else:
        found = _looked_at_again(found, due.rows(), since, now)
    kept.seen[key] = found
    return found


class _Due(msgspec.Struct, frozen=True):
    """The version's predictions in [since, until), whose outcomes are due."""

    summary: Summary
    version: int
    since: Instant
    until: Instant

    def rows(self, since: Instant = 0) -> int:
        first = max(since, self.since)
        cells = (one for one in self.summary.cells if first <= one.at < self.until)
        return sum(one.rows for one in cells if _is_of(one, self.version))


def _due_until(now: Instant, delay_us: int) -> Instant:
    """Predictions before it are judged. It moves by a twelfth of the delay, at most by an hour, so
    that outcomes are not joined again at every look."""
    step_us = min(delay_us // 12, HOUR_S * SECOND_US)
    until = now - delay_us
    return until // step_us * step_us if step_us else until


def _quality_window(
    seen: Watched, arrays: OutcomeArrays | None, due: _Due, begins: Instant, delay_us: int
) -> QualityWindow:
    """begins: only what could be judged since then counts: received, and due."""
    labelled = _labelled(seen.manifest, arrays, due.version, begins, delay_us)
    since, until = due.since + delay_us, due.until + delay_us
    found = quality_window(labelled, seen.manifest.task, due.rows(), max(since, begins), until)
    return msgspec.structs.replace(found, delay_s=delay_us / SECOND_US)


def _with_labels(
    seen: Watched, window: QualityWindow, arrays: OutcomeArrays | None, due: _Due
) -> QualityWindow:
    """The window of all outcomes also says whether labels still come, and what cases were worth."""
    if arrays is None:
        return window
    day = due.until - DAY_US
    newest, silent_s, pause_s = (0, 0), 0.0, 0.0
    if window.delay_s:
        # Of what `labelled` counts, or there would be fewer than none of the days before.
        *_, mine = _judgeable(seen.manifest, arrays, due.version)
        newest = due.rows(day), int((mine & (arrays.at >= day)).sum())
    else:
        silent_s, pause_s = pauses_of(arrays.received_at[arrays.version == due.version], due.until)
    has_unit = bool(seen.file.monitor.outcomes.unit)
    values = values_of(arrays.version, arrays.at, arrays.value) if has_unit else ()
    return msgspec.structs.replace(
        window, newest=newest, silent_s=silent_s, pause_s=pause_s, values=values
    )


def _judged(known: tuple[MonitorFinding, ...]) -> dict[str, Instant]:
    found: dict[str, Instant] = {}
    for one in known:
        if one.kind == "quality":
            found[one.subject] = max(one.judged_until, found.get(one.subject, 0))
    return found


def _looked_at_again(found: QualitySeen, rows: int, since: Instant, now: Instant) -> QualitySeen:
    """The same outcomes, at another time."""

    def moved(window: QualityWindow, begins: Instant) -> QualityWindow:
        return msgspec.structs.replace(window, rows=rows, since=max(since, begins), until=now)

    assert found.week is not None
    fresh = {key: moved(one, found.judged[key]) for key, one in found.fresh.items()}
    return msgspec.structs.replace(found, week=moved(found.week, 0), fresh=fresh)


def quality_seen(app: App, seen: Watched) -> QualityWindow | None:
    """What the last look of this process found, as it is; None before the first."""
    key = (seen.version.service, seen.version.number)
    return app.kept.get(QualityKept, QualityKept).get(key).week


def _joined(app: App, service: str, since: Instant, until: Instant) -> OutcomeArrays:
    question = query.Question(
        what="outcomes_joined", home=str(app.home.path), service=service, since=since, until=until
    )
    arrays: OutcomeArrays = query.ask(question)
    return arrays


def _labelled(
    manifest: Manifest, arrays: OutcomeArrays | None, number: int, since: Instant, delay_us: int
) -> Labelled:
    """Rows of this version whose scores are known and whose outcome could be judged since `since`,
    in the manifest's columns."""
    names = manifest.labels or ("value",)
    if arrays is None:
        return labelled_of(manifest, np.empty(0), np.empty((0, len(names))))
    truth, scores, mine = _judgeable(manifest, arrays, number)
    mine &= np.maximum(arrays.received_at, arrays.at + delay_us) >= since
    return labelled_of(manifest, truth[mine], scores[mine])


def _judgeable(
    manifest: Manifest, arrays: OutcomeArrays, number: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(truth, scores, which rows of this version have both). A case may have a value and no label
    yet."""
    names = manifest.labels or ("value",)
    if not set(names) <= set(arrays.scores):
        none = np.zeros(arrays.rows, dtype=np.bool_)
        return np.empty(arrays.rows), np.empty((arrays.rows, len(names))), none
    scores = np.column_stack([arrays.scores[name] for name in names])
    if manifest.labels:
        known = {label: float(index) for index, label in enumerate(manifest.labels)}
        truth = np.array([known.get(str(label), np.nan) for label in arrays.label])
    else:
        truth = np.asarray(arrays.value, dtype=np.float64)
    mine = (arrays.version == number) & np.isfinite(truth) & np.isfinite(scores).all(axis=1)
    return truth, scores, mine
