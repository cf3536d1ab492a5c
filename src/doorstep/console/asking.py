"""How a page asks for its data: by the name of an operation, and only so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from doorstep.core.errors import DoorstepError
from doorstep.core.instant import Instant

Ask = Callable[[str, Any], msgspec.Struct]
"""(operation name, its input) -> its answer. Raises DoorstepError as the operation does."""

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class Visit(msgspec.Struct, frozen=True):
    """Who looks at a page or sends a form: their name, the form token of their session, and how
    they ask."""

    who: str
    csrf: str
    ask: Ask


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One request for a page. path: values in the address. given: the query string. now: for
    relative times. csrf: for the forms of this session. who: looks at it."""

    path: dict[str, Any]
    given: dict[str, str]
    now: Instant
    csrf: str
    who: str = ""

    def text(self, name: str, limit: int = 200) -> str:
        return self.given.get(name, "")[:limit].strip()

    @property
    def fragments(self) -> tuple[str, ...]:
        """The parts that are asked for alone; () is the whole page."""
        return tuple(one for one in self.text("fragment").split(",") if one)

    def number(self, name: str) -> int:
        """0 if it is absent or not a whole number from 0 to 2**62."""
        text = self.given.get(name, "")
        found = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
        return found if found < 2**62 else 0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """template: file in `templates`. title: of the window. section: which link of the top is now.
    fragments: the blocks that may be fetched alone. found: what the template needs."""

    template: str
    title: str
    section: str
    fragments: tuple[str, ...]
    found: dict[str, Any]


def answer(ask: Ask, name: str, given: msgspec.Struct, kind: type[AnswerT]) -> AnswerT:
    """What `name` answers, known to be a `kind`. Raises: DoorstepError; TypeError is our fault."""
    found = ask(name, given)
    if not isinstance(found, kind):
        raise TypeError(f"{name} answered {type(found).__name__}, not {kind.__name__}")
    return found


def attempt(
    ask: Ask, name: str, given: msgspec.Struct, kind: type[AnswerT]
) -> tuple[AnswerT | None, DoorstepError | None]:
    """The answer, or why there is none: for a part that may be missing from a page that is not."""
    try:
        return answer(ask, name, given, kind), None
    except DoorstepError as error:
        return None, error
