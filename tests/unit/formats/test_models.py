"""Model files: known by content, pickles never read without somebody's word, asked as trained."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import SVC, LinearSVC

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import DoorstepError, InputError, RefusedError
from doorstep.core.manifest import Lineage, Manifest, NativeForm
from doorstep.formats.batch import Batch
from doorstep.formats.recognise import pickle_globals, recognise, suspicious_globals
from doorstep.formats.sklearn import (
    NativeScorer,
    _text_series,
    class_labels,
    load_estimator,
    squash,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 2))
Y = (X[:, 0] > 0).astype(int)


class Bomb:
    """A pickle that runs a command when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def dumped(model: object, compress: int = 0) -> bytes:
    stream = io.BytesIO()
    joblib.dump(model, stream, compress=compress)
    return stream.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


FITTED = RandomForestClassifier(3, random_state=0).fit(X, Y)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (pickle.dumps(FITTED), "pickle"),
        (pickle.dumps({"a": 1}, protocol=0), "pickle"),
        (dumped(FITTED), "joblib"),
        (dumped(FITTED, compress=3), "joblib"),
        (skops.io.dumps(FITTED), "skops"),
    ],
)
def test_a_file_is_known_by_its_content_whatever_its_name(data: bytes, kind: str) -> None:
    for name in ("model.skops", "model.pkl", "model.onnx", "model"):
        assert recognise(data, name) == kind


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\x89HDF\r\n",
        b"%PDF-1.4",
        b"\x00" * 64,
        zipped({"a.txt": b"x"}),
        b"PK\x03\x04cut",
    ],
)
def test_a_file_that_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        recognise(data, "model.pkl")
    assert caught.value.code == "bad-model"


@settings(deadline=None, max_examples=150)
@given(st.binary(min_size=1, max_size=120))
def test_recognising_any_bytes_gives_an_answer_or_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(DoorstepError):
        recognise(data, "model")
    assert isinstance(pickle_globals(data), tuple)


def test_an_unsigned_pickle_is_refused_by_name_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for data in (pickle.dumps(Bomb(mark)), dumped(Bomb(mark)), dumped(Bomb(mark), compress=3)):
        with pytest.raises(RefusedError) as caught:
            load_estimator(data, "model.pkl", trusted=False)
        assert caught.value.code == "untrusted-model"
        assert caught.value.message.startswith("model.pkl is an unsigned pickle and can run code")
        assert caught.value.hint == 'doorstep trust model.pkl --why "..."'
    assert not mark.exists()


def test_scanning_names_what_a_pickle_would_import(tmp_path: Path) -> None:
    found = pickle_globals(pickle.dumps(Bomb(tmp_path)))
    assert found == ("posix.system",)
    assert suspicious_globals(found) == found
    assert suspicious_globals(pickle_globals(pickle.dumps(FITTED))) == ()
    with pytest.raises(RefusedError, match=r"it would call posix\.system"):
        load_estimator(pickle.dumps(Bomb(tmp_path)), "model.pkl", trusted=False)


def test_a_pickle_named_skops_is_still_a_pickle(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(RefusedError, match="unsigned pickle"):
        load_estimator(pickle.dumps(Bomb(mark)), "model.skops", trusted=False)
    assert not mark.exists()


def test_trusted_files_of_every_kind_are_loaded() -> None:
    for data in (pickle.dumps(FITTED), dumped(FITTED), dumped(FITTED, 3), skops.io.dumps(FITTED)):
        loaded = load_estimator(data, "model", trusted=True)
        np.testing.assert_array_equal(loaded.predict_proba(X), FITTED.predict_proba(X))


def test_skops_of_plain_types_needs_no_trust_and_of_trees_does() -> None:
    plain = LogisticRegression().fit(X, Y)
    loaded = load_estimator(skops.io.dumps(plain), "model.skops", trusted=False)
    assert (loaded.predict(X) == plain.predict(X)).all()
    with pytest.raises(RefusedError, match=r"sklearn\.tree\._tree\.Tree") as caught:
        load_estimator(skops.io.dumps(FITTED), "model.skops", trusted=False)
    assert caught.value.code == "untrusted-model"


@pytest.mark.parametrize("make", [pickle.dumps, dumped, lambda m: dumped(m, 3), skops.io.dumps])
def test_a_truncated_file_is_one_clear_error(make: Any) -> None:
    data = make(FITTED)
    for share in (0.1, 0.5, 0.95):
        with pytest.raises(InputError) as caught:
            load_estimator(data[: int(len(data) * share)], "model", trusted=True)
        assert caught.value.code == "bad-model"


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    data = zipped({"schema.json": b"{}", "0.npy": b"\0" * 50_000_000})
    for trusted in (True, False):
        with pytest.raises(RefusedError) as caught:
            load_estimator(data, "model.skops", trusted=trusted)
        assert caught.value.code == "zip-bomb"


def test_a_model_whose_class_is_gone_says_where_to_register_it() -> None:
    data = b"\x80\x04\x8c\x0bgone_module\x8c\x05Model\x93."
    with pytest.raises(InputError, match="gone_module") as caught:
        load_estimator(data, "model.pkl", trusted=True)
    assert "own packages" in caught.value.hint


NUMBERS = Contract(inputs=(Field(name="a", type="float"), Field(name="b", type="float")))
MIXED = Contract(
    inputs=(
        Field(name="n", type="int", required=False),
        Field(name="c", type="category", required=False),
        Field(name="b", type="bool"),
    )
)


def manifest(contract: Contract, labels: tuple[str, ...] = ("0", "1"), **form: Any) -> Manifest:
    columns = tuple(field.name for field in contract.inputs)
    native = NativeForm(
        family="sklearn", serialization="pickle", file="m", **{"columns": columns, **form}
    )
    task = "regression" if not labels else "binary" if len(labels) == 2 else "multiclass"
    return Manifest(
        format=1, task=task, label="y", labels=labels, positive=labels[-1] if labels else "",
        threshold=0.5, contract=contract, native=native, onnx=None, parity=None,
        lineage=Lineage(), reads=columns, files=(),
    )  # fmt: skip


def test_an_estimator_without_names_gets_an_array_in_column_order() -> None:
    scorer = NativeScorer(FITTED, manifest(NUMBERS, columns=("b", "a")))
    batch = Batch(X[:, ::-1].copy(), [])
    np.testing.assert_array_equal(scorer.score(batch), FITTED.predict_proba(X))
    assert scorer.score(Batch(np.zeros((0, 2)), [])).shape == (0, 2)


def test_regression_and_many_classes_have_their_columns() -> None:
    batch = Batch(X, [])
    regression = LinearRegression().fit(X, X[:, 0])
    assert NativeScorer(regression, manifest(NUMBERS, ())).score(batch).shape == (120, 1)
    three = LogisticRegression().fit(X, np.digitize(X[:, 0], [-0.5, 0.5]))
    scores = NativeScorer(three, manifest(NUMBERS, ("0", "1", "2"))).score(batch)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)


def test_classes_that_are_not_the_labels_are_refused() -> None:
    with pytest.raises(InputError, match="classes are"):
        NativeScorer(FITTED, manifest(NUMBERS, ("no", "yes")))
    with pytest.raises(InputError, match="no predict method"):
        NativeScorer(object(), manifest(NUMBERS))


@pytest.mark.parametrize("model", [LinearSVC(), SVC()])
def test_a_model_without_probabilities_orders_as_its_decisions(model: Any) -> None:
    model.fit(X, Y)
    scores = NativeScorer(model, manifest(NUMBERS)).score(Batch(X, []))
    assert ((scores[:, 1] >= 0.5) == (model.predict(X) == 1)).all()
    assert (np.argsort(scores[:, 1]) == np.argsort(model.decision_function(X))).all()


def test_squashing_extreme_decisions_stays_finite() -> None:
    for decisions in (np.array([1e9, -1e9, 0.0]), np.array([[1e9, 0, -1e9]])):
        scores = squash(decisions)
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores.sum(axis=1), 1.0)


class Echo:
    """Keeps the frame that it is asked with."""

    classes_ = np.array([0, 1])

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.zeros(len(frame))

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        self.frame = frame
        return np.full((len(frame), 2), 0.5)


def asked(texts: list[str | None], number: float, dtypes: tuple[str, ...]) -> pd.DataFrame:
    echo = Echo()
    form = manifest(MIXED, frame=True, dtypes=dtypes)
    numbers = np.array([[number, 1.0]] * len(texts))
    NativeScorer(echo, form).score(Batch(numbers, [texts]))
    return echo.frame


def test_a_frame_has_the_types_that_training_data_had() -> None:
    frame = asked(["x", None], 3.0, ("int64", "", "bool"))
    assert list(frame.columns) == ["n", "c", "b"]
    assert frame.dtypes["n"] == "int64"
    assert frame.dtypes["b"] == "bool"
    assert frame["c"].isna().tolist() == [False, True]


def test_missing_texts_are_nan_or_none_as_trained() -> None:
    frame = asked(["x", None], np.nan, ("int64", "object", "bool"))
    assert frame["c"].tolist() == ["x", None]
    assert frame.dtypes["n"] == "float64"
    assert str(asked(["x", None], 1.0, ("int64", "category", "bool")).dtypes["c"]) == "category"


def test_numbers_that_the_contract_calls_categories_reach_the_model_as_numbers() -> None:
    frame = asked(["7", "12"], 1.0, ("int64", "int64", "bool"))
    assert frame["c"].tolist() == [7, 12]
    assert asked(["7", None], 1.0, ("int64", "int64", "bool"))["c"].isna().tolist() == [False, True]


def test_a_pipeline_that_begins_with_texts_gets_a_list_of_them() -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(["good day", "bad night"] * 5, [1, 0] * 5)
    contract = Contract(inputs=(Field(name="said", type="text"),))
    scorer = NativeScorer(model, manifest(contract))
    scores = scorer.score(Batch(np.zeros((2, 0)), [["good day", None]]))
    np.testing.assert_allclose(scores, model.predict_proba(["good day", ""]))


def test_an_array_of_texts_keeps_missing_as_nan() -> None:
    encoder = make_pipeline(OneHotEncoder(), LogisticRegression())
    rows = np.array([["x"], ["y"], [np.nan]] * 5, dtype=object)
    encoder.fit(rows, [0, 1, 1] * 5)
    contract = Contract(inputs=(Field(name="c", type="category", required=False),))
    scores = NativeScorer(encoder, manifest(contract)).score(
        Batch(np.zeros((3, 0)), [["x", "y", None]])
    )
    np.testing.assert_allclose(scores, encoder.predict_proba(rows[:3]))


def test_labels_are_texts() -> None:
    for classes, labels in (
        ([0, 1], ("0", "1")),
        ([False, True], ("false", "true")),
        (["bad", "good"], ("bad", "good")),
        ([0.0, 1.0], ("0", "1")),
    ):
        assert class_labels(Fake(np.array(classes))) == labels
    assert class_labels(LinearRegression()) == ()


class Fake:
    def __init__(self, classes: np.ndarray) -> None:
        self.classes_ = classes


def test_a_histogram_booster_of_pandas_categories_is_asked_with_them() -> None:
    from doorstep.formats.sklearn import category_columns

    frame = pd.DataFrame({"n": X[:, 0], "c": pd.Categorical(["a", "b"] * 60)})
    model = HistGradientBoostingClassifier(max_iter=3, categorical_features="from_dtype")
    assert category_columns(model.fit(frame, Y)) == ("c",)


def test_a_row_whose_category_is_missing_reaches_a_model_of_categories() -> None:

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"x": rng.normal(size=300), "kind": pd.Categorical(rng.choice(["a", "b"], 300))}
    )
    frame.loc[::7, "kind"] = None
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=5)
    model.fit(frame, rng.integers(0, 2, 300))
    alone = pd.DataFrame({"x": [0.1], "kind": _text_series([None], "category")})
    among = frame.assign(x=0.1)[frame.kind.isna()].head(1)
    assert np.array_equal(model.predict_proba(alone), model.predict_proba(among))
