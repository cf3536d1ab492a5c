"""Operations of tokens, made, listed and revoked: API keys of the data plane, and people's."""

from __future__ import annotations

from msgspec.structs import asdict

from doorstep.core.apikey import new_api_key, new_person_token
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import digest_of
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.operation import operation
from doorstep.core.people import RESERVED, is_person_name
from doorstep.govern.surface import (
    CreateToken,
    ListTokens,
    NewToken,
    RevokeToken,
    Token,
    Tokens,
)
from doorstep.kernel import api_keys
from doorstep.kernel.app import App
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.register.store import get_service
from doorstep.release.actions import plan_now

LIVE_MAX = 10_000
"""Every node keeps all of them in memory."""
NAME_CHARS_MAX = 100
EXPIRES_S_MAX = 3660 * 86400.0
RATE_MIN, RATE_MAX = 1e-4, 1e6
"""Fewer than nine requests a day are nothing that a caller could use."""


@operation("token.create", permission="token:write", effect="write")
def create_token(app: App, asked: CreateToken) -> NewToken:
    """Make an API key for callers, or a token for a person who approves. It is shown once."""
    _check(asked)
    name, secret = new_person_token() if asked.scope else new_api_key()

    def act(unit: Unit) -> NewToken:
        if asked.service:
            get_service(unit.connection, asked.service)
        if api_keys.count_live(unit.connection, unit.now()) >= LIVE_MAX:
            raise RefusedError(
                "too-many-tokens", f"there are {LIVE_MAX} live tokens", "doorstep token list"
            )
        row = api_keys.TokenRow(
            id=name,
            name=asked.name,
            service=asked.service,
            digest=digest_of(secret.encode()),
            rate=asked.rate,
            created_at=unit.now(),
            by=app.actor.id,
            expires_at=unit.now() + round(asked.expires_s * SECOND_US),
            scope=asked.scope,
        )
        api_keys.add_token(unit.connection, row)
        said = {
            "service": row.service,
            "name": row.name,
            "rate": row.rate,
            "expires_at": row.expires_at,
            "scope": row.scope,
        }
        unit.record("token.created", Object("token", name), said)
        number = plan_now(unit, app)
        return NewToken(token=_view(row, unit.now()), secret=secret, plan_number=number)

    return app.database.run(act, app.actor)


@operation("token.list", permission="token:read", effect="read")
def list_tokens(app: App, asked: ListTokens) -> Tokens:
    """List tokens, newest first; never their secrets."""
    now = app.clock.now()
    with app.database.reading() as connection:
        rows = api_keys.list_tokens(connection)
    found = [_view(row, now) for row in rows if asked.service in ("", row.service)]
    return Tokens(tokens=tuple(found))


@operation("token.revoke", permission="token:write", effect="write")
def revoke_token(app: App, asked: RevokeToken) -> Token:
    """Take a token back: nodes refuse an API key with the next plan; a person is out at once."""
    if not asked.why.strip():
        raise InputError("no-reason", "why the token is revoked is not said", "add --why")

    def act(unit: Unit) -> Token:
        row = api_keys.get_token(unit.connection, asked.token)
        if row.revoked_at is not None:
            raise RefusedError("token-revoked", f"token {row.id} was revoked already")
        api_keys.revoke_token(unit.connection, row.id, unit.now())
        said = {
            "service": row.service,
            "name": row.name,
            "scope": row.scope,
            "why": asked.why,
        }
        unit.record("token.revoked", Object("token", row.id), said)
        plan_now(unit, app)
        return _view(api_keys.get_token(unit.connection, row.id), unit.now())

    return app.database.run(act, app.actor)


def _check(asked: CreateToken) -> None:
    """Raises: InputError (`bad-token`)."""
    if len(asked.name) > NAME_CHARS_MAX or not (asked.name.isprintable()):
        raise InputError(
            "bad-token", f"the name is not 0 to {NAME_CHARS_MAX} characters that can be printed"
        )
    if asked.scope and not is_person_name(asked.name):
        raise InputError(
            "bad-token",
            f"the person is called {asked.name!r}; expected a-z, 0-9 and . _ @ - inside, but none "
            f"of {', '.join(RESERVED)}",
        )
    if asked.scope and (asked.service or asked.rate):
        raise InputError("bad-token", "a person's token has no service and no rate")
    if not 1 <= asked.expires_s <= EXPIRES_S_MAX:
        raise InputError(
            "bad-token", f"it would expire after {asked.expires_s:g} s; expected 1 s to 3660 d"
        )
    if asked.rate and not RATE_MIN <= asked.rate <= RATE_MAX:
        raise InputError(
            "bad-token",
            f"its rate is {asked.rate:g} requests per second; expected 0, or 0.0001 to 1,000,000",
        )


def _view(row: api_keys.TokenRow, now: Instant) -> Token:
    kept = {name: value for name, value in asdict(row).items() if name != "digest"}
    return Token(**kept, state=row.state(now))
