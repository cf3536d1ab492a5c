"""BentoML with scikit-learn on an array.

python bentoml_array.py PORT MODEL.pkl
"""

import os
import pickle
import sys
from pathlib import Path

import bentoml
import numpy as np


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Classifier:
    def __init__(self):
        self.model = pickle.loads(Path(os.environ["BENCH_MODEL"]).read_bytes())

    @bentoml.api
    def predict(self, features: list[float]) -> dict:
        return {"probabilities": self.model.predict_proba(np.array([features]))[0].tolist()}


if __name__ == "__main__":
    os.environ["BENCH_MODEL"] = sys.argv[2]
    os.execv(
        sys.executable,
        [sys.executable, "-m", "bentoml", "serve", "bentoml_array:Classifier", "--host",
         "127.0.0.1", "--port", sys.argv[1], "--working-dir", str(Path(__file__).parent)],
    )  # fmt: skip
