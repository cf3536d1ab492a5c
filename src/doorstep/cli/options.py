"""Options that many commands share, and how a command finds the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from doorstep.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Url = Annotated[
    str | None, typer.Option("--url", help="The control plane; default: the running one.")
]
Home = Annotated[
    str | None, typer.Option("--home", help="The home folder; default: DOORSTEP_HOME, ./.doorstep.")
]
Why = Annotated[str, typer.Option("--why", help="The reason, kept in the ledger.")]


def connect(url: str | None, home: str | None) -> Client:
    """A client of the server that the options or the environment name."""
    from doorstep.client import connect as connect_client

    return connect_client(url, home=home)
