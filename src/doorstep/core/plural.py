"""How many of what, in words."""

from __future__ import annotations


def plural(many: int, one: str, several: str = "") -> str:
    """`1 finding`, `3,000 findings`; several: where it is not `one` and an s, as with a verb."""
    return f"{many:,} {one if many == 1 else several or one + 's'}"
