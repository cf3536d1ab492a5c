"""Commands that are suggested work as they are printed: they reach the same server and home.

Hints come from every room, also from the server, and none of them knows how the command that
prints them was called. So `--home` and `--url` are put in where lines are printed.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence

GROUPS = ("release", "outcomes", "journal", "ledger", "token")
WITHOUT = {
    "--home": frozenset(("init", "check", "trust", "demo")),
    "--url": frozenset(
        ("init", "check", "trust", "demo", "up", "down", "doctor", "journal restore")
    ),
}
"""Commands that have no such option."""
_COMMAND = re.compile(rf"\bdoorstep ((?:(?:{'|'.join(GROUPS)}) )?[a-z]+)\b")
_POINTER = re.compile(r"^(?:hint|next): .*$", re.MULTILINE)


def point(text: str) -> str:
    """`text` with the options that this command was given, in its lines `hint:` and `next:`."""
    return _POINTER.sub(lambda line: reachable(line[0], sys.argv), text)


def reachable(text: str, argv: Sequence[str]) -> str:
    """Every `doorstep COMMAND` of `text` with the `--home` and `--url` of `argv`, unless it has
    them already: whoever wrote it knew, or it was said by a command that we started."""
    given = {name: value for name in WITHOUT for value in _values(name, argv)}

    def told(command: re.Match[str]) -> str:
        names = {command[1], command[1].partition(" ")[0]}
        rest = _COMMAND.split(text[command.end() :], maxsplit=1)[0]
        words = (
            f" {name} {shlex.quote(value)}"
            for name, value in given.items()
            if not names & WITHOUT[name] and not re.search(rf"\s{name}\b", rest)
        )
        return command[0] + "".join(words)

    return _COMMAND.sub(told, text) if given else text


def _values(name: str, argv: Sequence[str]) -> Iterator[str]:
    for place, word in enumerate(argv):
        if word == name and place + 1 < len(argv):
            yield argv[place + 1]
        elif word.startswith(f"{name}="):
            yield word.partition("=")[2]
