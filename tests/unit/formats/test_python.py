"""Functions as models: rows as dicts in, numbers, dicts or labels out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import digest_of
from doorstep.core.manifest import FileEntry, Lineage, Manifest, NativeForm
from doorstep.formats.batch import Batch
from doorstep.formats.load import load_scorer
from doorstep.formats.python import FunctionScorer, parse_entry

CONTRACT = Contract(
    inputs=(
        Field(name="age", type="int"),
        Field(name="purpose", type="category"),
        Field(name="owner", type="bool"),
        Field(name="rate", type="float"),
    )
)
ROWS = Batch(np.array([[40, 1, 0.5], [np.nan, 0, np.nan]]), [["car", None]])


def manifest(labels: tuple[str, ...] = ("bad", "good"), **changes: Any) -> Manifest:
    native = NativeForm(
        family="python", serialization="source", file="model/native/code/serve_x.py",
        entry="serve_x:predict",
    )  # fmt: skip
    task = "regression" if not labels else "binary" if len(labels) == 2 else "multiclass"
    return Manifest(
        format=1, task=task, label="y", labels=labels, positive="bad" if labels else "",
        threshold=0.5, contract=CONTRACT, native=native, onnx=None, parity=None,
        lineage=Lineage(), reads=(), files=changes.get("files", ()),
    )  # fmt: skip


def scores(answers: list[Any], labels: tuple[str, ...] = ("bad", "good")) -> list[list[float]]:
    scorer = FunctionScorer(lambda rows, context: answers, manifest(labels), Path())
    return scorer.score(ROWS).tolist()


def test_rows_are_dicts_of_plain_values() -> None:
    seen: list[Any] = []

    def predict(rows: list[dict[str, Any]], context: dict[str, Any]) -> list[float]:
        seen.extend([rows, context])
        return [0.5, 0.5]

    FunctionScorer(predict, manifest(), Path("/bundle")).score(ROWS)
    assert seen[0] == [
        {"age": 40, "purpose": "car", "owner": True, "rate": 0.5},
        {"age": None, "purpose": None, "owner": False, "rate": None},
    ]
    assert isinstance(seen[0][0]["age"], int)
    assert seen[1] == {"folder": "/bundle/model/native", "labels": ["bad", "good"]}


def test_numbers_are_the_score_of_the_positive_label() -> None:
    assert scores([0.25, np.float32(1)]) == [[0.25, 0.75], [1, 0]]
    assert scores([3, 4.5], ()) == [[3], [4.5]]


def test_dicts_and_labels_fill_the_columns() -> None:
    assert scores([{"good": 0.75}, "bad"]) == [[0, 0.75], [1, 0]]
    assert scores([1, {2: 1.0}], ("1", "2", "3")) == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("answers", "said"),
    [([0.5], "1 answers to 2 rows"), (["maybe", "bad"], "'maybe'"), ([None, None], "NoneType")],
)
def test_an_answer_that_means_nothing_is_refused(answers: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        scores(answers)


@pytest.mark.parametrize("text", ["", "a", "a.b", ":f", "a:", "a b:f", "a:f()", "x.py:", "../x:f"])
def test_what_does_not_name_a_function_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_entry(text)


def test_files_and_modules_name_functions() -> None:
    assert parse_entry("a/serve.py:predict") == (Path("a/serve.py"), "serve:predict")
    assert parse_entry("credit.serve:predict") == (None, "credit.serve:predict")


def bundle(folder: Path, body: str) -> Manifest:
    path = folder / "model/native/code/serve_x.py"
    path.parent.mkdir(parents=True)
    path.write_text(body)
    data = path.read_bytes()
    name = path.relative_to(folder).as_posix()
    return manifest((), files=(FileEntry(path=name, size=len(data), sha256=digest_of(data)),))


def test_code_runs_only_when_trusted_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", ["x"])
    mark = tmp_path / "ran"
    body = f"open({str(mark)!r}, 'w')\ndef predict(rows, context):\n    return [1] * len(rows)\n"
    one = bundle(tmp_path, body)
    with pytest.raises(RefusedError) as caught:
        load_scorer(tmp_path, one, "native", trusted=False)
    assert caught.value.code == "untrusted-model"
    extra = tmp_path / "model/native/code/numpy.py"
    extra.write_text("")
    with pytest.raises(InputError, match="not among the files"):
        load_scorer(tmp_path, one, "native", trusted=True)
    extra.unlink()
    assert not mark.exists()
    monkeypatch.undo()
    assert load_scorer(tmp_path, one, "native", trusted=True).score(ROWS).tolist() == [[1], [1]]
    assert mark.exists()
