"""What can go wrong, said once: the fact with its value, what was expected, the next command.

    DoorstepError
    ├── UsageError        the words of the call are off                       exit 2   HTTP 400
    ├── InputError        data, a file or a document from outside is not valid exit 1   HTTP 422
    ├── NotFoundError     a name that nothing has                             exit 1   HTTP 404
    ├── RefusedError      understood, and the answer is no                    exit 1   HTTP 409
    ├── ForbiddenError    signed in, but not allowed                          exit 5   HTTP 403
    ├── SignInError       not signed in                                       exit 5   HTTP 401
    ├── UnreachableError  a server or a home that does not answer             exit 5   HTTP 503
    ├── OverloadedError   refused early, try again later                      exit 4   HTTP 429
    ├── WaitedError       waited as long as was asked, and it is not done     exit 4   HTTP 504
    └── MissingExtraError an optional package is not installed                exit 2   HTTP 501

`code` is stable, kebab-case and has an entry in docs/reference/errors.md. Exit and HTTP numbers
are attached by the surfaces (`cli`, `api`), not here: the domain knows neither.
"""

from __future__ import annotations

from typing import ClassVar

from doorstep.core.extras import install_line


class DoorstepError(Exception):
    """A refusal that a person can act on.

    code: stable name, kebab-case. message: the fact with its value and what was expected, one
    sentence, no final full stop. hint: the next command or step, or "".
    """

    kind: ClassVar[str] = "error"

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[DoorstepError], tuple[str, str, str]]:
        return (type(self), (self.code, self.message, self.hint))


class UsageError(DoorstepError):
    kind = "usage"


class InputError(DoorstepError):
    kind = "input"


class NotFoundError(DoorstepError):
    kind = "not-found"


class RefusedError(DoorstepError):
    kind = "refused"


class ForbiddenError(DoorstepError):
    kind = "forbidden"


class SignInError(DoorstepError):
    kind = "sign-in"


class UnreachableError(DoorstepError):
    kind = "unreachable"


class OverloadedError(DoorstepError):
    kind = "overloaded"


class WaitedError(DoorstepError):
    kind = "waited"


class MissingExtraError(DoorstepError):
    kind = "missing-extra"

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        """`package` is not installed, and `purpose` needs it."""
        said = f"{package} is not installed, and {purpose} needs it"
        return cls("missing-extra", said, install_line(extra))
