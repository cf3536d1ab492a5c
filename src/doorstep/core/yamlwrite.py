"""Values as YAML text on one line, read back to the same by YAML 1.1, 1.2 and our own reader."""

from __future__ import annotations

import math
import re
from typing import Any

from doorstep.core.errors import InputError
from doorstep.core.yamltext import plain_value

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*\Z")
_MEASURE = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:%|(?:d|h|m|s)|\s?ms)\Z")
_AMBIGUOUS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def flow(value: Any) -> str:
    """`{steps: [1%, 5%], bake: 60m}`. value: dict, list, text, number, boolean or None.

    Raises: InputError (`bad-text`) for a lone surrogate, which no file can hold.
    """
    match value:
        case dict():
            inner = ", ".join(f"{word(str(key))}: {flow(one)}" for key, one in value.items())
            return f"{{{inner}}}"
        case list() | tuple():
            return f"[{', '.join(flow(one) for one in value)}]"
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case str():
            return word(value)
        case float():
            return _float(value)
        case _:
            return repr(value)


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return repr(value)


def word(text: str) -> str:
    """`text` bare where every reader takes it for text, else in double quotes."""
    if _MEASURE.match(text):
        return text
    is_safe = bool(_WORD.match(text)) and text.lower() not in _AMBIGUOUS
    return text if is_safe and isinstance(plain_value(text), str) else quoted(text)


def quoted(text: str) -> str:
    """`text` in double quotes, with what cannot be printed escaped. Raises: InputError."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def comment(text: str) -> str:
    """`text` as what follows a `#`: one printable line."""
    return "".join(one if one.isprintable() else " " for one in text).strip()


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    if 0xD800 <= code <= 0xDFFF:
        raise InputError("bad-text", f"half a character (U+{code:04X}) cannot be written to a file")
    if character.isprintable():
        return character
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
