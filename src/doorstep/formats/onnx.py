"""ONNX models: checked, loaded into onnxruntime, and fed from a `Batch` without a DataFrame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError
from doorstep.core.manifest import Datatype, OnnxForm, Tensor
from doorstep.formats.batch import Batch
from doorstep.formats.onnx_file import refuse_external

# What a converter writes into the model's metadata: the text that stands for a missing one.
MISSING_TEXT_KEY = "doorstep.missing_text"
_ORT_TYPES: dict[Datatype, str] = {
    "FP32": "tensor(float)",
    "FP64": "tensor(double)",
    "INT64": "tensor(int64)",
    "BOOL": "tensor(bool)",
    "STRING": "tensor(string)",
}
_NUMPY_TYPES: dict[Datatype, type] = {
    "FP32": np.float32,
    "FP64": np.float64,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
Feeder = Callable[[Batch], NDArray[Any]]


def open_session(data: bytes) -> Any:
    """An onnxruntime session on one thread, in order. Raises: InputError (`bad-onnx`),
    RefusedError (`onnx-external-data`)."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    refuse_external(data)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    refusals = (
        state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, state.Fail,
        state.NotImplemented, state.NoModel, state.NoSuchFile, state.RuntimeException,
    )  # fmt: skip
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except refusals as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            "bad-onnx", f"onnxruntime cannot load the ONNX model: {said}", "export the model again"
        ) from None


class OnnxScorer:
    """An ONNX model that scores batches.

    scores: columns of the answer, one per label or 1. Where the model gives one column for two
    labels, it is taken as the score of the second one.
    Raises: InputError (`bad-onnx`) if the file is not ONNX, or its inputs and outputs are not what
    `form` says; RefusedError (`onnx-external-data`).
    """

    def __init__(self, data: bytes, form: OnnxForm, contract: Contract, *, scores: int) -> None:
        self._session = open_session(data)
        self._output = [form.scores]
        self._columns = scores
        metadata = self._session.get_modelmeta().custom_metadata_map
        missing = metadata.get(MISSING_TEXT_KEY, "")
        ranks = check_shapes(self._session, form, scores)
        self._feeders: list[tuple[str, Feeder]] = [
            (tensor.name, _feeder(tensor, contract, ranks[tensor.name], missing))
            for tensor in form.inputs
        ]

    def score(self, batch: Batch) -> NDArray[np.float64]:
        """float64 [rows, scores]. Raises: InputError (`missing-number`) where a missing value
        meets an input of whole numbers; what onnxruntime raises."""
        if batch.rows == 0:
            return np.zeros((0, self._columns))
        feed = {name: feeder(batch) for name, feeder in self._feeders}
        return self._shape(self._session.run(self._output, feed)[0], batch.rows)

    def _shape(self, raw: Any, rows: int) -> NDArray[np.float64]:
        scores = np.asarray(raw, dtype=np.float64).reshape(rows, -1)
        if scores.shape[1] == 1 and self._columns == 2:
            scores = np.hstack([1.0 - scores, scores])
        if scores.shape[1] != self._columns:
            raise InputError(
                "bad-onnx",
                f"output {self._output[0]!r} has {scores.shape[1]} columns, expected "
                f"{self._columns}",
            )
        return scores


def check_shapes(session: Any, form: OnnxForm, scores: int) -> dict[str, int]:
    """Rank of every input, after checking names, types and widths against `form`.

    Raises: InputError (`bad-onnx`).
    """
    declared = {tensor.name: tensor for tensor in form.inputs}
    found = {one.name: one for one in session.get_inputs()}
    if set(declared) != set(found):
        raise InputError(
            "bad-onnx", f"the model has inputs {sorted(found)}, expected {sorted(declared)}"
        )
    for name, tensor in declared.items():
        _check_input(found[name], tensor)
    outputs = {one.name: one for one in session.get_outputs()}
    if form.scores not in outputs:
        raise InputError(
            "bad-onnx", f"the model has outputs {sorted(outputs)}, expected {form.scores!r}"
        )
    _check_output(outputs[form.scores], scores)
    return {name: len(one.shape) for name, one in found.items()}


def _check_input(found: Any, tensor: Tensor) -> None:
    expected = _ORT_TYPES[tensor.datatype]
    width = found.shape[1] if len(found.shape) == 2 else 1
    if found.type != expected or len(found.shape) not in (1, 2):
        raise InputError(
            "bad-onnx", f"input {tensor.name!r} is {found.type} {found.shape}, expected {expected}"
        )
    if isinstance(width, int) and width != len(tensor.columns):
        raise InputError(
            "bad-onnx",
            f"input {tensor.name!r} has {width} columns, expected {len(tensor.columns)}",
        )


def _check_output(found: Any, scores: int) -> None:
    width = found.shape[-1] if len(found.shape) == 2 else 1
    fits = not isinstance(width, int) or width == scores or (width == 1 and scores == 2)
    if found.type not in ("tensor(float)", "tensor(double)") or not fits:
        raise InputError(
            "bad-onnx",
            f"output {found.name!r} is {found.type} {found.shape}, expected numbers with "
            f"{scores} columns",
            "export the model with one column of scores per label",
        )


def _feeder(tensor: Tensor, contract: Contract, rank: int, missing: str) -> Feeder:
    if tensor.datatype == "STRING":
        names = [field.name for field in contract.texts]
        return _text_feeder(_positions(tensor, names), rank, missing)
    names = [field.name for field in contract.numbers]
    at = _positions(tensor, names)
    return _number_feeder(at, len(names), tensor, rank)


def _positions(tensor: Tensor, names: list[str]) -> list[int]:
    unknown = [column for column in tensor.columns if column not in names]
    if unknown:
        raise InputError(
            "bad-onnx",
            f"input {tensor.name!r} ({tensor.datatype}) needs {unknown[0]!r}, which the contract "
            "has not with that type",
        )
    return [names.index(column) for column in tensor.columns]


def _number_feeder(at: list[int], width: int, tensor: Tensor, rank: int) -> Feeder:
    dtype = _NUMPY_TYPES[tensor.datatype]
    everything = at == list(range(width))
    whole = tensor.datatype in ("INT64", "BOOL")

    def feed(batch: Batch) -> NDArray[Any]:
        values = batch.numbers if everything else batch.numbers[:, at]
        if whole and np.isnan(values).any():
            raise InputError(
                "missing-number", f"input {tensor.name!r} takes whole numbers, none missing"
            )
        found: NDArray[Any] = np.ascontiguousarray(values, dtype=dtype)
        return found.reshape(-1) if rank == 1 else found

    return feed


def _text_feeder(at: list[int], rank: int, missing: str) -> Feeder:
    def feed(batch: Batch) -> NDArray[Any]:
        found: NDArray[Any] = np.empty((batch.rows, len(at)), dtype=object)
        for column, position in enumerate(at):
            texts = batch.texts[position]
            found[:, column] = [missing if text is None else text for text in texts]
        return found.reshape(-1) if rank == 1 else found

    return feed
