"""Pure decisions of this room: what a revision changes, where a version is placed."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from doorstep.core.manifest import Manifest
from doorstep.core.servicefile import ServiceFile

INLINE_MS_P99_MAX = 1.0
"""An inline call cannot be timed out, so only versions that are surely short run in the worker."""


def changed_keys(before: ServiceFile | None, after: ServiceFile) -> tuple[str, ...]:
    """Dotted keys whose values differ, sorted; of a first revision: none."""
    if before is None:
        return ()
    old, new = _flat(msgspec.to_builtins(before)), _flat(msgspec.to_builtins(after))
    return tuple(sorted(key for key in old | new if old.get(key) != new.get(key)))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{path}.{key}" if path else str(key))
    return found


def form_of(manifest: Manifest) -> Literal["onnx", "native"]:
    """Which model file serves: ONNX where its parity was proven, else the native one."""
    proven = manifest.parity is None or manifest.parity.passed
    return "onnx" if manifest.onnx is not None and proven else "native"


def placement_of(form: str, speed_ms_p99: float) -> Literal["inline", "engine"]:
    """inline only for ONNX whose measured single-row p99 is at most 1 ms; unmeasured is engine."""
    quick = 0.0 < speed_ms_p99 <= INLINE_MS_P99_MAX
    return "inline" if form == "onnx" and quick else "engine"
