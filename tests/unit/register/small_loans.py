"""One small set of loans, as files, and models trained on it the way people do."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS = ["age", "income", "debt", "owner"]


@dataclass
class Loans:
    folder: Path
    train: Path
    holdout: Path

    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.train)

    def fit(self, model: Any) -> Any:
        rows = self.rows()
        return model.fit(rows[[*NUMBERS, "purpose"]], rows["status"])

    def save(self, model: Any, name: str = "model.pkl") -> Path:
        path = self.folder / name
        path.write_bytes(pickle.dumps(model))
        return path


def columns(categories: Any = None) -> ColumnTransformer:
    encoder = categories or OneHotEncoder(handle_unknown="ignore")
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return ColumnTransformer([("n", numbers, NUMBERS), ("c", encoder, ["purpose"])])


def make_rows(count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "loan_id": np.arange(count) + 1000 * seed,
            "age": rng.integers(18, 80, count),
            "income": rng.normal(40_000, 9_000, count).round(2),
            "debt": rng.normal(0, 1, count),
            "purpose": rng.choice(["car", "home", "study"], count, p=[0.5, 0.3, 0.2]),
            "owner": rng.random(count) < 0.5,
            "sex": rng.choice(["f", "m"], count),
        }
    )
    risk = (frame.age < 40) + (frame.purpose == "car") + frame.debt + rng.normal(0, 1, count)
    frame["status"] = np.where(risk > 1.5, "bad", "good")
    frame.loc[rng.random(count) < 0.1, "debt"] = np.nan
    frame.loc[rng.random(count) < 0.1, "purpose"] = None
    return frame
