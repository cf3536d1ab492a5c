"""scikit-learn models: loaded only when that is safe or somebody vouched, and asked as trained.

pandas and scikit-learn are imported when a model is loaded, never before: a front worker has
neither.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from doorstep.core.errors import InputError, MissingExtraError, RefusedError
from doorstep.core.manifest import Manifest, NativeForm
from doorstep.formats.batch import Batch
from doorstep.formats.columns import value_text
from doorstep.formats.recognise import pickle_globals, recognise, suspicious_globals

# Beyond what skops itself holds to be safe. Not here: trees and neighbour indexes, whose crafted
# node numbers make compiled code read outside its arrays; they need a person's word.
SKOPS_TYPES_ALLOWED = frozenset(
    {
        "numpy.dtype",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    }
)
TYPES_NAMED_MAX = 4
_CANNOT_LOAD = (
    ImportError, AttributeError, TypeError, ValueError, KeyError, IndexError, EOFError, OSError,
    RuntimeError, MemoryError, UnicodeDecodeError, AssertionError,
)  # fmt: skip


def load_estimator(data: bytes, name: str, *, trusted: bool) -> Any:
    """The object in a skops, pickle or joblib file. What the bytes are decides how they are read,
    and a pickle that nobody vouched for is never read at all.

    Raises: RefusedError (`untrusted-model`, `zip-bomb`), InputError (`bad-model`).
    """
    kind = recognise(data, name)
    if kind in ("pickle", "joblib"):
        if not trusted:
            raise untrusted(data, name)
        return _load_pickle(data, name, kind)
    if kind == "skops":
        return _load_skops(data, name, trusted=trusted)
    raise InputError("bad-model", f"{name} is {kind}, expected skops, pickle or joblib")


def untrusted(data: bytes, name: str) -> RefusedError:
    """The refusal of a pickle that nobody vouched for; odd imports are named, nothing is run."""
    odd = suspicious_globals(pickle_globals(data))
    named = f" (it would call {', '.join(odd[:TYPES_NAMED_MAX])})" if odd else ""
    return RefusedError(
        "untrusted-model",
        f"{name} is an unsigned pickle and can run code{named}. If you made it: "
        f'doorstep trust {name} --why "..."',
        f'doorstep trust {name} --why "..."',
    )


def _load_pickle(data: bytes, name: str, kind: Literal["pickle", "joblib"]) -> Any:
    import joblib

    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "joblib":
                return joblib.load(stream)
            import pickle

            return pickle.load(stream)  # noqa: S301  somebody here said "I made it"
    except pickle_errors() as error:
        raise _cannot_load(name, error) from None


def pickle_errors() -> tuple[type[Exception], ...]:
    import pickle
    import zlib

    return (*_CANNOT_LOAD, pickle.UnpicklingError, zlib.error)


def skops_types(data: bytes, name: str) -> tuple[str, ...]:
    """The types in a skops file that need a person's word, sorted; nothing of it is made.

    Raises: InputError (`bad-model`), MissingExtraError (`skops`).
    """
    with _skops(name) as skops:
        return _unknown_of(skops.get_untrusted_types(data=data))


def _load_skops(data: bytes, name: str, *, trusted: bool) -> Any:
    with _skops(name) as skops:
        needed = skops.get_untrusted_types(data=data)
        unknown = _unknown_of(needed)
        if unknown and not trusted:
            raise _unknown_types(name, unknown)
        return skops.loads(data, trusted=needed)


def _unknown_of(types: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(types) - SKOPS_TYPES_ALLOWED))


@contextlib.contextmanager
def _skops(name: str) -> Iterator[Any]:
    """`skops.io`; what it raises about the file is said in our words."""
    try:
        import skops.io
        from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException
    except ImportError:
        raise MissingExtraError.of("skops", "sklearn", "a skops model") from None
    refusals = (UntrustedTypesFoundException, UnsupportedTypeException, RecursionError)
    try:
        yield skops.io
    except (*_CANNOT_LOAD, *refusals) as error:
        raise _cannot_load(name, error) from None


def _unknown_types(name: str, unknown: tuple[str, ...]) -> RefusedError:
    shown = ", ".join(unknown[:TYPES_NAMED_MAX]) + (", ..." if len(unknown) > 4 else "")
    return RefusedError(
        "untrusted-model",
        f"{name} holds types that can crash or run code when crafted: {shown}. If you made it: "
        f'doorstep trust {name} --why "..."',
        f'doorstep trust {name} --why "..."',
    )


def _cannot_load(name: str, error: Exception) -> InputError:
    said = (str(error).splitlines() or [""])[0][:200]
    missing = isinstance(error, ImportError | AttributeError)
    hint = "register it where its own packages and code are installed" if missing else ""
    return InputError("bad-model", f"{name} cannot be loaded: {type(error).__name__}: {said}", hint)


class NativeScorer:
    """A scikit-learn estimator asked the way it was trained: with a DataFrame, an array or texts.

    Raises: InputError (`bad-model`) if the object cannot predict, or its classes are not the
    manifest's labels.
    """

    def __init__(self, estimator: Any, manifest: Manifest) -> None:
        if not hasattr(estimator, "predict"):
            raise InputError(
                "bad-model",
                f"the model is a {type(estimator).__name__}, which has no predict method",
            )
        found = class_labels(estimator)
        if manifest.labels and found != manifest.labels:
            raise InputError(
                "bad-model", f"the model's classes are {found}, the manifest says {manifest.labels}"
            )
        self._columns = len(manifest.labels) or 1
        self._build = frame_builder(estimator, manifest.native, manifest)
        self._answer = _answerer(estimator, classifies=bool(manifest.labels))

    def score(self, batch: Batch) -> NDArray[np.float64]:
        """float64 [rows, labels or 1]. Raises whatever the model raises."""
        if batch.rows == 0:
            return np.zeros((0, self._columns))
        return self._answer(self._build(batch)).reshape(batch.rows, self._columns)


def class_labels(estimator: Any) -> tuple[str, ...]:
    """The classes of a classifier as text, in its order; () for a regressor."""
    classes = getattr(estimator, "classes_", None)
    return () if classes is None else tuple(value_text(value) for value in classes)


def _answerer(estimator: Any, *, classifies: bool) -> Callable[[Any], NDArray[np.float64]]:
    if not classifies:
        return lambda rows: np.asarray(estimator.predict(rows), dtype=np.float64)
    if hasattr(estimator, "predict_proba"):
        return lambda rows: np.asarray(estimator.predict_proba(rows), dtype=np.float64)
    if hasattr(estimator, "decision_function"):
        return lambda rows: squash(np.asarray(estimator.decision_function(rows), np.float64))
    classes = np.asarray(estimator.classes_)
    return lambda rows: (np.asarray(estimator.predict(rows))[:, None] == classes).astype(np.float64)


def squash(decisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Decision values as scores that add up to 1: logistic for two classes, softmax for more. They
    order as the decisions do, and 0.5 is where the decision is 0; they are not calibrated."""
    if decisions.ndim == 1 or decisions.shape[1] == 1:
        positive = 0.5 * (1.0 + np.tanh(0.5 * decisions.reshape(-1)))
        return np.column_stack([1.0 - positive, positive])
    powers = np.exp(decisions - decisions.max(axis=1, keepdims=True))
    scores: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return scores


def frame_builder(estimator: Any, form: NativeForm, manifest: Manifest) -> Callable[[Batch], Any]:
    """How a batch becomes what the estimator takes. A vectoriser gets a list of texts; an estimator
    that knows column names a DataFrame; any other an array in column order."""
    numbers = [field.name for field in manifest.contract.numbers]
    texts = [field.name for field in manifest.contract.texts]
    for column in form.columns:
        if column not in numbers and column not in texts:
            raise InputError("bad-model", f"the model needs {column!r}, not in the contract")
    if wants_texts(estimator):
        at = texts.index(form.columns[0])
        return lambda batch: [text or "" for text in batch.texts[at]]
    if form.frame:
        return _frames(form, numbers, texts)
    if all(column in numbers for column in form.columns):
        places = [numbers.index(column) for column in form.columns]
        return lambda batch: batch.numbers[:, places]
    return lambda batch: _object_array(batch, form, numbers, texts)


def _frames(form: NativeForm, numbers: list[str], texts: list[str]) -> Callable[[Batch], Any]:
    import pandas

    index = pandas.Index(form.columns, dtype=object)
    dtypes = form.dtypes or ("",) * len(form.columns)
    plain = all(
        column in numbers and dtype in ("", "float64")
        for column, dtype in zip(form.columns, dtypes, strict=True)
    )
    if plain:
        places = [numbers.index(column) for column in form.columns]
        return lambda batch: pandas.DataFrame(batch.numbers[:, places], columns=index)

    def build(batch: Batch) -> Any:
        data = {
            column: (
                _number_series(batch.numbers[:, numbers.index(column)], dtype)
                if column in numbers
                else _text_series(batch.texts[texts.index(column)], dtype)
            )
            for column, dtype in zip(form.columns, dtypes, strict=True)
        }
        return pandas.DataFrame(data, columns=index)

    return build


def _number_series(values: NDArray[np.float64], dtype: str) -> Any:
    """Missing values make whole numbers and booleans what pandas made them when it read them."""
    if dtype in ("", "float64"):
        return values
    if dtype == "datetime64[us]":
        blank = np.isnan(values)
        found = np.where(blank, 0, values).astype("int64").astype("datetime64[us]")
        found[blank] = np.datetime64("NaT")
        return found
    if dtype == "category":
        return _number_categories(values)
    if np.isnan(values).any():
        if dtype != "bool":
            return values
        mixed = values.astype(bool).astype(object)
        mixed[np.isnan(values)] = np.nan
        return mixed
    return values.astype(dtype)


def _number_categories(values: NDArray[np.float64]) -> Any:
    import pandas

    numbers = values.tolist()
    make = int if all(value != value or value.is_integer() for value in numbers) else float
    plain = [None if value != value else make(value) for value in numbers]
    return pandas.Series(pandas.Categorical(plain))


def _text_series(values: list[str | None], dtype: str) -> Any:
    """`object` keeps None; `category` is a pandas category; "" is what reading a CSV file gives; a
    number type is for numbers that the contract calls categories."""
    import pandas

    if dtype in ("int64", "float64"):
        found = pandas.to_numeric(pandas.Series(values, dtype=object), errors="coerce")
        return _number_series(found.to_numpy("float64"), dtype)

    if dtype == "object":
        return pandas.Series(values, dtype=object)
    if dtype == "category":
        # Of missing values only, pandas would make categories of numbers, which a model of text
        # categories cannot read.
        known = None if any(text is not None for text in values) else [""]
        return pandas.Series(pandas.Categorical(values, categories=known))
    blanks = [np.nan if text is None else text for text in values]
    return pandas.Series(blanks, dtype=_csv_text_dtype())


def _csv_text_dtype() -> str:
    import pandas

    return "str" if int(pandas.__version__.split(".")[0]) >= 3 else "object"


def _object_array(
    batch: Batch, form: NativeForm, numbers: list[str], texts: list[str]
) -> NDArray[Any]:
    found: NDArray[Any] = np.empty((batch.rows, len(form.columns)), dtype=object)
    for at, column in enumerate(form.columns):
        if column in numbers:
            found[:, at] = batch.numbers[:, numbers.index(column)]
        else:
            keeps_none = bool(form.dtypes) and form.dtypes[at] == "object"
            blank = None if keeps_none else np.nan
            values = batch.texts[texts.index(column)]
            found[:, at] = [blank if text is None else text for text in values]
    return found


def wants_texts(estimator: Any) -> bool:
    """Whether it takes a list of texts instead of rows: it is, or begins with, a vectoriser."""
    steps = getattr(estimator, "steps", None)
    first = steps[0][1] if steps else estimator
    return hasattr(first, "build_analyzer") or type(first).__name__ == "HashingVectorizer"


def parts_of(estimator: Any, depth: int = 0) -> Iterator[Any]:
    """The estimator and every fitted estimator inside it, at most eight levels deep."""
    yield estimator
    if depth > 8:
        return
    inner = [step for _, step in getattr(estimator, "steps", [])]
    inner += [step[1] for step in getattr(estimator, "transformers_", [])]
    inner += [step[1] for step in getattr(estimator, "transformer_list", [])]
    inner += list(getattr(estimator, "calibrated_classifiers_", []))
    for name in ("best_estimator_", "estimator_", "regressor_", "classifier_", "estimator"):
        inner.append(getattr(estimator, name, None))
    for one in inner:
        if one is not None and not isinstance(one, str | type):
            yield from parts_of(one, depth + 1)


def keeps_none(estimator: Any) -> bool:
    """Whether it learned a missing text as None rather than NaN (an encoder's categories, or what
    an imputer looks for). pandas before 3 gave None only where a program put it."""
    for part in parts_of(estimator):
        for categories in getattr(part, "categories_", None) or ():
            if any(value is None for value in np.asarray(categories, dtype=object).ravel()):
                return True
        if hasattr(part, "missing_values") and part.missing_values is None:
            return True
    return False


def category_columns(estimator: Any) -> tuple[str, ...]:
    """The columns that must be pandas categories: those a histogram booster took from the dtype."""
    for part in parts_of(estimator):
        if getattr(part, "categorical_features", None) == "from_dtype":
            mask = getattr(part, "is_categorical_", None)
            names = getattr(part, "feature_names_in_", None)
            if mask is not None and names is not None:
                return tuple(str(name) for name in names[np.asarray(mask)[: len(names)]])
    return ()


def numeric_categories(estimator: Any) -> dict[str, str]:
    """Column -> `int64` or `float64`, of the columns whose encoder learned numbers. A category that
    is text here (`007`, or by the contract) must reach such an encoder as the number it was."""
    found: dict[str, str] = {}
    for part in parts_of(estimator):
        for _, step, columns in getattr(part, "transformers_", []):
            if isinstance(columns, str) or not hasattr(columns, "__len__"):
                continue
            for encoder in parts_of(step):
                categories = getattr(encoder, "categories_", None) or []
                if len(categories) == len(columns):
                    found |= _numeric(columns, categories)
    return found


def _numeric(columns: Any, categories: Any) -> dict[str, str]:
    kinds = [np.asarray(one).dtype.kind for one in categories]
    return {
        str(column): "float64" if kind == "f" else "int64"
        for column, kind in zip(columns, kinds, strict=True)
        if isinstance(column, str) and kind in "iuf"
    }
