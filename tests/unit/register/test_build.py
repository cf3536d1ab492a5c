"""Trained models become bundles: same bytes for the same inputs, ONNX only if every row agrees."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from sklearn.svm import LinearSVC
from small_loans import NUMBERS, Loans, columns, make_rows

from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import digest_of
from doorstep.core.manifest import Profile, decode_manifest, decode_part
from doorstep.core.verdict import Verdict
from doorstep.formats.load import load_scorer
from doorstep.formats.table import read_table, to_batch
from doorstep.register.build import BuildSpec, Built, build_bundle
from doorstep.register.convert import propose_onnx
from doorstep.register.decide import placement_of
from doorstep.register.parity import Decision, Group, check_parity, rows_agree
from doorstep.register.speed import measure_speed

ORDINAL = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)


@pytest.fixture
def loans(tmp_path: Path) -> Loans:
    train, holdout = tmp_path / "train.csv", tmp_path / "holdout.csv"
    make_rows(600, 1).to_csv(train, index=False)
    make_rows(200, 2).to_csv(holdout, index=False)
    return Loans(tmp_path, train, holdout)


def logistic() -> Any:
    return make_pipeline(columns(), LogisticRegression())


def build(loans: Loans, model: Path | str, **changes: Any) -> Built:
    known: dict[str, Any] = {
        "label": "status", "train": loans.train, "holdout": loans.holdout, "trusted": True,
        "ids": ("loan_id",), "context": {"sex": {"type": "category", "protected": True}},
    }  # fmt: skip
    return build_bundle(model, BuildSpec(**{**known, **changes}), loans.folder / "out")


def test_a_bundle_is_what_its_manifest_says_and_scores_as_the_model_does(loans: Loans) -> None:
    model = loans.fit(logistic())
    seen: list[tuple[str, float]] = []
    spec = BuildSpec(label="status", train=loans.train, holdout=loans.holdout, trusted=True)
    built = build_bundle(
        loans.save(model),
        spec,
        loans.folder / "out",
        lambda what, share: seen.append((what, share)),
    )
    assert [share for _, share in seen] == sorted(share for _, share in seen)
    data = (built.folder / "manifest.json").read_bytes()
    assert digest_of(data) == built.digest == built.folder.name
    manifest = decode_manifest(data, built.digest)
    assert manifest == built.manifest
    on_disk = {p.relative_to(built.folder).as_posix() for p in built.folder.rglob("*.*")}
    assert {entry.path for entry in manifest.files} == on_disk - {"manifest.json"}
    assert (manifest.task, manifest.labels, manifest.positive) == ("binary", ("bad", "good"), "bad")
    assert manifest.onnx is not None
    assert manifest.parity is not None
    assert manifest.parity.passed
    rows = read_table(loans.holdout)
    expected = model.predict_proba(pd.read_csv(loans.holdout)[[*NUMBERS, "purpose"]])
    for form, tolerance in (("onnx", 1e-5), ("native", 0)):
        scorer = load_scorer(built.folder, manifest, form, trusted=True)  # type: ignore[arg-type]
        scores = scorer.score(to_batch(rows, manifest.contract))
        np.testing.assert_allclose(scores, expected, atol=tolerance)
    assert built.findings[0].reason.endswith("rows agree")


def test_the_same_inputs_give_the_same_version_and_any_change_another(loans: Loans) -> None:
    path = loans.save(
        loans.fit(make_pipeline(columns(), GradientBoostingClassifier(n_estimators=5)))
    )
    first = build(loans, path)
    assert build(loans, path).digest == first.digest
    assert len(list((loans.folder / "out").iterdir())) == 2
    assert build(loans, path, positive="good").digest != first.digest
    other = loans.save(loans.fit(logistic()))
    assert build(loans, other).digest != first.digest


def test_the_reference_describes_the_training_data(loans: Loans) -> None:
    built = build(loans, loans.save(loans.fit(logistic())))
    data = (built.folder / "reference/profile.json").read_bytes()
    profile = decode_part(data, Profile, "profile")
    assert profile.rows == 600
    assert [one.name for one in profile.columns] == [*NUMBERS, "purpose", "sex"]
    assert sum(one.importance for one in profile.columns) == pytest.approx(1, abs=1e-5)
    background = read_table(built.folder / "reference/background.parquet")
    assert (background.rows, background.names) == (500, (*NUMBERS, "purpose"))


def test_the_holdout_is_kept_by_its_digest_with_label_key_and_context(loans: Loans) -> None:
    built = build(loans, loans.save(loans.fit(logistic())))
    train, holdout = built.manifest.lineage.data
    assert (train.role, train.name, train.rows) == ("train", "train.csv", 600)
    assert digest_of(built.holdout.read_bytes()) == holdout.digest == built.holdout.stem
    kept = read_table(built.holdout)
    assert kept.rows == holdout.rows == 200
    assert set(kept.names) == {*NUMBERS, "purpose", "sex", "status", "loan_id"}
    libraries = built.manifest.lineage.libraries
    assert {"scikit-learn", "numpy"} <= set(libraries)
    assert "LogisticRegression" in built.manifest.lineage.estimator
    assert built.manifest.lineage.parameters["logisticregression__C"] == "1.0"


AGREES = {
    "gradient boosting": make_pipeline(columns(), GradientBoostingClassifier(n_estimators=10)),
    "forest": make_pipeline(
        ColumnTransformer(
            [("c", OneHotEncoder(handle_unknown="ignore"), ["purpose"])], remainder=SimpleImputer()
        ),
        RandomForestClassifier(10, random_state=0),
    ),
    "imputed texts": make_pipeline(
        columns(make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(
            handle_unknown="ignore"))), LogisticRegression()
    ),
    "sigmoid calibration": make_pipeline(
        columns(), CalibratedClassifierCV(LogisticRegression(), cv=2)
    ),
    # Ages are whole numbers, so scaled thresholds lie exactly on scaled values: single precision
    # takes the other branch.
    "forest of scaled numbers": make_pipeline(
        columns(), RandomForestClassifier(30, random_state=0)
    ),
    "booster of scaled numbers": make_pipeline(
        columns(), HistGradientBoostingClassifier(max_iter=20)
    ),
    "an encoder that refuses, in both forms": make_pipeline(
        columns(make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())),
        LogisticRegression(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AGREES)
def test_conversions_that_agree_on_every_row_serve_as_onnx(loans: Loans, name: str) -> None:
    built = build(loans, loans.save(loans.fit(AGREES[name])))
    assert built.manifest.onnx is not None, built.findings[0].reason


TRAPS = {
    "categorical splits": make_pipeline(
        ColumnTransformer([("c", ORDINAL, ["purpose"])], remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=20, categorical_features=[0]),
    ),
    "isotonic calibration": make_pipeline(
        columns(), CalibratedClassifierCV(GradientBoostingClassifier(n_estimators=5),
                                          method="isotonic", cv=3)
    ),
    "no probabilities": make_pipeline(columns(), LinearSVC()),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_conversions_that_go_wrong_are_caught_and_the_model_stays_native(
    loans: Loans, name: str
) -> None:
    built = build(loans, loans.save(loans.fit(TRAPS[name])))
    manifest = built.manifest
    assert manifest.onnx is None
    assert manifest.parity is not None
    assert not manifest.parity.passed
    assert built.findings[0].reason.startswith("kept native: ")
    assert not (built.folder / "model/onnx").exists()
    scorer = load_scorer(built.folder, manifest, "native", trusted=True)
    scores = scorer.score(to_batch(read_table(loans.holdout), manifest.contract))
    assert scores.shape == (200, 2)


def test_a_tokeniser_that_differs_is_caught(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["don't", "e-mail", "café", "refund", "naïve", "order", "won't", "re-open", "I", "a"]
    texts = [" ".join(rng.choice(words, 6)) for _ in range(300)]
    frame = pd.DataFrame({"said": texts, "intent": ["refund" in t for t in texts]})
    frame["intent"] = np.where(["don't" in t for t in texts], "no", "yes")
    frame.to_csv(tmp_path / "t.csv", index=False)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(frame.said, frame.intent)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    spec = BuildSpec(
        label="intent", train=tmp_path / "t.csv", task="text-classification", trusted=True
    )
    built = build_bundle(tmp_path / "m.pkl", spec, tmp_path / "out")
    assert built.manifest.task == "text-classification"
    assert built.manifest.onnx is None
    assert "kept native" in built.findings[0].reason


def test_numbers_without_names_are_one_matrix_and_regression_has_no_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3))
    price = 200_000 + 1000 * rows[:, 0]
    frame = pd.DataFrame(rows, columns=["a", "b", "c"]).assign(price=price)
    frame.to_csv(tmp_path / "t.csv", index=False)
    model = GradientBoostingRegressor(n_estimators=5).fit(rows, price)
    skops.io.dump(model, tmp_path / "m.skops")
    spec = BuildSpec(label="price", train=tmp_path / "t.csv", trusted=True)
    built = build_bundle(tmp_path / "m.skops", spec, tmp_path / "out")
    manifest = built.manifest
    assert (manifest.task, manifest.labels) == ("regression", ())
    assert manifest.onnx is not None, built.findings[0].reason
    assert [one.columns for one in manifest.onnx.inputs] == [("a", "b", "c")]
    assert manifest.native.serialization == "skops"


def test_a_model_made_as_onnx_is_served_as_it_is(loans: Loans) -> None:
    first = build(loans, loans.save(loans.fit(logistic())))
    data = (first.folder / "model/onnx/model.onnx").read_bytes()
    path = loans.folder / "made.onnx"
    path.write_bytes(data)
    built = build(loans, path, trusted=False)
    assert (built.folder / "model/onnx/model.onnx").read_bytes() == data
    assert built.manifest.native.family == "onnx"
    assert built.manifest.labels == ("bad", "good")
    batch = to_batch(read_table(loans.holdout), built.manifest.contract)
    for form in ("onnx", "native"):
        scores = load_scorer(built.folder, built.manifest, form, trusted=False).score(batch)
        assert scores.shape == (200, 2)


def test_an_onnx_model_with_weights_elsewhere_is_refused(loans: Loans) -> None:
    first = build(loans, loans.save(loans.fit(logistic())))
    model = onnx.load(first.folder / "model/onnx/model.onnx")
    path = loans.folder / "split.onnx"
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RefusedError) as caught:
        build(loans, path)
    assert caught.value.code == "onnx-external-data"


def test_a_function_is_copied_with_its_code_and_asked(loans: Loans) -> None:
    package = loans.folder / "src" / "credit_x"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "rule.py").write_text("LIMIT = 40\n")
    (package / "serve.py").write_text(
        "from credit_x.rule import LIMIT\n"
        "def predict(rows, context):\n"
        "    return [0.9 if row['age'] < LIMIT else 0.1 for row in rows]\n"
    )
    with pytest.raises(RefusedError) as caught:
        build(loans, "credit_x.serve:predict", code=(package,), trusted=False)
    assert caught.value.code == "untrusted-model"
    assert "credit_x" not in sys.modules
    built = build(loans, "credit_x.serve:predict", code=(package,), inputs={"age": {"type": "int"}})
    assert {entry.path for entry in built.manifest.files} >= {
        "model/native/code/credit_x/serve.py",
        "model/native/code/credit_x/rule.py",
    }
    assert [one.name for one in built.manifest.contract.inputs] == ["age"]
    scorer = load_scorer(built.folder, built.manifest, "native", trusted=True)
    ages = read_table(loans.holdout)
    scores = scorer.score(to_batch(ages, built.manifest.contract))
    young = ages.column("age").values < 40
    np.testing.assert_allclose(scores[:, 0], np.where(young, 0.9, 0.1))


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.mark}",))


def test_an_unsigned_pickle_is_never_run_and_leaves_no_bundle(loans: Loans) -> None:
    mark = loans.folder / "ran"
    path = loans.save(Bomb(mark))
    with pytest.raises(RefusedError) as caught:
        build(loans, path, trusted=False)
    assert caught.value.code == "untrusted-model"
    assert "posix.system" in caught.value.message
    assert not mark.exists()
    assert not (loans.folder / "out").exists()


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"label": "statuss"}, "no-column", "statuss"),
        ({"label": "age"}, "bad-label", "the model reads 'age', which is the label"),
        ({"label": "sex"}, "bad-label", "model's classes are 'bad', 'good'"),
        ({"positive": "ugly"}, "bad-positive", "ugly"),
        ({"inputs": {"nope": {"type": "int"}}}, "bad-contract", "nope"),
        ({"train": None, "holdout": None}, "no-data", "neither"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_anything_is_written(
    loans: Loans, changes: dict[str, Any], code: str, said: str
) -> None:
    path = loans.save(loans.fit(logistic()))
    with pytest.raises(InputError, match=said) as caught:
        build(loans, path, **changes)
    assert caught.value.code == code


def test_a_model_that_raises_on_its_own_data_is_refused(loans: Loans) -> None:
    rows = loans.rows()
    strict = make_pipeline(columns(OneHotEncoder()), LogisticRegression()).fit(
        rows[[*NUMBERS, "purpose"]].assign(purpose="only this"), rows["status"]
    )
    with pytest.raises(InputError, match="Found unknown categories") as caught:
        build(loans, loans.save(strict))
    assert caught.value.code == "model-cannot-score"
    assert not [p for p in (loans.folder / "out").iterdir() if p.name != "data"]


def test_one_file_is_split_and_its_rows_count_as_seen(loans: Loans) -> None:
    built = build(loans, loans.save(loans.fit(logistic())), holdout=None)
    held = next(one for one in built.findings if one.check == "held-out data")
    assert held.verdict is Verdict.INCONCLUSIVE
    assert "no data that this model has not seen" in held.reason
    source = built.manifest.lineage.data[1]
    assert built.manifest.lineage.metrics["holdout_rows_in_training"] == source.rows > 80


def test_holdout_rows_that_are_in_training_are_counted(loans: Loans) -> None:
    both = pd.concat([make_rows(200, 2), pd.read_csv(loans.train).head(41)])
    both.to_csv(loans.holdout, index=False)
    built = build(loans, loans.save(loans.fit(logistic())))
    held = next(one for one in built.findings if one.check == "held-out data")
    assert (held.verdict, held.evidence["rows_in_training"]) == (Verdict.INCONCLUSIVE, 41)
    assert built.manifest.lineage.metrics["holdout_rows_in_training"] == 41


def test_personal_values_do_not_travel_in_the_bundle(loans: Loans) -> None:
    frame = make_rows(300, 3).assign(email=[f"p{n}@example.org" for n in range(300)])
    frame.to_csv(loans.train, index=False)
    coded = make_pipeline(
        ColumnTransformer([("e", ORDINAL, ["email"])], remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=3),
    ).fit(frame[["email", "age"]], frame["status"])
    built = build(loans, loans.save(coded), holdout=None)
    assert built.manifest.contract.inputs[0].personal == "pseudonymise"
    for entry in built.manifest.files:
        if not entry.path.startswith("model/"):
            assert b"@example" not in (built.folder / entry.path).read_bytes()
    assert "@example" not in (built.folder / "manifest.json").read_text()


class Fixed:
    """A scorer that adds `by` to the number it is given, and refuses `refuses`."""

    def __init__(self, by: float = 0.0, refuses: float | None = None) -> None:
        self.by, self.refuses = by, refuses

    def score(self, batch: Any) -> np.ndarray:
        if self.refuses is not None and (batch.numbers == self.refuses).any():
            raise ValueError("never seen")
        score = batch.numbers[:, :1] + self.by
        return np.hstack([1 - score, score])


def one_group(*values: float) -> list[Group]:
    from doorstep.formats.batch import Batch

    return [Group("rows", Batch(np.array(values)[:, None], []))]


BINARY = Decision(1, 0.5, True)


def test_parity_needs_every_row() -> None:
    same = check_parity(Fixed(), Fixed(), one_group(0.1, 0.9, np.nan), BINARY)
    assert (same.passed, same.rows_agreeing, same.reason) == (True, 3, "3 of 3 rows agree")
    close = check_parity(Fixed(), Fixed(5e-5), one_group(0.1, 0.9), BINARY)
    assert close.passed
    off = check_parity(Fixed(), Fixed(2e-4), one_group(0.1, 0.9), BINARY)
    assert (off.passed, off.rows_agreeing) == (False, 0)
    assert "2 of 2 answer differently" in off.reason


def test_a_row_that_one_form_refuses_is_a_difference_and_both_is_not() -> None:
    refuses = Fixed(refuses=0.9)
    assert not check_parity(refuses, Fixed(), one_group(0.9), BINARY).passed
    assert not check_parity(Fixed(), refuses, one_group(0.9), BINARY).passed
    assert check_parity(refuses, refuses, one_group(0.9), BINARY).passed
    assert not check_parity(Fixed(), Fixed(), [], BINARY).passed


def test_missing_scores_agree_with_missing_ones_only() -> None:
    one, two = np.array([[np.nan], [1.0], [np.inf]]), np.array([[np.nan], [np.nan], [np.inf]])
    regression = Decision(None, 0.5, False)
    assert rows_agree(one, two, regression).tolist() == [True, False, True]
    large = np.array([[200_000.0]])
    assert rows_agree(large, large + 10, regression).all()
    assert not rows_agree(large, large + 30, regression).any()


def test_speed_counts_its_calls_and_only_fast_onnx_is_inline() -> None:
    speed = measure_speed(Fixed(), one_group(0.1, 0.2)[0].batch)
    assert speed.calls == 500
    assert 0 < speed.latency_ms_p50 <= speed.latency_ms_p99
    assert placement_of("onnx", 1.0) == "inline"
    assert placement_of("onnx", 1.01) == placement_of("native", 0.1) == "engine"


def test_the_reason_names_the_nearest_conversion(loans: Loans) -> None:
    built = build(loans, loans.save(loans.fit(TRAPS["categorical splits"])))
    native = load_scorer(built.folder, built.manifest, "native", trusted=True)
    table = read_table(loans.holdout)
    group = Group("held-out rows", to_batch(table, built.manifest.contract))
    model = loans.fit(TRAPS["categorical splits"])
    draft = msgspec.structs.replace(built.manifest, parity=None)
    proposal = propose_onnx(model, draft, native, [group], Decision(0, 0.5, True))
    assert proposal.converted is None
    assert "answer differently" in proposal.finding.reason


def test_numbers_that_are_categories_here_reach_the_model_as_it_learned_them(loans: Loans) -> None:
    for path, seed in ((loans.train, 1), (loans.holdout, 2)):
        frame = make_rows(300, seed)
        codes = np.where(frame.purpose == "car", "007", "12")
        frame.assign(zip=codes if seed == 1 else "12", branch=frame.age % 3).to_csv(
            path, index=False
        )
    rows = loans.rows()
    assert rows["zip"].dtype == "int64"
    encoder = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(
        ColumnTransformer([("c", encoder, ["zip", "branch"])]), LogisticRegression()
    ).fit(rows[["zip", "branch"]], rows["status"])
    built = build(loans, loans.save(model), inputs={"branch": {"type": "category"}})
    manifest = built.manifest
    assert [one.type for one in manifest.contract.inputs] == ["category", "category"]
    assert manifest.contract.inputs[0].values == ("12", "007")
    assert manifest.native.dtypes == ("int64", "int64")
    scorer = load_scorer(built.folder, manifest, "native", trusted=True)
    scores = scorer.score(to_batch(read_table(loans.train, texts={"branch"}), manifest.contract))
    np.testing.assert_allclose(scores, model.predict_proba(rows[["zip", "branch"]]))
