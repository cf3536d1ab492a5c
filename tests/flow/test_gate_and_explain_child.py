"""A real pipeline, registered, then judged and explained by processes of their own."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from doorstep.core.condition import parse_condition
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.servicefile_types import GatesSpec
from doorstep.core.verdict import Finding, Verdict
from doorstep.explain.child import Explained, ExplainRequest
from doorstep.explain.permutation import check_additive
from doorstep.formats.recognise import recognise
from doorstep.gate.decide import recompute, verdict_of
from doorstep.gate.types import Candidate, GateRequest
from doorstep.kernel.child import run_child
from doorstep.register.build import BuildSpec, build_bundle

COLUMNS = ("credit_amount", "duration", "purpose", "age", "sex", "risk")


def write_rows(path: Path, seed: int, rows: int, amount_unit: float = 1.0) -> Path:
    generator = np.random.default_rng(seed)
    amount = np.exp(generator.normal(7.7, 0.7, rows)).clip(250, 20000).round(2)
    duration = generator.integers(6, 60, rows)
    purpose = generator.choice(["car", "education", "furniture"], rows, p=[0.5, 0.2, 0.3])
    age = generator.integers(19, 75, rows)
    sex = generator.choice(["f", "m"], rows)
    z = (amount - 2500) / 1500 + (duration - 30) / 15 + (purpose == "education") - (age - 40) / 30
    bad = generator.random(rows) < 1 / (1 + np.exp(-z))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in zip(amount / amount_unit, duration, purpose, age, sex, bad, strict=True):
            writer.writerow([*row[:5], "bad" if row[5] else "good"])
    return path


@dataclass(frozen=True)
class Version:
    candidate: Candidate
    holdout: str


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Version]:
    folder = tmp_path_factory.mktemp("versions")
    holdout = write_rows(folder / "holdout.csv", 2, 800)
    right = write_rows(folder / "right.csv", 1, 2000)
    wrong = write_rows(folder / "wrong.csv", 1, 2000, amount_unit=100)
    return {
        "loans@1": build(folder, "loans@1", right, holdout),
        "loans@2": build(folder, "loans@2", wrong, holdout),
    }


def build(folder: Path, name: str, train: Path, holdout: Path) -> Version:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from skops.io import dump

    frame = pd.read_csv(train)
    inputs = ["credit_amount", "duration", "purpose", "age"]
    encoder = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["credit_amount", "duration", "age"]),
            ("categories", OneHotEncoder(handle_unknown="ignore"), ["purpose"]),
        ]
    )
    model = make_pipeline(encoder, LogisticRegression())
    model.fit(frame[inputs], frame["risk"])
    path = folder / f"{name}.skops"
    dump(model, path)
    assert recognise(path.read_bytes(), path.name) == "skops"
    spec = BuildSpec(
        label="risk",
        positive="bad",
        train=train,
        holdout=holdout,
        context={"sex": {"type": "category", "protected": True}},
    )
    built = build_bundle(path, spec, folder / name)
    candidate = Candidate(name=name, folder=str(built.folder), digest=built.digest)
    return Version(candidate, str(built.holdout))


def judge(request: GateRequest) -> dict[str, Finding]:
    answer = run_child("doorstep.gate.child", msgspec.json.encode(request), timeout_s=120)
    found = msgspec.json.decode(answer, type=list[Finding])
    assert [recompute(one) for one in found] == found
    return {one.check: one for one in found}


def test_a_sound_version_passes_its_gates(versions: dict[str, Version]) -> None:
    version = versions["loans@1"]
    found = judge(
        GateRequest(
            version=version.candidate,
            holdout=version.holdout,
            gates=GatesSpec(
                quality=(parse_condition("auc >= 0.75"),),
                fairness=(parse_condition("selection_rate_ratio >= 0.5"),),
                speed=(parse_condition("p50 <= 10 s"), parse_condition("size <= 50 MB")),
            ),
            favourable="good",
        )
    )
    assert verdict_of(found.values()) is Verdict.PASS, [one.reason for one in found.values()]
    assert "800 held-out rows" in found["auc >= 0.75"].reason


def test_a_column_in_the_wrong_unit_is_refused_with_the_reason(
    versions: dict[str, Version],
) -> None:
    found = judge(
        GateRequest(
            version=versions["loans@2"].candidate,
            champion=versions["loans@1"].candidate,
            holdout=versions["loans@2"].holdout,
            gates=GatesSpec(quality=(parse_condition("auc >= champion - 0.005"),)),
        )
    )
    worse = found["auc >= champion - 0.005"]
    assert worse.verdict is Verdict.FAIL
    assert "below champion" in worse.reason
    assert "most changed column: credit_amount" in worse.reason
    assert found["the hold-out is in the units of training"].verdict is Verdict.FAIL


def explained(version: Version, row: dict[str, object], **more: object) -> Explained:
    request = ExplainRequest(
        folder=version.candidate.folder,
        digest=version.candidate.digest,
        row=row,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )
    answer = run_child("doorstep.explain.child", msgspec.json.encode(request), timeout_s=120)
    return msgspec.json.decode(answer, type=Explained)


def test_a_prediction_is_explained_in_words_that_add_up(versions: dict[str, Version]) -> None:
    row = {"credit_amount": 12000.0, "duration": 48, "purpose": "education", "age": 25}
    found = explained(versions["loans@1"], row)
    assert found.of == "bad"
    check_additive(found.explanation)
    assert found.words[0].startswith("credit_amount = 12,000 raises the score of 'bad' by 0.")
    assert found == explained(versions["loans@1"], row)


def test_a_row_that_the_version_cannot_read_is_refused(versions: dict[str, Version]) -> None:
    with pytest.raises(InputError, match="does not read salary"):
        explained(versions["loans@1"], {"salary": 1.0})
    with pytest.raises(InputError, match="has no label 'ugly'"):
        explained(versions["loans@1"], {}, label="ugly")


def test_a_bundle_that_was_changed_is_neither_judged_nor_explained(
    versions: dict[str, Version], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "changed"
    shutil.copytree(versions["loans@1"].candidate.folder, folder)
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"bad"', b'"mad"'))
    candidate = msgspec.structs.replace(versions["loans@1"].candidate, folder=str(folder))
    with pytest.raises((InputError, RefusedError), match="bad-manifest"):
        judge(GateRequest(version=candidate))
    with pytest.raises((InputError, RefusedError), match="bad-manifest"):
        explained(Version(candidate, ""), {})
