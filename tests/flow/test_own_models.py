"""A model of the user's own that is not binary: from the file to answers, on real processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from shell_case import Shell

PORTS = tuple(word for name in ("data", "health", "control") for word in (f"--{name}-port", "0"))


class Own(NamedTuple):
    """suggested: the gate that `init` offers. labels: of the answers, () for a number."""

    label: str
    suggested: str
    labels: tuple[str, ...]


OWN = {
    "diabetes": Own("target", "r2 >= 0.5", ()),
    "wine": Own("cultivar", "f1_macro >= 0.75", ("barbera", "barolo", "grignolino")),
}


def write_own(name: str, folder: Path) -> None:
    """model.pkl, train.csv and test.csv of a data set that scikit-learn brings along."""
    from sklearn.datasets import load_diabetes, load_wine
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "wine":
        frame, estimator = load_wine(as_frame=True).frame, LogisticRegression()
        names = dict(enumerate(("barolo", "grignolino", "barbera")))
        frame["cultivar"] = frame.pop("target").map(names)
    else:
        frame, estimator = load_diabetes(as_frame=True, scaled=False).frame, Ridge()
    label = OWN[name].label
    train, test = train_test_split(frame, test_size=0.6, random_state=0)
    model: Any = make_pipeline(StandardScaler(), estimator)
    model.fit(train.drop(columns=label), train[label])
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)


@pytest.fixture(params=list(OWN))
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path, request.param)
    write_own(request.param, made.folder)
    yield made
    made("down")


def test_a_model_of_another_task_is_served_with_gates_that_fit_it(shell: Shell) -> None:
    own, service = OWN[shell.folder.name], shell.folder.name
    assert shell("trust", "model.pkl", "--why", "mine").code == 0
    words = ("--train", "train.csv", "--holdout", "test.csv", "--label", own.label)
    assert shell("init", "model.pkl", *words).code == 0
    file = shell.folder / "doorstep.yaml"
    measure = own.suggested.split()[0]
    suggested = f'# gates: {{quality: ["{own.suggested}"]}}'
    assert suggested in file.read_text()
    # What it suggests is a gate that can be asked of this task; so few rows prove no more.
    asked = suggested.removeprefix("# ").replace(own.suggested, f"{measure} >= 0.1")
    file.write_text(file.read_text().replace(suggested, asked))
    assert shell("up", "-d", *PORTS).code == 0
    judged = shell.json("register", "model.pkl")["gates"]["findings"]
    assert f"{measure} >= 0.1" in [one["check"] for one in judged]
    assert shell("release", "start", f"{service}@1").code == 0
    answer = shell.json("predict", service, "test.csv", "--rows", "3")["predictions"][0]
    if own.labels:
        assert tuple(answer["probabilities"]) == own.labels
    else:
        assert 20 < answer["value"] < 400
    assert shell("explain", answer["id"]).code == 0
