"""scikit-learn to ONNX. A conversion is a proposal: it serves only after parity on real rows."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

from doorstep.core.contract import Contract
from doorstep.core.errors import DoorstepError
from doorstep.core.manifest import Datatype, NativeForm, OnnxForm, Tensor
from doorstep.formats.onnx import MISSING_TEXT_KEY, open_session
from doorstep.formats.onnx_file import read_onnx
from doorstep.formats.sklearn import parts_of, wants_texts

ONNX_FILE = "model/onnx/model.onnx"
MATRIX = "input"


@dataclass(frozen=True, slots=True)
class Style:
    """How the inputs are typed. numbers: the datatype of numbers; whole: INT64 for whole numbers
    that were never missing in training; missing_text: what stands for a missing text."""

    numbers: Datatype = "FP32"
    whole: bool = False
    missing_text: str = ""

    def __str__(self) -> str:
        whole = ", whole numbers as INT64" if self.whole else ""
        blank = f", missing text as {self.missing_text!r}" if self.missing_text else ""
        return f"{self.numbers}{whole}{blank}"


@dataclass(frozen=True, slots=True)
class Converted:
    data: bytes
    form: OnnxForm
    style: Style


def styles_for(native: NativeForm, contract: Contract) -> tuple[Style, ...]:
    """What to try, in order; the next only if parity failed with the one before."""
    texts = {field.name for field in contract.texts}
    found = [Style()]
    if texts & set(native.columns):
        found += [Style(missing_text="nan"), Style(missing_text="None")]
    if "int64" in native.dtypes:
        found.append(Style(whole=True))
        if texts & set(native.columns):
            found.append(Style(whole=True, missing_text="nan"))
    return (*found, Style(numbers="FP64"))


def convert(
    estimator: Any, native: NativeForm, contract: Contract, style: Style
) -> Converted | str:
    """The ONNX form of a fitted scikit-learn estimator, or the reason why there is none.

    Whatever the converter raises is a reason, never a crash: it knows only some estimators.
    """
    try:
        import skl2onnx
    except ImportError:
        return 'skl2onnx is not installed (pip install "doorstep[convert]")'
    inputs = _tensors(estimator, native, contract, style)
    classifies = hasattr(estimator, "classes_")
    if classifies and not hasattr(estimator, "predict_proba"):
        return f"{type(estimator).__name__} gives no probabilities"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = skl2onnx.convert_sklearn(
                _with_text_imputers(estimator, style.missing_text),
                initial_types=[(tensor.name, _skl_type(tensor)) for tensor in inputs],
                name="model",
                options={"zipmap": False} if classifies else None,
            )
    except Exception as error:  # noqa: BLE001  a converter of any estimator raises anything
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['?'])[0][:160]}"
    return _finished(model, inputs, style, classifies=classifies)


def _with_text_imputers(estimator: Any, missing_text: str) -> Any:
    """A copy whose imputers of text look for `missing_text` instead of NaN or None, which the
    converter does not know and ONNX texts cannot be. The estimator itself is not touched."""
    found = copy.deepcopy(estimator)
    for part in parts_of(found):
        filled = getattr(part, "statistics_", None)
        if filled is not None and getattr(filled, "dtype", None) == object:
            part.missing_values = missing_text
    return found


def _finished(
    model: Any, inputs: tuple[Tensor, ...], style: Style, *, classifies: bool
) -> Converted | str:
    if style.missing_text:
        entry = model.metadata_props.add()
        entry.key, entry.value = MISSING_TEXT_KEY, style.missing_text
    data = bytes(model.SerializeToString(deterministic=True))
    outputs = [one.name for one in model.graph.output]
    if classifies and len(outputs) < 2:
        return f"the converted model answers {outputs}, without scores per label"
    form = OnnxForm(
        file=ONNX_FILE,
        opset=read_onnx(data).opset,
        inputs=inputs,
        scores=outputs[1] if classifies else outputs[0],
    )
    try:
        open_session(data)
    except DoorstepError as error:
        return error.message
    return Converted(data, form, style)


def _tensors(
    estimator: Any, native: NativeForm, contract: Contract, style: Style
) -> tuple[Tensor, ...]:
    texts = {field.name for field in contract.texts}
    by_name = any(hasattr(part, "transformers_") for part in parts_of(estimator)) and native.frame
    single = not by_name and not texts & set(native.columns)
    if single:
        return (Tensor(name=MATRIX, datatype=style.numbers, columns=native.columns),)
    if wants_texts(estimator):
        return (Tensor(name=MATRIX, datatype="STRING", columns=native.columns[:1]),)
    dtypes = native.dtypes or ("",) * len(native.columns)
    return tuple(
        Tensor(name=column, datatype=_datatype(column in texts, dtype, style), columns=(column,))
        for column, dtype in zip(native.columns, dtypes, strict=True)
    )


def _datatype(is_text: bool, dtype: str, style: Style) -> Datatype:
    if is_text:
        return "STRING"
    return "INT64" if style.whole and dtype == "int64" else style.numbers


def _skl_type(tensor: Tensor) -> Any:
    from skl2onnx.common import data_types

    kinds = {
        "FP32": data_types.FloatTensorType,
        "FP64": data_types.DoubleTensorType,
        "INT64": data_types.Int64TensorType,
        "STRING": data_types.StringTensorType,
        "BOOL": data_types.BooleanTensorType,
    }
    return kinds[tensor.datatype]([None, len(tensor.columns)])
