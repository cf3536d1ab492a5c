"""The node's health port: /healthz, /readyz, /metrics. Small, and apart from the data port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from doorstep.core.instant import SECOND_US
from doorstep.journal.stored import StoreStatus, store_status
from doorstep.serve.breaker import TOPIC
from doorstep.serve.counters import BUCKETS, FAMILIES, LATENCY_EDGES_US, Key, Values
from doorstep.serve.supervisor import Supervisor

if TYPE_CHECKING:
    from prometheus_client.core import Metric

REQUEST_S = 5.0
LINE_BYTES_MAX = 4096
SHOWN_EVERY = 3
"""Of the latency buckets: their edges then double, which is enough, and a third of the lines."""


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
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    gauges = _gauges(supervisor)
    starts = CounterMetricFamily("doorstep_starts", "Starts of a slot", labels=["slot", "kind"])
    memory = GaugeMetricFamily("doorstep_rss_bytes", "Memory of a slot", labels=["slot", "kind"])
    for worker in supervisor.report.workers if supervisor.report else ():
        starts.add_metric([worker.slot, worker.kind], worker.starts)
        memory.add_metric([worker.slot, worker.kind], worker.rss_mb * 1e6)
    families = [
        GaugeMetricFamily(name, about, value=value) for name, (about, value) in gauges.items()
    ]
    counted = _counted(supervisor.evidence.counters)
    return [*counted, starts, memory, _breakers(supervisor), *families]


def _breakers(supervisor: Supervisor) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    found = GaugeMetricFamily(
        "doorstep_breaker_open", "1 while a version is not asked", labels=["slot", "version"]
    )
    for front in supervisor.fronts.live:
        for topic, what in front.troubles.items():
            if topic.startswith(TOPIC):
                version = topic.removeprefix(TOPIC)
                found.add_metric([front.child.slot, version], float(bool(what)))
    return found


def _counted(counters: Mapping[Key, Values]) -> list[Metric]:
    """Every family, with its rows."""
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
        for one in FAMILIES
    }
    for (name, *labels), values in sorted(counters.items()):
        if len(values) > 1:
            found[name].add_metric(labels, _cumulative(values[:BUCKETS]), values[BUCKETS] / 1e6)
        elif name in found:
            found[name].add_metric(labels, values[0])
    return list(found.values())


def _gauges(supervisor: Supervisor) -> dict[str, tuple[str, float]]:
    report = supervisor.report
    store = store_status(supervisor.options.home, supervisor.options.node) or StoreStatus(
        at=0, url=""
    )
    return {
        "doorstep_plan_number": (
            "The plan that every front worker serves", report.plan_number if report else 0
        ),
        "doorstep_lease_held": ("1 while challengers may serve", float(supervisor.lease_held)),
        "doorstep_problems": ("Problems in the report", len(report.problems) if report else 0),
        "doorstep_store_waiting_bytes": (
            "Of the journal, not in its object store yet", store.waiting_bytes
        ),
        "doorstep_store_behind_since_timestamp_seconds": (
            "Unix time since when the object store takes nothing; 0 if it does",
            store.behind_since / SECOND_US,
        ),
        "doorstep_ready": ("1 while a front worker serves a plan", float(supervisor.ready)),
    }  # fmt: skip


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
