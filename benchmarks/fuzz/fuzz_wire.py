"""A connection that believes nothing: every answer is read by the letter of HTTP/1.1."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from typing import NamedTuple

WAIT_S = 60.0
IDLE_S = 20.0
"""A connection that was not used for so long is opened again: servers close those."""
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\x20-\x7e]*\Z")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff]*)\Z")


class Malformed(Exception):
    """An answer that is none."""


class Gone(Exception):
    """The connection ended. seen: what had come of an answer by then."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"

    @property
    def media(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0]


class Wire:
    """One connection; opened again when it has ended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._link: socket.socket | None = None
        self._data = b""
        self._used_s = 0.0

    def open(self) -> socket.socket:
        now_s = time.monotonic()
        if now_s - self._used_s > IDLE_S:
            self.close()
        self._used_s = now_s
        if self._link is None:
            self._link = socket.create_connection(("127.0.0.1", self.port), WAIT_S)
            self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._data = b""
        return self._link

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None

    def ask(self, request: bytes, *, head: bool = False) -> Answer:
        """Send one request. Raises: Gone, Malformed, TimeoutError."""
        # What is refused before its end is answered all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.open().sendall(request)
        try:
            answer = self.read(head=head)
        except (Gone, Malformed):
            self.close()
            raise
        if answer.closes or self._data:
            rest = self._data
            self.close()
            # What never became a request has no method, so its refusal has a body.
            if rest and not (head and answer.closes and answer.status == 400):
                raise Malformed(f"after an answer comes {rest[:200]!r}")
        return answer

    def all(self, *pieces: bytes) -> list[Answer]:
        """Send these pieces over a connection of their own, say no more, and read what is answered
        until the end. Raises: Malformed, TimeoutError."""
        self.close()
        link = self.open()
        found = []
        try:
            for piece in pieces:
                link.sendall(piece)
            link.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        try:
            while True:
                found.append(self.read())
        except Gone as error:
            if str(error):
                raise Malformed(f"an answer ends early: {error}") from None
        finally:
            self.close()
        return found

    def read(self, *, head: bool = False) -> Answer:
        while True:
            answer = self._read(head)
            if answer.status != 100:
                return answer

    def _read(self, head: bool) -> Answer:
        lines = self._until(b"\r\n\r\n").split(b"\r\n")
        status = _STATUS.match(lines[0])
        found = [_HEADER.match(line) for line in lines[1:]]
        if status is None or None in found:
            raise Malformed(f"no answer's head: {lines[:20]}")
        pairs = [(one[1].decode().lower(), one[2].decode("latin-1")) for one in found if one]
        headers = dict(pairs)
        framing = [name for name, _ in pairs if name in ("content-length", "transfer-encoding")]
        if int(status[1]) in (100, 204):
            return Answer(int(status[1]), headers, b"")
        if len(framing) != 1:
            raise Malformed(f"an answer is framed by {framing}")
        if "content-length" in headers:
            size = int(headers["content-length"])
            return Answer(int(status[1]), headers, b"" if head else self._take(size))
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._take(size)
            self._until(b"\r\n")
        self._until(b"\r\n")
        return Answer(int(status[1]), headers, body)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._data:
            self._more()
        found, self._data = self._data.split(mark, 1)
        return found

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            self._more()
        found, self._data = self._data[:size], self._data[size:]
        return found

    def _more(self) -> None:
        assert self._link is not None
        try:
            data = self._link.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Gone(self._data[:200].decode("latin-1"))
        self._data += data
