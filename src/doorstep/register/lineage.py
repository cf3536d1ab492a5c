"""Where a model came from: code, parameters, libraries. What cannot be known is left empty."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

PARAMETERS_MAX = 200
PARAMETER_LENGTH_MAX = 200
ESTIMATOR_LENGTH_MAX = 2000
GIT_TIMEOUT_S = 10
LIBRARIES = (
    "numpy", "scipy", "scikit-learn", "pandas", "skops", "joblib", "onnx", "skl2onnx",
    "onnxruntime", "xgboost", "lightgbm", "torch", "doorstep",
)  # fmt: skip


def code_commit(folder: Path) -> str:
    """The git commit that `folder` is in, with `-dirty` if tracked files were changed; "" where
    there is no git or no commit."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def library_versions() -> dict[str, str]:
    """Name -> version of the libraries that decide what a model answers, as installed here."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def python_version() -> str:
    return platform.python_version()


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
