"""Who is asking: by the local token, by a person's token, or in the session of a browser.

A browser gets its session by a single-use invitation (`doorstep up` and `doorstep console` print
the link) or by a token that is typed in, and then is whoever has that token; scripts send
`Authorization: Bearer TOKEN`. Sessions live in this process only.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from doorstep.core.errors import SignInError
from doorstep.core.ids import digest_of
from doorstep.core.instant import Clock
from doorstep.core.people import OWNER, SignedIn

INVITATION_S = 600.0
SESSION_S = 12 * 3600.0
INVITATIONS_MAX = 100
SESSIONS_MAX = 200


class Sessions:
    """Invitations and sessions of one control plane, bounded in number and age.

    token: the local one. find_person: whose token it is, None if nobody's. home: its id. cookie:
    the name of the session's cookie; it names the home, since browsers send a cookie to every port
    of a host, and two homes would sign each other out.
    """

    def __init__(
        self, token: str, clock: Clock, home: str, find_person: Callable[[str], SignedIn | None]
    ) -> None:
        self.cookie = f"doorstep_session_{digest_of(home.encode())[:12]}"
        self._token = token
        self._find_person = find_person
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._invitations: _Kept = OrderedDict()
        self._sessions: _Kept = OrderedDict()
        self._lock = threading.Lock()

    def invite(self, who: SignedIn = OWNER) -> str:
        """A code that signs one browser in as `who`, once, within ten minutes."""
        code = secrets.token_urlsafe(24)
        with self._lock:
            _add(self._invitations, code, (self._clock.monotonic_s(), who), INVITATIONS_MAX)
        return code

    def accept(self, code: str) -> str:
        """The new session's cookie value. Raises: SignInError (`bad-invitation`)."""
        with self._lock:
            made = self._invitations.pop(code, None)
        if made is None or self._clock.monotonic_s() - made[0] > INVITATION_S:
            raise SignInError(
                "bad-invitation",
                "this sign-in link was used, or is older than ten minutes",
                "doorstep console",
            )
        return self.begin(made[1])

    def begin(self, who: SignedIn) -> str:
        """The cookie value of a new session."""
        session = secrets.token_urlsafe(32)
        with self._lock:
            _add(self._sessions, session, (self._clock.monotonic_s(), who), SESSIONS_MAX)
        return session

    def is_owner(self, header: str | None) -> bool:
        """Whether the header carries the local token."""
        return hmac.compare_digest(_bearer(header).encode(), self._token.encode())

    def require_token(self, header: str | None) -> SignedIn:
        """Who has this token; it may read the database. Raises: SignInError (`not-signed-in`)."""
        found = OWNER if self.is_owner(header) else self._find_person(_bearer(header))
        if found is None:
            raise SignInError(
                "not-signed-in",
                "the token that came is none of this home's: not the local one, nor a person's"
                if _bearer(header)
                else "this needs the local token, or a person's",
                "doorstep console signs a browser in; scripts set DOORSTEP_TOKEN, or read the "
                "token in the home's keys",
            )
        return found

    def require_session(self, cookie: str | None) -> SignedIn:
        """Whose session it is. Raises: SignInError (`not-signed-in`) if it is none that lives."""
        with self._lock:
            made = self._sessions.get(cookie or "")
            if made is None or self._clock.monotonic_s() - made[0] > SESSION_S:
                raise SignInError(
                    "not-signed-in",
                    "this browser is not signed in, or not any more: a session ends after "
                    "twelve hours, and with the server",
                    "doorstep console",
                )
        return made[1]

    def csrf(self, cookie: str) -> str:
        """The form token that belongs to a session."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()


_Kept: TypeAlias = OrderedDict[str, tuple[float, SignedIn]]
"""By secret: made when, for whom."""


def _bearer(header: str | None) -> str:
    scheme, _, given = (header or "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _add(kept: _Kept, key: str, made: tuple[float, SignedIn], most: int) -> None:
    kept[key] = made
    while len(kept) > most:
        kept.popitem(last=False)
