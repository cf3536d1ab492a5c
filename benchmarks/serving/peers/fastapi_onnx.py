"""FastAPI with a pydantic model and onnxruntime.

python fastapi_onnx.py PORT MODEL.onnx
"""

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import create_model

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options)
Row = create_model("Row", **{f"feature_{at:02d}": (float, ...) for at in range(30)})
app = FastAPI()


@app.post("/predict")
async def predict(row: Row):
    matrix = np.array([list(row.model_dump().values())], dtype=np.float32)
    return {"probabilities": session.run(["probabilities"], {"X": matrix})[0][0].tolist()}


uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
