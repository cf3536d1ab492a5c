"""What reading a service file needs: its keys, its readers, its problems, and what is a secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import msgspec

from doorstep.core.yamltext import Mapping, Node, Scalar, Sequence

PROBLEMS_MAX = 50
SHOWN_LENGTH_MAX = 60
KEY_LENGTH_MAX = 128
CREDENTIAL_LENGTH_MIN = 8
_CREDENTIALS = (
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("an AWS access key id", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[0-9A-Za-z]{20}|github_pat_[0-9A-Za-z_]{20})")),
    ("a Slack token", re.compile(r"\bxox[abeoprs]-[0-9A-Za-z-]{10}")),
    ("a webhook with its secret", re.compile(r"hooks\.slack\.com/(?:services|workflows)/\S{8}")),
    ("a webhook with its secret", re.compile(r"discord(?:app)?\.com/api/webhooks/\d+/\S{8}")),
    ("a Google API key", re.compile(r"\bAIza[0-9A-Za-z_-]{30}")),
    ("an API key", re.compile(r"\bsk[-_](?=[A-Za-z_-]{0,30}[0-9])[0-9A-Za-z_-]{16}")),
    ("a Doorstep token", re.compile(r"\bdst_[a-z0-9]+_[0-9A-Za-z]{8}_\S{20}")),
    ("a Doorstep API key", re.compile(r"\bdsk_[0-9a-f]{12}_[0-9A-Za-z_-]{20}")),
    ("a JSON web token", re.compile(r"\beyJ[0-9A-Za-z_-]{8,500}\.eyJ[0-9A-Za-z_-]{8}")),
    ("an Azure account key", re.compile(r"AccountKey=[0-9A-Za-z+/=]{16}")),
    (
        "a user and password in an address",
        re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^/\s:@]*:[^/\s@]+@"),
    ),
    (
        "a secret in an address",
        re.compile(r"(?i)[?&](?:[a-z_-]*token|sig|signature|api[-_]?key|password|secret)=[^&\s]"),
    ),
    (
        "a password",
        re.compile(r"(?i)\b(?:password|passwd|pwd|api[-_]?key|secret)(?:\s?=\s?|:)[^\s'\"<]{6}"),
    ),
    ("a bearer token", re.compile(r"\bBearer\s+[0-9A-Za-z._~+/-]{16}")),
)


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong in a file. line and column count from 1. is_rule: what is written can
    be read, and should not be written so: keys that do not fit together, a credential."""

    line: int
    column: int
    path: str
    message: str
    is_rule: bool = False


class Reading:
    """What was found while reading one file: its problems, and where each key stood."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.at: dict[str, tuple[int, int]] = {}

    def problem(self, node: Node, path: str, message: str) -> None:
        self.problem_at((node.line, node.column), path, message)

    def problem_at(
        self, place: tuple[int, int], path: str, message: str, *, is_rule: bool = False
    ) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(*place, path, message, is_rule))

    @property
    def is_full(self) -> bool:
        return len(self.problems) >= PROBLEMS_MAX


class Reader(Protocol):
    """One way to write a value."""

    @property
    def expected(self) -> str:
        """What a person should write, for a message: "a duration such as 10m"."""
        ...

    def fits(self, node: Node) -> bool:
        """Whether `node` has the shape that this reader reads."""
        ...

    def read(self, node: Node, path: str, reading: Reading) -> Any:
        """The value, or UNSET after a problem was noted."""
        ...

    def show(self, value: Any) -> Any:
        """`value` as the file would say it: dict, list, text, number or boolean."""
        ...

    def schema(self, partial: bool) -> dict[str, Any]:
        """JSON Schema of what may be written. partial: nothing is required (differences)."""
        ...


class FileKey(msgspec.Struct, frozen=True):
    """A key of one group, as its type declares it. name: in the file. about: what it promises.
    why: the reason for the default. default: UNSET if the key is required."""

    name: str
    field: str
    reads: Any
    about: str
    why: str
    default: Any


@runtime_checkable
class ChecksItself(Protocol):
    """A group whose keys depend on each other."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong with it) for everything that does not fit together."""
        ...


@runtime_checkable
class FillsItself(Protocol):
    """A group whose defaults depend on what was written."""

    @classmethod
    def defaults_for(cls, written: dict[str, Any]) -> dict[str, Any]:
        """Field values for what was not written."""
        ...


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def credential_in(text: str) -> str:
    """What kind of credential `text` looks like, "" for none."""
    if len(text) < CREDENTIAL_LENGTH_MIN:
        return ""
    return next((kind for kind, pattern in _CREDENTIALS if pattern.search(text)), "")


def shown(node: Node) -> str:
    """What was found at `node`, short, and never a credential."""
    match node:
        case Mapping():
            return "a mapping"
        case Sequence():
            return f"a list of {len(node.items)}"
        case Scalar():
            if node.is_empty:
                return "nothing"
            text = f'"{node.text}"' if node.quoted else node.text
            return "a hidden value" if credential_in(node.text) else shorten(text)


def shorten(text: str) -> str:
    """One printable line of at most SHOWN_LENGTH_MAX characters."""
    short = text if len(text) <= SHOWN_LENGTH_MAX else text[: SHOWN_LENGTH_MAX - 3] + "..."
    return short if short.isprintable() else repr(short)[1:-1]


def nearest(word: str, known: list[str]) -> str:
    """The known word that was probably meant, "" for none."""
    near = difflib.get_close_matches(word[:64].lower(), known, n=1, cutoff=0.6)
    return near[0] if near else ""


def suggestion(word: str, known: list[str]) -> str:
    """`; did you mean X?` for the nearest known word, else ""."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""
