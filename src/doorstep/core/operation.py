"""The declaration of one operation: what REST, OpenAPI, permissions, the SDK and the CLI share.

    @operation("release.rollback", permission="release:write", effect="write")
    def rollback(app: App, asked: Rollback) -> Release:
        \"\"\"Give the service back to the last champion.\"\"\"

The decorator attaches a frozen `Operation` to the function and gives the function back unchanged.
There is no registry: `operations.py` lists the functions and calls `tabulate`. A wrong declaration
is our fault, not a user's: it raises TypeError or ValueError when the module is imported.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import msgspec

Effect = Literal["read", "write"]
Stability = Literal["stable", "preview", "planned"]

_NAME = re.compile(r"[a-z]+(?:-[a-z]+)*\.[a-z]+(?:-[a-z]+)*\Z")
_PERMISSION = re.compile(r"[a-z]+(?:-[a-z]+)*:[a-z]+(?:-[a-z]+)*\Z")
_ATTRIBUTE = "__operation__"

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that Doorstep can be asked to do.

    name: `noun.verb`. input, output: msgspec Structs. permission: `noun:action`. effect: whether
    it changes domain state (and so must leave a ledger event). summary: the first line of the
    handler's docstring. handler: called with (app context, input).
    """

    name: str
    input: type[msgspec.Struct]
    output: type[msgspec.Struct]
    permission: str
    effect: Effect
    stability: Stability
    summary: str
    handler: Callable[..., Any]

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"operation name {self.name!r} is not noun.verb")
        if not _PERMISSION.match(self.permission):
            raise ValueError(f"{self.name}: permission {self.permission!r} is not noun:action")
        if self.effect not in typing.get_args(Effect):
            raise ValueError(f"{self.name}: effect {self.effect!r} is not read or write")
        if self.stability not in typing.get_args(Stability):
            raise ValueError(f"{self.name}: stability {self.stability!r} is unknown")
        if not self.summary:
            raise ValueError(f"{self.name}: the handler has no docstring to summarise it")


def operation(
    name: str, *, permission: str, effect: Effect, stability: Stability = "stable"
) -> Callable[[Handler], Handler]:
    """Declare that a function `(app, input Struct) -> output Struct` is the operation `name`.

    The Structs must be importable names of the handler's module, not under `TYPE_CHECKING`;
    the annotation of the first parameter is never resolved.
    Raises: TypeError for a wrong signature, ValueError for a wrong name, permission or docstring.
    """

    def declare(handler: Handler) -> Handler:
        asked, answered = _types_of(name, handler)
        declared = Operation(
            name=name,
            input=asked,
            output=answered,
            permission=permission,
            effect=effect,
            stability=stability,
            summary=(inspect.getdoc(handler) or "").partition("\n")[0].strip(),
            handler=handler,
        )
        setattr(handler, _ATTRIBUTE, declared)
        return handler

    return declare


def operation_of(handler: Callable[..., Any]) -> Operation:
    """What was declared on `handler`. Raises: TypeError if nothing was."""
    declared = getattr(handler, _ATTRIBUTE, None)
    if not isinstance(declared, Operation):
        raise TypeError(f"{handler!r} is not declared with @operation")
    return declared


def tabulate(handlers: Iterable[Callable[..., Any]]) -> dict[str, Operation]:
    """The table of operations by name, in the order given. Raises: ValueError on a name twice."""
    table: dict[str, Operation] = {}
    for declared in map(operation_of, handlers):
        if declared.name in table:
            raise ValueError(f"two operations are called {declared.name}")
        table[declared.name] = declared
    return table


def _types_of(
    name: str, handler: Callable[..., Any]
) -> tuple[type[msgspec.Struct], type[msgspec.Struct]]:
    parameters = list(inspect.signature(handler).parameters)
    if len(parameters) != 2:
        raise TypeError(f"{name}: a handler takes (app, input), this one takes {parameters}")
    written = {key: handler.__annotations__.get(key) for key in (parameters[1], "return")}
    if None in written.values():
        raise TypeError(f"{name}: the input and the answer need annotations")
    # Only these two are resolved: the app's type lives in a room below, which rooms cannot import.
    found = typing.get_type_hints(
        SimpleNamespace(__annotations__=written), getattr(handler, "__globals__", {})
    )
    return _struct(name, found[parameters[1]]), _struct(name, found["return"])


def _struct(name: str, kind: object) -> type[msgspec.Struct]:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise TypeError(f"{name}: {kind!r} is not a msgspec Struct")
    return kind
