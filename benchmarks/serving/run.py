"""CPU per request of Doorstep, everything on, beside the bare prototype in the same run.

One row of 30 floats, gradient boosting of 100 trees of depth 3 as ONNX, 16 keep-alive connections,
one worker. CPU is that of the whole process tree of the server; the generator is not counted. The
two are measured in turns, and the median of the turns is compared. Doorstep's variants: inline with
no release; the same over gRPC; inline with a release at 50 % (assignment, evidence cells); engine.

Then `overload.py`: five times as many requests as can be answered.

    python benchmarks/serving/run.py [--seconds 3] [--rounds 5]     exit 1 if a goal is missed
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import overload

from doorstep.core.contract import Contract, Field
from doorstep.core.manifest import FileEntry, Lineage, Manifest, NativeForm, OnnxForm, Tensor
from doorstep.core.plan import ReleasePlan, ServicePlan
from doorstep.serve.protos import messages
from doorstep.testing.home import MODEL_FILE, TestHome
from doorstep.testing.node import RunningNode

HERE = Path(__file__).parent
FEATURES = 30
CONNECTIONS = 16
CPU_RATIO_GOAL, CPU_RATIO_STRETCH = 2.0, 1.4
COLD_START_S_GOAL, RSS_MB_GOAL = 1.5, 100.0
PREDICT = "/v1/services/bench/predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
OVER_GRPC = "doorstep, gRPC"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def make_model(seed: int) -> bytes:
    from skl2onnx import to_onnx
    from sklearn.datasets import make_classification
    from sklearn.ensemble import GradientBoostingClassifier

    x, y = make_classification(2000, FEATURES, n_informative=12, random_state=seed)
    model = GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=seed)
    model.fit(x.astype(np.float32), y)
    found = to_onnx(model, x[:1].astype(np.float32), options={"zipmap": False}, target_opset=17)
    return found.SerializeToString()


def add_version(home: TestHome, data: bytes) -> str:
    names = tuple(f"feature_{at:02d}" for at in range(FEATURES))
    fields = tuple(Field(name=name, type="float", range_min=-1e6, range_max=1e6) for name in names)
    manifest = Manifest(
        format=1, task="binary", label="y", labels=("bad", "good"), positive="good",
        threshold=0.5, contract=Contract(inputs=fields),
        native=NativeForm(family="onnx", serialization="onnx", file=MODEL_FILE),
        onnx=OnnxForm(
            file=MODEL_FILE, opset=17, scores="probabilities",
            inputs=(Tensor(name="X", datatype="FP32", columns=names),),
        ),
        parity=None, lineage=Lineage(), reads=names,
        files=(
            FileEntry(path=MODEL_FILE, size=len(data), sha256=hashlib.sha256(data).hexdigest()),
        ),
    )  # fmt: skip
    return home.add_bundle(manifest, {MODEL_FILE: data})


def cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def drive(
    port: int,
    path: str,
    body: bytes,
    seconds: float,
    pids: list[int],
    generator: str = "generator.py",
) -> tuple[float, float]:
    """(ms of CPU per request, requests per second). The first half second is not measured."""
    command = [sys.executable, str(HERE / generator), str(port), path, str(CONNECTIONS)]
    subprocess.run([*command, "0.5"], input=body, capture_output=True, check=True)
    before = cpu_s(pids)
    found = subprocess.run([*command, str(seconds)], input=body, capture_output=True, check=True)
    spent = cpu_s(pids) - before
    said = json.loads(found.stdout)
    if said["bad"] or not said["good"]:
        raise SystemExit(f"{said['bad']} bad answers of {said['good'] + said['bad']}")
    return 1000 * spent / said["good"], said["good"] / said["s"]


def drive_grpc(
    node: RunningNode, message: bytes, seconds: float, number: int
) -> tuple[float, float]:
    report = node.wait_plan(number)
    pids = [node.process.pid] + [one.pid for one in report.workers]
    port = int(node.grpc_url.rpartition(":")[2])
    return drive(port, INFER, message, seconds, pids, "generator_grpc.py")


def infer_message(row: dict[str, float]) -> bytes:
    """The row as a matrix of raw FP64."""
    found = messages()["ModelInferRequest"](model_name="bench")
    found.inputs.add(name="rows", datatype="FP64", shape=[1, len(row)])
    found.raw_input_contents.append(np.array(list(row.values())).tobytes())
    return found.SerializeToString()


class Bare:
    def __init__(self, model: Path, names: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "bare.py"), str(model), json.dumps(names)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.port = int(self.process.stdout.readline())
        self.pids = [self.process.pid]


def first_answer_s(began: float, url: str, body: bytes) -> float:
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data=body), timeout=2
            ) as answer:
                answer.read()
                return time.perf_counter() - began
        except OSError:
            time.sleep(0.005)


def plans(home: TestHome, digests: tuple[str, str]) -> dict[str, ServicePlan]:
    both = {1: digests[0], 2: digests[1]}
    release = ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": 0.5})
    return {
        "doorstep": home.service("bench", {1: digests[0]}),
        "doorstep, release at 50 %": home.service("bench", both, release=release),
        "doorstep, engine": home.service("bench", {1: digests[0]}, placement="engine"),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        missed = measure(Path(folder), args.seconds, args.rounds)
    print()
    sys.exit(missed or int(not overload.show(overload.measure(5.0))))


def measure(folder: Path, seconds: float, rounds: int) -> int:
    home = TestHome(folder / "home")
    first = make_model(1)
    digests = (add_version(home, first), add_version(home, make_model(2)))
    (folder / "model.onnx").write_bytes(first)
    services = plans(home, digests)
    names = [one.name for one in services["doorstep"].contract.inputs]
    row = dict(zip(names, np.random.default_rng(0).normal(size=FEATURES).round(4), strict=True))
    body = json.dumps({"rows": [row]}).encode()
    message = infer_message(row)
    bare = Bare(folder / "model.onnx", names)
    home.publish(services["doorstep"], lease_s=3600)
    began = time.perf_counter()
    found: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("bare", "doorstep", OVER_GRPC, *services)
    }
    try:
        with ExitStack() as stack:
            node = stack.enter_context(RunningNode(home.path, folder / "state"))
            cold_s = first_answer_s(began, node.data_url + PREDICT, body)
            # A node of its own: what gRPC weighs is not in the goals of one without it.
            other = RunningNode(home.path, folder / "grpc", node="grpc", grpc_port=0)
            stack.enter_context(other)
            for turn in range(rounds):
                found["bare"].append(drive(bare.port, "/", body, seconds, bare.pids))
                for name, plan in services.items():
                    if name != "doorstep" and turn % 2:
                        continue
                    report = node.wait_plan(home.publish(plan, lease_s=3600))
                    pids = [node.process.pid] + [one.pid for one in report.workers]
                    found[name].append(drive(node.port, PREDICT, body, seconds, pids))
                    if name == "doorstep":
                        found[OVER_GRPC].append(drive_grpc(other, message, seconds, home.number))
            front = next(one.pid for one in report.workers if one.kind == "front")
            memory = rss_mb(front)
            check_same(node, bare, body)
    finally:
        bare.process.kill()
        bare.process.wait()
    return show(found, cold_s, memory)


def check_same(node: RunningNode, bare: Bare, body: bytes) -> None:
    """Both give the same probabilities for the same row."""
    answers = []
    for url in (node.data_url + PREDICT, f"http://127.0.0.1:{bare.port}/"):
        with urllib.request.urlopen(urllib.request.Request(url, data=body)) as answer:
            one = msgspec.json.decode(answer.read())["predictions"][0]
        answers.append(one.get("probabilities", one))
    assert np.allclose(list(answers[0].values()), list(answers[1].values())), answers


def show(found: dict[str, list[tuple[float, float]]], cold_s: float, memory: float) -> int:
    floor = statistics.median(cpu for cpu, _ in found["bare"])
    print(f"{'server':28} {'CPU ms/request':>15} {'of bare':>8} {'requests/s':>11} {'turns':>6}")
    ratios = {}
    for name, turns in found.items():
        cpu = statistics.median(one for one, _ in turns)
        rate = statistics.median(one for _, one in turns)
        ratios[name] = cpu / floor
        print(f"{name:28} {cpu:15.4f} {ratios[name]:7.2f}x {rate:11.0f} {len(turns):6}")
    print(f"cold start to the first answer {cold_s:.2f} s, front worker {memory:.0f} MB")
    ratio = ratios["doorstep"]
    met = ratio <= CPU_RATIO_GOAL and cold_s <= COLD_START_S_GOAL and memory <= RSS_MB_GOAL
    print(
        f"serving: {ratio:.2f}x the bare prototype's CPU per request (goal {CPU_RATIO_GOAL}x, "
        f"stretch {CPU_RATIO_STRETCH}x), cold start {cold_s:.2f} s (goal {COLD_START_S_GOAL}), "
        f"{memory:.0f} MB (goal {RSS_MB_GOAL:.0f}): {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    main()
