"""A version of a bundle on disk, loaded into something that scores rows.

Only engines, front workers (ONNX) and job children call this. A file is read once, its digest is
compared with the manifest's, and what is loaded is those same bytes, so that a file that changes
underneath is never run.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path, PurePosixPath
from typing import Any, Literal, assert_never

from doorstep.core.errors import InputError, RefusedError
from doorstep.core.manifest import CODE_FOLDER, Manifest, decode_manifest, running_files
from doorstep.formats.batch import Scorer

MODEL_BYTES_MAX = 2 * 1024**3 - 1


def load_scorer(
    bundle_dir: Path, manifest: Manifest, form: Literal["onnx", "native"], *, trusted: bool
) -> Scorer:
    """The model of `manifest`, ready to score.

    bundle_dir: the folder that holds the manifest's files. form: `onnx` runs no code of the
    model's author; `native` is the file as the user made it. trusted: somebody in this installation
    vouched for the `vouched_digest` of this manifest, which covers every file that runs; it comes
    from the plan or the trust store, never from the bundle.
    Raises: InputError (`no-onnx-form`, `bundle-changed`, `bad-path`, `bad-onnx`, `bad-model`),
    RefusedError (`untrusted-model`).
    """
    if form == "onnx":
        from doorstep.formats.onnx import OnnxScorer

        if manifest.onnx is None:
            raise InputError(
                "no-onnx-form", "this version has no ONNX form; expected form native", ""
            )
        data = read_member(bundle_dir, manifest, manifest.onnx.file)
        return OnnxScorer(data, manifest.onnx, manifest.contract, scores=score_columns(manifest))
    return _load_native(bundle_dir, manifest, trusted=trusted)


def open_bundle(folder: Path, digest: str) -> Manifest:
    """The manifest of a bundle folder. Raises: InputError (`bad-manifest`)."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError("bad-manifest", f"there is no manifest.json in {folder}")
    return decode_manifest(path.read_bytes(), digest)


def _load_native(bundle_dir: Path, manifest: Manifest, *, trusted: bool) -> Scorer:
    match manifest.native.family:
        case "onnx":
            return load_scorer(bundle_dir, manifest, "onnx", trusted=trusted)
        case "sklearn":
            from doorstep.formats.sklearn import NativeScorer

            return NativeScorer(load_native_object(bundle_dir, manifest, trusted=trusted), manifest)
        case "python":
            from doorstep.formats.python import FunctionScorer

            return FunctionScorer(
                load_native_object(bundle_dir, manifest, trusted=trusted), manifest, bundle_dir
            )
        case "watched":
            raise InputError("only-watched", "the version is served elsewhere; no model is here")
        case _:
            assert_never(manifest.native.family)


def load_native_object(bundle_dir: Path, manifest: Manifest, *, trusted: bool) -> Any:
    """The estimator or the function itself, as explanations and retraining need it.

    Raises: as `load_scorer`; InputError (`no-native-object`) for an ONNX version.
    """
    native = manifest.native
    if native.family == "onnx":
        raise InputError("no-native-object", "an ONNX version has no native object")
    beside = [entry.path for entry in running_files(manifest) if entry.path != native.file]
    code = [path for path in (native.file, *beside) if path.startswith(CODE_FOLDER)]
    if (beside or code or native.family == "python") and not trusted:
        raise RefusedError(
            "untrusted-model",
            f"{native.entry or native.file} brings Python code and nobody here has vouched for it",
            'doorstep trust FILE --code FOLDER --why "..."',
        )
    for path in beside:
        read_member(bundle_dir, manifest, path)
    _refuse_extra_code(bundle_dir, set(code))
    if code:
        _import_from(bundle_dir / CODE_FOLDER)
    data = read_member(bundle_dir, manifest, native.file)
    if native.family == "python":
        from doorstep.formats.python import import_function

        return import_function(native.entry)
    from doorstep.formats.sklearn import load_estimator

    return load_estimator(data, PurePosixPath(native.file).name, trusted=trusted)


def _refuse_extra_code(bundle_dir: Path, listed: set[str]) -> None:
    for path in sorted((bundle_dir / CODE_FOLDER).rglob("*")):
        name = path.relative_to(bundle_dir).as_posix()
        if path.is_file() and name not in listed and "__pycache__" not in path.parts:
            raise InputError("bundle-changed", f"{name} is not among the files of the manifest")


def _import_from(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def score_columns(manifest: Manifest) -> int:
    """How many score columns a version answers with: one per label, or one."""
    return len(manifest.labels) or 1


def read_member(bundle_dir: Path, manifest: Manifest, path: str) -> bytes:
    """The bytes of one file of a bundle, checked against the manifest.

    Raises: InputError (`bad-path`, `bundle-changed`).
    """
    target = member_path(bundle_dir, path)
    entry = next((one for one in manifest.files if one.path == path), None)
    if entry is None:
        raise InputError("bad-path", f"{path!r} is not among the files of the manifest")
    if not target.is_file():
        raise InputError("bundle-changed", f"{path} is missing from the bundle")
    if entry.size > MODEL_BYTES_MAX or target.stat().st_size != entry.size:
        raise InputError(
            "bundle-changed",
            f"{path} has {target.stat().st_size} bytes, the manifest says {entry.size}",
            "register the model again, or restore the bundle from a backup",
        )
    data = target.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise InputError(
            "bundle-changed",
            f"{path} has digest {found[:12]}, the manifest says {entry.sha256[:12]}",
            "register the model again, or restore the bundle from a backup",
        )
    return data


def member_path(bundle_dir: Path, path: str) -> Path:
    """Where `path` of a manifest lies, certainly inside `bundle_dir`.

    Raises: InputError (`bad-path`) for an absolute path, `..`, a backslash, or a link that leads
    outside.
    """
    parts = PurePosixPath(path)
    odd = not path or "\\" in path or "\0" in path or ":" in path
    if odd or parts.is_absolute() or ".." in parts.parts or str(parts) != path:
        raise InputError("bad-path", f"{path!r} is not a plain relative path inside the bundle")
    root = bundle_dir.resolve()
    target = (root / path).resolve()
    if not target.is_relative_to(root):
        raise InputError("bad-path", f"{path!r} leads outside the bundle")
    return target
