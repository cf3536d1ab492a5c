"""CPU, latency, memory and cold start of Doorstep beside the servers that people use, in one run.

One row of 30 floats, gradient boosting of 100 trees of depth 3 (and the same with isotonic
calibration, which does not convert to ONNX), keep-alive connections, one worker everywhere. Every
server's answers are compared with `predict_proba` first. CPU is that of the server's whole process
tree. The servers are measured in turns; while one is, the others stand still. A ratio is taken
within a turn, and the median of the turns is shown.

    python benchmarks/serving/run.py [--seconds 2] [--rounds 5] [--peers fastapi,litserve,...]

Doorstep and the bare prototype are measured in every turn, the others in every second one. Exits 1
if a goal that was measured is missed. Times and rates mean something on an idle machine only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import servers
from goals import Sample, Samples, show
from peers import DEFAULT, PEERS, Row, install
from servers import Doorstep, Server

from doorstep.core.contract import Contract, Field
from doorstep.core.manifest import FileEntry, Lineage, Manifest, NativeForm, OnnxForm, Tensor
from doorstep.core.plan import ReleasePlan, ServicePlan, VersionPlan
from doorstep.serve.generator import Answered, Load, ask, finish, start
from doorstep.testing.home import MODEL_FILE, TestHome

HERE = Path(__file__).parent
FEATURES = 30
NAMES = tuple(f"feature_{at:02d}" for at in range(FEATURES))
LABELS = ("0", "1")
CONNECTIONS = (16, 1, 64)
WARM_UP_S = 0.3
QUIET_RATE = 1000.0
ROWS_CHECKED = 5
TOLERANCE = 1e-5
ALWAYS = ("bare prototype", "Doorstep")
NATIVE_FILE = "model/native/model.pkl"


def rows_for_training(seed: int) -> tuple[Any, Any]:
    from sklearn.datasets import make_classification

    x, y = make_classification(2000, FEATURES, n_informative=12, random_state=seed)
    return x.astype(np.float32), y


def train(seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    model = GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=seed)
    return model.fit(*rows_for_training(seed))


def calibrate(seed: int) -> Any:
    from sklearn.calibration import CalibratedClassifierCV

    model = CalibratedClassifierCV(train(seed), method="isotonic", cv=3, ensemble=False)
    return model.fit(*rows_for_training(seed))


def to_onnx(model: Any) -> bytes:
    import skl2onnx

    example = np.zeros((1, FEATURES), dtype=np.float32)
    options = {"zipmap": False}
    return skl2onnx.to_onnx(model, example, options=options, target_opset=17).SerializeToString()


def make_model(seed: int) -> bytes:
    return to_onnx(train(seed))


def add_version(home: TestHome, data: bytes, target: str = "y") -> str:
    names = tuple(f"feature_{at:02d}" for at in range(FEATURES))
    fields = tuple(Field(name=name, type="float", range_min=-1e6, range_max=1e6) for name in names)
    manifest = Manifest(
        format=1, task="binary", label=target, labels=("bad", "good"), positive="good",
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


def add_native_version(home: TestHome, data: bytes) -> str:
    """A pickled scikit-learn model without an ONNX form."""
    fields = tuple(Field(name=name, type="float", range_min=-1e6, range_max=1e6) for name in NAMES)
    manifest = Manifest(
        format=1, task="binary", label="y", labels=LABELS, positive="1", threshold=0.5,
        contract=Contract(inputs=fields),
        native=NativeForm(
            family="sklearn", serialization="pickle", file=NATIVE_FILE, columns=NAMES
        ),
        onnx=None, parity=None, lineage=Lineage(), reads=NAMES,
        files=(
            FileEntry(path=NATIVE_FILE, size=len(data), sha256=hashlib.sha256(data).hexdigest()),
        ),
    )  # fmt: skip
    return home.add_bundle(manifest, {NATIVE_FILE: data})


class Models:
    """The model files that all servers load, and what each must answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.isotonic = train(1), calibrate(1)
        self.onnx = (to_onnx(self.model), make_model(2))
        (folder / "model.onnx").write_bytes(self.onnx[0])
        (folder / "model.pkl").write_bytes(pickle.dumps(self.model))
        (folder / "isotonic.pkl").write_bytes(pickle.dumps(self.isotonic))
        matrix = np.random.default_rng(0).normal(size=(ROWS_CHECKED, FEATURES)).round(4)
        self.rows: list[Row] = [dict(zip(NAMES, row.tolist(), strict=True)) for row in matrix]
        self.right = self.model.predict_proba(matrix)
        self.right_isotonic = self.isotonic.predict_proba(matrix)

    def difference_when_converted(self) -> float:
        """How far the ONNX form of the calibrated model is from the model."""
        import onnxruntime

        x, _ = rows_for_training(1)
        session = onnxruntime.InferenceSession(to_onnx(self.isotonic))
        found = session.run(["probabilities"], {"X": x})[0]
        return float(np.abs(found - self.isotonic.predict_proba(x)).max())

    def check(self, server: Server, *, isotonic: bool) -> None:
        """Raises: SystemExit if a server does not answer what the model does."""
        right = self.right_isotonic if isotonic else self.right
        found = [servers.answer(server, row) for row in self.rows]
        if not np.allclose(found, right, atol=TOLERANCE):
            raise SystemExit(f"{server.title} answers {found}; the model {right.tolist()}")


class Bench:
    """All servers, started and stopped together. missing: why a server is not among them."""

    def __init__(self, models: Models, chosen: list[str]) -> None:
        self.models = models
        self.servers: list[Server] = []
        self.missing: dict[str, str] = {
            peer.title: "" if peer.key in chosen else "not chosen" for peer in PEERS
        }
        self.peers = [peer for peer in PEERS if peer.key in chosen]

    def start(self) -> None:
        row, folder = self.models.rows[0], self.models.folder
        self.add(servers.start_bare(folder / "model.onnx", row))
        for title in ("Doorstep", "Doorstep, release at 50 %", "Doorstep, engine"):
            home = TestHome(folder / f"home-{len(self.servers)}")
            self.add(Doorstep(title, home, plan_for(title, home, self.models), row))
        home = TestHome(folder / "home-native")
        title = "Doorstep, engine, isotonic calibration"
        self.add(Doorstep(title, home, native_plan(home, self.models), row), isotonic=True)
        for peer in self.peers:
            why = install(peer)
            try:
                if not why:
                    server = servers.start_peer(peer, folder, row)
                    self.add(server, isotonic=peer.model == "isotonic.pkl")
            except (OSError, TimeoutError) as error:
                log = (folder / f"{peer.key}.log").read_text(errors="replace").strip()
                why = f"{error}: {log.splitlines()[-1][:100] if log else 'no output'}"
            self.missing[peer.title] = why

    def add(self, server: Server, *, isotonic: bool = False) -> None:
        """Taken over: checked, and then standing still until its turn."""
        self.servers.append(server)
        self.models.check(server, isotonic=isotonic)
        server.pause()
        print(f"{server.title}: up in {server.cold_start_s:.1f} s", file=sys.stderr, flush=True)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


def plan_for(title: str, home: TestHome, models: Models, **changes: Any) -> ServicePlan:
    digests = [add_version(home, data) for data in models.onnx]
    if title == "Doorstep, engine":
        return home.service("bench", {1: digests[0]}, placement="engine")
    both = {1: digests[0], 2: digests[1]}
    if title == "Doorstep, release at 50 %":
        changes["release"] = ReleasePlan(
            id="r1", challenger=2, state="step", epoch=1, shares={"": 0.5}
        )
    return home.service("bench", both, **changes)


def native_plan(home: TestHome, models: Models) -> ServicePlan:
    digest = add_native_version(home, pickle.dumps(models.isotonic))
    version = VersionPlan(number=1, bundle=digest, form="native", placement="engine", trusted=True)
    return home.service("bench", {1: digest}, versions=(version,))


def load_of(server: Server, row: Row, connections: int, seconds: float, rate: float = 0) -> Load:
    return Load(
        url=f"http://127.0.0.1:{server.port}", path=server.path, connections=connections,
        bodies=(json.dumps(server.ask(row)).encode(),), seconds=seconds, rate=rate,
    )  # fmt: skip


def drive(server: Server, row: Row, connections: int, seconds: float, rate: float = 0) -> Answered:
    """What the generator said. Raises: SystemExit on an answer that is not one."""
    said = ask(load_of(server, row, connections, seconds, rate))
    if said.bad or said.dropped or not said.good:
        raise SystemExit(
            f"{server.title} at {connections} connections: {said.good} good, {said.bad} bad, "
            f"{said.dropped} dropped"
        )
    return said


def measure(server: Server, row: Row, seconds: float) -> Sample:
    """One turn of a server: CPU and capacity at each number of connections, then latencies at
    16 by the clock: at half its capacity (generator and server then fill two cores), and at a rate
    that leaves the machine idle, `QUIET_RATE` or half its capacity where that is less."""
    cpu_ms, rates = {}, {}
    for connections in CONNECTIONS:
        drive(server, row, connections, WARM_UP_S)
        before_s = servers.cpu_s(server.root)
        said = drive(server, row, connections, seconds)
        cpu_ms[connections] = 1000 * (servers.cpu_s(server.root) - before_s) / said.good
        rates[connections] = said.good / said.s
    half = rates[16] / 2
    p50_ms, p99_ms = np.percentile(drive(server, row, 16, seconds, half).latencies_ms, [50, 99])
    quiet = drive(server, row, 16, seconds, min(half, QUIET_RATE)).latencies_ms
    memory = servers.rss_mb(servers.tree(server.root))
    return Sample(
        cpu_ms, rates[16], float(p50_ms), float(p99_ms), float(np.percentile(quiet, 99)), memory
    )


def disturb(server: Doorstep, models: Models, seconds: float) -> tuple[str, int]:
    """Swap, roll back and replace the worker under load, again and again.
    Answers (what was done, requests that were not answered as they should be)."""
    load = load_of(server, models.rows[0], 16, seconds)
    process = start(load)
    done = dict.fromkeys(("swaps", "rollbacks", "workers replaced"), 0)
    while process.poll() is None or not done["workers replaced"]:
        for champion, what in ((2, "swaps"), (1, "rollbacks")):
            plan = plan_for(server.title, server.home, models, champion=champion)
            server.node.wait_plan(server.home.publish(plan, lease_s=3600))
            done[what] += 1
        old = server.front
        os.kill(old, signal.SIGTERM)
        server.node.wait(
            lambda one, old=old: any(w.kind == "front" and w.pid != old for w in one.workers)
        )
        done["workers replaced"] += 1
    said = finish(process, load)
    words = ", ".join(f"{count} {what}" for what, count in done.items())
    return f"{words} under {said.good} requests", said.bad + said.dropped


def run(folder: Path, seconds: float, rounds: int, chosen: list[str]) -> int:
    models = Models(folder)
    bench, samples = Bench(models, chosen), Samples()
    print(f"load average at the start: {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    try:
        bench.start()
        samples.missing = bench.missing
        for server in bench.servers:
            samples.cold_start_s[server.title] = server.cold_start_s
        for turn in range(rounds):
            for server in bench.servers:
                if turn % 2 and server.title not in ALWAYS:
                    continue
                server.resume()
                samples.add(server.title, turn, measure(server, models.rows[0], seconds))
                server.pause()
        doorstep = next(one for one in bench.servers if one.title == "Doorstep")
        assert isinstance(doorstep, Doorstep)
        samples.worker_mb = servers.rss_mb([doorstep.front])
        samples.disturbed, samples.dropped = disturb(doorstep, models, 3 * seconds)
    finally:
        bench.stop()
    difference = models.difference_when_converted()
    print(
        f"The calibrated model as ONNX is wrong by up to {difference:.3f}, so it is not converted."
    )
    return show(samples)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(DEFAULT), help=" ".join(p.key for p in PEERS))
    args = parser.parse_args()
    chosen = [one for one in args.peers.split(",") if one]
    unknown = set(chosen) - {peer.key for peer in PEERS}
    if unknown:
        parser.error(f"unknown peers {sorted(unknown)}; known: {[peer.key for peer in PEERS]}")
    # Servers choose their BLAS kernels themselves.
    os.environ.pop("OPENBLAS_CORETYPE", None)
    os.environ.pop("OPENBLAS_L2_SIZE", None)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run(Path(folder), args.seconds, args.rounds, chosen))


if __name__ == "__main__":
    main()
