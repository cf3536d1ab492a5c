"""CPU of a prediction over gRPC beside one over HTTP, of the same node, in the same run.

One row of 30 floats to gradient boosting of 100 trees of depth 3, one worker, 16 connections or
channels. The values travel as a raw tensor over gRPC and as JSON over HTTP.

    python benchmarks/grpc/run.py [--seconds 2] [--rounds 5]     exit 1 if the goal is missed
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
import run as serving
import servers

from doorstep.serve import generator
from doorstep.serve.protos import messages
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

CONNECTIONS = 16
RATIO_GOAL = 16.0
"""What gRPC was expected to cost beside the raw path: 9 to 16 times as much."""
INFER = "/inference.GRPCInferenceService/ModelInfer"


def message() -> bytes:
    values = np.random.default_rng(0).normal(size=(1, serving.FEATURES))
    asked = messages()["ModelInferRequest"](model_name="bench")
    asked.inputs.add(name="matrix", datatype="FP64", shape=[1, serving.FEATURES])
    asked.raw_input_contents.append(values.tobytes())
    return bytes(asked.SerializeToString())


def cpu_ms(root: int, ask: Callable[[float], tuple[int, int]], seconds: float) -> float:
    """CPU of the node for each call. ask: for so many seconds; answers (good, bad)."""
    ask(0.3)
    before_s = servers.cpu_s(root)
    good, bad = ask(seconds)
    if bad or not good:
        raise SystemExit(f"{bad} bad answers of {good + bad}")
    return 1000 * (servers.cpu_s(root) - before_s) / good


def ask_http(port: int, seconds: float) -> tuple[int, int]:
    body = json.dumps({"rows": [dict.fromkeys(serving.NAMES, 0.25)]}).encode()
    found = generator.ask(
        generator.Load(
            url=f"http://127.0.0.1:{port}", path=servers.PREDICT, bodies=(body,),
            connections=CONNECTIONS, seconds=seconds,
        )
    )  # fmt: skip
    return found.good, found.bad


def ask_grpc(port: str, seconds: float) -> tuple[int, int]:
    script = Path(__file__).with_name("generator.py")
    command = [sys.executable, str(script), port, INFER, str(CONNECTIONS), str(seconds)]
    said = subprocess.run(command, input=message(), capture_output=True, check=True).stdout
    found = json.loads(said)
    return int(found["good"]), int(found["bad"])


def measure(folder: Path, seconds: float, rounds: int) -> int:
    home = TestHome(folder / "home")
    digest = serving.add_version(home, serving.make_model(1))
    home.publish(home.service("bench", {1: digest}), lease_s=3600)
    found: dict[str, list[float]] = {"HTTP": [], "gRPC": []}
    with RunningNode(home.path, folder / "state", grpc_port=0) as node:
        node.wait_plan(1)
        assert node.process is not None
        asked = {
            "HTTP": partial(ask_http, node.port),
            "gRPC": partial(ask_grpc, node.grpc_url.rpartition(":")[2]),
        }
        for _ in range(rounds):
            for name, ask in asked.items():
                found[name].append(cpu_ms(node.process.pid, ask, seconds))
    medians = {name: statistics.median(times) for name, times in found.items()}
    ratio = medians["gRPC"] / medians["HTTP"]
    for name, median in medians.items():
        print(f"{name:6} {median:8.4f} ms of CPU per request")
    met = ratio <= RATIO_GOAL
    print(f"grpc: {ratio:.1f}x HTTP (goal {RATIO_GOAL:.0f}x): {'met' if met else 'MISSED'}")
    return 0 if met else 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(measure(Path(folder), args.seconds, args.rounds))


if __name__ == "__main__":
    main()
