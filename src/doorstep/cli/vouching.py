"""What a person vouches for, and what this user has signed about it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from doorstep.core.errors import DoorstepError
from doorstep.core.servicefile import parse_service_file
from doorstep.kernel.trust import SignedTrust, TrustStore, trust_folder
from doorstep.register.model_file import Source, find_source

SERVICE_FILE = Path("doorstep.yaml")


def trust_store() -> TrustStore:
    """The statements of this user on this machine."""
    return TrustStore(trust_folder(os.environ, sys.platform))


def statement_about(model: str, code: tuple[Path, ...] = ()) -> SignedTrust | None:
    """What this user has signed about the model and all code of its own, as they are now,
    verified; None if nothing.

    Raises: as `find_source`, and RefusedError (`trust-broken`).
    """
    return trust_store().find(find_source(model, code).digest)


def fuller_command(found: Source, file: Path = SERVICE_FILE) -> str:
    """The command that also vouches for the code that `file` names under runtime.code, if `found`
    was named without any; else "". A file that cannot be read says nothing here."""
    if found.code or found.kind == "onnx" or not file.is_file():
        return ""
    try:
        named = parse_service_file(file.read_bytes(), str(file)).runtime.code
        code = tuple(file.parent / one for one in named)
        return find_source(found.name, code).command if code else ""
    except (DoorstepError, OSError):
        return ""
