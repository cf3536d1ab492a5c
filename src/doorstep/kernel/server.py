"""The running control plane of a home: how it is announced, and how it is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from doorstep.core.errors import NotFoundError, UnreachableError
from doorstep.kernel.files import write_atomic
from doorstep.kernel.home import Home, resolve_home
from doorstep.kernel.keys import load_token
from doorstep.kernel.settings import server_url

CONTROL_FILE = "control.json"


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """run/control.json. pid: of `doorstep up`. data_url: where predictions are asked for."""

    url: str
    data_url: str
    health_url: str
    pid: int


def announce(home: Home, what: Announcement) -> None:
    write_atomic(home.run / CONTROL_FILE, msgspec.json.encode(what), 0o600)


def withdraw(home: Home) -> None:
    (home.run / CONTROL_FILE).unlink(missing_ok=True)


def read_announcement(home: Path) -> Announcement | None:
    """What the home's `up` announced, if it did and is still running."""
    try:
        data = (home / "run" / CONTROL_FILE).read_bytes()
        found = msgspec.json.decode(data, type=Announcement)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if is_running(found.pid) else None


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def find_server(
    url: str | None,
    token: str | None,
    home: str | Path | None,
    environ: Mapping[str, str],
    cwd: Path,
) -> tuple[str, str]:
    """(URL, token) of the control plane that the arguments, the environment or the home name.

    The home's own token goes only to the server that the home announced: any other URL needs a
    token that was given for it. Raises: UnreachableError (`no-server`, `no-token`).
    """
    folder = resolve_home(str(home) if home else None, environ, cwd)
    named = server_url(url or environ.get("DOORSTEP_URL", ""))
    secret = token or environ.get("DOORSTEP_TOKEN", "")
    if named and secret:
        return named, secret
    announced = read_announcement(folder)
    ours = announced.url.rstrip("/") if announced else ""
    if not named and not ours:
        raise UnreachableError(
            "no-server", f"no Doorstep is running in {folder}", "start one: doorstep up -d"
        )
    if named and named != ours:
        raise _foreign(named, ours, folder)
    return ours, secret or _own_token(folder, ours)


def _foreign(named: str, ours: str, folder: Path) -> UnreachableError:
    runs = f"runs at {ours}" if ours else "is not running"
    return UnreachableError(
        "no-token",
        f"there is no token for {named}: the home {folder} {runs}, and its token is for it alone",
        "set DOORSTEP_TOKEN to a token of that server, or leave --url and DOORSTEP_URL out",
    )


def _own_token(folder: Path, url: str) -> str:
    try:
        return load_token(folder / "keys")
    except NotFoundError:
        raise UnreachableError(
            "no-token",
            f"there is no token for {url} in {folder}",
            "set DOORSTEP_TOKEN, or name the home with --home",
        ) from None
