"""What msgspec knows of our types, made before two threads can need it at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec

_LOCK = threading.Lock()
_made: set[type[msgspec.Struct]] = set()


def prepare_structs() -> None:
    """Let msgspec look at every struct of ours that is loaded, in this thread alone.

    It does so when a type is first decoded, and a second thread that decodes the type meanwhile
    reads what is half made: the process ends with a segmentation fault (msgspec 0.22). Cheap when
    it is done again: only what was loaded since is looked at.
    """
    with _LOCK:
        for one in _loaded(msgspec.Struct):
            if one in _made or not one.__module__.startswith(f"{__package__.partition('.')[0]}."):
                continue
            _made.add(one)
            try:
                msgspec.json.Decoder(one)
            except (TypeError, NameError):
                continue  # never decoded: it holds what JSON has no form for


def _loaded(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for one in kind.__subclasses__():
        yield one
        yield from _loaded(one)
