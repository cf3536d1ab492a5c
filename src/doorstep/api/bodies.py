"""The body of a request becomes the input of an operation, or a refusal that names what is off.

Strict: no type is guessed, no field is left over. Two things that JSON can say and no database can
keep are refused here, once for all operations: text with a NUL, whole numbers beyond 64 bits.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.outcome import WHOLE_MAX

# Looked for in the bytes first: hardly any body has them, and then nothing more is looked at.
_SUSPICIOUS = re.compile(rb"\\u0000|[0-9]{19}")


def decode_body(decoder: msgspec.json.Decoder[Any], body: bytes, name: str) -> msgspec.Struct:
    """The input of the operation `name`. Raises: InputError (`bad-request`)."""
    try:
        found: msgspec.Struct = decoder.decode(body)
        unfit = _why_unfit(msgspec.to_builtins(found)) if _SUSPICIOUS.search(body) else ""
    except RecursionError:
        raise _bad(name, "it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _bad(name, str(error)) from None
    if unfit:
        raise _bad(name, unfit)
    return found


def _why_unfit(value: Any) -> str:
    if isinstance(value, str):
        return "a text holds the character NUL" if "\x00" in value else ""
    if isinstance(value, int):
        return "" if abs(value) <= WHOLE_MAX else "a whole number is larger than 64 bits can hold"
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else []
    return next((why for part in parts if (why := _why_unfit(part))), "")


def _bad(name: str, reason: str) -> InputError:
    return InputError("bad-request", f"{name}: the body is not what was expected: {reason}")
