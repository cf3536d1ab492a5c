"""Settings: flags and environment, read once at the edge of a process into one frozen value.

A flag wins over the environment, which wins over the default. Nothing else in Doorstep reads the
environment for settings, and nothing is read when a module is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from doorstep.core.errors import UsageError
from doorstep.core.ids import parse_name
from doorstep.kernel.home import resolve_home

LOOPBACK = "127.0.0.1"
PORT_MAX = 65535
_DIGITS = re.compile(r"[0-9]{1,5}\Z")


class Port(msgspec.Struct, frozen=True):
    """named: somebody asked for this number, so that it being in use is an error."""

    number: int
    named: bool = False


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """0 takes any free port. gRPC is served only if its port is named."""

    data: Port = Port(8080)
    health: Port = Port(8081)
    grpc: Port = Port(8082)
    control: Port = Port(7070)


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said; None where it said nothing."""

    home: str | None = None
    database: str | None = None
    url: str | None = None
    environment: str | None = None
    data_port: int | None = None
    health_port: int | None = None
    grpc_port: int | None = None
    control_port: int | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """home: absolute; it may not exist yet. environment: the name that a new home gets.

    database_url: "" for SQLite in the home. url: of a server to talk to, "" to look it up in the
    home (`run/control.json`).
    """

    home: Path
    environment: str
    database_url: str
    url: str
    ports: Ports


def read_settings(flags: Flags, environ: Mapping[str, str], cwd: Path) -> Settings:
    """The settings of this process.

    Environment: DOORSTEP_HOME, DOORSTEP_DATABASE, DOORSTEP_URL, DOORSTEP_ENVIRONMENT,
    DOORSTEP_DATA_PORT, DOORSTEP_HEALTH_PORT, DOORSTEP_GRPC_PORT, DOORSTEP_CONTROL_PORT.
    Raises: UsageError (`bad-port`, `bad-url`, `home-not-a-folder`), InputError (`bad-name`).
    """
    environment = flags.environment or environ.get("DOORSTEP_ENVIRONMENT") or "local"
    return Settings(
        home=resolve_home(flags.home, environ, cwd),
        environment=parse_name(environment, "environment"),
        database_url=flags.database or environ.get("DOORSTEP_DATABASE", ""),
        url=server_url(flags.url or environ.get("DOORSTEP_URL", "")),
        ports=_ports(flags, environ),
    )


def _ports(flags: Flags, environ: Mapping[str, str]) -> Ports:
    named: dict[str, Port] = {}
    for name in Ports.__struct_fields__:
        variable = f"DOORSTEP_{name.upper()}_PORT"
        flag: int | None = getattr(flags, f"{name}_port")
        if flag is not None:
            named[name] = Port(_number(f"--{name}-port", str(flag)), named=True)
        elif written := environ.get(variable):
            named[name] = Port(_number(variable, written), named=True)
    return Ports(**named)


def _number(source: str, text: str) -> int:
    if not _DIGITS.match(text) or int(text) > PORT_MAX:
        raise UsageError("bad-port", f"{source} is {text!r}; expected a port from 0 to {PORT_MAX}")
    return int(text)


def server_url(text: str) -> str:
    """Without its last slash. Raises: UsageError (`bad-url`)."""
    if text and not text.startswith(("http://", "https://")):
        raise UsageError("bad-url", f"the server {text!r} is not a URL; expected http://HOST:PORT")
    return text.rstrip("/")
