"""Who is asking: the local token of a script, or the session of a browser.

A browser gets its session by a single-use invitation (`doorstep up` and `doorstep console` print
the link); scripts send `Authorization: Bearer TOKEN`. Sessions live in this process only.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict

from doorstep.core.errors import SignInError
from doorstep.core.ids import digest_of
from doorstep.core.instant import Clock

INVITATION_S = 600.0
SESSION_S = 12 * 3600.0
INVITATIONS_MAX = 100
SESSIONS_MAX = 200


class Sessions:
    """Invitations and sessions of one control plane, bounded in number and age.

    home: its id. cookie: the name of the session's cookie; it names the home, since browsers send
    a cookie to every port of a host, and two homes would sign each other out.
    """

    def __init__(self, token: str, clock: Clock, home: str) -> None:
        self.cookie = f"doorstep_session_{digest_of(home.encode())[:12]}"
        self._token = token
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._invitations: OrderedDict[str, float] = OrderedDict()
        self._sessions: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def invite(self) -> str:
        """A code that signs one browser in, once, within ten minutes."""
        code = secrets.token_urlsafe(24)
        with self._lock:
            _add(self._invitations, code, self._clock.monotonic_s(), INVITATIONS_MAX)
        return code

    def accept(self, code: str) -> str:
        """The new session's cookie value. Raises: SignInError (`bad-invitation`)."""
        with self._lock:
            made = self._invitations.pop(code, None)
            if made is None or self._clock.monotonic_s() - made > INVITATION_S:
                raise SignInError(
                    "bad-invitation",
                    "this sign-in link was used, or is older than ten minutes",
                    "doorstep console",
                )
            session = secrets.token_urlsafe(32)
            _add(self._sessions, session, self._clock.monotonic_s(), SESSIONS_MAX)
            return session

    def require_token(self, header: str | None) -> None:
        """Raises: SignInError (`not-signed-in`) unless the header carries the local token."""
        scheme, _, given = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode(), self._token.encode()
        ):
            raise SignInError(
                "not-signed-in",
                "this needs the local token",
                "doorstep console signs a browser in; scripts read the token in the home's keys",
            )

    def require_session(self, cookie: str | None) -> str:
        """Raises: SignInError (`not-signed-in`) unless the cookie is a live session."""
        with self._lock:
            made = self._sessions.get(cookie or "")
            if made is None or self._clock.monotonic_s() - made > SESSION_S:
                raise SignInError(
                    "not-signed-in",
                    "this browser is not signed in, or not any more: a session ends after "
                    "twelve hours, and with the server",
                    "doorstep console",
                )
        return cookie or ""

    def csrf(self, cookie: str) -> str:
        """The form token that belongs to a session."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()


def _add(kept: OrderedDict[str, float], key: str, now_s: float, most: int) -> None:
    kept[key] = now_s
    while len(kept) > most:
        kept.popitem(last=False)
