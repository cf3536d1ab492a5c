"""People who come to the control plane by a token of their own, and what each may ask for.

The owner is whoever has the home's local token, or a browser that it signed in: one person, who may
everything. Everybody else has a name, and a token whose scope says what they may.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, get_args

import msgspec

Scope: TypeAlias = Literal["approve", "release"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME = r"[a-z0-9][a-z0-9._@-]{0,62}"
"""Lower case, so that nobody is two people by how they are written."""
RESERVED = ("local", "console", "doorstep")
"""Who has acted under these names is not a person with a token."""
_APPROVES = frozenset({"version:approve", "release:rollback"})
_RELEASES = frozenset(
    {
        *("service:write", "version:write", "gate:run", "release:write", "release:promote"),
        *("outcome:write", "prediction:write"),
    }
)


class SignedIn(msgspec.Struct, frozen=True):
    """Who asks. name: in the ledger. token: the id of their token, "" for the owner."""

    name: str
    token: str = ""


OWNER = SignedIn("local")


def is_person_name(name: str) -> bool:
    return re.fullmatch(NAME, name) is not None and name not in RESERVED


def may(scope: str, permission: str) -> bool:
    """Whether a token of this scope may ask for what needs this permission. Both may look at
    everything that is not sealed; tokens and persons' keys are the owner's alone."""
    if permission.endswith(":read") or permission in _APPROVES:
        return scope in SCOPES
    return scope == "release" and permission in _RELEASES
