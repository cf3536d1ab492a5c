"""FastAPI as most people write it: a pydantic model, a DataFrame, scikit-learn.

python fastapi_frame.py PORT MODEL.pkl
"""

import pickle
import sys
from pathlib import Path

import pandas as pd
import uvicorn
from fastapi import FastAPI
from pydantic import create_model

model = pickle.loads(Path(sys.argv[2]).read_bytes())
Row = create_model("Row", **{f"feature_{at:02d}": (float, ...) for at in range(30)})
app = FastAPI()


@app.post("/predict")
def predict(row: Row):
    frame = pd.DataFrame([row.model_dump()])
    return {"probabilities": model.predict_proba(frame)[0].tolist()}


uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
