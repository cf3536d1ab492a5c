"""Doorstep: the last mile for machine-learning models.

import doorstep
with doorstep.connect() as here:
    print(here.status("loans"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doorstep.client import Client, connect
    from doorstep.recorder import Record

__all__ = ["Client", "Record", "connect"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "Record":
        # An application that is watched has nothing of the SDK.
        from doorstep.recorder import Record

        return Record
    # The SDK is imported when it is asked for: a serving process imports this package too.
    if name in __all__:
        from doorstep import client

        return getattr(client, name)
    raise AttributeError(f"module 'doorstep' has no attribute {name!r}")
