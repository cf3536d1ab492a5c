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
from doorstep.monitor.surface import (
    ColumnDrift,
    GoalNow,
    MonitorFindingView,
    Promise,
    ServiceStatus,
    ValueView,
)
from doorstep.register.surface import Version
from fakes.console_releases import DAY, HOUR, MINUTE, RELEASE_STEP

FILE = """\
doorstep: 1
service: loans
purpose: Approve or refer consumer loan applications
owner: credit-risk
risk: high
goal: "default_rate <= 0.24"

ids: {key: application_id, unit: customer_id, subject: customer_id}
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

VALUES = (
    ValueView(version=2, day="", rows=20_934, mean=(41.2, 39.0, 43.4), total=(862e3, 816e3, 908e3)),
    ValueView(version=2, day="2026-10-20", rows=1, mean=(7.5, None, None), total=(7.5, None, None)),
)
PROMISES = (
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


def buckets(now: Instant, minutes: int, bucket_s: int) -> tuple[TrafficBucket, ...]:
    """A day's wave at 600 to 1,100 requests a minute; a quiet gap; loans@4 in its last 40 min."""
    found: list[TrafficBucket] = []
    width = bucket_s * SECOND_US
    since = now - minutes * MINUTE
    for place in range(minutes * 60 // bucket_s):
        at = since + place * width
        noise = random.Random(at // width)
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
            errors=0,
            assigned=many + (failed := int(many * 0.004 * burst * noise.uniform(0.4, 1.6))),
            failed=failed,
            rescued=failed,
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
    noise = random.Random(name)
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
    noise = random.Random(place)
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
            error_rate=0.0,
            rescued=311,
            latency_ms_p99=18.4,
            promise_ms_p99=50.0,
            traffic_s=3600.0,
            quality=("auc", 0.783, 0.761, 0.803),
            labelled=0.412,
            quality_s=7 * 86_400.0,
            drifted=("income", "purpose"),
            objective="kept",
            findings_open=3,
            goal=(
                _goal(4, "not-yet-known", (0.21, 0.12, 0.34), 61),
                _goal(2, "kept", (0.204, 0.183, 0.226), 2_412),
                _goal(1, "broken", (0.29, 0.262, 0.318), 1_830),
            ),
        ),
        _plain("fraud", "watch", 7, wave, (61.0, 50.0), ("f1", 0.71, 0.66, 0.755)),
        _plain("intents", "healthy", 12, wave[::-1], (8.2, 20.0), ("accuracy", 0.93, 0.92, 0.94)),
        _plain("recommend", "killed", 3, tuple(9 * one for one in wave), (31.0, None), None),
        _plain("triage", "waiting", None, quiet, (None, 100.0), None),
    )


def _goal(version: int, state: str, found: tuple[float, float, float], n: int) -> GoalNow:
    value, low, high = found
    return GoalNow(
        version=version,
        text="default_rate <= 0.24",
        state=state,
        measured=f"{value:.1%} [{low:.1%}, {high:.1%}] of {n:,} cases answered otherwise, with an "
        "outcome",
        value=value,
        low=low,
        high=high,
        counted=n,
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
        "killed": f"{name}@{champion} was killed by ada: it quotes euros; callers get 503.",
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
        rescued=0,
        latency_ms_p99=latency[0],
        promise_ms_p99=latency[1],
        traffic_s=3600.0,
        quality=quality,
        labelled=0.3 if quality else 0.0,
        quality_s=7 * 86_400.0,
        drifted=(),
        objective=kept.get(state, "not-yet-known"),
        findings_open=1 if state == "watch" else 0,
    )
