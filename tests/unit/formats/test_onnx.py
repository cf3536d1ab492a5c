"""ONNX models built by hand: loaded, fed from a batch, refused when not what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import DoorstepError, InputError, RefusedError
from doorstep.core.ids import digest_of
from doorstep.core.manifest import FileEntry, Lineage, Manifest, NativeForm, OnnxForm, Tensor
from doorstep.formats.batch import Batch
from doorstep.formats.load import load_scorer, member_path
from doorstep.formats.onnx import OnnxScorer
from doorstep.formats.onnx_file import read_onnx

CONTRACT = Contract(
    inputs=(
        Field(name="age", type="int"),
        Field(name="purpose", type="category"),
        Field(name="amount", type="float"),
    )
)


def linear_model(width: int = 2, columns: int = 1) -> onnx.ModelProto:
    """Scores = x @ ones: the sum of the inputs, in `columns` columns."""
    weights = numpy_helper.from_array(np.ones((width, columns), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, columns])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def form_of(*columns: str) -> OnnxForm:
    tensor = Tensor(name="x", datatype="FP32", columns=columns)
    return OnnxForm(file="model/onnx/model.onnx", opset=17, inputs=(tensor,), scores="scores")


def batch(*rows: tuple[float, str | None, float]) -> Batch:
    numbers = np.array([[age, amount] for age, _, amount in rows], float).reshape(len(rows), 2)
    return Batch(numbers, [[purpose for _, purpose, _ in rows]])


def bundle(folder: Path, data: bytes) -> Manifest:
    path = folder / "model/onnx/model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    entry = FileEntry(path="model/onnx/model.onnx", size=len(data), sha256=digest_of(data))
    return Manifest(
        format=1, task="regression", label="y", labels=(), positive="", threshold=0.0,
        contract=CONTRACT,
        native=NativeForm(family="onnx", serialization="onnx", file=entry.path),
        onnx=form_of("age", "amount"), parity=None, lineage=Lineage(), reads=("age", "amount"),
        files=(entry,),
    )  # fmt: skip


def test_numbers_are_taken_by_name_in_the_order_the_model_wants() -> None:
    weights = numpy_helper.from_array(np.array([[1.0], [100.0]], np.float32), "w")
    model = linear_model()
    model.graph.initializer[0].CopyFrom(weights)
    data = model.SerializeToString()
    rows = batch((2, "car", 3))
    assert OnnxScorer(data, form_of("age", "amount"), CONTRACT, scores=1).score(rows) == [[302]]
    assert OnnxScorer(data, form_of("amount", "age"), CONTRACT, scores=1).score(rows) == [[203]]


def test_no_rows_give_no_scores() -> None:
    scorer = OnnxScorer(
        linear_model().SerializeToString(), form_of("age", "amount"), CONTRACT, scores=1
    )
    assert scorer.score(batch()).shape == (0, 1)


def test_one_column_for_two_labels_is_the_score_of_the_second() -> None:
    scorer = OnnxScorer(
        linear_model().SerializeToString(), form_of("age", "amount"), CONTRACT, scores=2
    )
    assert scorer.score(batch((0.25, None, 0.5))).tolist() == [[0.25, 0.75]]


@pytest.mark.parametrize(
    ("form", "scores", "said"),
    [
        (form_of("age"), 1, "has 2 columns, expected 1"),
        (form_of("age", "purpose"), 1, "which the contract has not with that type"),
        (form_of("age", "amount"), 3, "expected numbers with 3 columns"),
    ],
)
def test_a_form_that_does_not_fit_the_model_is_refused(
    form: OnnxForm, scores: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        OnnxScorer(linear_model().SerializeToString(), form, CONTRACT, scores=scores)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x80\x04K\x01.", b"PK\x03\x04" * 10])
def test_a_file_that_is_not_onnx_is_refused(data: bytes) -> None:
    for call in (
        lambda: OnnxScorer(data, form_of("age", "amount"), CONTRACT, scores=1),
        lambda: read_onnx(data),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.code == "bad-onnx"


def test_a_truncated_model_is_refused() -> None:
    data = linear_model().SerializeToString()
    for size in range(0, len(data) - 20, 7):
        with pytest.raises(InputError):
            OnnxScorer(data[:size], form_of("age", "amount"), CONTRACT, scores=1)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_reading_any_bytes_gives_facts_or_an_error_of_ours(data: bytes) -> None:
    try:
        read_onnx(data)
    except DoorstepError as error:
        assert error.code in ("bad-onnx", "onnx-external-data")


def test_weights_in_another_file_are_refused_wherever_they_hide(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\x00" * 8)
    model = linear_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    inner = helper.make_node("Constant", [], ["c"], value=tensor)
    hidden = linear_model()
    branch = helper.make_graph([inner], "b", [], [])
    node = helper.make_node("If", ["q"], ["z"], then_branch=branch, else_branch=branch)
    hidden.graph.node.append(node)
    for one in (model, hidden):
        for call in (
            lambda one=one: read_onnx(one.SerializeToString()),
            lambda one=one: OnnxScorer(
                one.SerializeToString(), form_of("age", "amount"), CONTRACT, scores=1
            ),
        ):
            with pytest.raises(RefusedError) as caught:
                call()
            assert caught.value.code == "onnx-external-data"


def test_the_opset_is_that_of_the_default_domain_whatever_else_the_model_says() -> None:
    model = linear_model()
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    helper.set_model_props(model, {"location": "Lagos"})
    assert read_onnx(model.SerializeToString()) == 17


def test_a_bundle_is_loaded_only_while_its_files_are_what_the_manifest_says(tmp_path: Path) -> None:
    manifest = bundle(tmp_path, linear_model().SerializeToString())
    for form in ("onnx", "native"):
        scorer = load_scorer(tmp_path, manifest, form, trusted=False)
        assert scorer.score(batch((1, "a", 2))).tolist() == [[3.0]]
    path = tmp_path / "model/onnx/model.onnx"
    flipped = bytearray(path.read_bytes())
    flipped[-1] ^= 1
    for data in (bytes(flipped), bytes(flipped[:-1])):
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            load_scorer(tmp_path, manifest, "onnx", trusted=True)
        assert caught.value.code == "bundle-changed"
    path.unlink()
    with pytest.raises(InputError, match="missing from the bundle"):
        load_scorer(tmp_path, manifest, "onnx", trusted=True)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "", "a\\b", "C:/x", "a//b", "a/\0", "./a"]
)
def test_a_path_of_a_manifest_never_leads_outside(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError) as caught:
        member_path(tmp_path, path)
    assert caught.value.code == "bad-path"


def test_a_link_in_a_bundle_never_leads_outside(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/model").symlink_to(tmp_path)
    with pytest.raises(InputError, match="outside the bundle"):
        member_path(tmp_path / "bundle", "model/secret")


def test_loading_an_onnx_version_loads_no_heavy_library(tmp_path: Path) -> None:
    manifest = bundle(tmp_path, linear_model().SerializeToString())
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    program = (
        "import sys, msgspec, pathlib\n"
        "from doorstep.core.manifest import Manifest\n"
        "from doorstep.formats.load import load_scorer\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "manifest = msgspec.json.decode((folder / 'manifest.json').read_bytes(), type=Manifest)\n"
        "load_scorer(folder, manifest, 'onnx', trusted=False)\n"
        "heavy = {'pandas', 'sklearn', 'duckdb', 'onnx', 'scipy', 'sqlalchemy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
