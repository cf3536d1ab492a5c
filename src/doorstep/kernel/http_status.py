"""What a refusal is over HTTP: one table for REST and for the console."""

from __future__ import annotations

from types import MappingProxyType

STATUS = MappingProxyType(
    {
        "usage": 400,
        "sign-in": 401,
        "forbidden": 403,
        "not-found": 404,
        "refused": 409,
        "input": 422,
        "overloaded": 429,
        "missing-extra": 501,
        "unreachable": 503,
        "waited": 504,
    }
)
"""Kind of a DoorstepError -> status."""
OUR_FAULT = 500
"""Of what is no refusal."""


def status_of(kind: str) -> int:
    """The status of an error of this kind."""
    return STATUS.get(kind, OUR_FAULT)


def headers_of(kind: str) -> dict[str, str]:
    """What its answer carries besides: when to come again."""
    return {"Retry-After": "1"} if kind in ("overloaded", "unreachable") else {}
