"""A console with nothing behind it: every operation that a page asks, answered from made-up data.

python -m fakes.console --port 7171 [--variant hostile|empty]
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from doorstep.core.errors import InputError, NotFoundError, RefusedError
from doorstep.core.ids import digest_of
from doorstep.core.instant import Clock, Instant, SystemClock
from doorstep.explain.surface import Contribution, Explanation
from doorstep.gate.surface import GateRuns
from doorstep.govern.surface import (
    Events,
    EventView,
    History,
    Installation,
    LedgerVerdict,
    NodeView,
    Served,
    Stop,
    Tenure,
)
from doorstep.journal.surface import Erased, Prediction, Predictions, Traffic
from doorstep.monitor.surface import Findings, MonitorView, Statuses
from doorstep.register.surface import (
    KeyChange,
    Rule,
    Service,
    ServiceDiff,
    ServiceRevision,
    Services,
    Unapproved,
    Version,
    Versions,
)
from doorstep.release.surface import (
    Approvals,
    ComparedCell,
    DecisionView,
    Differences,
    Recomputed,
    RecomputedDecision,
    Release,
    Releases,
)
from fakes import console_data as data
from fakes import console_releases as told

if TYPE_CHECKING:
    from litestar import Litestar

Variant = Literal["normal", "hostile", "empty"]
VARIANTS: tuple[Variant, ...] = ("normal", "hostile", "empty")
CSRF = "a-form-token-for-tests"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7919*104729*611953}}</script>"
_LIVE = told.DAY * 15 - 153 * told.MINUTE
_WORDS_WITH_MEANING = frozenset(
    {"task", "type", "serialization", "family", "placement", "form", "role", "enforce", "unseen"}
    | {"personal", "datatype"}
)


class FakeDoorstep:
    """Answers like the control plane of a bank with one busy service, `loans`.

    variant: `normal`; `hostile` (every free text is an attack, some numbers are not numbers);
    `empty` (an installation with one service and nothing registered; `nothing` has not even that).
    Releases can be paused, resumed, promoted and rolled back; `asked` remembers every question.
    """

    def __init__(self, variant: Variant = "normal", clock: Clock | None = None) -> None:
        self._variant = variant
        self._clock = clock or SystemClock()
        self._begun = self._clock.now()
        self._releases = {one.id: one for one in told.releases(self._begun)}
        self.asked: list[tuple[str, Any]] = []
        self.erased: set[str] = set()

    def ask(self, name: str, given: Any) -> msgspec.Struct:
        """Raises: NotFoundError for names that nothing has, as the operations do."""
        self.asked.append((name, given))
        table = EMPTY if self._variant == "empty" else NORMAL
        found = table[name](self, given)
        return poison(found) if self._variant == "hostile" else found

    @property
    def now(self) -> Instant:
        return self._clock.now()

    @property
    def begun(self) -> Instant:
        return self._begun

    def known(self, service: str) -> None:
        names = ("loans", "fraud", "intents", "recommend", "triage")
        if service not in names:
            raise NotFoundError(
                "no-such-service", f"no service is called {service!r}", "doorstep status"
            )

    def release(self, wanted: str) -> Release:
        if wanted == "loans":
            return self._releases[told.RELEASE_STEP]
        if wanted not in self._releases:
            raise NotFoundError(
                "no-such-release", f"no release has the id {wanted!r}", "doorstep status"
            )
        return self._releases[wanted]

    def releases(self) -> tuple[Release, ...]:
        return tuple(self._releases.values())

    def change(self, wanted: str, action: str, state: str, why: str) -> Release:
        found = self.release(wanted)
        if found.ended_at is not None:
            raise RefusedError(
                "release-over",
                f"the release of loans@{found.challenger} is {found.state}; only a running one "
                f"can be changed",
                "doorstep release show loans",
            )
        decision = DecisionView(
            sequence=len(found.decisions) + 1,
            at=self.now,
            action=action,
            state=state,
            reason=why,
            by="you",
        )
        ended = self.now if state in ("done", "rolled-back") else None
        changed = msgspec.structs.replace(
            found,
            state=state,
            reason=why,
            changed_at=self.now,
            ended_at=ended,
            decisions=(*found.decisions, decision),
        )
        self._releases[found.id] = changed
        return changed


Answer = Callable[[FakeDoorstep, Any], msgspec.Struct]


def _service(fake: FakeDoorstep, name: str) -> Service:
    fake.known(name)
    return Service(
        service=name,
        revision=9,
        purpose="Approve or refer consumer loan applications",
        owner="credit-risk",
        risk="high",
        task="binary",
        label="credit_risk",
        champion=None if name == "triage" else 2,
        last_champion=1 if name == "loans" else None,
        file=data.FILE if name == "loans" else f"doorstep: 1\nservice: {name}\n",
        created_at=fake.begun - 30 * told.DAY,
        rule=Rule(people=2, waiting=9, needs=2, given=("mira",), by="jonas"),
        unapproved=Unapproved(version=f"{name}@4", by="ada", missing=2),
    )


def _statuses(fake: FakeDoorstep, given: Any) -> Statuses:
    found = data.statuses(fake.now)
    if given.service:
        fake.known(given.service)
        found = tuple(one for one in found if one.service == given.service)
    return Statuses(services=found)


def _versions(fake: FakeDoorstep, given: Any) -> Versions:
    fake.known(given.service)
    return Versions(versions=data.versions(fake.begun) if given.service == "loans" else ())


def _version(fake: FakeDoorstep, given: Any) -> Version:
    """Other services have versions by name only: each looks like one of `loans`."""
    service, _, number = given.version.partition("@")
    fake.known(service)
    if int(number) > 12:
        raise NotFoundError(
            "no-such-version", f"there is no {given.version}", f"doorstep list {service}"
        )
    found = data.versions(fake.begun)[min(int(number), 4) - 1]
    return msgspec.structs.replace(found, service=service, number=int(number))


def _traffic(fake: FakeDoorstep, given: Any) -> Traffic:
    now = fake.now
    busy = given.service == "loans"
    return Traffic(
        service=given.service,
        since=now - given.minutes * told.MINUTE,
        until=now,
        bucket_s=given.bucket_s,
        buckets=data.buckets(now, given.minutes, given.bucket_s) if busy else (),
    )


def _monitor(fake: FakeDoorstep, given: Any) -> MonitorView:
    fake.known(given.service)
    busy = given.service == "loans"
    opened = tuple(one for one in data.findings(fake.now) if one.state == "open")
    return MonitorView(
        service=given.service,
        version=2 if busy else None,
        window_s=3600,
        since=fake.now - told.HOUR,
        rows=50_812 if busy else 0,
        columns=data.columns() if busy else (),
        quality={"auc": (0.783, 0.761, 0.803), "f1": (0.64, 0.60, 0.68)} if busy else {},
        labelled=0.412 if busy else 0.0,
        labelled_rows=20_934 if busy else 0,
        quality_s=7 * 86_400.0 if busy else 0.0,
        errors=0.0 if busy else None,
        failed=0.0044 if busy else None,
        latency_ms_p99=18.4 if busy else None,
        traffic_s=3600.0 if busy else 0.0,
        promises=data.PROMISES if busy else (),
        findings=opened if busy else (),
        quality_delay_s=30 * 86_400.0 if busy else 0.0,
        unit="EUR" if busy else "",
        values=data.VALUES if busy else (),
    )


def _findings(fake: FakeDoorstep, given: Any) -> Findings:
    found = [
        one
        for one in data.findings(fake.now)
        if given.service in ("", one.service) and given.state in ("", one.state)
    ]
    return Findings(findings=tuple(found))


def _prediction(fake: FakeDoorstep, given: Any) -> Prediction:
    for place in range(60):
        found = data.prediction(fake.begun, place)
        if found.id == given.prediction:
            sealed = "erased" if found.id in fake.erased else "sealed"
            return msgspec.structs.replace(found, personal="none" if place else sealed)
    raise NotFoundError(
        "no-such-prediction",
        f"no prediction has the id {given.prediction!r}",
        "doorstep journal query loans",
    )


def _erase(fake: FakeDoorstep, given: Any) -> Erased:
    fake.erased.add(given.prediction)
    return Erased(subject="5b1c", at=fake.now, predictions=1)


def _predictions(fake: FakeDoorstep, given: Any) -> Predictions:
    fake.known(given.service)
    found = [
        one
        for one in (data.prediction(fake.begun, place) for place in range(60))
        if (not given.before or (one.at, one.id) < (given.before, given.before_id))
        and one.at >= given.since
        and given.version in (0, one.answered_by)
        and given.answer in ("", str(one.answer))
        and all(
            getattr(given, name) in ("", getattr(one, name))
            for name in ("key", "segment", "status", "kind")
        )
    ]
    return Predictions(predictions=tuple(found[: given.limit]) if given.service == "loans" else ())


def _differences(fake: FakeDoorstep, given: Any) -> Differences:
    ids = tuple(data.prediction(fake.begun, place).id for place in range(14))
    return told.differences(fake.release(given.release), ids)


def _recomputed(fake: FakeDoorstep, given: Any) -> Recomputed:
    shown = fake.release(given.release.removesuffix(HOSTILE))
    cells = [
        ComparedCell(
            epoch=1,
            segment="rest",
            arm=arm,
            counted=(shown.requests_challenger, 4),
            recorded=(shown.requests_challenger + more, 4),
            said=f"{more} came in while it was decided" if more else "",
            explained=True,
        )
        for arm, more in (("champion", 0), ("challenger", 3))
    ]
    return Recomputed(
        id=shown.id,
        service=shown.service,
        challenger=shown.challenger,
        at=fake.now,
        decisions=tuple(
            RecomputedDecision(sequence=one.sequence, at=one.at, action=one.action, same=True)
            for one in shown.decisions
        ),
        cells=tuple(cells),
        agrees=True,
    )


def _diff(fake: FakeDoorstep, given: Any) -> ServiceDiff:
    """Each line that the file in effect has not is a change; `loans` is the service of it."""
    now = _service(fake, "loans").file.splitlines()
    changed = [line for line in given.file.splitlines() if line not in now]
    if "nonsense" in given.file:
        raise InputError("bad-service-file", "doorstep.yaml has a problem: nonsense")
    name = re.search(r"service: (\S+)", given.file)
    return ServiceDiff(
        service=name[1] if name else "loans",
        revision=9,
        is_same=not changed,
        changes=tuple(
            KeyChange(
                key="approve.people" if "approve" in line else "gates.quality",
                now="auc >= 0.75",
                after=line.strip(),
                takes_effect="with the next gate run",
                loosens=True,
            )
            for line in changed
        ),
    )


def _apply(fake: FakeDoorstep, given: Any) -> ServiceRevision:
    return ServiceRevision(
        service="loans",
        revision=10,
        applied_at=fake.now,
        by="you",
        created=True,
        changed=("gates.quality",),
    )


def _explanation(fake: FakeDoorstep, given: Any) -> Explanation:
    shown = _prediction(fake, given)
    if not shown.scores:
        raise RefusedError(
            "nothing-to-explain",
            "no version answered this request, so there is no score to explain",
            "doorstep journal query loans",
        )
    base = 0.241
    pattern = {"income": 184, "duration": 121, "employment_years": 37, "purpose": 4}
    pattern |= {"housing": -52, "age": -18}
    scale = (shown.scores["bad"] - base) / sum(pattern.values())
    return Explanation(
        prediction=shown.id,
        version=f"loans@{shown.answered_by or 2}",
        of="bad",
        answer=shown.answer,
        score=shown.scores["bad"],
        base=base,
        background_rows=200,
        contributions=tuple(_contribution(shown, name, pattern[name] * scale) for name in pattern),
    )


def _contribution(shown: Prediction, name: str, amount: float) -> Contribution:
    words = f"{name} {'raises' if amount > 0 else 'lowers'} the score of bad"
    return Contribution(column=name, value=shown.inputs[name], amount=amount, words=words)


def _event_list(fake: FakeDoorstep) -> tuple[EventView, ...]:
    newer = [
        ("service.applied", "mira", "loans", "mira applied revision 9 of the service file: slo"),
        ("version.registered", "mira", "loans@4", "mira registered loans@4"),
        ("gate.run", "mira", "loans@4", "Gates of loans@4 passed: 3 of 3"),
        ("release.started", "mira", "loans@4", "mira started the release of loans@4"),
    ]
    newer += [
        (f"release.{one.action}", one.by, "loans@4", f"{one.action}: {one.reason}")
        for one in fake.release(told.RELEASE_STEP).decisions
    ]
    older = [
        ("monitor.found", "doorstep", "loans", f"Drift was found in column {name}")
        for name in ("income", "purpose", "amount", "age") * 32
    ]
    rows = older + newer
    return tuple(
        EventView(
            sequence=place + 1,
            at=fake.now - (len(rows) - place) * 11 * told.MINUTE,
            kind=kind,
            actor=actor,
            object=subject,
            sentence=sentence,
            data={"version": subject, "reason": sentence},
            leaf_hash=digest_of(f"{place}{sentence}".encode()),
        )
        for place, (kind, actor, subject, sentence) in enumerate(rows)
    )[::-1]


def _holds(fake: FakeDoorstep) -> tuple[EventView, ...]:
    """One person is held, one was: newest first."""
    said = (("freed", "b2"), ("held", "b2"), ("held", "a1"))
    return tuple(
        EventView(
            sequence=3 - place,
            at=fake.begun - (place + 1) * told.HOUR,
            kind=f"subject.{what}",
            actor="mira",
            object=name,
            sentence=f"the person {name} was {what}: file 4711",
            data={"why": "file 4711"},
            leaf_hash=digest_of(name.encode()),
        )
        for place, (what, name) in enumerate(said)
    )


def _events(fake: FakeDoorstep, given: Any) -> Events:
    everything = _event_list(fake)
    if given.kind.startswith("subject."):
        people = [one for one in _holds(fake) if one.kind.startswith(given.kind)]
        older = [one for one in people if not given.before or one.sequence < given.before]
        return Events(events=tuple(older[: given.limit]), size=len(everything))
    found = [
        one
        for one in everything
        if one.kind.startswith(given.kind)
        and given.service in ("", one.object.partition("@")[0])
        and (not given.before or one.sequence < given.before)
    ]
    return Events(events=tuple(found[: given.limit]), size=len(everything))


def _ledger_verdict(fake: FakeDoorstep, given: Any) -> LedgerVerdict:
    return LedgerVerdict(
        intact=True,
        size=138,
        root=digest_of(b"root"),
        checkpoint=digest_of(b"checkpoint"),
        checkpoint_size=136,
        key=digest_of(b"key"),
        problems=(),
    )


def _history(fake: FakeDoorstep, given: Any) -> History:
    busy = given.service == "loans"
    second = Tenure(
        version=2,
        since=fake.begun - _LIVE,
        until=None,
        release=told.RELEASE_DONE,
        because="every guardrail held over 61,204 requests",
        by="doorstep",
    )
    first = Tenure(
        version=1,
        since=fake.begun - 29 * told.DAY,
        until=second.since,
        release="",
        because="first version",
        by="mira",
    )
    trial = Served(
        version=4,
        role="challenger",
        share=0.05,
        since=fake.begun - 42 * told.MINUTE,
        until=None,
        release=told.RELEASE_STEP,
        asked_by="mira",
        decided_by="doorstep",
        because="holds at 5 %: latency needs about 1,900 more requests",
        evidence="errors 0.36 % against 0.41 %, ratio 0.47 to 1.63",
        approved_by=("ada", "jonas"),
    )
    stop = Stop(
        version=3, since=fake.begun - 5 * told.DAY, until=None, by="jonas", why="it leaks memory"
    )
    return History(
        service=given.service,
        at=fake.now,
        live=2 if busy else None,
        killed="",
        tenures=(second, first) if busy else (),
        events=(),
        served=(trial, _served(second), _served(first)) if busy else (),
        stops=(stop,) if busy else (),
        answering=((2, 0.95), (4, 0.05)) if busy else (),
    )


def _served(tenure: Tenure) -> Served:
    return Served(
        version=tenure.version,
        role="champion",
        share=1.0,
        since=tenure.since,
        until=tenure.until,
        release=tenure.release,
        asked_by="mira",
        decided_by=tenure.by,
        because=tenure.because,
        evidence="errors 0.4 % against 0.4 %; 61,204 requests of the champion",
    )


def _installation(fake: FakeDoorstep, given: Any) -> Installation:
    empty = NodeView(
        node="node-a",
        live=True,
        data_url="http://127.0.0.1:8080",
        plan_number=118,
        lease_held=True,
        workers=4,
        restarts=0,
        loaded=("loans@1", "loans@2", "loans@4", "fraud@7"),
        problems=(),
    )
    troubled = msgspec.structs.replace(
        empty,
        node="node-b",
        plan_number=117,
        data_url="http://127.0.0.1:8081",
        restarts=2,
        loaded=("loans@2",),
        problems=("loans@4 could not be loaded: 212 MB are free, 380 MB needed",),
    )
    silent = msgspec.structs.replace(empty, node="node-c", live=False, workers=0, loaded=())
    return Installation(
        version="0.1.0",
        environment="production",
        home="/var/lib/doorstep",
        database="sqlite, /var/lib/doorstep/doorstep.db",
        console_url="http://127.0.0.1:7070",
        data_url="http://127.0.0.1:8080",
        plan_term=3,
        plan_number=118,
        ledger_size=138,
        started_at=fake.begun - 9 * told.DAY,
        nodes=(empty, troubled, silent),
    )


NORMAL: dict[str, Answer] = {
    "service.list": lambda fake, given: Services(services=(_service(fake, "loans"),)),
    "service.show": lambda fake, given: _service(fake, given.service),
    "service.status": _statuses,
    "service.history": _history,
    "version.list": _versions,
    "version.show": _version,
    "gate.show": lambda fake, given: GateRuns(runs=(data.gate_run(given.version, fake.begun),)),
    "release.show": lambda fake, given: fake.release(given.release),
    "release.differences": lambda fake, given: _differences(fake, given),
    "release.list": lambda fake, given: Releases(
        releases=tuple(msgspec.structs.replace(one, decisions=()) for one in fake.releases())
        if given.service in ("", "loans")
        else ()
    ),
    "release.pause": lambda fake, given: fake.change(given.release, "pause", "paused", given.why),
    "release.resume": lambda fake, given: fake.change(given.release, "resume", "step", given.why),
    "release.promote": lambda fake, given: fake.change(given.release, "promote", "done", given.why),
    "service.approve": lambda fake, given: Rule(people=0),
    "version.approve": lambda fake, given: Approvals(version=given.version, people=1, given=()),
    "service.rollback": lambda fake, given: fake.change(
        given.service, "rollback", "rolled-back", given.why
    ),
    "release.recompute": _recomputed,
    "service.diff": _diff,
    "service.apply": _apply,
    "prediction.show": _prediction,
    "subject.erase": _erase,
    "prediction.list": _predictions,
    "prediction.explain": _explanation,
    "traffic.count": _traffic,
    "monitor.show": _monitor,
    "finding.list": _findings,
    "ledger.list": _events,
    "ledger.verify": _ledger_verdict,
    "installation.show": _installation,
}


def _nothing_found(fake: FakeDoorstep, given: Any) -> msgspec.Struct:
    raise NotFoundError(
        "nothing-yet", "there is nothing of this yet", "doorstep register model.pkl"
    )


EMPTY: dict[str, Answer] = {
    **dict.fromkeys(NORMAL, _nothing_found),
    "service.list": lambda fake, given: Services(services=()),
    "service.show": lambda fake, given: msgspec.structs.replace(
        _service(fake, "triage"), service=given.service, file=""
    ),
    "service.status": lambda fake, given: Statuses(services=()),
    "service.history": lambda fake, given: History(
        service=given.service, at=fake.now, live=None, killed="", tenures=(), events=()
    ),
    "version.list": lambda fake, given: Versions(versions=()),
    "version.show": lambda fake, given: _version(fake, given),
    "gate.show": lambda fake, given: GateRuns(runs=()),
    "release.list": lambda fake, given: Releases(releases=()),
    "release.show": lambda fake, given: msgspec.structs.replace(
        told.releases(fake.begun)[0], guardrails=(), decisions=(), champion=None, state="bake"
    ),
    "release.recompute": lambda fake, given: msgspec.structs.replace(
        _recomputed(fake, given), decisions=(), cells=()
    ),
    "service.diff": _diff,
    "prediction.list": lambda fake, given: Predictions(predictions=()),
    "traffic.count": lambda fake, given: msgspec.structs.replace(_traffic(fake, given), buckets=()),
    "monitor.show": lambda fake, given: _monitor(
        fake, msgspec.structs.replace(given, service="triage")
    ),
    "finding.list": lambda fake, given: Findings(findings=()),
    "ledger.list": lambda fake, given: Events(events=(), size=0),
    "ledger.verify": _ledger_verdict,
    "installation.show": lambda fake, given: msgspec.structs.replace(
        _installation(fake, given), nodes=()
    ),
}


def poison(found: Any, name: str = "") -> Any:
    """`found` with every free text replaced by itself and an attack, and every third float by one
    that is not a number; enumerations keep their meaning, so that templates go all their ways."""
    if isinstance(found, Enum) or name in _WORDS_WITH_MEANING:
        return found
    if isinstance(found, str):
        return found + HOSTILE if found else found
    if isinstance(found, msgspec.Struct):
        fields = msgspec.structs.fields(found)
        named = {one.name: poison(getattr(found, one.name), one.name) for one in fields}
        return type(found)(**named)
    if isinstance(found, tuple):
        return tuple(poison(one) for one in found)
    if isinstance(found, list):
        return [poison(one) for one in found]
    if isinstance(found, dict):
        return {poison(key): poison(value) for key, value in found.items()}
    if isinstance(found, float) and hash(found) % 3 == 0:
        return float("nan")
    return found


def make_app(fake: FakeDoorstep) -> Litestar:
    """The console alone on a Litestar app, with a fixed form token."""
    from litestar import Litestar

    from doorstep.console.asking import Visit
    from doorstep.console.routes import console_refusals, console_routes

    visit = Visit("local", CSRF, fake.ask)
    routes = console_routes(lambda request: visit, environment="production")
    refusals = console_refusals(environment="production")
    return Litestar(route_handlers=list(routes), exception_handlers=refusals, openapi_config=None)


def main() -> None:
    import argparse

    import uvicorn

    parser = argparse.ArgumentParser(description="The console over made-up data.")
    parser.add_argument("--port", type=int, default=7171)
    parser.add_argument("--variant", choices=VARIANTS, default="normal")
    chosen = parser.parse_args()
    uvicorn.run(
        make_app(FakeDoorstep(chosen.variant)),
        host="127.0.0.1",
        port=chosen.port,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
