"""The files that a person vouches for, and what this user has signed about them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from doorstep.core.errors import InputError, NotFoundError
from doorstep.kernel.trust import SignedTrust, TrustStore, digest_file, trust_folder


def trust_store() -> TrustStore:
    """The statements of this user on this machine."""
    return TrustStore(trust_folder(os.environ, sys.platform))


def vouched_file(model: str, code: tuple[Path, ...] = ()) -> Path:
    """The file whose bytes a statement about `model` names: itself, or, of a function, the module
    that holds it. Raises: NotFoundError (`no-file`), InputError (`bad-entry`, `bad-model`)."""
    path = Path(model)
    if path.is_file():
        return path
    if ":" not in model:
        raise NotFoundError("no-file", f"there is no file {model}", "name the model's file")
    from doorstep.formats.python import parse_entry

    named, entry = parse_entry(model)
    found = named or _module_file(entry.partition(":")[0], code)
    if not found.is_file():
        raise NotFoundError("no-file", f"there is no file {found}", "name the function's file")
    return found


def _module_file(module: str, code: tuple[Path, ...]) -> Path:
    from doorstep.register.model_file import code_files

    inner = module.replace(".", "/")
    files = code_files(code)
    for end in (".py", "/__init__.py"):
        if (file := files.get(f"model/native/code/{inner}{end}")) is not None:
            return file
    raise InputError(
        "bad-model",
        f"{module} is not among the code of the model",
        "name its file or package folder under runtime.code",
    )


def statement_about(model: str, code: tuple[Path, ...] = ()) -> SignedTrust | None:
    """What this user has signed about the model, verified; None if nothing.

    Raises: as `vouched_file`, and RefusedError (`trust-broken`).
    """
    return trust_store().find(digest_file(vouched_file(model, code)))
