"""What is measured of a champion before a release begins, and frozen into the release."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from doorstep.core.contract import Contract
from doorstep.core.errors import RefusedError
from doorstep.core.instant import SECOND_US
from doorstep.core.manifest import Manifest
from doorstep.core.record import TRAFFIC, Kind
from doorstep.core.servicefile import ServiceFile
from doorstep.core.servicefile_running import LossName
from doorstep.journal import query
from doorstep.journal.joined import OutcomeArrays, Trials
from doorstep.journal.operations import count_rows
from doorstep.journal.summary import Cell, latency_ms
from doorstep.kernel.app import App
from doorstep.release.baselines import (
    Baseline,
    baseline_from,
    groups_before,
    latency_before,
    worth_before,
)
from doorstep.release.spec import Before
from doorstep.release.types import SLOW_QUANTILES, Guardrail

OUTCOMES_S = 30 * 86_400
LATENCY_S = (3_600, 86_400)
"""The last hour, or, where that is too quiet, the last day."""
REQUESTS_MIN = 100
BUCKET_S = 60
READ = ("quality", "conversion", "revenue", "mean-latency", "fairness")


def measure(
    app: App, file: ServiceFile, champion: int, manifest: Manifest, guarded: Collection[str]
) -> Before:
    """manifest: of the champion. guarded: the metrics. Raises: RefusedError (`no-outcomes`,
    `no-traffic`, `no-groups`, `no-conversion`, `cannot-compare-groups`)."""
    read = [one for one in READ if one in guarded]
    return Before(
        baselines={one: _baseline(app, file, champion, manifest, one) for one in read},
        slow_us=_slow_us(app, file.service, champion) if "latency" in guarded else (),
    )


def _baseline(
    app: App, file: ServiceFile, champion: int, manifest: Manifest, metric: str
) -> Baseline:
    service = file.service
    match metric:
        case "quality":
            losses: list[LossName] = [
                one.loss for one in file.release.guardrails if one.name == metric
            ]
            loss = losses[0] if losses else "wrong"
            found = _ask(app, service, None)
            return baseline_from(found, service, champion, loss, manifest.positive)
        case "mean-latency":
            return latency_before(_ask(app, service, Trials()), service, champion)
        case "fairness":
            field = _field(file, manifest.contract)
            found = _ask(app, service, Trials(field=field))
            return groups_before(found, service, field, file.model.favourable)
        case _:
            asked = Guardrail(
                name="revenue" if metric == "revenue" else "conversion",
                tolerance=0.0,
                delay_s=file.monitor.outcomes.delay_s,
                label=_label(file, manifest) if metric == "conversion" else "",
            )
            found = _ask(app, service, Trials())
            return worth_before(found, service, champion, asked, app.clock.now())


def _ask(app: App, service: str, trials: Trials | None) -> OutcomeArrays:
    now = app.clock.now()
    asked = query.Question(
        what="outcomes_joined", home=str(app.home.path), service=service,
        since=now - OUTCOMES_S * SECOND_US, until=now, kinds=tuple(int(one) for one in TRAFFIC),
        trials=trials,
    )  # fmt: skip
    found: OutcomeArrays = query.ask(asked)
    return found


def _label(file: ServiceFile, manifest: Manifest) -> str:
    """What counts as a conversion: the positive label, or, where cases have a value, one above 0
    (""). Raises: RefusedError (`no-conversion`)."""
    if file.monitor.outcomes.unit:
        return ""
    if not manifest.positive:
        raise RefusedError(
            "no-conversion",
            f"the release is to be decided by conversion, but {file.service} answers with "
            f"{manifest.task}, of which no label is the positive one",
            "write monitor.outcomes.unit and tell outcomes with a value: above 0 is a conversion",
        )
    return manifest.positive


def _field(file: ServiceFile, contract: Contract) -> str:
    """The protected field whose groups are compared. Raises: RefusedError
    (`cannot-compare-groups`)."""
    fields = [one for one in (*contract.context, *contract.inputs) if one.protected]
    recorded = [one for one in fields if one.personal == "no"]
    why = ""
    if not file.model.favourable:
        why = "model.favourable does not say which answer people would rather get"
    elif not fields:
        why = "no field of the contract is protected"
    elif not recorded:
        why = f"{fields[0].name!r} is personal and is not recorded as it was sent"
    elif file.serve.record.mode != "full" and recorded[0] in contract.inputs:
        why = f"{recorded[0].name!r} is not recorded (serve.record: {file.serve.record.mode})"
    if why:
        raise RefusedError(
            "cannot-compare-groups",
            f"release.guardrails names fairness, but {why}",
            "correct that, or take fairness out of the guardrails",
        )
    return recorded[0].name


def _slow_us(app: App, service: str, champion: int) -> tuple[int, ...]:
    now = app.clock.now()
    seen = 0
    for seconds in LATENCY_S:
        counted = count_rows(app, service, now - seconds * SECOND_US, now, BUCKET_S)
        histogram = latency_of(counted, champion)
        seen = sum(histogram)
        if seen >= REQUESTS_MIN:
            return tuple(round(latency_ms(histogram, q) * 1000) for q in SLOW_QUANTILES)
    raise RefusedError(
        "no-traffic",
        f"release.guardrails names latency, but {service}@{champion} answered {seen} requests in "
        f"the last day; its times are known from {REQUESTS_MIN}",
        "wait for traffic, or take latency out of the guardrails",
    )


def latency_of(counted: Iterable[Cell], version: int) -> tuple[int, ...]:
    """The histogram of what this version answered callers; () if it answered none."""
    mine = [
        one.latency
        for one in counted
        if (one.version, one.kind) == (version, int(Kind.LIVE)) and one.latency
    ]
    return tuple(map(sum, zip(*mine, strict=True)))
