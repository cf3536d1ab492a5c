"""TLS on the data port: who is answered, what is said about bad files, and nothing is dropped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from doorstep.cli.reaching import reach
from doorstep.core.errors import InputError, RefusedError, UsageError
from doorstep.core.report import NodeReport
from doorstep.serve.limits import BODY_BYTES_MAX, HANDSHAKES_MAX
from doorstep.serve.tls import TlsFiles, server_context, tls_files
from doorstep.testing.home import TestHome
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.node import RunningNode
from fakes.load import Load, Tally

PATH = "/v1/services/loans/predict"
ROW = json.dumps({"x0": 1, "x1": 0.5, "x2": -1}).encode()


class Papers:
    """An authority, and the files that it signed."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.renew()

    def renew(self) -> None:
        made = self.ca.issue_cert("127.0.0.1", "localhost")
        self.cert.write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
        made.private_key_pem.write_to_path(self.key)

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def client(self, *, shows: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if shows:
            self.ca.issue_cert("client@example.org").configure_cert(context)
        return context


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> TestHome:
    home = TestHome(tmp_path / "home")
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    return home


@pytest.fixture
def node(home: TestHome, papers: Papers, tmp_path: Path) -> Iterator[RunningNode]:
    state = tmp_path / "state"
    with RunningNode(home.path, state, workers=2, more=papers.options) as running:
        running.wait_plan(1)
        yield running


def ask(node: RunningNode, context: ssl.SSLContext) -> int:
    with urllib.request.urlopen(node.data_url + PATH, data=ROW, context=context) as answer:
        return answer.status


def serial_of(node: RunningNode, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", node.port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as link,
    ):
        return str(link.getpeercert()["serialNumber"])


def plain(node: RunningNode, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as link:
        link.sendall(data)
        found = b""
        try:
            while more := link.recv(65536):
                found += more
        except ConnectionResetError:
            pass
        return found


def test_a_client_that_believes_the_authority_is_answered(
    node: RunningNode, papers: Papers, tmp_path: Path
) -> None:
    assert node.data_url.startswith("https://")
    assert ask(node, papers.client()) == 200
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(node, ssl.create_default_context())
    old = papers.client()
    with pytest.warns(DeprecationWarning):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        ask(node, old)


def test_more_handshakes_than_are_taken_are_closed_and_harm_nobody_who_is_in(
    home: TestHome, papers: Papers, tmp_path: Path
) -> None:
    with RunningNode(home.path, tmp_path / "state", more=papers.options) as node:
        node.wait_plan(1)
        raw = socket.create_connection(("127.0.0.1", node.port), timeout=60)
        inside = papers.client().wrap_socket(raw, server_hostname="localhost")
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(HANDSHAKES_MAX)]
        late = socket.create_connection(("127.0.0.1", node.port), timeout=60)
        assert was_closed(late)
        silent[0].setblocking(False)
        with pytest.raises(BlockingIOError):  # it came first, and its time is not over
            silent[0].recv(1)
        inside.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert inside.recv(65536).startswith(b"HTTP/1.1 200")
        # A client that goes makes room at once, whenever its time would have been over.
        for one in silent:
            one.close()
        assert any(ask_or_none(node, papers.client()) == 200 for _ in range(50))


def was_closed(link: socket.socket) -> bool:
    try:
        return link.recv(1) == b""
    except ConnectionResetError:
        return True


def ask_or_none(node: RunningNode, context: ssl.SSLContext) -> int | None:
    try:
        return ask(node, context)
    except OSError:
        return None


def test_plain_http_on_the_port_is_closed_and_does_no_harm(
    node: RunningNode, papers: Papers
) -> None:
    assert not plain(node, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP")
    assert not plain(node, os.urandom(4096)).startswith(b"HTTP")
    assert ask(node, papers.client()) == 200
    assert node.report().problems == ()


def test_a_body_that_is_too_large_is_refused_in_words(node: RunningNode, papers: Papers) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY_BYTES_MAX + 1}\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", node.port), timeout=60) as raw,
        papers.client().wrap_socket(raw, server_hostname="localhost") as link,
    ):
        link.sendall(head.encode() + b"x" * 100_000)
        assert link.recv(65536).startswith(b"HTTP/1.1 413")


def test_mutual_tls_answers_only_clients_with_a_certificate(
    home: TestHome, papers: Papers, tmp_path: Path
) -> None:
    more = [*papers.options, "--tls-client-ca", str(papers.ca_file)]
    with RunningNode(home.path, tmp_path / "state", more=more) as node:
        node.wait_plan(1)
        assert ask(node, papers.client(shows=True)) == 200
        mine = papers.ca.issue_cert("client@example.org")
        cert, key = tmp_path / "mine.pem", tmp_path / "mine.key"
        cert.write_bytes(b"".join(one.bytes() for one in mine.cert_chain_pems))
        mine.private_key_pem.write_to_path(key)
        with httpx.Client(**reach(node.data_url, {}, papers.ca_file, (cert, key))) as http:
            assert http.post(PATH, content=ROW).status_code == 200
        with pytest.raises(InputError, match="bad-client-cert"):
            reach(node.data_url, {}, papers.ca_file, (cert, papers.key))
        with pytest.raises(OSError):
            ask(node, papers.client())
        stranger = ssl.create_default_context(cafile=str(papers.ca_file))
        trustme.CA().issue_cert("client@example.org").configure_cert(stranger)
        with pytest.raises(OSError):
            ask(node, stranger)


def fronts(report: NodeReport) -> set[int]:
    return {one.pid for one in report.workers if one.kind == "front"}


def replaced(before: NodeReport, now: NodeReport) -> bool:
    return len(fronts(now)) == 2 and not fronts(before) & fronts(now)


def test_a_roll_brings_new_certificates_and_drops_nothing(
    node: RunningNode, papers: Papers
) -> None:
    async def story() -> Tally:
        async with Load(
            node.data_url, PATH, lambda _: ROW, connections=8, tls=papers.client()
        ) as load:
            await load.wait_answers(200)
            before = node.report()
            old = await asyncio.to_thread(serial_of, node, papers.client())
            papers.renew()
            node.signal(signal.SIGHUP)
            await asyncio.to_thread(node.wait, lambda report: replaced(before, report))
            await load.wait_answers(200)
            new = await asyncio.to_thread(serial_of, node, papers.client())
            assert new != old
            return await load.stop()

    tally = asyncio.run(story())
    assert (tally.dropped, set(tally.statuses)) == (0, {200})


def test_a_roll_with_bad_files_replaces_nobody_and_says_so(
    node: RunningNode, papers: Papers
) -> None:
    before = node.report()
    good = papers.key.read_bytes()
    papers.key.write_bytes(b"no key")
    node.signal(signal.SIGHUP)
    report = node.wait(lambda report: any("cannot be used" in one for one in report.problems))
    assert fronts(report) == fronts(before)
    assert ask(node, papers.client()) == 200
    papers.key.write_bytes(good)
    node.signal(signal.SIGHUP)
    node.wait(lambda report: replaced(before, report) and not report.problems)


def test_a_worker_that_is_killed_under_load_is_replaced_and_no_answer_is_lost(
    node: RunningNode, papers: Papers
) -> None:
    async def story() -> Tally:
        async with Load(
            node.data_url, PATH, lambda _: ROW, connections=8, retry=True, tls=papers.client()
        ) as load:
            await load.wait_answers(200)
            before = node.report()
            os.kill(min(fronts(before)), signal.SIGKILL)
            await asyncio.to_thread(
                node.wait, lambda report: len(fronts(report) - fronts(before)) == 1
            )
            await load.wait_answers(200)
            return await load.stop()

    tally = asyncio.run(story())
    assert (tally.gave_up, set(tally.statuses)) == (0, {200})
    assert node.stop() == 0
    journaled = [name for name, _ in node.journaled()]
    assert len(journaled) == len(set(journaled))
    assert set(tally.answered) <= set(journaled)


def test_bad_files_are_named_when_a_node_starts(home: TestHome, papers: Papers, tmp_path: Path):
    command = [sys.executable, "-m", "doorstep.serve.node", "--no-compactor", "--port", "0"]
    command += ["--health-port", "0", "--home", str(home.path), "--state", str(tmp_path / "s")]
    papers.key.unlink()
    found = subprocess.run([*command, *papers.options], capture_output=True, text=True)
    assert found.returncode == 1
    assert "bad-tls" in found.stderr
    assert str(papers.key) in found.stderr
    assert "Traceback" not in found.stderr


def test_what_cannot_be_used_is_said(papers: Papers, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(papers.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    other = Papers(tmp_path_of(tmp_path, "other"))
    cert, ca = str(papers.cert), str(papers.ca_file)
    for files in (
        TlsFiles(cert=cert, key=str(locked)),
        TlsFiles(cert=cert, key=str(other.key)),
        TlsFiles(cert=str(tmp_path), key=str(papers.key)),
        TlsFiles(cert=cert, key=str(papers.key), client_ca=str(locked)),
        TlsFiles(cert=cert, key=str(papers.key), client_ca=str(tmp_path / "none")),
    ):
        with pytest.raises(RefusedError) as caught:
            server_context(files)
        assert caught.value.code == "bad-tls"
        assert "cannot be used" in caught.value.message
    with pytest.raises(UsageError, match="--tls-key"):
        tls_files(cert, "", "")
    with pytest.raises(UsageError, match="--tls-cert"):
        tls_files("", "", ca)
    assert tls_files("", "", "") is None


def tmp_path_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def cli(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "doorstep.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ})


def test_up_serves_by_tls_and_predict_believes_whom_it_is_told_to(
    papers: Papers, tmp_path: Path
) -> None:
    home = ["--home", str(tmp_path / "installed")]
    ports = ["--data-port=0", "--health-port=0", "--control-port=0"]
    row = json.dumps({"x0": 1, "x1": 1, "x2": 1})
    started = cli("up", "-d", "--json", *home, *ports, "--workers", "1", *papers.options)
    assert started.returncode == 0, started.stderr
    try:
        assert json.loads(started.stdout)["data_url"].startswith("https://")
        here = RunningInstallation(tmp_path / "installed")
        here.register("till", more="serve: {access: keys}")
        here.serve("till@1")
        key = cli("token", "create", "--service", "till", *home).stdout.strip()
        ca = ["--ca", str(papers.ca_file)]

        def answered() -> bool:
            return cli("predict", "till", row, *ca, *home, DOORSTEP_API_KEY=key).returncode == 0

        here.wait(answered, "predict is let in")
        by_variable = cli(
            "predict", "till", row, *home, DOORSTEP_API_KEY=key, SSL_CERT_FILE=str(papers.ca_file)
        )
        assert by_variable.returncode == 0, by_variable.stderr
        no_key = cli("predict", "till", row, *ca, *home)
        assert no_key.returncode == 5
        assert f"doorstep token create --home {home[1]} --service till" in no_key.stderr
        no_ca = cli("predict", "till", row, *home, DOORSTEP_API_KEY=key)
        assert no_ca.returncode == 5
        assert "CERTIFICATE_VERIFY_FAILED" in no_ca.stderr
        assert "--ca FILE" in no_ca.stderr
        bad_ca = cli("predict", "till", row, "--ca", str(papers.key), *home)
        assert "bad-ca" in bad_ca.stderr
    finally:
        assert cli("down", *home).returncode == 0


def test_up_says_at_once_which_files_cannot_be_used(papers: Papers, tmp_path: Path) -> None:
    papers.cert.write_text("nothing")
    found = cli("up", "--home", str(tmp_path / "h"), *papers.options)
    assert (found.returncode, "bad-tls" in found.stderr) == (1, True)
    half = cli("up", "--home", str(tmp_path / "h"), "--tls-cert", str(papers.cert))
    assert (half.returncode, "half-tls" in half.stderr) == (2, True)
