"""What the console's fake answers are made of: one bank's services on an ordinary day."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, Literal

from doorstep.core.contract import Contract, Field
from doorstep.core.ids import digest_of
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.manifest import (
    DataSource,
    FileEntry,
    Lineage,
    Manifest,
    NativeForm,
    OnnxForm,
    Parity,
    Tensor,
)
from doorstep.core.verdict import Finding, Verdict
from doorstep.gate.surface import GateRun
from doorstep.journal.surface import Prediction, TrafficBucket
from doorstep.monitor.surface import ColumnDrift, MonitorFindingView, Promise, ServiceStatus
from doorstep.register.surface import Version
from doorstep.release.surface import DecisionView, GuardrailView, Release

MINUTE = 60 * SECOND_US
HOUR = 60 * MINUTE
DAY = 24 * HOUR

FILE = """\
doorstep: 1
service: loans
purpose: Approve or refer consumer loan applications
owner: credit-risk
risk: high
goal: "default_rate <= 0.24"

ids: {key: application_id, unit: customer_id}
model:
  task: binary
  label: credit_risk
  positive: bad
data:
  train:   {path: data/loans-train.parquet}
  holdout: {path: data/loans-holdout.parquet}
contract:
  enforce: warn
  inputs:
    duration: {type: int, range: [1, 120], unit: months}
    income:   {type: float, unit: EUR per month}
    purpose:  {type: category, values: [car, education, furniture, business]}
gates:
  quality:  ["auc >= 0.75", "auc >= champion - 0.005"]
  fairness: ["selection_rate_ratio >= 0.8"]
  speed:    ["p99 <= 20 ms"]
release:
  steps: [1%, 5%, 25%, 50%]
  bake: 60m
  guardrails: [errors, latency, quality]
monitor: {quality: ["auc >= 0.74"], slo: ["p99 <= 50 ms", "availability >= 99.9%"]}
explain: {reasons: 4, immutable: [age, sex]}
"""

PROMISES = (
    Promise(text="default_rate <= 0.24", state="not-yet-known", measured="412 of 1,000 outcomes"),
    Promise(text="auc >= 0.74", state="kept", measured="0.783, 0.761 – 0.803"),
    Promise(text="p99 <= 50 ms", state="kept", measured="18.4 ms over the last hour"),
    Promise(text="availability >= 99.9%", state="broken", measured="99.82 % over 30 days"),
    Promise(text="drift none at p < 0.005", state="broken", measured="2 of 8 columns differ"),
)

_FIELDS = (
    Field(name="duration", type="int", range_min=1, range_max=120, unit="months"),
    Field(name="amount", type="float", range_min=250, range_max=20_000, unit="EUR"),
    Field(name="income", type="float", unit="EUR per month"),
    Field(name="age", type="int", range_min=18, range_max=100),
    Field(name="purpose", type="category", values=("car", "education", "furniture", "business")),
    Field(name="housing", type="category", values=("own", "rent", "free")),
    Field(name="employment_years", type="float", required=False),
    Field(name="name", type="text", required=False, personal="pseudonymise"),
)
_CONTEXT = (
    Field(name="region", type="category", values=("north", "south", "west")),
    Field(name="sex", type="category", values=("female", "male"), protected=True),
)


def manifest(number: int) -> Manifest:
    columns = tuple(field.name for field in _FIELDS)
    return Manifest(
        format=1,
        task="binary",
        label="credit_risk",
        labels=("bad", "good"),
        positive="bad",
        threshold=0.42,
        contract=Contract(inputs=_FIELDS, context=_CONTEXT),
        native=NativeForm(
            family="sklearn", serialization="skops", file="model/native/m.skops", columns=columns
        ),
        onnx=OnnxForm(
            file="model/onnx/model.onnx",
            opset=21,
            inputs=(Tensor(name="x", datatype="FP32", columns=columns),),
            scores="probabilities",
        ),
        parity=Parity(
            passed=True,
            rows=5000,
            rows_agreeing=5000,
            difference_max=3.1e-7,
            tolerance=1e-5,
            reason="",
        ),
        lineage=_lineage(number),
        reads=columns,
        files=(
            FileEntry(path="model/native/m.skops", size=812_344, sha256=digest_of(b"skops")),
            FileEntry(path="model/onnx/model.onnx", size=644_120, sha256=digest_of(b"onnx")),
            FileEntry(path="reference/profile.json", size=18_220, sha256=digest_of(b"profile")),
        ),
    )


def _lineage(number: int) -> Lineage:
    return Lineage(
        data=(
            DataSource(
                role="train", name="loans-train.parquet", digest=digest_of(b"train"), rows=48_210
            ),
            DataSource(
                role="holdout", name="loans-holdout.parquet", digest=digest_of(b"hold"), rows=5_000
            ),
        ),
        code_commit="9f2c1b7e04d5a6b8c9d0e1f2a3b4c5d6e7f80912",
        estimator="HistGradientBoostingClassifier",
        parameters={"max_iter": str(150 + 50 * number), "learning_rate": "0.06", "max_depth": "6"},
        metrics={"auc": 0.77 + 0.004 * number, "brier": 0.171},
        libraries={"scikit-learn": "1.9.0", "numpy": "2.4.1", "pandas": "3.1.0"},
        python="3.12.8",
        parent=digest_of(f"bundle {number - 1}".encode()) if number > 1 else "",
    )


def versions(now: Instant) -> tuple[Version, ...]:
    states = {1: "retired", 2: "serving", 3: "refused", 4: "serving"}
    return tuple(
        Version(
            service="loans",
            number=number,
            digest=digest_of(f"bundle {number}".encode()),
            form="onnx",
            placement="inline",
            trusted=False,
            holdout=digest_of(b"hold"),
            speed_ms_p99=0.31 + 0.02 * number,
            registered_at=now - (30 - 7 * number) * DAY,
            by="mira",
            state=states[number],
            created=True,
            manifest=manifest(number),
            findings=(
                Finding(
                    check="personal",
                    verdict=Verdict.INCONCLUSIVE,
                    reason="column 'name' looks personal; it is pseudonymised",
                ),
            ),
        )
        for number in (1, 2, 3, 4)
    )


def gate_run(version: str, now: Instant) -> GateRun:
    poor = version == "loans@3"
    auc = 0.742 if poor else 0.786
    findings = (
        Finding(
            check="auc >= 0.75",
            verdict=Verdict.FAIL if poor else Verdict.PASS,
            reason=f"auc is {auc:.3f} [{auc - 0.019:.3f}, {auc + 0.018:.3f}] on 5,000 rows",
            evidence={"estimate": auc, "low": auc - 0.019, "high": auc + 0.018, "rows": 5000},
            next="doorstep retrain loans" if poor else "",
        ),
        Finding(
            check="selection_rate_ratio >= 0.8",
            verdict=Verdict.INCONCLUSIVE if version == "loans@1" else Verdict.PASS,
            reason="38 rows of 'divorced', 120 needed"
            if version == "loans@1"
            else "lowest ratio is 0.91 [0.86, 0.96], female against male",
            evidence={"groups": {"female": 0.31, "male": 0.34}},
        ),
        Finding(
            check="p99 <= 20 ms",
            verdict=Verdict.PASS,
            reason="p99 of one row is 0.39 ms over 2,000 calls",
            evidence={"p50_ms": 0.21, "p99_ms": 0.39, "calls": 2000},
        ),
    )
    worst = Verdict.FAIL if poor else findings[1].verdict
    return GateRun(
        id="0197b1c2-55aa-7def-8000-0000000000aa",
        version=version,
        champion="" if version == "loans@1" else "loans@2",
        verdict=worst,
        findings=findings,
        started_at=now - 2 * DAY,
        took_s=8.4,
        by="mira",
    )


def guardrails(progress: float) -> tuple[GuardrailView, ...]:
    """Evidence grows with `progress` 0..1; quality waits for outcomes."""
    need = math.log(20)
    against = math.log(60)

    def one(name: str, rates: tuple[float, float], spread: float, up: float) -> GuardrailView:
        centre = math.log(rates[1] / rates[0])
        wide = spread / math.sqrt(0.15 + progress)
        return GuardrailView(
            name=name,
            champion=rates[0],
            challenger=rates[1],
            ratio_low=math.exp(centre - wide),
            ratio_high=math.exp(centre + wide),
            log_e_rollback=up * progress,
            log_e_rollback_threshold=against,
            log_e_advance=need * progress * (1.25 if name == "errors" else 0.8),
            log_e_advance_threshold=need,
            tolerance=1.1,
            margin=3.0,
            missing="" if name == "errors" and progress > 0.8 else "about 1,900 more requests",
        )

    quality = GuardrailView(
        name="quality",
        champion=None,
        challenger=None,
        ratio_low=None,
        ratio_high=None,
        log_e_rollback=0.0,
        log_e_rollback_threshold=against,
        log_e_advance=0.0,
        log_e_advance_threshold=need,
        tolerance=1.1,
        margin=2.0,
        missing="outcomes of 240 requests; none has arrived",
    )
    return (
        one("errors", (0.0041, 0.0036), 0.62, 0.2),
        one("latency", (0.0100, 0.0124), 0.34, 1.6),
        quality,
    )


RELEASE_STEP = "rel-0197c9d4-3f2a-7b1c-9000-8a6f11d20c44"
RELEASE_BACK = "rel-0197a1b4-1c2d-7e3f-9000-5b6c7d8e9f01"
RELEASE_DONE = "rel-01979f00-77aa-7b2c-9000-13579bdf0246"


def releases(now: Instant) -> tuple[Release, ...]:
    """Newest first: one in its second step, one rolled back, one finished."""
    return (_stepping(now), _rolled_back(now), _finished(now))


def _decision(sequence: int, at: Instant, action: str, state: str, reason: str) -> DecisionView:
    person = action in ("pause", "resume", "promote")
    progress = min(1.0, sequence / 9)
    return DecisionView(
        sequence=sequence,
        at=at,
        action=action,
        state=state,
        reason=reason,
        by="mira" if person else "doorstep",
        guardrails=guardrails(progress),
        evidence={"cells": [{"arm": "challenger", "requests": 310 * sequence, "bad": sequence}]},
    )


def _stepping(now: Instant) -> Release:
    start = now - 47 * MINUTE
    story = (
        (5, "advance", "shadow", "shadow: 1,000 pairs, 0 more errors than the champion"),
        (14, "hold", "step", "errors have evidence 6 to 1, 20 to 1 needed"),
        (20, "pause", "paused", "waiting for the data team to confirm the new income source"),
        (26, "resume", "step", "confirmed by the data team"),
        (31, "advance", "step", "every guardrail may advance at margin 5×"),
        (44, "hold", "step", "latency has evidence 11 to 1, 20 to 1 needed"),
    )
    return Release(
        id=RELEASE_STEP,
        service="loans",
        challenger=4,
        champion=2,
        state="step",
        step=2,
        share=0.05,
        shares=(0.01, 0.05, 0.25, 0.5),
        rehearsal=False,
        started_at=start,
        changed_at=start + 31 * MINUTE,
        ended_at=None,
        reason="Holds at 5 %: latency needs about 1,900 more requests, quality waits for outcomes.",
        by="mira",
        requests_champion=41_277,
        requests_challenger=1_284,
        guardrails=guardrails(0.86),
        decisions=tuple(
            _decision(place + 1, start + minute * MINUTE, action, state, reason)
            for place, (minute, action, state, reason) in enumerate(story)
        ),
        settled=True,
        silent=(),
        plan_number=118,
    )


def _rolled_back(now: Instant) -> Release:
    start = now - 6 * DAY
    reason = (
        "Rolled back: errors 4.1 % against 0.4 % (evidence 2,900 to 1). Clients saw 0 failures."
    )
    bad = GuardrailView(
        name="errors",
        champion=0.004,
        challenger=0.041,
        ratio_low=4.6,
        ratio_high=24.0,
        log_e_rollback=math.log(2900),
        log_e_rollback_threshold=math.log(60),
        log_e_advance=0.0,
        log_e_advance_threshold=math.log(20),
        tolerance=1.1,
        margin=5.0,
        missing="",
    )
    decisions = (
        _decision(1, start + 5 * MINUTE, "advance", "step", "shadow: 1,000 pairs agree"),
        _decision(2, start + 11 * MINUTE, "rollback", "rolled-back", reason),
    )
    return Release(
        id=RELEASE_BACK,
        service="loans",
        challenger=3,
        champion=2,
        state="rolled-back",
        step=1,
        share=0.0,
        shares=(0.01, 0.05, 0.25, 0.5),
        rehearsal=False,
        started_at=start,
        changed_at=start + 11 * MINUTE,
        ended_at=start + 11 * MINUTE,
        reason=reason,
        by="jonas",
        requests_champion=9_902,
        requests_challenger=1_121,
        guardrails=(bad, *guardrails(0.5)[1:2]),
        decisions=decisions,
        settled=True,
        silent=("node-b",),
        plan_number=97,
    )


def _finished(now: Instant) -> Release:
    start = now - 15 * DAY
    decisions = tuple(
        _decision(place + 1, start + minutes * MINUTE, action, "step", reason)
        for place, (minutes, action, reason) in enumerate(
            (
                (6, "advance", "shadow: 1,000 pairs agree"),
                (18, "advance", "every guardrail may advance"),
                (55, "advance", "every guardrail may advance"),
                (92, "advance", "every guardrail may advance; bakes at 95 %"),
                (153, "finish", "baked for 60 minutes without a finding"),
            )
        )
    )
    return Release(
        id=RELEASE_DONE,
        service="loans",
        challenger=2,
        champion=1,
        state="done",
        step=4,
        share=1.0,
        shares=(0.01, 0.05, 0.25, 0.5),
        rehearsal=False,
        started_at=start,
        changed_at=start + 153 * MINUTE,
        ended_at=start + 153 * MINUTE,
        reason="Done: loans@2 serves all traffic; every guardrail held over 61,204 requests.",
        by="mira",
        requests_champion=61_204,
        requests_challenger=58_931,
        guardrails=guardrails(1.0),
        decisions=decisions,
        settled=True,
        silent=(),
        plan_number=71,
    )


def buckets(now: Instant, minutes: int, bucket_s: int) -> tuple[TrafficBucket, ...]:
    """A day's wave at 600 to 1,100 requests a minute; a quiet gap; loans@4 in its last 40 min."""
    found: list[TrafficBucket] = []
    width = bucket_s * SECOND_US
    since = now - minutes * MINUTE
    for place in range(minutes * 60 // bucket_s):
        at = since + place * width
        noise = random.Random(at // width)  # noqa: S311  a picture, not a secret
        age = now - at
        if 20 * MINUTE < age % DAY < 22 * MINUTE:
            continue
        level = 850 + 250 * math.sin(at / HOUR / 3.8) + noise.gauss(0, 25)
        requests = max(0, int(level * bucket_s / 60))
        share = 0.05 if age < 16 * MINUTE else 0.01 if age < 42 * MINUTE else 0.0
        found += _arms(at, (requests, share), noise, age)
    return tuple(found)


def _arms(
    at: Instant, load: tuple[int, float], noise: random.Random, age: int
) -> list[TrafficBucket]:
    requests, share = load
    burst = 6 if 33 * MINUTE < age < 36 * MINUTE else 1
    arms = [(2, requests - int(requests * share), 16.0)]
    if share:
        arms.append((4, int(requests * share), 19.5))
    return [
        TrafficBucket(
            at=at,
            version=version,
            requests=many,
            errors=int(many * 0.004 * burst * noise.uniform(0.4, 1.6)),
            latency_ms_p50=4.1,
            latency_ms_p99=round(base + noise.uniform(-2, 3) + (20 if burst > 1 else 0), 1),
        )
        for version, many, base in arms
        if many
    ]


def findings(now: Instant) -> tuple[MonitorFindingView, ...]:
    rows = (
        (
            "f-11",
            "slo",
            "availability",
            "critical",
            "Availability over 30 days is 99.82 %; 99.9 % is promised, and the month's budget of "
            "failed requests is spent.",
            "A burst of time-outs 35 minutes ago, on node-b only",
            "doorstep status loans",
            35,
            None,
        ),
        (
            "f-12",
            "drift",
            "income",
            "warning",
            "Column income is lower than in the reference by 0.46 standard deviations.",
            "A new source of applications (region west)",
            "doorstep drift loans --column income",
            43,
            None,
        ),
        (
            "f-13",
            "drift",
            "purpose",
            "warning",
            "6.1 % of the rows have purpose 'vacation', which was never seen in training.",
            "",
            "doorstep contract diff loans",
            28,
            None,
        ),
        (
            "f-09",
            "drift",
            "amount",
            "info",
            "Column amount was higher than in the reference by 0.17 standard deviations.",
            "",
            "",
            55,
            38,
        ),
    )
    shifts = {"income": 0.46, "purpose": 0.31, "amount": 0.17}
    return tuple(
        MonitorFindingView(
            id=id_,
            service="loans",
            kind=kind,
            subject=subject,
            severity=severity,
            state="open" if resolved is None else "resolved",
            sentence=sentence,
            cause=cause,
            next=command,
            since=now - since * MINUTE,
            updated_at=now - MINUTE,
            resolved_at=None if resolved is None else now - resolved * MINUTE,
            alert=severity != "info",
            numbers={"shift_sd": shifts[subject], "p": 2.1e-5} if subject in shifts else {},
        )
        for id_, kind, subject, severity, sentence, cause, command, since, resolved in rows
    )


def columns() -> tuple[ColumnDrift, ...]:
    flat = tuple(1000.0 for _ in range(32))
    return (
        _numbers("income", flat, 0.9, (0.46, 0.19), ("640", "2,100", "9,800")),
        _categories(
            "purpose",
            ("car", "education", "furniture", "business", "other known", "unseen"),
            (480.0, 210.0, 190.0, 110.0, 10.0, 0.0),
            (430.0, 205.0, 180.0, 110.0, 14.0, 61.0),
        ),
        _numbers("amount", flat, 0.12, (0.05, 0.02), ("250", "2,320", "18,400")),
        _numbers("duration", flat, 0.05, (0.02, 0.01), ("4", "18", "72")),
        _numbers("age", flat, 0.0, (0.01, 0.01), ("19", "33", "75")),
        _categories("housing", ("own", "rent", "free"), (710, 180, 110), (703, 186, 111)),
        _numbers("employment_years", flat, -0.06, (0.03, 0.01), ("0", "4", "41"), nulls=0.06),
        ColumnDrift(
            column="name",
            type="text",
            drifted=False,
            p=None,
            shift_sd=None,
            ks=None,
            psi=None,
            nulls_reference=0.0,
            nulls_now=0.0,
            reference=(),
            now=(),
            labels=(),
        ),
    )


def _numbers(
    name: str,
    reference: tuple[float, ...],
    tilt: float,
    sizes: tuple[float, float],
    labels: tuple[str, ...],
    nulls: float = 0.0,
) -> ColumnDrift:
    noise = random.Random(name)  # noqa: S311  a picture, not a secret
    now = tuple(
        max(0.0, 1000 * math.exp(-tilt * (place - 15.5) / 16) + noise.gauss(0, 45))
        for place in range(32)
    )
    return ColumnDrift(
        column=name,
        type="float",
        drifted=tilt > 0.5,
        p=2.1e-5 if tilt > 0.5 else 0.41,
        shift_sd=sizes[0],
        ks=sizes[1],
        psi=sizes[0] ** 2,
        nulls_reference=nulls,
        nulls_now=nulls * 1.1,
        reference=reference,
        now=now,
        labels=labels,
    )


def _categories(
    name: str, labels: tuple[str, ...], reference: tuple[float, ...], now: tuple[float, ...]
) -> ColumnDrift:
    drifted = name == "purpose"
    return ColumnDrift(
        column=name,
        type="category",
        drifted=drifted,
        p=1e-6 if drifted else 0.72,
        shift_sd=0.31 if drifted else None,
        ks=None,
        psi=0.11 if drifted else 0.002,
        nulls_reference=0.0,
        nulls_now=0.0,
        reference=reference,
        now=now,
        labels=labels,
    )


def prediction(now: Instant, place: int) -> Prediction:
    noise = random.Random(place)  # noqa: S311  a picture, not a secret
    score = noise.random()
    failed = place % 17 == 5
    challenger = place % 9 == 4
    known = place > 20 and not failed
    return Prediction(
        id=f"0197cafe-{place:04x}-7abc-8def-{digest_of(str(place).encode())[:12]}.0",
        service="loans",
        at=now - place * 7 * SECOND_US,
        assigned=4 if challenger else 2,
        answered_by=None if failed and not challenger else 2 if failed else 4 if challenger else 2,
        status="timed-out" if failed else "ok",
        kind="live",
        release=RELEASE_STEP if challenger else "",
        segment="",
        key=f"A-{20_411 + place}",
        latency_ms=200.0 if failed else round(noise.uniform(3, 19), 1),
        warnings=("unseen:purpose",) if place % 7 == 0 else (),
        error="loans@2 did not answer within 200 ms" if failed else "",
        inputs=_inputs(noise),
        context={"region": noise.choice(("north", "south", "west")), "sex": "female"},
        answer=None if failed and not challenger else "bad" if score >= 0.42 else "good",
        scores={} if failed and not challenger else {"bad": score, "good": 1 - score},
        outcome="good" if known else None,
        outcome_at=now - MINUTE if known else None,
    )


def _inputs(noise: random.Random) -> dict[str, Any]:
    return {
        "duration": noise.choice((12, 24, 36, 48)),
        "amount": round(noise.uniform(500, 14_000), 2),
        "income": round(noise.uniform(900, 5_200), 2),
        "age": noise.randint(19, 70),
        "purpose": noise.choice(("car", "education", "vacation")),
        "housing": noise.choice(("own", "rent")),
        "employment_years": None,
        "name": "pseudonym:5f1a2b77",
    }


State = Literal["healthy", "watch", "broken", "releasing", "waiting"]


def statuses(now: Instant) -> tuple[ServiceStatus, ...]:
    """Five services in every state, worst first; only `loans` has more behind it."""
    loans = buckets(now, 60, 60)
    total, errors = _per_minute(loans, now)
    wave = tuple(max(0, int(180 + 60 * math.sin(place / 9))) for place in range(60))
    quiet = tuple(0 for _ in range(60))
    return (
        ServiceStatus(
            service="loans",
            state="broken",
            headline="loans@2 serves 95 % of the traffic, loans@4 is at 5 % in step 2 of 4; "
            "availability is below its promise; income has drifted for 43 minutes.",
            champion=2,
            challenger=4,
            share=0.05,
            release_state="step",
            requests=total,
            errors=errors,
            error_rate=0.0044,
            latency_ms_p99=18.4,
            promise_ms_p99=50.0,
            quality=("auc", 0.783, 0.761, 0.803),
            labelled=0.412,
            drifted=("income", "purpose"),
            objective="broken",
            findings_open=3,
        ),
        _plain("fraud", "watch", 7, wave, (61.0, 50.0), ("f1", 0.71, 0.66, 0.755)),
        _plain("intents", "healthy", 12, wave[::-1], (8.2, 20.0), ("accuracy", 0.93, 0.92, 0.94)),
        _plain("recommend", "healthy", 3, tuple(9 * one for one in wave), (31.0, None), None),
        _plain("triage", "waiting", None, quiet, (None, 100.0), None),
    )


def _per_minute(
    found: Sequence[TrafficBucket], now: Instant
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    total, errors = [0] * 60, [0] * 60
    for one in found:
        place = min(59, int((one.at - (now - HOUR)) // MINUTE))
        total[place] += one.requests
        errors[place] += one.errors
    return tuple(total), tuple(errors)


def _plain(
    name: str,
    state: State,
    champion: int | None,
    requests: tuple[int, ...],
    latency: tuple[float | None, float | None],
    quality: tuple[str, float, float, float] | None,
) -> ServiceStatus:
    headlines = {
        "watch": f"{name}@{champion} serves all traffic since Tuesday 14:02; p99 latency is above "
        "its promise since 09:00.",
        "healthy": f"{name}@{champion} serves all traffic; everything is as promised.",
        "waiting": "One version is registered and none is released yet.",
    }
    kept = {"watch": "broken", "healthy": "kept" if latency[1] else "none"}
    return ServiceStatus(
        service=name,
        state=state,
        headline=headlines[state],
        champion=champion,
        challenger=None,
        share=0.0,
        release_state="",
        requests=requests if champion else (),
        errors=tuple(0 for _ in requests) if champion else (),
        error_rate=0.0 if champion else None,
        latency_ms_p99=latency[0],
        promise_ms_p99=latency[1],
        quality=quality,
        labelled=0.3 if quality else 0.0,
        drifted=(),
        objective=kept.get(state, "not-yet-known"),
        findings_open=1 if state == "watch" else 0,
    )
