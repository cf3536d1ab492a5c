"""Where a model came from: code, parameters, libraries. What cannot be known is left empty."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

PARAMETERS_MAX = 200
PARAMETER_LENGTH_MAX = 200
ESTIMATOR_LENGTH_MAX = 2000
REF_BYTES_MAX = 4096
PACKED_BYTES_MAX = 16 * 1024 * 1024
LIBRARIES = (
    "numpy", "scipy", "scikit-learn", "pandas", "skops", "joblib", "onnx", "skl2onnx",
    "onnxruntime", "xgboost", "lightgbm", "torch", "doorstep",
)  # fmt: skip
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_REF = re.compile(r"refs/[^\x00-\x20\x7f\\]{1,1000}\Z")


def code_commit(folder: Path) -> str:
    """The git commit that HEAD names where `folder` is in; "" where there is no git or no commit.

    It is read from files: git itself runs what the folder's own `.git/config` names (fsmonitor,
    filters, hooks), and a folder of data is not to be believed. That is also why nothing is said
    of changed files.
    """
    for place in (folder, *folder.parents):
        if (place / ".git").exists():
            return _head(_git_folder(place))
    return ""


def _git_folder(place: Path) -> Path:
    """`.git`, or where the `.git` file of a linked work tree points."""
    inner = place / ".git"
    text = _small_text(inner)
    return place / text.removeprefix("gitdir:").strip() if text.startswith("gitdir:") else inner


def _head(git: Path) -> str:
    head = _small_text(git / "HEAD")
    if not head.startswith("ref:"):
        return _commit(head)
    name = head.removeprefix("ref:").strip()
    if not _REF.match(name) or ".." in name:
        return ""
    common = _small_text(git / "commondir")
    shared = git / common if common else git
    loose = _commit(_small_text(git / name)) or _commit(_small_text(shared / name))
    return loose or _packed(_small_text(shared / "packed-refs", PACKED_BYTES_MAX), name)


def _packed(text: str, name: str) -> str:
    lines = (line.split(" ", 1) for line in text.splitlines())
    return next((_commit(one[0]) for one in lines if one[1:] == [name]), "")


def _commit(text: str) -> str:
    return text if _COMMIT.match(text) else ""


def _small_text(path: Path, bytes_max: int = REF_BYTES_MAX) -> str:
    """What a small plain file says, without the space around it; "" if it is none."""
    try:
        if not path.is_file():  # A pipe would be waited for.
            return ""
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except (OSError, ValueError):
        return ""
    return "" if len(data) > bytes_max else data.decode(errors="replace").strip()


def library_versions() -> dict[str, str]:
    """Name -> version of the libraries that decide what a model answers, as installed here."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_estimator(estimator: Any) -> str:
    """Its representation with all steps, in one line, at most 2,000 characters."""
    return _one_line(estimator)[:ESTIMATOR_LENGTH_MAX]


def _one_line(value: object) -> str:
    """Without memory addresses, so that the same model always reads the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))


def estimator_parameters(estimator: Any) -> dict[str, str]:
    """Its parameters as text, nested ones as `step__name`; without the steps themselves, at most
    200."""
    if not hasattr(estimator, "get_params"):
        return {}
    found: dict[str, str] = {}
    for name, value in sorted(estimator.get_params(deep=True).items()):
        if hasattr(value, "get_params") or (isinstance(value, list | tuple) and _has_parts(value)):
            continue
        found[name] = _one_line(value)[:PARAMETER_LENGTH_MAX]
        if len(found) >= PARAMETERS_MAX:
            break
    return found


def _has_parts(value: list[Any] | tuple[Any, ...]) -> bool:
    return any(isinstance(one, tuple) for one in value)
