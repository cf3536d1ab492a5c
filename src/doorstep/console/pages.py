"""What each page needs: asked for by operation name, put side by side, nothing decided here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

import msgspec

from doorstep.console import course, marks, story, timeline, words
from doorstep.console.asking import Ask, Page, Query, answer, attempt
from doorstep.console.measures import (
    estimate_of,
    metrics_of,
    ruler_of,
    say_undecided,
    stages_of,
    totals_of,
    verdict_of,
)
from doorstep.console.records import edit, history, installation, ledger, name_in, status_of
from doorstep.console.servicefile import annotate_file
from doorstep.core.errors import InputError, UsageError
from doorstep.core.ids import parse_prediction_id, parse_version
from doorstep.core.instant import Instant, parse_instant
from doorstep.core.servicefile import stored_service_file
from doorstep.explain.surface import ExplainPrediction, Explanation
from doorstep.gate.surface import GateRuns, ShowGates
from doorstep.govern.surface import (
    History,
    ShowHistory,
)
from doorstep.journal.surface import (
    CountTraffic,
    ListPredictions,
    Prediction,
    Predictions,
    ShowPrediction,
    Traffic,
)
from doorstep.monitor.surface import (
    Findings,
    ListFindings,
    MonitorView,
    Promise,
    ServiceStatus,
    ShowMonitor,
    ShowStatus,
    Statuses,
)
from doorstep.register.surface import (
    ListServices,
    ListVersions,
    Service,
    Services,
    ShowService,
    ShowVersion,
    Version,
    Versions,
)
from doorstep.release.surface import (
    Differences,
    ListReleases,
    Recomputed,
    RecomputeRelease,
    Release,
    Releases,
    ShowDifferences,
    ShowRelease,
)

COLUMNS_PER_PAGE = 40
VERSIONS_WITH_GATES = 12
PREDICTIONS_PER_PAGE = 50
PREDICTION_FILTERS = ("key", "subject", "segment", "answer", "status", "kind")
APPROVALS = ("version.approved", "version.approval-withdrawn")
RANGES = {"1h": (60, 60), "6h": (360, 300), "24h": (1440, 900), "7d": (10_080, 7200)}
"""Name of a time range -> (minutes, bucket_s): at most 100 bars or so, whatever the range."""


COURSE_WIDTHS = (1120, 340)
"""Of the picture of a split, on a desk and in a hand."""
RELEASE_ID = re.compile(r"[0-9a-f]{32}")


PageMaker = Callable[[Ask, Query], Page]


class Goto(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a search: the page where it is."""

    path: str


def overview(ask: Ask, query: Query) -> Page:
    statuses = answer(ask, "service.status", ShowStatus(), Statuses).services
    findings = answer(ask, "finding.list", ListFindings(), Findings).findings
    services = answer(ask, "service.list", ListServices(), Services).services
    wanted = query.text("q")
    return Page(
        template="overview.html",
        title="Search" if wanted else "Overview",
        section="overview",
        fragments=("attention", "services"),
        found={
            "statuses": tuple(one for one in statuses if wanted.lower() in one.service),
            "total": len(statuses),
            "findings": tuple(one for one in findings if one.severity != "info")[:8],
            "waiting": tuple(
                one for one in statuses if one.release_state in ("paused", "inconclusive")
            ),
            "killed": tuple(one for one in statuses if one.state == "killed"),
            "unapproved": tuple(one.unapproved for one in services if one.unapproved),
            "unagreed": tuple(one for one in services if one.rule.waiting),
            "wanted": wanted,
        },
    )


def service(ask: Ask, query: Query) -> Page:
    name = name_in(query)
    shown = answer(ask, "service.show", ShowService(service=name), Service)
    status = status_of(ask, name)
    monitor, why_not = attempt(ask, "monitor.show", ShowMonitor(service=name), MonitorView)
    releases = answer(ask, "release.list", ListReleases(service=name), Releases).releases
    versions = answer(ask, "version.list", ListVersions(service=name), Versions).versions
    versions = tuple(sorted(versions, key=lambda one: -one.number))
    history = answer(ask, "service.history", ShowHistory(service=name), History)
    found = {
        "service": shown,
        "status": status,
        "monitor": monitor,
        "monitor_error": why_not,
        "releases": releases[:12],
        "running": next((one for one in releases if one.ended_at is None), None),
        "versions": versions,
        "gates": {} if query.fragments else _gates(ask, versions),
        "history": history,
        "goals": {one.version: one for one in status.goal} if status else {},
        "file": annotate_file(shown.file, _promises(monitor, status)),
    }
    found |= _chart(ask, query, found)
    return Page(
        template="service.html",
        title=name,
        section="overview",
        fragments=("headline", "chartdata", "promises", "releases"),
        found=found,
    )


def _promises(monitor: MonitorView | None, status: ServiceStatus | None) -> tuple[Promise, ...]:
    """What is measured of the file's lines, the goal as the version keeps it that serves."""
    goals = status.goal if status else ()
    serving = (status.champion or status.watched or status.challenger) if status else None
    mine = [one for one in goals if one.version == serving]
    found = [Promise(text=one.text, state=one.state, measured=one.measured) for one in mine]
    return (*found, *(monitor.promises if monitor else ()))


def _chart(ask: Ask, query: Query, found: dict[str, Any]) -> dict[str, Any]:
    shown, status = found["service"], found["status"]
    name = name_in(query)
    chosen = query.text("range") if query.text("range") in RANGES else "1h"
    minutes, bucket_s = RANGES[chosen]
    asked = CountTraffic(service=name, minutes=minutes, bucket_s=bucket_s)
    traffic = answer(ask, "traffic.count", asked, Traffic)
    asked_findings = ListFindings(service=name, state="")
    findings = answer(ask, "finding.list", asked_findings, Findings).findings
    window = (traffic.since, traffic.until)
    told = _told(ask, found["releases"], traffic.since)
    seen = story.marks_of(told, found["history"].stops, name, traffic.since)
    lanes = story.lanes_of(findings, window)
    promise = status.promise_ms_p99 if status else None
    return {
        "range": chosen,
        "ranges": tuple(RANGES),
        "traffic": traffic,
        "totals": totals_of(traffic),
        "marks": seen,
        "lanes": lanes,
        "figure": timeline.figure(traffic, seen, lanes, shown.champion, promise),
        "open_findings": tuple(one for one in findings if one.state == "open"),
    }


def _told(ask: Ask, releases: Iterable[Release], since: Instant) -> Iterator[Release]:
    """Those that did something after `since`, with their decisions: the list is without."""
    for one in releases:
        if one.ended_at is None or one.ended_at >= since:
            yield attempt(ask, "release.show", ShowRelease(release=one.id), Release)[0] or one


def _gates(ask: Ask, versions: tuple[Version, ...]) -> dict[int, GateRuns]:
    """Of the newest versions only: a page asks a bounded number of questions."""
    found: dict[int, GateRuns] = {}
    for one in versions[:VERSIONS_WITH_GATES]:
        asked = ShowGates(version=f"{one.service}@{one.number}")
        runs, _ = attempt(ask, "gate.show", asked, GateRuns)
        if runs is not None and runs.runs:
            found[one.number] = runs
    return found


def release(ask: Ask, query: Query) -> Page:
    shown = answer(ask, "release.show", ShowRelease(release=query.path["release"]), Release)
    ratios = [one for one in shown.guardrails if one.compared == "ratio"]
    found = [end for one in ratios for end in (one.low, one.high, one.tolerance, one.margin)]
    domain = marks.ratio_domain(found)
    asked = ShowDifferences(release=shown.id)
    differences, why_not, again = None, None, None
    if query.text("recompute") and not query.fragments:
        recomputing = RecomputeRelease(release=shown.id)
        again = answer(ask, "release.recompute", recomputing, Recomputed)
    if shown.champion is not None and not query.fragments:
        differences, why_not = attempt(ask, "release.differences", asked, Differences)
    return Page(
        template="release.html",
        title=f"{shown.service}@{shown.challenger} release",
        section="overview",
        fragments=("headline", "actions", "split", "waves", "guardrails", "decisions"),
        found={
            "release": shown,
            "name": f"{shown.service}@{shown.challenger}",
            "rulers": {one.name: ruler_of(one, domain) for one in shown.guardrails},
            "estimates": {one.name: estimate_of(one) for one in shown.guardrails},
            "over": shown.ended_at is not None,
            "undecided": say_undecided(shown),
            "stages": stages_of(shown, query.now),
            "verdicts": {one.name: verdict_of(one) for one in shown.guardrails},
            "courses": _courses(shown, query.now),
            "evidences": {o.name: course.evidence(shown.moments, o.name) for o in shown.guardrails},
            "last": next((one for one in reversed(shown.decisions) if one.action != "hold"), None),
            "again": again,
            "differences": differences,
            "differences_error": why_not,
        },
    )


def _courses(shown: Release, now: Instant) -> list[course.Course]:
    """None of a first version: it has answered everything all the time."""
    if shown.champion is None:
        return []
    found = (course.course(shown, now, width) for width in COURSE_WIDTHS)
    return [one for one in found if one is not None]


def version(ask: Ask, query: Query) -> Page:
    name = name_in(query)
    number = f"{name}@{query.path['number']}"
    shown = answer(ask, "version.show", ShowVersion(version=number), Version)
    runs, why_not = attempt(ask, "gate.show", ShowGates(version=number), GateRuns)
    history = answer(ask, "service.history", ShowHistory(service=name), History)
    releases = answer(ask, "release.list", ListReleases(service=name), Releases).releases
    of, _ = attempt(ask, "service.show", ShowService(service=name), Service)
    return Page(
        template="version.html",
        title=number,
        section="overview",
        fragments=(),
        found={
            "version": shown,
            "name": number,
            "manifest": shown.manifest,
            "people": of.rule.people if of else 0,
            "runs": runs.runs if runs else (),
            "gates_error": why_not,
            "tenures": tuple(one for one in history.tenures if one.version == shown.number),
            "live": history.live == shown.number,
            "approvals": tuple(
                one
                for one in history.events
                if one.kind in APPROVALS and one.object == f"version {number}"
            ),
            "releases": tuple(one for one in releases if one.challenger == shown.number),
        },
    )


def monitor(ask: Ask, query: Query) -> Page:
    name = name_in(query)
    shown = answer(ask, "monitor.show", ShowMonitor(service=name), MonitorView)
    order = sorted(shown.columns, key=lambda one: (not one.drifted, -(one.shift_sd or 0.0)))
    start = min(query.number("from"), len(order))
    return Page(
        template="monitor.html",
        title=f"{name} monitor",
        section="overview",
        fragments=("findings",),
        found={
            "service": name,
            "monitor": shown,
            "metrics": metrics_of(shown),
            "drifted": sum(one.drifted for one in order),
            "columns": order[start : start + COLUMNS_PER_PAGE],
            "start": start,
            "next_start": start + COLUMNS_PER_PAGE,
            "total": len(order),
        },
    )


def predictions(ask: Ask, query: Query) -> Page:
    name = name_in(query)
    of = answer(ask, "service.show", ShowService(service=name), Service)
    versions = answer(ask, "version.list", ListVersions(service=name), Versions).versions
    since, until = query.text("from", 40), query.text("to", 40)
    asked = ListPredictions(
        service=name,
        limit=PREDICTIONS_PER_PAGE,
        since=parse_instant(since) if since else 0,
        before=query.number("before") or (parse_instant(until) if until else 0),
        before_id=query.text("before_id", 60),
        version=query.number("version"),
        **{one: query.text(one, 200) for one in PREDICTION_FILTERS},
    )
    shown = answer(ask, "prediction.list", asked, Predictions).predictions
    return Page(
        template="predictions.html",
        title=f"{name} predictions",
        section="overview",
        fragments=(),
        found={
            "service": name,
            "predictions": shown,
            "asked": asked,
            "since": since,
            "until": until,
            "versions": sorted((one.number for one in versions), reverse=True),
            "subject": _subject(of.file),
            "status": status_of(ask, name),
            "is_filtered": bool(_filters_of(query)),
            "older": _older(query, shown[-1]) if len(shown) == asked.limit else "",
        },
    )


def _subject(file: str) -> str:
    """The field of the person whose data it is; "" without one, or if the file is not valid."""
    try:
        return stored_service_file(file).ids.subject
    except InputError:
        return ""


def _filters_of(query: Query) -> dict[str, str]:
    given = {one: query.text(one) for one in ("from", "to", "version", *PREDICTION_FILTERS)}
    return {name: value for name, value in given.items() if value}


def _older(query: Query, last: Prediction) -> str:
    """The query string of the next page."""
    return urlencode(_filters_of(query) | {"before": last.at, "before_id": last.id})


def prediction(ask: Ask, query: Query) -> Page:
    wanted = query.path["prediction"]
    shown = answer(ask, "prediction.show", ShowPrediction(prediction=wanted), Prediction)
    asked = ExplainPrediction(prediction=wanted)
    explanation, why_not = attempt(ask, "prediction.explain", asked, Explanation)
    telling = [one for one in explanation.contributions if one.amount] if explanation else []
    amounts = [one.amount for one in telling]
    return Page(
        template="prediction.html",
        title=f"Prediction {wanted[:60]}",
        section="overview",
        fragments=(),
        found={
            "prediction": shown,
            "explanation": explanation,
            "explain_error": why_not,
            "telling": telling[:40],
            "bars": marks.signed(amounts[:40]),
            "decimals": words.decimals(amounts),
        },
    )


def find(wanted: str) -> Goto:
    """Where a search leads: `loans@3`, the id of a release or a prediction, or services whose name
    holds the text."""
    if RELEASE_ID.fullmatch(wanted):
        return Goto(path=f"/releases/{wanted}")
    try:
        name, number = parse_version(wanted)
        return Goto(path=f"/services/{name}/versions/{number}")
    except (UsageError, InputError):
        pass
    try:
        request, row = parse_prediction_id(wanted)
        return Goto(path=f"/predictions/{request}.{row}")
    except InputError:
        return Goto(path="/")


PAGES: tuple[tuple[str, PageMaker], ...] = (
    ("/", overview),
    ("/services/{service:str}", service),
    ("/services/{service:str}/versions/{number:int}", version),
    ("/services/{service:str}/monitor", monitor),
    ("/services/{service:str}/predictions", predictions),
    ("/services/{service:str}/history", history),
    ("/services/{service:str}/file", edit),
    ("/releases/{release:str}", release),
    ("/predictions/{prediction:str}", prediction),
    ("/ledger", ledger),
    ("/installation", installation),
)
