"""What a node shows of its requests: metrics over all workers, an access log, traces."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from doorstep.core.apikey import new_api_key
from doorstep.core.ids import digest_of
from doorstep.core.plan import ApiKey
from doorstep.testing.home import TestHome
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.node import RunningNode

PATH = "/v1/services/loans/predict"
ROW = json.dumps({"x0": 1, "x1": 0.5, "x2": -1}).encode()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SECRET_ROW = json.dumps({"x0": 1, "x1": 0.5, "x2": -123456.75}).encode()


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[dict[str, object]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for one in scope.spans:
                    said = {
                        each.key: each.value.string_value or each.value.int_value
                        for each in one.attributes
                    }
                    self.spans.append(
                        {
                            "name": one.name,
                            "trace": one.trace_id.hex(),
                            "parent": one.parent_span_id.hex(),
                            "took_ns": one.end_time_unix_nano - one.start_time_unix_nano,
                            **said,
                        }
                    )

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


@pytest.fixture
def home(tmp_path: Path) -> TestHome:
    home = TestHome(tmp_path / "home")
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    return home


def ask(node: RunningNode, body: bytes = ROW, path: str = PATH, **headers: str) -> tuple[int, str]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(node.data_url + path, data=body, headers=sent)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["doorstep-request-id"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["doorstep-request-id"]


def metrics(node: RunningNode) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(node.health_url + "/metrics") as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_summed_over_workers_and_survive_them(home: TestHome, tmp_path: Path) -> None:
    with RunningNode(home.path, tmp_path / "state", workers=2) as node:
        node.wait_plan(1)
        for _ in range(30):
            assert ask(node)[0] == 200
        for _ in range(4):
            assert ask(node, b'{"x0": "no"}')[0] == 422
        ask(node, path="/v1/services/made-up/predict")

        expected = {
            ("doorstep_requests_total", "2xx", "native", "loans", "1"): 30,
            ("doorstep_requests_total", "4xx", "native", "loans", ""): 4,
            ("doorstep_requests_total", "4xx", "native", "", ""): 1,
            ("doorstep_latency_seconds_count", "loans"): 30,
            ("doorstep_refused_total", "input", "loans"): 4,
        }

        def is_counted() -> bool:
            return expected.items() <= metrics(node).items()

        RunningInstallation.wait(is_counted, "all that was asked")
        before = node.report()
        os.kill(next(one.pid for one in before.workers if one.kind == "front"), signal.SIGKILL)
        node.wait(lambda report: any(one.starts == 2 for one in report.workers))
        RunningInstallation.wait(is_counted, "all that was asked, once more")
        found = metrics(node)
        assert any(name[0] == "doorstep_starts_total" and at == 2 for name, at in found.items())
        assert not any("made-up" in key for key in found)


def test_the_access_log_has_every_request_of_the_sample_and_no_secret(
    home: TestHome, tmp_path: Path
) -> None:
    name, secret = new_api_key()
    key = ApiKey(id=name, digest=digest_of(secret.encode()), service="loans", expires_at=2**52)
    plan = home.service("loans", {1: home.bundle(home.contract(3))}, access="keys")
    number = home.publish(plan, keys=(key,))
    log = tmp_path / "access.log"
    more = ["--access-log", str(log), "--access-sample", "100%"]
    with RunningNode(home.path, tmp_path / "state", workers=2, more=more) as node:
        node.wait_plan(number)
        asked = [ask(node, SECRET_ROW, authorization=f"Bearer {secret}") for _ in range(10)]
        refused = ask(node, SECRET_ROW)
        assert [one[0] for one in asked] == [200] * 10
        assert refused[0] == 401
        assert node.stop() == 0
    found = {one["request"]: one for one in map(json.loads, log.read_text().splitlines())}
    assert set(found) == {one[1] for one in (*asked, refused)}
    line = found[asked[0][1]]
    assert (line["service"], line["version"], line["status"]) == ("loans", "1", 200)
    assert (line["key"], line["rows"], line["protocol"]) == (name, 1, "native")
    assert found[refused[1]]["status"] == 401
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret[17:].encode() not in everything
    assert b"123456.75" not in log.read_bytes()


def test_a_span_arrives_with_service_version_and_request_id(
    home: TestHome, collector: Collector, tmp_path: Path
) -> None:
    more = ["--otlp", collector.url, "--trace-sample", "0.000001%"]
    with RunningNode(home.path, tmp_path / "state", more=more) as node:
        node.wait_plan(1)
        for _ in range(20):
            assert ask(node)[0] == 200
        assert ask(node, traceparent=f"00-{TRACE}-{SPAN}-00")[0] == 200
        _, request = ask(node, traceparent=f"00-{TRACE}-{SPAN}-01")
        RunningInstallation.wait(lambda: collector.spans, "the span arrives")
        status, bad = ask(node, b"{}x", traceparent=f"00-{TRACE}-{SPAN}-01")
        assert status in (400, 422)
        assert node.stop() == 0, "what waits in the queue is sent when a worker leaves"
    spans = {str(one["doorstep.request_id"]): one for one in collector.spans}
    assert set(spans) == {request, bad}, "only who is sampled"
    span = spans[request]
    assert (span["name"], span["trace"], span["parent"]) == ("predict loans", TRACE, SPAN)
    assert (span["doorstep.service"], span["doorstep.version"]) == ("loans", "1")
    assert span["http.response.status_code"] == 200
    assert int(str(span["took_ns"])) > 0


def test_a_collector_that_is_gone_costs_no_request_and_no_exit(
    home: TestHome, tmp_path: Path
) -> None:
    more = ["--otlp", "http://127.0.0.1:9", "--trace-sample", "100%"]
    with RunningNode(home.path, tmp_path / "state", more=more) as node:
        node.wait_plan(1)
        assert {ask(node)[0] for _ in range(50)} == {200}
        assert node.stop() == 0


def test_tracing_begins_by_the_variable_of_opentelemetry(
    home: TestHome, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with RunningNode(home.path, tmp_path / "state", more=["--trace-sample", "100%"]) as node:
        node.wait_plan(1)
        _, request = ask(node)
        RunningInstallation.wait(lambda: collector.spans, "the span arrives")
    assert {one["doorstep.request_id"] for one in collector.spans} == {request}
