"""MLflow's scoring server with a signature, one worker.

python mlflow_frame.py PORT MODEL.pkl
"""

import os
import pickle
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

if __name__ == "__main__":
    model = pickle.loads(Path(sys.argv[2]).read_bytes())
    frame = pd.DataFrame(np.zeros((2, 30)), columns=[f"feature_{at:02d}" for at in range(30)])
    folder = str(Path(sys.argv[2]).with_name(f"mlflow-{sys.argv[1]}"))
    mlflow.sklearn.save_model(
        model, folder, pyfunc_predict_fn="predict_proba", serialization_format="pickle",
        signature=mlflow.models.infer_signature(frame, model.predict_proba(frame)),
        pip_requirements=[],
    )  # fmt: skip
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.execv(
        sys.executable,
        [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", folder, "--host",
         "127.0.0.1", "--port", sys.argv[1], "--workers", "1", "--env-manager", "local"],
    )  # fmt: skip
