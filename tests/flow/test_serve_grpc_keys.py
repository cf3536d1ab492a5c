"""API keys, limits and TLS for callers by gRPC: let in, refused by code, and never dropped."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import trustme
from tritonclient.utils import InferenceServerException

from doorstep.core.apikey import new_api_key
from doorstep.core.ids import digest_of
from doorstep.core.plan import ApiKey
from doorstep.core.report import NodeReport
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

WAIT_S = 60.0
FAR = 2**52


def a_key(service: str, rate: float = 0.0) -> tuple[ApiKey, str]:
    name, secret = new_api_key()
    digest = digest_of(secret.encode())
    return ApiKey(id=name, digest=digest, service=service, expires_at=FAR, rate=rate), secret


class Site:
    """A node that serves `loans` to those with a key, over TLS, with certificates of clients."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.home = TestHome(folder / "home")
        self.mine, self.secret = a_key("loans")
        self.other, self.foreign = a_key("price")
        self.slow, self.few = a_key("loans", rate=0.001)
        bundle = self.home.bundle(self.home.contract(3))
        closed = [
            self.home.service(name, {1: bundle}, access="keys") for name in ("loans", "price")
        ]
        self.home.publish(*closed, keys=(self.mine, self.other, self.slow))
        self.ca.cert_pem.write_to_path(folder / "ca.pem")
        cert = self.ca.issue_cert("127.0.0.1", "localhost")
        (folder / "cert.pem").write_bytes(b"".join(one.bytes() for one in cert.cert_chain_pems))
        cert.private_key_pem.write_to_path(folder / "key.pem")
        more = ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
        more += ["--tls-client-ca", str(folder / "ca.pem")]
        self.node = RunningNode(self.home.path, folder / "state", workers=2, grpc_port=0, more=more)

    def credentials(self, *, shows: bool = True) -> grpc.ChannelCredentials:
        mine = self.ca.issue_cert("client@example.org")
        chain = b"".join(one.bytes() for one in mine.cert_chain_pems)
        return grpc.ssl_channel_credentials(
            self.ca.cert_pem.bytes(),
            mine.private_key_pem.bytes() if shows else None,
            chain if shows else None,
        )

    def client(self, *, shows: bool = True) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(
            self.node.grpc_url,
            creds=self.credentials(shows=shows),
            channel_args=[("grpc.use_local_subchannel_pool", 1)],
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.node:
        site.node.wait_plan(1)
        yield site


def infer(client: triton.InferenceServerClient, key: str = "") -> str:
    """`ok`, or the code of the refusal."""
    rows = triton.InferInput("rows", [2, 3], "FP32")
    rows.set_data_from_numpy(np.ones((2, 3), np.float32))
    headers = {"authorization": f"Bearer {key}"} if key else None
    try:
        client.infer("loans", [rows], headers=headers)
    except InferenceServerException as error:
        return str(error.status())
    return "ok"


def test_keys_and_limits_are_refused_by_code_and_probes_ask_for_none(site: Site) -> None:
    with site.client() as client:
        assert infer(client) == "StatusCode.UNAUTHENTICATED"
        assert infer(client, site.secret + "x") == "StatusCode.UNAUTHENTICATED"
        assert infer(client, site.foreign) == "StatusCode.PERMISSION_DENIED"
        assert infer(client, site.secret) == "ok"
        found = Counter(infer(client, site.few) for _ in range(20))
        assert set(found) == {"ok", "StatusCode.RESOURCE_EXHAUSTED"}
        assert client.is_server_live()
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="unauthenticated: an API key"):
            client.get_server_metadata()


def test_only_tls_with_a_certificate_of_the_client_is_answered(site: Site) -> None:
    plain = triton.InferenceServerClient(site.node.grpc_url)
    with plain, site.client(shows=False) as stranger, site.client() as client:
        for one in (plain, stranger):
            assert infer(one, site.secret) == "StatusCode.UNAVAILABLE"
        assert infer(client, site.secret) == "ok"
    assert site.node.report().problems == ()


def test_a_roll_drops_no_call_over_tls(site: Site) -> None:
    found: Counter[str] = Counter()
    stopping = threading.Event()

    def keep() -> None:
        with site.client() as client:
            while not stopping.is_set():
                found[infer(client, site.secret)] += 1

    def come_and_go() -> None:
        while not stopping.is_set():
            with site.client() as client:
                found[infer(client, site.secret)] += 1

    def more(count: int) -> None:
        wanted, until = found.total() + count, time.monotonic() + WAIT_S
        while found.total() < wanted:
            assert time.monotonic() < until, found
            time.sleep(0.01)

    callers = [threading.Thread(target=one) for one in (keep, keep, come_and_go)]
    for one in callers:
        one.start()
    try:
        more(50)
        before = fronts(site.node.report())
        site.node.signal(signal.SIGHUP)
        site.node.wait(lambda now: len(fronts(now)) == 2 and not before & fronts(now))
        more(50)
    finally:
        stopping.set()
        for one in callers:
            one.join()
    assert set(found) == {"ok"}


def fronts(report: NodeReport) -> set[int]:
    return {one.pid for one in report.workers if one.kind == "front"}
