"""How an optional part is installed, be Doorstep itself from a clone, a file or an index."""

from __future__ import annotations

import re
from collections.abc import Iterator

_REQUIREMENT = re.compile(r"""(?P<what>[^;]+?)\s*;\s*extra\s*==\s*["'](?P<extra>[\w.-]+)["']\s*$""")
_OWN = re.compile(r"doorstep\[(?P<extras>[^\]]+)\]")


def install_line(extra: str) -> str:
    """`pip install "grpcio>=1.70"`: what the extra is made of, as this installation says it."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        found = sorted(set(_made_of(extra, requires("doorstep") or ())))
    except PackageNotFoundError:
        found = []
    return "pip install " + " ".join(f'"{one}"' for one in found or [f"doorstep[{extra}]"])


def _made_of(extra: str, lines: list[str] | tuple[str, ...]) -> Iterator[str]:
    for line in lines:
        found = _REQUIREMENT.fullmatch(line)
        if found is None or found["extra"] != extra:
            continue
        own = _OWN.fullmatch(found["what"])
        if own is None:
            yield found["what"]
        else:
            for one in own["extras"].split(","):
                yield from _made_of(one.strip(), lines)
