"""A model as its author hands it over, opened in the author's own environment."""

from __future__ import annotations

import atexit
import importlib
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import digest_of
from doorstep.core.manifest import (
    CODE_FOLDER,
    NATIVE_FOLDER,
    Datatype,
    NativeForm,
    OnnxForm,
    Tensor,
    running_digest,
)
from doorstep.formats.columns import Table
from doorstep.formats.onnx import open_session
from doorstep.formats.onnx_file import read_onnx
from doorstep.formats.recognise import (
    Serialization,
    pickle_globals,
    read_model_file,
    recognise,
)
from doorstep.kernel.trust import digest_file

CODE_BYTES_MAX = 256 * 1024 * 1024
CODE_FILES_MAX = 5000
TYPES_MAX = 200
ONNX_FILE = "model/onnx/model.onnx"
_SKIPPED = {"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_DATATYPES: dict[str, Datatype] = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(int64)": "INT64",
    "tensor(bool)": "BOOL",
    "tensor(string)": "STRING",
}
_SUFFIX = {"skops": ".skops", "pickle": ".pkl", "joblib": ".joblib", "onnx": ".onnx"}


@dataclass(frozen=True, slots=True)
class Opened:
    """code: place in the bundle -> file, as it was imported: a copy, so that what lies beside the
    author's own files is never run. names: the columns it was trained with, if it knows them.
    count: how many it takes, if it says. classes: () for a regressor, None if it does not say.
    scores: the output of an ONNX model that has the scores; width: its columns."""

    family: Literal["sklearn", "onnx", "python"]
    serialization: Serialization
    data: bytes
    model: Any = None
    names: tuple[str, ...] | None = None
    count: int | None = None
    classes: tuple[str, ...] | None = None
    types: tuple[str, ...] = ()
    entry: str = ""
    scores: str = ""
    width: int = 0
    code: dict[str, Path] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Where its file goes in the bundle."""
        if self.family == "onnx":
            return ONNX_FILE
        if self.family == "python":
            return next(iter(self.code))
        return _native_place(self.serialization)


@dataclass(frozen=True, slots=True)
class Source:
    """What a person names as a model, before anything of it runs. main: the model's file, or the
    module with the function. entry: of a function, else "". kind: what `main` is. running: place
    in the bundle -> file, of everything that will run, `main` first."""

    name: str
    main: Path
    entry: str
    kind: Serialization
    data: bytes
    running: dict[str, Path]
    code: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """What a trust statement about it names: `vouched_digest` of the bundle made of it."""
        first, *others = self.running.items()
        files = [(first[0], digest_of(self.data)), *((at, digest_file(one)) for at, one in others)]
        return running_digest(files, self.entry)

    @property
    def command(self) -> str:
        """The command that vouches for all of it."""
        code = "" if self.kind == "onnx" else "".join(f" --code {quote(str(c))}" for c in self.code)
        return f'doorstep trust {quote(self.name)}{code} --why "..."'


def _native_place(kind: Serialization) -> str:
    return ONNX_FILE if kind == "onnx" else f"{NATIVE_FOLDER}model{_SUFFIX[kind]}"


def find_source(source: Path | str, code: tuple[Path, ...] = ()) -> Source:
    """The files of the model that `source` names; nothing is loaded or run.

    Raises: NotFoundError (`no-file`), InputError (`bad-entry`, `bad-model`, `bad-code`),
    RefusedError (`model-too-large`, ...).
    """
    files = code_files(code)
    if ":" in str(source) and not Path(source).exists():
        return _find_function(str(source), files, code)
    path = Path(source)
    data = read_model_file(path)
    kind = recognise(data, path.name)
    if kind == "source":
        raise InputError(
            "bad-model", f"{path.name} is Python code; which function of it is the model?",
            f"name it: {path}:predict",
        )  # fmt: skip
    others = {} if kind == "onnx" else files
    return Source(str(source), path, "", kind, data, {_native_place(kind): path, **others}, code)


def _find_function(source: str, files: dict[str, Path], code: tuple[Path, ...]) -> Source:
    from doorstep.formats.python import parse_entry

    path, entry = parse_entry(source)
    if path is not None:
        read_model_file(path)
        files = {**files, f"{CODE_FOLDER}{path.name}": path}
    module = entry.partition(":")[0].replace(".", "/")
    wanted = [f"{CODE_FOLDER}{module}{end}" for end in (".py", "/__init__.py")]
    main = next((one for one in wanted if one in files), None)
    if main is None:
        raise InputError(
            "bad-model",
            f"{entry.partition(':')[0]} is not among the code of the model",
            "name its file or package folder under runtime.code (doorstep trust: --code)",
        )
    running = {main: files[main], **files}
    return Source(source, files[main], entry, "source", files[main].read_bytes(), running, code)


def open_model(source: Path | str, *, trusted: bool, code: tuple[Path, ...] = ()) -> Opened:
    """The model at `source`: a file, or a function as `module:function` or `file.py:function`.

    code: files and package folders that it needs beside itself. trusted: this user vouched for
    the digest of `find_source(source, code)`. A pickle, or code, that nobody vouched for is not
    loaded.
    Raises: RefusedError (`untrusted-model`, ...), InputError (`bad-model`, ...), NotFoundError.
    """
    found = find_source(source, code)
    if found.kind == "onnx":
        return _open_onnx(found.data)
    own = {place: path for place, path in found.running.items() if place.startswith(CODE_FOLDER)}
    if own and not trusted:
        raise RefusedError(
            "untrusted-model",
            f"{source} runs Python code (files: {len(own):,}), and nobody here has vouched for it "
            f"as it is now. If you made it: {found.command}",
            found.command,
        )
    copied = _copy_code(own)
    return _open_function(found, copied) if found.entry else _open_sklearn(found, copied, trusted)


def _copy_code(code: dict[str, Path]) -> dict[str, Path]:
    """Copy the code to a folder of its own and make only that importable: files beside it, which
    nobody vouched for, are not found. The copy stays until this process ends."""
    if not code:
        return {}
    root = Path(tempfile.mkdtemp(prefix="doorstep-code-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    copied = {place: root / place for place in code}
    for place, path in code.items():
        copied[place].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied[place])
    sys.path.insert(0, str(root / CODE_FOLDER))
    importlib.invalidate_caches()
    return copied


def _open_sklearn(found: Source, code: dict[str, Path], trusted: bool) -> Opened:
    from doorstep.formats.sklearn import class_labels, load_estimator, skops_types, wants_texts

    data, name = found.data, found.main.name
    model = load_estimator(data, name, trusted=trusted)
    if not hasattr(model, "predict"):
        raise InputError(
            "bad-model",
            f"{name} holds a {type(model).__name__}, which has no predict method",
            "save the fitted estimator or pipeline itself",
        )
    names = getattr(model, "feature_names_in_", None)
    count = getattr(model, "n_features_in_", None)
    types = skops_types(data, name) if found.kind == "skops" else pickle_globals(data)
    return Opened(
        family="sklearn",
        serialization=found.kind,
        data=data,
        model=model,
        names=None if names is None else tuple(str(name) for name in names),
        count=1 if wants_texts(model) else None if count is None else int(count),
        classes=class_labels(model),
        types=types[:TYPES_MAX],
        code=code,
    )


def _open_function(found: Source, code: dict[str, Path]) -> Opened:
    from doorstep.formats.python import import_function

    function = import_function(found.entry)
    return Opened("python", "source", found.data, model=function, entry=found.entry, code=code)


def code_files(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Place in the bundle -> file, of modules and package folders. No links, at most 5,000 files.

    Raises: InputError (`bad-code`).
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise InputError("bad-code", f"runtime.code names {path}, which does not exist")
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            inner = file.relative_to(path.parent)
            if file.is_symlink():
                raise InputError("bad-code", f"{file} is a link; expected plain files")
            if file.is_file() and not _SKIPPED & set(inner.parts):
                found[f"{CODE_FOLDER}{inner.as_posix()}"] = file
    size = sum(file.stat().st_size for file in found.values())
    if len(found) > CODE_FILES_MAX or size > CODE_BYTES_MAX:
        raise InputError(
            "bad-code",
            f"runtime.code has {len(found):,} files with {size:,} bytes; at most "
            f"{CODE_FILES_MAX:,} files and {CODE_BYTES_MAX:,} bytes",
        )
    return found


def _open_onnx(data: bytes) -> Opened:
    read_onnx(data)
    session = open_session(data)
    inputs = session.get_inputs()
    for one in inputs:
        if one.type not in _DATATYPES or len(one.shape) not in (1, 2):
            raise InputError(
                "bad-model",
                f"input {one.name!r} of the ONNX model is {one.type} {one.shape}; expected rows of "
                "numbers or texts",
            )
    scores, width = _score_output(session)
    single = len(inputs) == 1
    wide = inputs[0].shape[1] if len(inputs[0].shape) == 2 else 1
    return Opened(
        family="onnx",
        serialization="onnx",
        data=data,
        model=session,
        names=None if single else tuple(one.name for one in inputs),
        count=int(wide) if single and isinstance(wide, int) else None,
        scores=scores,
        width=width,
    )


def _score_output(session: Any) -> tuple[str, int]:
    """The output with the scores and its width (0: it does not say)."""
    numbers = [
        one for one in session.get_outputs() if one.type in ("tensor(float)", "tensor(double)")
    ]
    if not numbers:
        found = ", ".join(f"{one.name}: {one.type}" for one in session.get_outputs())
        raise InputError(
            "bad-model",
            f"the ONNX model has no output of numbers ({found}); expected one column per label",
            "convert it with options={'zipmap': False}",
        )
    likely = [one for one in numbers if "prob" in one.name.lower()] or numbers
    width = likely[0].shape[-1] if len(likely[0].shape) == 2 else 1
    return likely[0].name, width if isinstance(width, int) else 0


def onnx_form(opened: Opened, columns: tuple[str, ...]) -> OnnxForm:
    """The form of a model that was made as ONNX."""
    inputs = opened.model.get_inputs()
    if len(inputs) == 1:
        tensors = [_tensor(inputs[0], columns)]
    else:
        tensors = [_tensor(one, (one.name,)) for one in inputs]
    return OnnxForm(
        file=ONNX_FILE,
        opset=read_onnx(opened.data),
        inputs=tuple(tensors),
        scores=opened.scores,
    )


def _tensor(found: Any, columns: tuple[str, ...]) -> Tensor:
    return Tensor(name=found.name, datatype=_DATATYPES[found.type], columns=columns)


def native_form(opened: Opened, table: Table, contract: Contract) -> NativeForm:
    """How the native file is asked: with what columns, and of what pandas types."""
    columns = tuple(field.name for field in contract.inputs)
    return NativeForm(
        family=opened.family,
        serialization=opened.serialization,
        file=opened.file,
        frame=opened.names is not None and opened.family == "sklearn",
        columns=columns,
        dtypes=_dtypes(opened, table, columns) if opened.family == "sklearn" else (),
        entry=opened.entry,
        types=opened.types,
    )


def _dtypes(opened: Opened, table: Table, columns: tuple[str, ...]) -> tuple[str, ...]:
    from doorstep.formats.sklearn import category_columns, keeps_none, numeric_categories

    categories = category_columns(opened.model)
    texts = "object" if keeps_none(opened.model) else ""
    numeric = numeric_categories(opened.model)
    found = []
    for name in columns:
        column = table.column(name)
        whole = "int64" if column.missing_rows == 0 else "float64"
        as_text = numeric.get(name, texts)
        kinds = {"int": whole, "bool": "bool", "time": "datetime64[us]", "text": as_text}
        found.append("category" if name in categories else kinds.get(column.kind, ""))
    return tuple(found)
