"""The service file, line by line, with what each promise in it measures now."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from doorstep.console.words import clip
from doorstep.monitor.surface import Promise

LINES_MAX = 400


class Line(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    text: str
    promises: tuple[Promise, ...]


class AnnotatedFile(msgspec.Struct, frozen=True, kw_only=True):
    """left_out: lines after LINES_MAX. elsewhere: promises that no shown line says, which
    come from defaults."""

    lines: tuple[Line, ...]
    left_out: int
    elsewhere: tuple[Promise, ...]


def annotate_file(text: str, promises: Sequence[Promise]) -> AnnotatedFile:
    """Each promise stands at the last line that holds its words: `monitor` comes after `gates`."""
    lines = text.splitlines()
    shown = lines[:LINES_MAX]
    places: dict[int, list[Promise]] = {}
    elsewhere: list[Promise] = []
    for promise in promises:
        at = [place for place, line in enumerate(shown) if promise.text and promise.text in line]
        if at:
            places.setdefault(at[-1], []).append(promise)
        else:
            elsewhere.append(promise)
    return AnnotatedFile(
        lines=tuple(
            Line(number=place + 1, text=clip(line), promises=tuple(places.get(place, ())))
            for place, line in enumerate(shown)
        ),
        left_out=max(0, len(lines) - LINES_MAX),
        elsewhere=tuple(elsewhere),
    )
