"""A plain Python function as a model: `f(rows, context) -> answers`.

rows: a list of dicts, one per row, by field name: int, float, bool, str or None; a time is
microseconds UTC. context: `{"folder": <where the version's files are>, "labels": [...]}`.
answers: one per row: a number (the score of the positive label, or the prediction of a regression),
a dict of label to score, or a label. Loaded only in engines and job children, and only when
somebody here vouched for it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Field
from doorstep.core.errors import InputError
from doorstep.core.manifest import Manifest
from doorstep.formats.batch import Batch
from doorstep.formats.columns import value_text

Function = Callable[[list[dict[str, Any]], dict[str, Any]], list[Any]]
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z")
_FILE_ENTRY = re.compile(r"(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)\Z")


def parse_entry(text: str) -> tuple[Path | None, str]:
    """`serve.py:predict` -> (its path, "serve:predict"); `credit.serve:predict` -> (None, itself).

    Raises: InputError (`bad-entry`).
    """
    match = _FILE_ENTRY.match(text)
    if match:
        path = Path(match["path"])
        entry = f"{path.stem}:{match['function']}"
        if _ENTRY.match(entry):
            return path, entry
    elif _ENTRY.match(text):
        return None, text
    raise InputError(
        "bad-entry", f"{text!r} is not a function; expected module:function or file.py:function"
    )


def import_function(entry: str) -> Function:
    """The function that `module:function` names. Runs the module.

    Raises: InputError (`bad-entry`, `bad-model`).
    """
    if not _ENTRY.match(entry):
        raise InputError("bad-entry", f"{entry!r} is not module:function")
    module_name, _, name = entry.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            "bad-model",
            f"{module_name} cannot be imported: {error}",
            "name its folder under runtime.code in the service file",
        ) from None
    function: Function | None = getattr(module, name, None)
    if not callable(function):
        raise InputError("bad-model", f"{module_name} has no function {name!r}")
    return function


class FunctionScorer:
    """A function asked with rows as dicts."""

    def __init__(self, function: Function, manifest: Manifest, folder: Path) -> None:
        self._function = function
        self._labels = manifest.labels
        self._positive = manifest.positive
        self._numbers = manifest.contract.numbers
        self._texts = manifest.contract.texts
        self._context = {"folder": str(folder / "model/native"), "labels": list(manifest.labels)}

    def score(self, batch: Batch) -> NDArray[np.float64]:
        """float64 [rows, labels or 1]. Raises: InputError (`bad-answer`) for an answer that is not
        a number, a dict or a known label; whatever the function raises."""
        answers = self._function(self._rows(batch), dict(self._context))
        if len(answers) != batch.rows:
            raise InputError(
                "bad-answer", f"the function gave {len(answers)} answers to {batch.rows} rows"
            )
        width = len(self._labels) or 1
        scores = [self._scores(answer) for answer in answers]
        return np.array(scores, dtype=np.float64).reshape(batch.rows, width)

    def _rows(self, batch: Batch) -> list[dict[str, Any]]:
        columns: dict[str, list[Any]] = {
            field.name: _plain_numbers(field, batch.numbers[:, at])
            for at, field in enumerate(self._numbers)
        }
        columns |= {field.name: batch.texts[at] for at, field in enumerate(self._texts)}
        return [
            {name: values[row] for name, values in columns.items()} for row in range(batch.rows)
        ]

    def _scores(self, answer: Any) -> list[float]:
        match answer:
            case dict():
                return self._by_label({value_text(key): one for key, one in answer.items()})
            case bool() | str() | np.bool_():
                return self._by_label({value_text(answer): 1.0})
            case int() | float() | np.number():
                return self._by_number(float(answer))
            case _:
                raise InputError(
                    "bad-answer",
                    f"the function answered {type(answer).__name__}; expected a number, a dict of "
                    "label to score, or a label",
                )

    def _by_label(self, scores: dict[str, Any]) -> list[float]:
        unknown = [label for label in scores if label not in self._labels]
        if unknown:
            raise InputError(
                "bad-answer", f"the function answered {unknown[0]!r}; labels: {self._labels}"
            )
        return [float(scores.get(label, 0.0)) for label in self._labels]

    def _by_number(self, score: float) -> list[float]:
        if not self._labels:
            return [score]
        if len(self._labels) != 2 or not self._positive:
            return self._by_label({value_text(score): 1.0})
        return [score if label == self._positive else 1.0 - score for label in self._labels]


def _plain_numbers(field: Field, values: NDArray[np.float64]) -> list[Any]:
    kinds: dict[str, Callable[[float], Any]] = {"int": int, "time": int, "bool": bool}
    make = kinds.get(field.type, float)
    return [None if value != value else make(value) for value in values.tolist()]
