"""The control plane's HTTP application over a real home and database, without processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar.testing import TestClient

from doorstep.compose.serving import Serving
from doorstep.core.instant import SystemClock
from doorstep.core.people import OWNER
from doorstep.kernel.db import Database
from doorstep.kernel.home import open_home
from doorstep.kernel.keys import create_keys, load_token
from doorstep.migrations.upgrade import upgrade
from doorstep.register.surface import ApplyService
from doorstep.testing.installation import service_file

BASE = "http://127.0.0.1:7070"


class Api:
    """serving: what `up` runs. client: has no token. token: the local one."""

    def __init__(self, serving: Serving, client: TestClient, token: str) -> None:
        self.serving = serving
        self.client = client
        self.token = token
        self.signed = {"Authorization": f"Bearer {token}"}

    def ask(self, name: str, body: bytes | str):
        path = "/api/v1/" + name.replace(".", "/")
        return self.client.post(path, content=body, headers=self.signed)

    def ledger_size(self) -> int:
        return self.ask("installation.show", "{}").json()["ledger_size"]


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One application for the whole room, with a service `loans` that has no version."""
    home = open_home(tmp_path_factory.mktemp("api") / "home", create=True)
    create_keys(home.keys, home.id)
    database = Database(home.database_url, SystemClock())
    upgrade(database)
    trust = tmp_path_factory.mktemp("trust")
    addresses = {"console": BASE, "data": BASE, "health": BASE}
    serving = Serving(home, database, addresses, Path(trust), 15.0, 60.0)
    serving.control.ask("service.apply", ApplyService(file=service_file("loans")), by=OWNER)
    with TestClient(serving.app(), base_url=BASE, raise_server_exceptions=False) as client:
        yield Api(serving, client, load_token(home.keys))
    database.close()
