"""Invitations and sessions by a clock of our own."""

from __future__ import annotations

import re

import pytest

from doorstep.api.sessions import INVITATION_S, INVITATIONS_MAX, SESSION_S, SESSIONS_MAX, Sessions
from doorstep.core.errors import SignInError
from doorstep.core.people import OWNER, SignedIn

BEA = SignedIn("bea", "0" * 12)


class HandClock:
    at_s = 0.0

    def now(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def sessions(clock: HandClock) -> Sessions:
    return Sessions("secret", clock, "home", {"hers": BEA}.get)


def test_an_invitation_lasts_ten_minutes(sessions: Sessions, clock: HandClock):
    code, late = sessions.invite(), sessions.invite()
    clock.at_s = INVITATION_S
    sessions.accept(code)
    clock.at_s += 1.0
    with pytest.raises(SignInError):
        sessions.accept(late)


def test_an_invitation_counts_once(sessions: Sessions):
    code = sessions.invite()
    assert sessions.accept(code)
    with pytest.raises(SignInError):
        sessions.accept(code)


@pytest.mark.parametrize("code", ["", "x", "\x00", "é" * 500])
def test_a_made_up_invitation_is_refused(sessions: Sessions, code: str):
    sessions.invite()
    with pytest.raises(SignInError):
        sessions.accept(code)


def test_a_session_ends_after_twelve_hours(sessions: Sessions, clock: HandClock):
    cookie = sessions.accept(sessions.invite())
    clock.at_s = SESSION_S
    assert sessions.require_session(cookie) == OWNER
    clock.at_s += 1.0
    with pytest.raises(SignInError):
        sessions.require_session(cookie)


def test_invitations_and_sessions_are_bounded(sessions: Sessions):
    codes = [sessions.invite() for _ in range(INVITATIONS_MAX + 1)]
    with pytest.raises(SignInError):
        sessions.accept(codes[0])
    cookies = [sessions.accept(codes[-1])]
    cookies += [sessions.accept(sessions.invite()) for _ in range(SESSIONS_MAX)]
    with pytest.raises(SignInError):
        sessions.require_session(cookies[0])
    assert sessions.require_session(cookies[-1])


def test_the_form_token_belongs_to_its_session(sessions: Sessions):
    one, other = (sessions.accept(sessions.invite()) for _ in range(2))
    assert sessions.csrf(one) == sessions.csrf(one)
    assert sessions.csrf(one) != sessions.csrf(other)


def test_the_cookie_of_a_home_is_not_that_of_another(clock: HandClock):
    names = {Sessions("secret", clock, home, {}.get).cookie for home in ("one", "two", "é; Path=/")}
    assert len(names) == 3
    assert all(re.fullmatch("doorstep_session_[0-9a-f]{12}", name) for name in names)


def test_a_session_is_of_whoever_made_the_invitation(sessions: Sessions):
    who = sessions.require_token("Bearer hers")
    assert who == BEA
    assert sessions.require_session(sessions.accept(sessions.invite(who))) == BEA
    assert sessions.require_session(sessions.begin(who)) == BEA
    assert sessions.require_token("bearer secret") == OWNER


@pytest.mark.parametrize("header", [None, "", "hers", "Basic hers", "Bearer ", "Bearer nobodys"])
def test_nobodys_token_is_refused(sessions: Sessions, header: str | None):
    with pytest.raises(SignInError):
        sessions.require_token(header)
