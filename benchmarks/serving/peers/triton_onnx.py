"""Triton with dynamic batching over a Python model that calls onnxruntime.

The server and its Python backend are the ones that the package nvidia-pytriton carries (it carries
no other backend). Triton loads this very file as the model.

python triton_onnx.py PORT MODEL.onnx
"""

import os
import sys
from pathlib import Path

# The backend's interpreter finds only its own packages.
sys.path += os.environ.get("BENCH_PACKAGES", "").split()

import numpy as np

CONFIG = """
backend: "python"
max_batch_size: 64
dynamic_batching {}
input [{ name: "X" data_type: TYPE_FP32 dims: [30] }]
output [{ name: "probabilities" data_type: TYPE_FP32 dims: [2] }]
"""


class TritonPythonModel:
    def initialize(self, args):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)

    def execute(self, requests):
        import triton_python_backend_utils as utils

        rows = [utils.get_input_tensor_by_name(one, "X").as_numpy() for one in requests]
        scores = self.session.run(["probabilities"], {"X": np.concatenate(rows)})[0]
        ends = np.cumsum([len(one) for one in rows])[:-1]
        return [
            utils.InferenceResponse([utils.Tensor("probabilities", part)])
            for part in np.split(scores, ends)
        ]


def main() -> None:
    import pytriton

    carried = Path(pytriton.__file__).parent / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = Path(sys.argv[2]).with_name(f"triton-{sys.argv[1]}")
    backend, model = folder / "backends/python", folder / "models/bench"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1/model.py").write_text(Path(__file__).read_text())
    backend.mkdir(parents=True)
    for found in (carried / "backends/python", carried / "python_backend_stubs" / python):
        for file in found.iterdir():
            (backend / file.name).symlink_to(file)
    os.environ["BENCH_MODEL"] = sys.argv[2]
    os.environ["BENCH_PACKAGES"] = str(Path(pytriton.__file__).parents[1])
    server = str(carried / "bin/tritonserver")
    options = {
        "model-repository": folder / "models", "backend-directory": folder / "backends",
        "http-address": "127.0.0.1", "http-port": sys.argv[1], "allow-grpc": "false",
        "allow-metrics": "false",
    }  # fmt: skip
    os.execv(server, [server, *(f"--{name}={value}" for name, value in options.items())])


if __name__ == "__main__":
    main()
