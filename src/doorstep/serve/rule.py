"""A declared answer at a place of the fallback chain: to all rows, or to those that satisfy it."""

from __future__ import annotations

import struct

from doorstep.core.condition import holds, parse_condition
from doorstep.serve.rows import Parsed, RowReader


class Rule:
    """answer: a constant. is_conditional: whether it is given only where `when` holds.

    Raises: InputError (`bad-condition`).
    """

    def __init__(self, answer: str | float, when: str, reader: RowReader) -> None:
        self.answer = answer
        self.is_conditional = bool(when)
        self._condition = parse_condition(when) if when else None
        self._width = reader.width
        numbers = (*reader.row.numbers, *reader.context.numbers)
        self._booleans = frozenset(at for at, one in enumerate(numbers) if one.type == "bool")
        self._numbers = [one.name for one in numbers]
        self._texts = [one.name for one in (*reader.row.texts, *reader.context.texts)]

    def answers(self, parsed: Parsed, row: int) -> bool:
        """Whether this row gets the answer. A field that is missing satisfies nothing."""
        condition = self._condition
        return condition is None or holds(condition, self._value(condition.left, parsed, row))

    def _value(self, name: str, parsed: Parsed, row: int) -> float | str | bool | None:
        if name in self._numbers:
            at = self._numbers.index(name)
            (found,) = struct.unpack_from("d", parsed.numbers, 8 * (row * self._width + at))
            is_known_boolean = at in self._booleans and found == found
            return bool(found) if is_known_boolean else float(found)
        if name in self._texts:
            text: str | None = parsed.texts[row][self._texts.index(name)]
            return text
        return None
