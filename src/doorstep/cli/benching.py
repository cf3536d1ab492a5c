"""A load test from start to verdict: whom to ask, what to send, each rate in turn, what follows."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import msgspec

from doorstep.cli.asking import ask_once, rows_of
from doorstep.cli.output import Progress
from doorstep.cli.reaching import reach
from doorstep.cli.rehearse import Requests
from doorstep.client import Client
from doorstep.core.condition import Condition
from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.servicefile import stored_service_file
from doorstep.govern.surface import Installation
from doorstep.kernel.nodes import read_report
from doorstep.serve import generator
from doorstep.serve.calibration import Calibration, calibrate
from doorstep.serve.capacity import (
    Sizing,
    Step,
    Traffic,
    find_knee,
    judge_slo,
    quantiles_ms,
    scale_knee,
    size,
)

SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2)
"""Of the capacity of a closed loop: well below the knee, around it, and beyond."""
ROWS_MAX = 1000
WARM_UP_S = 0.5
PATIENCE_S = 10.0
SPAN = 100.0
"""Of a number whose range the contract leaves open."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Row = dict[str, Any]


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. pids: of the node's processes, where they run on this machine. present_per_s:
    of `_busiest_per_s`."""

    service: str
    version: int
    load: generator.Load
    slo: tuple[Condition, ...]
    pids: tuple[int, ...]
    present_per_s: float
    sent: str
    nodes: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """capacity_per_s: of a closed loop."""

    seconds: float
    connections: int
    capacity_per_s: float
    steps: tuple[Step, ...]
    calibration: Calibration


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `doorstep bench` says. sent: which rows, as what. cpu_loops: CPU of a request
    as a share of the calibration, which holds on other machines. knee_there_per_s: on the machine
    of `--calibration`, which the sizing is then for."""

    service: str
    version: int
    sent: str
    nodes: int
    slo: tuple[str, ...]
    measured: Measured
    present_per_s: float
    verdict: Literal["kept", "broken", "unclear"]
    knee: Step | None
    cpu_loops: float | None
    knee_there_per_s: float | None
    sizing: tuple[Sizing, ...]


def find_subject(
    client: Client, service: str, source: str, *, live: bool, ca: Path | None
) -> Subject:
    """Raises: NotFoundError; RefusedError (`nothing-released`, `release-running`,
    `rehearsal-in-production`); what reading the rows and asking once raise."""
    here = client.installation()
    champion = _require_open(
        client, service, is_refused=here.environment == "production", live=live
    )
    contract = client.version(f"{service}@{champion}").manifest.contract
    file = stored_service_file(client.service(service).file)
    rows = rows_of(source, contract, ROWS_MAX) if source else make_rows(contract)
    requests = Requests(f"bench-{secrets.token_hex(4)}", file.ids, contract, rows)
    bodies = tuple(body for _, body in islice(requests, len(rows[0])))
    verb, kind = ("predict", "live requests") if live else ("rehearse", "rehearsals")
    reached = reach(here.data_url, os.environ, ca)
    with httpx.Client(timeout=PATIENCE_S, **reached) as http:
        ask_once(http, service, bodies[0], verb)
    made = f"of {Path(source).name}" if source else "made from the contract"
    cached = " (serve.cache may answer those that come again)" if file.serve.cache_s else ""
    return Subject(
        service=service,
        version=champion,
        load=generator.Load(
            url=here.data_url,
            path=f"/v1/services/{service}/{verb}",
            bodies=bodies,
            seconds=WARM_UP_S,
            headers=reached.get("headers", {}),
            ca=str(ca or os.environ.get("SSL_CERT_FILE", "")),
            patience_s=PATIENCE_S,
        ),
        slo=file.monitor.slo,
        pids=pids_of(here),
        present_per_s=_busiest_per_s(client, service),
        sent=f"{len(bodies):,} rows {made} as {kind}{cached}",
        nodes=sum(one.live for one in here.nodes),
    )


def _require_open(client: Client, service: str, *, is_refused: bool, live: bool) -> int:
    """The champion of a service that may be loaded now. is_refused: rehearsals are, here."""
    found = client.status(service)[0]
    if found.challenger is not None:
        why = f"a release of {service} is running; what a load breaks would be evidence against it"
        hint = f'doorstep release promote {service} --why "..." ends it, or wait for its end'
        raise RefusedError("release-running", why, hint)
    if found.champion is None:
        why = f"no version of {service} was released yet"
        raise RefusedError("nothing-released", why, f"doorstep release start {service}@1")
    if is_refused and not live:
        raise RefusedError(
            "rehearsal-in-production",
            f"{service} is in production, where rehearsals are refused",
            f"doorstep bench {service} --live sends real requests: they are recorded, watched and "
            "counted as live traffic",
        )
    return found.champion


def _busiest_per_s(client: Client, service: str) -> float:
    """Of live requests, in the busiest minute of the last hour."""
    minutes: dict[int, int] = {}
    for one in client.traffic(service, kind="live").buckets:
        minutes[one.at] = minutes.get(one.at, 0) + one.requests
    return max(minutes.values(), default=0) / 60


def make_rows(contract: Contract, count: int = ROWS_MAX) -> tuple[list[Row], list[Row]]:
    """(rows, contexts) within what a contract says, the same ones each time."""
    drawn = random.Random(contract.inputs[0].name)  # noqa: S311  rows, not a secret
    rows = [{one.name: _value(one, drawn) for one in contract.inputs} for _ in range(count)]
    return rows, [{one.name: _value(one, drawn) for one in contract.context} for _ in rows]


def _value(field: Field, drawn: random.Random) -> Any:
    low, high = field.range_min, field.range_max
    if field.type == "time" and low is None:
        low = 1e6 * time.time() - 1e12 if high is None else high - 1e12
        high = high if high is not None else low + 1e12
    if low is None:
        low = 0.0 if high is None else high - SPAN
    high = low + SPAN if high is None else high
    match field.type:
        case "float":
            return drawn.uniform(low, high)
        case "int" | "time":
            return round(drawn.uniform(low, high))
        case "bool":
            return drawn.random() < 0.5
        case "category" | "text":
            return drawn.choice(field.values or tuple(f"word {one}" for one in range(10)))


def pids_of(here: Installation) -> tuple[int, ...]:
    """Of the workers of the nodes whose reports and data port are on this machine, else none."""
    if urlsplit(here.data_url).hostname not in LOOPBACK:
        return ()
    live = {one.node for one in here.nodes if one.live}
    reports = [read_report(Path(here.home) / "nodes" / f"{node}.json") for node in live]
    return tuple(one.pid for report in reports if report for one in report.workers)


def cpu_s(pids: Sequence[int]) -> float | None:
    """User and system time, None where Linux's /proc does not say it of all of them."""
    try:
        ticks = [
            sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
            for pid in pids
        ]
    except OSError:
        return None
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


class Run:
    """Warm up, find the capacity of a closed loop, then hold each rate in turn."""

    def __init__(self, subject: Subject, seconds: float, connections: int, shown: Progress):
        self._subject, self._seconds, self._shown = subject, seconds, shown
        self._load = msgspec.structs.replace(subject.load, connections=connections)
        self._began_s = time.monotonic()

    def measured(self) -> Measured:
        calibration = calibrate()
        self._ask("warming up", WARM_UP_S)
        closed = self._ask("capacity, closed loop", self._seconds)
        if not closed.good:
            raise RefusedError(
                "none-answered",
                f"none of {closed.bad + closed.dropped} requests was answered: {closed.statuses}",
                "doorstep status",
            )
        capacity = closed.good / closed.s
        rates = [max(share * capacity, 1 / self._seconds) for share in SHARES]
        return Measured(
            seconds=self._seconds,
            connections=self._load.connections,
            capacity_per_s=capacity,
            steps=tuple(self._hold(rate) for rate in rates),
            calibration=calibration,
        )

    def _hold(self, rate: float) -> Step:
        before_s = cpu_s(self._subject.pids)
        found = self._ask(f"{rate:,.0f} requests/s", self._seconds, rate)
        after_s = cpu_s(self._subject.pids)
        cpu_ms = None
        if before_s is not None and after_s is not None and found.good:
            cpu_ms = 1000 * (after_s - before_s) / found.good
        due = found.good + found.bad + found.dropped + found.unsent
        latency_ms = quantiles_ms(found.latencies_ms)
        # The last answers come after the last requests, however little there is to do.
        took_s = max(found.s - latency_ms.get("p50", 0.0) / 1000, self._seconds)
        return Step(
            offered=rate,
            answered=found.good / took_s,
            requests=due,
            errors=(found.bad + found.dropped) / due if due else 0.0,
            latency_ms=latency_ms,
            cpu_ms=cpu_ms,
            cpu_share_generator=found.cpu_s / found.s,
            statuses=found.statuses,
        )

    def _ask(self, stage: str, seconds: float, rate: float = 0.0) -> generator.Answered:
        whole_s = WARM_UP_S + (1 + len(SHARES)) * (self._seconds + 0.3)  # 0.3: to start Python

        def tick() -> None:
            share = min((time.monotonic() - self._began_s) / whole_s, 0.99)
            self._shown.stage(stage, share)

        tick()
        load = msgspec.structs.replace(self._load, seconds=seconds, rate=rate)
        return generator.ask(load, tick)


def read_calibration(path: Path) -> Calibration:
    """Of another machine: what `bench --json` or `bench --calibrate --json` printed there.
    Raises: InputError (`bad-calibration`), OSError."""
    try:
        found = msgspec.json.decode(path.read_bytes())
        found = found.get("measured", {}).get("calibration", found)
        return msgspec.convert(found, Calibration)
    except (msgspec.MsgspecError, AttributeError) as error:
        hint = f"doorstep bench --calibrate --json > {path.name} makes one"
        raise InputError("bad-calibration", f"{path} is no calibration: {error}", hint) from None


def conclude(
    subject: Subject,
    run: Measured,
    loads: tuple[str, ...],
    users: Traffic,
    other: Calibration | None,
) -> Bench:
    knee = find_knee(run.steps, subject.slo)
    per_s, there = knee.offered if knee else None, None
    if other is not None and per_s is not None:
        per_s = there = scale_knee(per_s, run.calibration.cpu_ms, other.cpu_ms)
    cpu_ms = knee.cpu_ms if knee else None
    return Bench(
        service=subject.service,
        version=subject.version,
        sent=subject.sent,
        nodes=subject.nodes,
        slo=tuple(map(str, subject.slo)),
        measured=run,
        present_per_s=subject.present_per_s,
        verdict=judge_slo(run.steps, subject.slo, subject.present_per_s),
        knee=knee,
        cpu_loops=None if cpu_ms is None else cpu_ms / run.calibration.cpu_ms,
        knee_there_per_s=there,
        sizing=tuple(size(one, per_s, users) for one in loads),
    )
