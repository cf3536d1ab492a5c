"""The node's health port: /healthz, /readyz, /metrics. Small, and apart from the data port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from doorstep.core.instant import SECOND_US
from doorstep.journal.stored import StoreStatus, store_status
from doorstep.serve.breaker import TOPIC
from doorstep.serve.counters import BUCKETS, FAMILIES, LATENCY_EDGES_US, Family
from doorstep.serve.supervisor import Supervisor

if TYPE_CHECKING:
    from prometheus_client.core import Metric

REQUEST_S = 5.0
LINE_BYTES_MAX = 4096
SHOWN_EVERY = 3
"""Of the latency buckets: their edges then double, which is enough, and a third of the lines."""
STARTS = Family("starts", "Starts of a slot", ("slot", "kind"))
MEMORY = Family("rss_bytes", "Memory of a slot", ("slot", "kind"), "gauge")
BREAKER = Family("breaker_open", "1 while a version is not asked", ("slot", "version"), "gauge")
PLAN = Family("plan_number", "The plan that every front worker serves", (), "gauge")
LEASE = Family("lease_held", "1 while challengers may serve", (), "gauge")
PROBLEMS = Family("problems", "Problems in the report", (), "gauge")
WAITING = Family("store_waiting_bytes", "Of the journal, not in its object store yet", (), "gauge")
BEHIND = Family(
    "store_behind_since_timestamp_seconds",
    "Unix time since when the object store takes nothing; 0 if it does",
    (),
    "gauge",
)
READY = Family("ready", "1 while a front worker serves a plan", (), "gauge")
NOW = (STARTS, MEMORY, BREAKER, PLAN, LEASE, PROBLEMS, WAITING, BEHIND, READY)


async def serve_health(supervisor: Supervisor, listener: socket.socket) -> asyncio.Server:
    """Answer at this socket."""

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(REQUEST_S):  # of the whole, however slowly its lines come
                line = await reader.readline()
                while (await reader.readline()).strip():
                    continue
                path = line.decode("latin-1").split(" ")[1:2]
                writer.write(answer(supervisor, [one.partition("?")[0] for one in path]))
                await writer.drain()
        writer.close()

    return await asyncio.start_server(visit, sock=listener, limit=LINE_BYTES_MAX)


def answer(supervisor: Supervisor, path: list[str]) -> bytes:
    """The whole HTTP answer for one path."""
    match path:
        case ["/healthz"]:
            return _http(200, {"status": "alive"})
        case ["/readyz"]:
            fine, report = supervisor.ready, supervisor.report
            said = {
                "status": "ready" if fine else "not ready",
                "unloaded": report.unloaded if report else {},
            }
            return _http(200 if fine else 503, said)
        case ["/metrics"]:
            return _http(200, metrics_text(supervisor), "text/plain; version=0.0.4")
        case _:
            return _http(404, {"error": "expected /healthz, /readyz or /metrics"})


def metrics_text(supervisor: Supervisor) -> bytes:
    """All metrics in Prometheus text form."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Collector:
        def collect(self) -> Iterable[Metric]:
            return _metrics(supervisor)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return generate_latest(registry)


def _metrics(supervisor: Supervisor) -> list[Metric]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    kinds = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    found: dict[str, Any] = {
        one.name: kinds[one.kind](f"doorstep_{one.name}", one.about, labels=one.labels)
        for one in (*FAMILIES, *NOW)
    }
    for (name, *labels), values in sorted(supervisor.evidence.counters.items()):
        if len(values) > 1:
            found[name].add_metric(labels, _cumulative(values[:BUCKETS]), values[BUCKETS] / 1e6)
        elif name in found:
            found[name].add_metric(labels, values[0])
    for family, now_labels, value in _now(supervisor):
        found[family.name].add_metric(now_labels, value)
    return list(found.values())


def _now(supervisor: Supervisor) -> Iterator[tuple[Family, tuple[str, ...], float]]:
    """What is so now, beside what was counted: a value of one of NOW, with its labels."""
    report, options = supervisor.report, supervisor.options
    for worker in report.workers if report else ():
        yield STARTS, (worker.slot, worker.kind), worker.starts
        yield MEMORY, (worker.slot, worker.kind), worker.rss_mb * 1e6
    for front in supervisor.fronts.live:
        for topic, what in front.troubles.items():
            if topic.startswith(TOPIC):
                yield BREAKER, (front.child.slot, topic.removeprefix(TOPIC)), float(bool(what))
    store = store_status(options.home, options.node) or StoreStatus(at=0, url="")
    yield PLAN, (), report.plan_number if report else 0
    yield LEASE, (), float(supervisor.lease_held)
    yield PROBLEMS, (), len(report.problems) if report else 0
    yield WAITING, (), store.waiting_bytes
    yield BEHIND, (), store.behind_since / SECOND_US
    yield READY, (), float(supervisor.ready)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    found, total = [], 0
    for at, count in enumerate(buckets):
        total += count
        if at == BUCKETS - 1:
            found.append(("+Inf", float(total)))
        elif at % SHOWN_EVERY == 0:
            found.append((f"{LATENCY_EDGES_US[at] / 1e6:g}", float(total)))
    return found


def _http(status: int, body: object, kind: str = "application/json") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reason = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}[status]
    head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + data
