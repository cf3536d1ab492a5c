"""Five times as many requests as can be answered: who is answered in time, who is refused.

One worker serves a model that takes half a millisecond a row inline, and one of three milliseconds
in an engine. Its capacity is measured with 16 connections; then requests are sent by the clock,
whatever comes back, at five times that rate, and then at half of it. Latency counts from when a
request was due, if the server had left no connection free for it.

    python benchmarks/overload/run.py [--seconds 6] [--json]      exit 1 if a goal is missed
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from doorstep.serve.generator import Load, ask

DEADLINE_MS = 250
REFUSED_MS_GOAL, RECOVERY_S_GOAL = 10.0, 10.0
CONNECTIONS = 1500
TIMES_CAPACITY = 5.0
PREDICT = "/v1/services/slow/predict"
ROW = b'{"x0":1.0,"x1":0.5,"x2":-1.0}'
ROW_MS = {"inline": 0.5, "engine": 3.0}


def slow_onnx(width: int) -> bytes:
    """A model whose time grows with its rows: a softmax over a tanh of `width` numbers a row."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(random.normal(size=(3, width)).astype(np.float32), "a"),
        numpy_helper.from_array(random.normal(size=(width, 2)).astype(np.float32), "b"),
    ]
    nodes = [
        helper.make_node("MatMul", ["input", "a"], ["wide"]),
        helper.make_node("Tanh", ["wide"], ["bent"]),
        helper.make_node("MatMul", ["bent", "b"], ["narrow"]),
        helper.make_node("Softmax", ["narrow"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "slow", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2])], tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def calibrated_onnx(row_ms: float) -> tuple[bytes, float]:
    """(the model, ms a row in a batch of 64)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    width = 20_000
    for _ in range(4):
        data = slow_onnx(width)
        session = onnxruntime.InferenceSession(data, options)
        rows = np.ones((64, 3), dtype=np.float32)
        took = []
        for _ in range(5):
            began = time.perf_counter()
            session.run(["scores"], {"input": rows})
            took.append((time.perf_counter() - began) / 64 * 1000)
        found = min(took)
        if 0.8 < found / row_ms < 1.25:
            break
        width = int(min(width * row_ms / found, 2_000_000))
    return data, found


class Connection(asyncio.Protocol):
    def __init__(self, load: OpenLoad) -> None:
        self.load, self.data, self.due = load, b"", 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.free.append(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.data[:end].lower()
        at = head.index(b"content-length: ") + 16
        if len(self.data) >= end + 4 + int(head[at:].split(b"\r")[0]):
            self.load.answered(int(self.data[9:12]), self.due)
            self.data = b""
            self.load.free.append(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self.load.lost += self.due > 0 and self not in self.load.free


class OpenLoad:
    """Sends by the clock. answers: (status, when it was due, seconds from then to its answer)."""

    def __init__(self) -> None:
        self.free: deque[Connection] = deque()
        self.answers: list[tuple[int, float, float]] = []
        self.late: list[float] = []
        self.was_full = False
        self.lost = 0
        self.request = (
            f"POST {PREDICT} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            f"content-length: {len(ROW)}\r\n\r\n".encode()
            + ROW
        )

    def answered(self, status: int, due: float) -> None:
        self.answers.append((status, due, time.perf_counter() - due))

    async def connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)

    async def send(self, per_s: float, seconds: float) -> int:
        """How many were sent. One that is due while no connection is free is sent late, and its
        latency counts from when it was due."""
        began, sent, total = time.perf_counter(), 0, int(per_s * seconds)
        while sent < total:
            due_count = min(int((time.perf_counter() - began) * per_s) + 1, total)
            while sent < due_count and self.free:
                connection, now = self.free.popleft(), time.perf_counter()
                due = began + sent / per_s
                self.late.append(now - due)
                # What this process was late itself is not the server's: it is shown apart.
                connection.due = due if self.was_full else now
                connection.transport.write(self.request)
                sent += 1
            self.was_full = sent < due_count
            await asyncio.sleep(0.0005)
        return sent


async def generate(port: int, per_s: float, seconds: float, pids: list[int]) -> dict[str, Any]:
    load = OpenLoad()
    await load.connect(port)
    before = cpu_s(pids)
    sent = await load.send(per_s * TIMES_CAPACITY, seconds)
    ended, spent = time.perf_counter(), cpu_s(pids) - before
    sent += await load.send(per_s / 2, 5.0)
    until = time.perf_counter() + 30
    while len(load.answers) + load.lost < sent and time.perf_counter() < until:
        await asyncio.sleep(0.01)
    return summary(load, sent, ended, seconds) | {"cpu_s": spent}


def summary(load: OpenLoad, sent: int, ended: float, seconds: float) -> dict[str, Any]:
    during = [(status, took) for status, due, took in load.answers if due < ended]
    good = sorted(took * 1000 for status, took in during if status == 200)
    refused = sorted(took * 1000 for status, took in during if status in (429, 503))
    others = sum(status not in (200, 429, 503) for status, _ in during)
    bad_after = [due - ended for status, due, took in load.answers
                 if due >= ended and (status != 200 or took * 1000 > DEADLINE_MS)]  # fmt: skip
    return {
        "sent": sent, "lost": sent - len(load.answers), "offered_per_s": len(during) / seconds,
        "good": len(good), "good_per_s": len(good) / seconds, "good_ms": quantiles(good),
        "others": others,
        "refused": len(refused), "refused_ms": quantiles(refused),
        "recovery_s": max(bad_after, default=0.0),
        "late_ms": quantiles([one * 1000 for one in load.late]),
    }  # fmt: skip


def quantiles(found: list[float]) -> list[float]:
    return [float(np.percentile(found, q)) for q in (50, 99)] if found else [0.0, 0.0]


def measure(seconds: float) -> list[dict[str, Any]]:
    from doorstep.testing.home import MODEL_FILE, TestHome
    from doorstep.testing.node import RunningNode

    found = []
    for placement, wanted_ms in ROW_MS.items():
        data, row_ms = calibrated_onnx(wanted_ms)
        with tempfile.TemporaryDirectory() as folder:
            home = TestHome(Path(folder) / "home")
            manifest = home.read_manifest(home.bundle(home.contract(3)))
            digest = hashlib.sha256(data).hexdigest()
            file = msgspec.structs.replace(manifest.files[0], size=len(data), sha256=digest)
            bundle = home.add_bundle(
                msgspec.structs.replace(manifest, files=(file,)), {MODEL_FILE: data}
            )
            plan = home.service("slow", {1: bundle}, placement=placement, timeout_ms=DEADLINE_MS)
            home.publish(plan)
            with RunningNode(home.path, Path(folder) / "state") as node:
                pids = [one.pid for one in node.wait_plan(1).workers]
                capacity, per_cpu_s = closed_loop(node.port, pids)
                one = json.loads(run(node.port, capacity, seconds, pids))
        found.append(one | {"placement": placement, "capacity": capacity, "row_ms": row_ms,
                            "per_cpu_s": per_cpu_s})  # fmt: skip
    return found


def cpu_s(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def closed_loop(port: int, pids: list[int]) -> tuple[float, float]:
    """Answers per second with 16 connections, and per second of the node's CPU."""

    def load(seconds: float) -> Load:
        return Load(url=f"http://127.0.0.1:{port}", path=PREDICT, bodies=(ROW,), seconds=seconds)

    ask(load(1))
    before = cpu_s(pids)
    said = ask(load(3))
    return said.good / said.s, said.good / (cpu_s(pids) - before)


def run(port: int, per_s: float, seconds: float, pids: list[int]) -> bytes:
    """The load, from a process of its own."""
    arguments = [str(port), str(per_s), str(seconds), ",".join(map(str, pids))]
    command = [sys.executable, __file__, "--generate", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def show(found: list[dict[str, Any]]) -> bool:
    """Print the table; whether every goal was met."""
    head = ("model", "ms/row", "capacity/s", "/CPU s", "offered/s", "answered/s", "/CPU s",
            "p50 ms", "p99 ms", "refused", "p50 ms", "p99 ms", "504", "lost", "recovery s",
            "late ms")  # fmt: skip
    print(" ".join(f"{one:>10}" for one in head))
    met = True
    for one in found:
        row = (one["placement"], f"{one['row_ms']:.2f}", f"{one['capacity']:.0f}",
               f"{one['per_cpu_s']:.0f}",
               f"{one['offered_per_s']:.0f}", f"{one['good_per_s']:.0f}",
               f"{one['good'] / one['cpu_s']:.0f}",
               *(f"{ms:.1f}" for ms in one["good_ms"]), one["refused"],
               *(f"{ms:.1f}" for ms in one["refused_ms"]), one["others"], one["lost"],
               f"{one['recovery_s']:.1f}", f"{one['late_ms'][1]:.0f}")  # fmt: skip
        print(" ".join(f"{cell!s:>10}" for cell in row))
        met = met and (
            one["good_ms"][1] <= DEADLINE_MS and one["others"] <= one["good_per_s"] / 100
            and one["refused_ms"][0] <= REFUSED_MS_GOAL and one["recovery_s"] <= RECOVERY_S_GOAL
            and one["lost"] == 0 and one["refused"] > 0
        )  # fmt: skip
    print("late ms: of the generator itself (p99); beyond a few, the machine is too busy to judge")
    print(
        f"overload: {TIMES_CAPACITY:.0f}x capacity; answered within {DEADLINE_MS} ms (p99), "
        f"refused within {REFUSED_MS_GOAL:.0f} ms (p50), well within {RECOVERY_S_GOAL:.0f} s, none "
        f"lost: {'met' if met else 'MISSED'}"
    )
    return met


def main() -> None:
    if sys.argv[1:2] == ["--generate"]:
        import uvloop

        port, per_s, seconds = int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
        pids = [int(one) for one in sys.argv[5].split(",")]
        print(json.dumps(uvloop.run(generate(port, per_s, seconds, pids))))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args.seconds)
    if args.json:
        print(json.dumps(found))
    sys.exit(0 if show(found) else 1)


if __name__ == "__main__":
    main()
