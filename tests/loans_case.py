"""A small bank: applications for loans, and models of who does not pay them back.

`week.csv` has a purpose that no model was trained on. The first model lets it pass; the second one,
as careless models do, raises.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

PURPOSES = ("car", "education", "furniture", "business")
INPUTS = ["name", "email", "duration", "amount", "income", "age", "purpose"]


def applications(rows: int, first: int, purposes: tuple[str, ...] = PURPOSES) -> Any:
    """A DataFrame of `rows` applications, numbered from `first`; drawn anew for each `first`."""
    import pandas as pd

    rng = np.random.default_rng(first)
    people = rng.integers(0, 900, rows)
    frame = pd.DataFrame(
        {
            "application_id": np.arange(first, first + rows),
            "name": [f"Person {one}" for one in people],
            "email": [f"p{one}@example.org" for one in people],
            "duration": rng.integers(4, 73, rows),
            "amount": np.round(rng.lognormal(8, 0.6, rows), 2),
            "income": np.round(rng.lognormal(10, 0.4, rows), 2),
            "age": rng.integers(19, 80, rows),
            "purpose": rng.choice(purposes, rows),
            "sex": rng.choice(["female", "male"], rows),
        }
    )
    score = 0.04 * frame.duration + 0.0002 * frame.amount - 0.00004 * frame.income - 1
    score += 0.8 * (frame.purpose == "business")
    frame["default"] = np.where(rng.random(rows) < 1 / (1 + np.exp(-score)), "yes", "no")
    return frame


def write_case(folder: Path, rows: int = 1200) -> None:
    """train.csv, test.csv, week.csv, model.pkl and model_v2.pkl, in `folder`."""
    train = applications(rows, 100_000)
    train.to_csv(folder / "train.csv", index=False)
    applications(rows // 2, 200_000).to_csv(folder / "test.csv", index=False)
    weeks = (*PURPOSES * 5, "vacation")
    applications(rows // 2, 300_000, weeks).to_csv(folder / "week.csv", index=False)
    for name, unknown, strength in (("model", "ignore", 1.0), ("model_v2", "error", 0.5)):
        model = _pipeline(unknown, strength).fit(train[INPUTS], train["default"])
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(model))


def _pipeline(unknown: str, strength: float) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown=unknown), ["purpose"]),
        (StandardScaler(), ["duration", "amount", "income", "age"]),
    )
    return make_pipeline(columns, LogisticRegression(C=strength))
