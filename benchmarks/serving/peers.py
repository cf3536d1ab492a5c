"""The peers: what each needs, what it is asked and how it answers. Their servers are in `peers/`.

Every peer gets the form of the request that costs it least, and one worker. Each has a virtual
environment of its own in the user's cache folder, made once with uv (pip if there is none), with
the scikit-learn of this environment so that the same model file loads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

Row = dict[str, float]
Model = str  # a file name in the folder of the models
INSTALL_S_MAX = 600.0
UVICORN = ("uvicorn", "uvloop", "httptools")
SKLEARN = f"scikit-learn=={version('scikit-learn')}"


@dataclass(frozen=True)
class Peer:
    """key: what `--peers` calls it. ask: the body for a row. read: an answer's probabilities."""

    key: str
    title: str
    script: str
    packages: tuple[str, ...]
    path: str
    ask: Callable[[Row], Any]
    read: Callable[[Any], list[float]]
    model: Model = "model.pkl"
    environment: str = ""

    @property
    def folder(self) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "doorstep-bench" / (self.environment or self.key)


def values(row: Row) -> list[float]:
    return list(row.values())


def tensor(name: str, datatype: str, **more: Any) -> Callable[[Row], Any]:
    """The body of the Open Inference Protocol."""

    def ask(row: Row) -> Any:
        one = {"name": name, "shape": [1, len(row)], "datatype": datatype, "data": values(row)}
        return {"inputs": [one], **more}

    return ask


FRAME = Peer(
    "fastapi", "FastAPI, pydantic, DataFrame, scikit-learn", "fastapi_frame.py",
    ("fastapi", *UVICORN, "pandas", SKLEARN), "/predict",
    lambda row: row, lambda said: said["probabilities"],
)  # fmt: skip
PEERS = (
    FRAME,
    Peer(
        "fastapi-isotonic", "the same, isotonic calibration", FRAME.script, FRAME.packages,
        FRAME.path, FRAME.ask, FRAME.read, "isotonic.pkl", FRAME.key,
    ),
    Peer(
        "fastapi-onnx", "FastAPI, pydantic, onnxruntime", "fastapi_onnx.py",
        ("fastapi", *UVICORN, "onnxruntime"), "/predict",
        lambda row: row, lambda said: said["probabilities"], "model.onnx",
    ),
    Peer(
        "litserve", "LitServe, scikit-learn, batched", "litserve_array.py", ("litserve", SKLEARN),
        "/predict", lambda row: {"features": values(row)}, lambda said: said["probabilities"],
    ),
    Peer(
        "kserve", "KServe SDK, scikit-learn", "kserve_array.py", ("kserve", SKLEARN),
        "/v1/models/bench:predict", lambda row: {"instances": [values(row)]},
        lambda said: said["predictions"][0],
    ),
    Peer(
        "triton", "Triton, dynamic batching, onnxruntime", "triton_onnx.py",
        ("nvidia-pytriton", "onnxruntime"), "/v2/models/bench/infer", tensor("X", "FP32"),
        lambda said: said["outputs"][0]["data"], "model.onnx",
    ),
    Peer(
        "mlserver", "MLServer, scikit-learn", "mlserver_array.py",
        ("mlserver", "mlserver-sklearn", SKLEARN), "/v2/models/bench/infer",
        tensor("X", "FP64", outputs=[{"name": "predict_proba"}]),
        lambda said: said["outputs"][0]["data"],
    ),
    Peer(
        "bentoml", "BentoML, scikit-learn", "bentoml_array.py", ("bentoml", SKLEARN),
        "/predict", lambda row: {"features": values(row)}, lambda said: said["probabilities"],
    ),
    Peer(
        "mlflow", "MLflow with a signature, scikit-learn", "mlflow_frame.py", ("mlflow", SKLEARN),
        "/invocations", lambda row: {"dataframe_records": [row]},
        lambda said: list(said["predictions"][0].values())
        if isinstance(said["predictions"][0], dict) else said["predictions"][0],
    ),
)  # fmt: skip
DEFAULT = ("fastapi", "fastapi-isotonic", "fastapi-onnx", "litserve", "kserve", "triton")


def install(peer: Peer) -> str:
    """Make the peer's environment, unless it is there. Answers why it cannot be had, or ""."""
    wanted, stamp = "\n".join(peer.packages), peer.folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    print(f"installing {peer.key}: {' '.join(peer.packages)}", file=sys.stderr, flush=True)
    python = str(peer.folder / "bin/python")
    if shutil.which("uv"):
        commands = [
            ["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(peer.folder)],
            ["uv", "pip", "install", "--quiet", "--python", python, *peer.packages],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", "--clear", str(peer.folder)],
            [python, "-m", "pip", "install", "--quiet", *peer.packages],
        ]
    for command in commands:
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=INSTALL_S_MAX
            )
        except subprocess.TimeoutExpired:
            return f"not installed in {INSTALL_S_MAX:.0f} s"
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip().splitlines() or ["no message"]
            return f"cannot be installed: {said[-1].strip()[:100]}"
    stamp.write_text(wanted)
    return ""
