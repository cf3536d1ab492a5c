"""scikit-learn to ONNX. A conversion is a proposal: it serves only after parity on real rows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from doorstep.core.contract import Contract
from doorstep.core.errors import DoorstepError
from doorstep.core.extras import install_line
from doorstep.core.manifest import Datatype, NativeForm, OnnxForm, Tensor
from doorstep.formats.onnx import MISSING_TEXT_KEY, open_session
from doorstep.formats.onnx_file import read_onnx
from doorstep.formats.sklearn import parts_of, wants_texts

ONNX_FILE = "model/onnx/model.onnx"
MATRIX = "input"
_ONNX_DOUBLE = 11
_TREES = frozenset(
    f"{kind}{task}"
    for kind in (
        "DecisionTree",
        "ExtraTree",
        "RandomForest",
        "ExtraTrees",
        "GradientBoosting",
        "HistGradientBoosting",
    )
    for task in ("Classifier", "Regressor")
)


@dataclass(frozen=True, slots=True)
class Style:
    """How the inputs are typed. numbers: the datatype of numbers; FP64 also computes what comes
    before a tree in doubles, as scikit-learn does. whole: INT64 for whole numbers that were never
    missing in training. missing_text: what stands for a missing text."""

    numbers: Literal["FP32", "FP64"] = "FP32"
    whole: bool = False
    missing_text: str = ""


@dataclass(frozen=True, slots=True)
class Converted:
    data: bytes
    form: OnnxForm
    style: Style


def styles_for(estimator: Any, native: NativeForm) -> tuple[Style, ...]:
    """What to try, in order; the next only if parity failed with the one before. Single precision
    is first because it is twice as fast; scaled numbers before a tree often need doubles."""
    missing = _missing_category(estimator)
    found = [Style(missing_text=missing)]
    if "int64" in native.dtypes and _encodes_numbers(estimator):
        found.append(Style(whole=True, missing_text=missing))
    return (*found, Style(numbers="FP64", missing_text=missing))


def _categories_of(estimator: Any) -> Iterator[Any]:
    for part in parts_of(estimator):
        for categories in getattr(part, "categories_", None) or ():
            yield np.asarray(categories)


def _missing_category(estimator: Any) -> str:
    """The text by which the converter writes a missing category that an encoder learned."""
    for categories in _categories_of(estimator):
        if categories.dtype == object:
            for value in categories.tolist():
                if value is None or value != value:
                    return str(value)
    return ""


def _encodes_numbers(estimator: Any) -> bool:
    return any(categories.dtype.kind in "iu" for categories in _categories_of(estimator))


def convert(
    estimator: Any, native: NativeForm, contract: Contract, style: Style
) -> Converted | str:
    """The ONNX form of a fitted scikit-learn estimator, or the reason why there is none.

    Whatever the converter raises is a reason, never a crash: it knows only some estimators.
    """
    try:
        import skl2onnx
    except ImportError:
        return f"skl2onnx is not installed ({install_line('convert')})"
    inputs = _tensors(estimator, native, contract, style)
    classifies = hasattr(estimator, "classes_")
    if classifies and not hasattr(estimator, "predict_proba"):
        return f"{type(estimator).__name__} gives no probabilities"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = skl2onnx.convert_sklearn(
                _prepared(estimator, style),
                initial_types=[(tensor.name, _skl_type(tensor)) for tensor in inputs],
                name="model",
                options={"zipmap": False} if classifies else None,
                **_own_converters(),
            )
    except Exception as error:  # noqa: BLE001  a converter of any estimator raises anything
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['?'])[0][:160]}"
    return _finished(model, inputs, style, classifies=classifies)


def _prepared(estimator: Any, style: Style) -> Any:
    """A copy to convert. Imputers of text look for the missing text instead of NaN or None, which
    ONNX texts cannot be. In doubles, a cast stands before trees that cast to single precision
    themselves, so that everything before them keeps its digits."""
    from skl2onnx.sklapi import CastTransformer
    from sklearn.pipeline import Pipeline

    found = copy.deepcopy(estimator)
    for part in parts_of(found):
        if getattr(getattr(part, "statistics_", None), "dtype", None) == np.dtype(object):
            part.missing_values = style.missing_text
    is_pipeline = isinstance(found, Pipeline)
    if style.numbers == "FP64" and is_pipeline and type(found.steps[-1][1]).__name__ in _TREES:
        *before, last = found.steps
        return Pipeline([*before, ("to_float32", CastTransformer()), last])
    return found


def _own_converters() -> dict[str, Any]:
    from skl2onnx.common._registration import get_shape_calculator
    from sklearn.impute import SimpleImputer

    return {
        "custom_conversion_functions": {SimpleImputer: _convert_imputer},
        "custom_shape_calculators": {SimpleImputer: get_shape_calculator("SklearnImputer")},
    }


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Imputing doubles as a choice between two values: onnxruntime's own operator knows only
    single precision. Anything else is left to the converter's own way."""
    from skl2onnx.common._registration import get_converter
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.operator_converters.common import concatenate_variables

    imputer = operator.raw_operator
    filled = np.asarray(imputer.statistics_)
    doubles = all(isinstance(one.type, DoubleTensorType) for one in operator.inputs)
    if not doubles or imputer.add_indicator or np.isnan(filled.astype(float)).any():
        get_converter("SklearnImputer")(scope, operator, container)
        return
    rows = concatenate_variables(scope, operator.inputs, container)
    gone, value = (scope.get_unique_variable_name(name) for name in ("gone", "filled"))
    container.add_initializer(value, _ONNX_DOUBLE, [1, filled.size], filled.astype(float).tolist())
    container.add_node("IsNaN", [rows], [gone], name=scope.get_unique_operator_name("IsNaN"))
    container.add_node(
        "Where",
        [gone, value, rows],
        [operator.outputs[0].full_name],
        name=scope.get_unique_operator_name("Where"),
    )


def _finished(
    model: Any, inputs: tuple[Tensor, ...], style: Style, *, classifies: bool
) -> Converted | str:
    if style.missing_text:
        entry = model.metadata_props.add()
        entry.key, entry.value = MISSING_TEXT_KEY, style.missing_text
    # The converter keeps its domains in a set, whose order is another one in every process.
    domains = sorted(model.opset_import, key=lambda one: str(one.domain))
    del model.opset_import[:]
    model.opset_import.extend(domains)
    data = bytes(model.SerializeToString(deterministic=True))
    outputs = [one.name for one in model.graph.output]
    if classifies and len(outputs) < 2:
        return f"the converted model answers {outputs}, without scores per label"
    form = OnnxForm(
        file=ONNX_FILE,
        opset=read_onnx(data),
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
