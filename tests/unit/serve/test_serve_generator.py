"""The load generator, against a server of its own: what is due, what is answered, what is lost."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from doorstep.core.errors import UnreachableError
from doorstep.serve.generator import Load, ask

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def server(answer: Callable[[int], bytes], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """answer: to the request of this number; b"" never answers."""
    count = iter(range(1_000_000))

    def talk(one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):  # a client that goes, or believes us not
            if tls is not None:
                one = tls.wrap_socket(one, server_side=True)
            while one.recv(65536):
                if said := answer(next(count)):
                    one.sendall(said)

    def accept() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(one,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def load(url: str, **words: object) -> Load:
    given = {"seconds": 0.5, "connections": 2, "patience_s": 60.0, "bodies": (b"{}", b"[]")} | words
    return Load(url=url, path="/p", **given)  # type: ignore[arg-type]


def test_every_request_that_was_due_is_accounted_for() -> None:
    with server(lambda _: OK) as url:
        found = ask(load(url, rate=100.0))
    assert found.statuses == {200: found.good}
    assert found.good + found.unsent in (50, 51)
    assert (found.bad, found.dropped) == (0, 0)
    assert len(found.latencies_ms) == found.good + found.unsent


def test_a_refusal_is_no_fast_answer() -> None:
    with server(lambda number: BUSY if number % 2 else OK) as url:
        found = ask(load(url, rate=100.0))
    assert found.statuses == {200: found.good, 503: found.bad}
    assert found.bad > 0
    assert len(found.latencies_ms) == found.good + found.unsent


def test_a_server_that_stalls_makes_every_later_request_wait() -> None:
    """Without coordinated omission: two requests hang, the others were due all the same."""
    with server(lambda _: b"") as url:
        found = ask(load(url, rate=100.0, patience_s=0.5))
    assert (found.good, found.dropped) == (0, 2)
    assert found.unsent in (48, 49)
    assert max(found.latencies_ms) > 400


def test_an_answer_that_never_comes_is_the_slowest_and_not_left_out() -> None:
    with server(lambda number: b"" if number == 3 else OK) as url:
        found = ask(load(url, rate=100.0, patience_s=5.0))
    assert (found.dropped, found.statuses) == (1, {200: found.good})
    assert len(found.latencies_ms) == found.good + found.unsent + found.dropped
    assert max(found.latencies_ms) > 500


def test_a_closed_loop_counts_only() -> None:
    with server(lambda _: OK) as url:
        found = ask(load(url))
    assert found.good > 0
    assert found.latencies_ms == []


def test_nobody_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnreachableError, match="cannot be asked: ConnectionRefused"):
        ask(load(f"http://127.0.0.1:{port}"))


def test_tls_is_spoken_with_a_server_that_the_file_vouches_for(tmp_path: Path) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    long = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000
    with server(lambda _: long, tls) as url:
        found = ask(load(url, rate=50.0, ca=str(tmp_path / "ca.pem")))
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(load(url))
    assert found.good > 0
    assert (found.bad, found.dropped) == (0, 0)
