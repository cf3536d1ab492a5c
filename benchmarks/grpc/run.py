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
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
import run as serving
import servers

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


def cpu_ms(root: int, command: list[str], body: bytes, seconds: float) -> float:
    """CPU of the node for each call that the generator makes."""
    subprocess.run([*command, "0.3"], input=body, capture_output=True, check=True)
    before_s = servers.cpu_s(root)
    found = subprocess.run([*command, str(seconds)], input=body, capture_output=True, check=True)
    said = json.loads(found.stdout)
    if said["bad"] or not said["good"]:
        raise SystemExit(f"{said['bad']} bad answers of {said['good'] + said['bad']}")
    return 1000 * (servers.cpu_s(root) - before_s) / int(said["good"])


def measure(folder: Path, seconds: float, rounds: int) -> int:
    home = TestHome(folder / "home")
    digest = serving.add_version(home, serving.make_model(1))
    home.publish(home.service("bench", {1: digest}), lease_s=3600)
    row = dict.fromkeys(serving.NAMES, 0.25)
    bodies = {"HTTP": json.dumps({"rows": [row]}).encode(), "gRPC": message()}
    found: dict[str, list[float]] = {name: [] for name in bodies}
    with RunningNode(home.path, folder / "state", grpc_port=0) as node:
        node.wait_plan(1)
        assert node.process is not None
        http, grpc = Path(servers.__file__), Path(__file__)
        asked = {
            "HTTP": [http.with_name("generator.py"), node.port, servers.PREDICT],
            "gRPC": [grpc.with_name("generator.py"), node.grpc_url.rpartition(":")[2], INFER],
        }
        for _ in range(rounds):
            for name, words in asked.items():
                command = [sys.executable, *map(str, words), str(CONNECTIONS)]
                found[name].append(cpu_ms(node.process.pid, command, bodies[name], seconds))
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
