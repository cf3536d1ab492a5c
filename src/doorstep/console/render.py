"""Templates to HTML. Everything is escaped; the only markup not escaped is the macros' own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from doorstep.console import marks, words
from doorstep.console.asking import Page, Query
from doorstep.core.errors import DoorstepError, NotFoundError
from doorstep.core.plural import plural

_FILTERS = (
    *("ago", "exact", "iso", "count", "number", "fixed", "plain"),
    *("rate", "odds", "short", "clip", "model", "size", "sentence", "unsigned"),
)
_SCRIPT_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


class Renderer:
    """One per set of routes. chrome: what every page shows (environment, asset addresses)."""

    def __init__(self, chrome: Mapping[str, Any]) -> None:
        self._chrome = chrome

    @cached_property
    def _env(self) -> Environment:
        """Made with the first page: compiling the macros is a fifth of what starting `up` costs."""
        made = Environment(
            loader=PackageLoader("doorstep.console", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        made.filters |= {name: getattr(words, name) for name in _FILTERS}
        made.filters |= {
            "factor": words.ratio,
            "points": words.points,
            "shown": words.value,
            "evidence": words.as_json,
            "script_json": script_json,
        }
        made.globals |= {"draw": marks, "plural": plural, "span": words.span, **self._chrome}
        # Blocks that are rendered alone do not run their file's imports, so macros are global.
        made.globals["ui"] = made.get_template("ui.html").module
        return made

    def page(self, page: Page, query: Query) -> str:
        """The whole page, or each of `query.fragments` in an element that names it.

        Raises: NotFoundError (`no-such-fragment`).
        """
        template = self._env.get_template(page.template)
        given = {
            **page.found, "page": page, "now": query.now, "csrf": query.csrf, "who": query.who,
        }  # fmt: skip
        if not query.fragments:
            return template.render(given)
        for name in query.fragments:
            if name not in page.fragments:
                message = f"this page has no part {name[:60]!r}"
                raise NotFoundError("no-such-fragment", message, "reload the page")
        context = template.new_context(given)
        return "".join(
            f'<div data-fragment="{name}">{"".join(template.blocks[name](context))}</div>'
            for name in query.fragments
        )

    def error(self, error: DoorstepError, status: int, now: int) -> str:
        page = Page(template="error.html", title=error.message, section="", fragments=(), found={})
        given = {
            "page": page, "now": now, "csrf": "", "who": "", "error": error, "status": status,
        }  # fmt: skip
        return self._env.get_template("error.html").render(given)


def script_json(given: Any) -> Markup:
    """JSON for `<script type="application/json">`: nothing in it can end the script."""
    text = msgspec.json.encode(given).decode()
    for character, escape in _SCRIPT_ESCAPES.items():
        text = text.replace(character, escape)
    return Markup(text)  # noqa: S704  every character that HTML reads was escaped above
