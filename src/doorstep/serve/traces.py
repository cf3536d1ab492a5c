"""OpenTelemetry traces of requests: the extra `otel`. One span for each request of the sample.

Who is sampled is decided before anything is made: a caller who says so in `traceparent` decides for
its own trace, else the share does. Spans are sent by a thread of the SDK from a queue that is
bounded: where the collector is slow or gone, spans are left out and no request waits.
"""

from __future__ import annotations

import random
import re
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from doorstep.core.errors import MissingExtraError
from doorstep.serve.observe import Seen

if TYPE_CHECKING:
    from opentelemetry.context import Context

QUEUE_MAX = 2048
BATCH_MAX = 512
EVERY_MS = 1000
EXPORT_S = 5
CLOSE_S = 2.0
"""A worker that leaves waits so long for its last spans."""
_PARENT = re.compile(
    rb"00-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})\Z"
)
SAMPLED = 1
NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


class Parent(NamedTuple):
    """What a `traceparent` says."""

    trace: int
    span: int
    is_sampled: bool


def parent_of(header: bytes) -> Parent | None:
    """None for what is no W3C trace context of version 00: then a new trace begins."""
    found = _PARENT.match(header)
    if found is None:
        return None
    flags = int(found["flags"], 16)
    return Parent(int(found["trace"], 16), int(found["span"], 16), bool(flags & SAMPLED))


def require_otel() -> None:
    """Raises: MissingExtraError."""
    try:
        found = all(find_spec(name) for name in NEEDED)
    except ModuleNotFoundError:
        found = False
    if not found:
        raise MissingExtraError.of("opentelemetry", "otel", "tracing")


class Traces:
    """endpoint: of a collector, such as http://127.0.0.1:4318; headers and certificates are taken
    from the variables of OpenTelemetry. Raises, when made: MissingExtraError."""

    def __init__(self, endpoint: str, share: float) -> None:
        require_otel()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._share = share
        self._random = random.Random()  # noqa: S311  a sample, not a secret
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S)
        processor = BatchSpanProcessor(
            exporter, max_queue_size=QUEUE_MAX, max_export_batch_size=BATCH_MAX,
            schedule_delay_millis=EVERY_MS,
        )  # fmt: skip
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create({"service.name": "doorstep"}),
            shutdown_on_exit=False,
        )  # fmt: skip
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("doorstep")

    def note(self, seen: Seen) -> None:
        parent = parent_of(seen.trace) if seen.trace else None
        if parent is None:
            if self._random.random() >= self._share:
                return
        elif not parent.is_sampled:
            return
        self._span(seen, _context(parent))

    def _span(self, seen: Seen, context: Context | None) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        end_ns = seen.at * 1000
        said: dict[str, str | int] = {
            "doorstep.service": seen.service,
            "doorstep.version": seen.version,
            "doorstep.request_id": seen.request,
            "doorstep.protocol": seen.protocol,
            "doorstep.rows": seen.rows,
            "doorstep.fallback": seen.fallback,
            "http.response.status_code": seen.status,
        }
        span = self._tracer.start_span(
            f"predict {seen.service}".strip(),
            context,
            SpanKind.SERVER,
            {name: value for name, value in said.items() if value != ""},
            start_time=end_ns - seen.latency_us * 1000,
        )
        if seen.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(end_ns)

    def flush(self) -> None:
        """The SDK's thread sends by itself."""

    def close(self) -> None:
        sending = threading.Thread(target=self._provider.force_flush, daemon=True)
        sending.start()
        sending.join(CLOSE_S)


def _context(parent: Parent | None) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    if parent is None:
        return Context()
    known = SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=TraceFlags(SAMPLED))
    return set_span_in_context(NonRecordingSpan(known), Context())
