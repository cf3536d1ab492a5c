"""A node with 1,000 services, 20 of them hot, beside one with a single service, in the same run.

Each service has a model of its own: gradient boosting of 100 trees of depth 3 on 30 fields, as
ONNX. Measured: CPU per request of a hot service, the front worker's memory at the start, after the
hot ones were asked and after all were asked once, and how long the first request of a sleeping one
waits. The node is given so little memory that about 60 models fit.

    python benchmarks/services/run.py [--services 1000] [--seconds 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
import run as serving
import servers

from doorstep.serve.models import cost_bytes
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

HOT = 20
FITTING = 60
CPU_RATIO_GOAL = 1.15
"""Of one service's cost: routing is one look-up, however many there are."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(measure(Path(folder), args.services, args.seconds, args.rounds))


def add_services(home: TestHome, count: int) -> list[str]:
    """Services whose models differ in nothing but their digest."""
    names = [f"bench-{at:04d}" for at in range(count)]
    data = serving.make_model(1)
    plans = []
    for name in names:
        digest = serving.add_version(home, data, target=name)
        plans.append(home.service(name, {1: digest}, timeout_ms=10_000))
    home.publish(*plans, lease_s=3600)
    return names


def predict_path(name: str) -> str:
    return f"/v1/services/{name}/predict"


def first_answers_s(node: RunningNode, names: list[str], body: bytes) -> list[float]:
    found = []
    for name in names:
        began = time.perf_counter()
        request = urllib.request.Request(node.data_url + predict_path(name), data=body)
        with urllib.request.urlopen(request) as answer:
            answer.read()
        found.append(time.perf_counter() - began)
    return found


class Hot:
    """One service of a node, as the generator asks it. root: of the node's processes."""

    title = "Doorstep"

    def __init__(self, node: RunningNode, name: str) -> None:
        assert node.process is not None
        self.root, self.port, self.path = node.process.pid, node.port, predict_path(name)

    def ask(self, row: dict[str, float]) -> dict[str, list[dict[str, float]]]:
        return {"rows": [row]}


def front_mb(node: RunningNode) -> float:
    report = node.report()
    assert report is not None
    return servers.rss_mb([one.pid for one in report.workers if one.kind == "front"])


def cpu_ms(service: Hot, row: dict[str, float], seconds: float) -> float:
    """CPU per request, with 16 connections."""
    serving.drive(service, row, 16, 0.3)
    before_s = servers.cpu_s(service.root)
    said = serving.drive(service, row, 16, seconds)
    return 1000 * (servers.cpu_s(service.root) - before_s) / said.good


def measure(folder: Path, count: int, seconds: float, rounds: int) -> int:
    values = np.random.default_rng(0).normal(size=len(serving.NAMES)).round(4)
    row = dict(zip(serving.NAMES, values.tolist(), strict=True))
    body = json.dumps({"rows": [row]}).encode()
    single, many = TestHome(folder / "single"), TestHome(folder / "many")
    (alone,) = add_services(single, 1)
    names = add_services(many, count)
    digest = next((many.path / "bundles").iterdir()).name
    budget_mb = int(FITTING * cost_bytes(many.read_manifest(digest)) * 4 / 1e6)
    cpu: dict[str, list[float]] = {"one": [], "many": []}
    with (
        RunningNode(single.path, folder / "state-single") as one,
        RunningNode(many.path, folder / "state-many", memory_mb=budget_mb) as node,
    ):
        began = time.perf_counter()
        one.wait_plan(1)
        node.wait_plan(1)
        start_s = time.perf_counter() - began
        memory = {"1 service": front_mb(one)}
        memory[f"{count} services, at the start"] = front_mb(node)
        hot = first_answers_s(node, names[-HOT:], body)
        memory[f"{HOT} hot ones asked"] = front_mb(node)
        for _ in range(rounds):
            for label, service in (("one", Hot(one, alone)), ("many", Hot(node, names[-1]))):
                cpu[label].append(cpu_ms(service, row, seconds))
        cold = first_answers_s(node, names, body)
        memory["all asked once"] = front_mb(node)
        again = first_answers_s(node, names[-HOT:], body)
    return show(cpu, memory, hot, cold, again, start_s)


def show(
    cpu: dict[str, list[float]], memory: dict[str, float], hot: list[float], cold: list[float],
    again: list[float], start_s: float,
) -> int:  # fmt: skip
    one, many = (statistics.median(cpu[name]) for name in ("one", "many"))
    print(f"{'front worker, memory':34} {'MB':>7}")
    for name, mb in memory.items():
        print(f"{name:34} {mb:7.0f}")
    print(f"{'first request of':34} {'p50 ms':>7} {'p99 ms':>7}")
    for name, times in (("a sleeping service", hot), ("each in turn", cold), ("again", again)):
        p50, p99 = (1000 * float(np.quantile(times, share)) for share in (0.5, 0.99))
        print(f"{name:34} {p50:7.1f} {p99:7.1f}")
    at_start, at_end = list(memory.values())[1], list(memory.values())[-1]
    met = many / one <= CPU_RATIO_GOAL and at_end <= 1.5 * at_start
    print(
        f"services: {many:.4f} against {one:.4f} ms of CPU per request, {many / one:.2f}x (goal "
        f"{CPU_RATIO_GOAL}x); memory {at_start:.0f} to {at_end:.0f} MB (goal 1.5x); plan served "
        f"after {start_s:.1f} s: {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    main()
