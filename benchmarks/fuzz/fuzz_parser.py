"""The parser of HTTP: bytes that were a request once, framings that two readers may read in two
ways, and requests that arrive in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

ROW = b'{"x0": 1, "x1": 2, "flag": true, "since": 3, "kind": "a"}'
PATH = b"/v1/services/loans/predict"
_HEAD = b"POST %b HTTP/1.1\r\nhost: x\r\n" % PATH
PLAIN = b"%bcontent-length: %d\r\n\r\n%b" % (_HEAD, len(ROW), ROW)
_CHUNKS = b"9;a=b\r\n%b\r\n%x\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (ROW[:9], len(ROW) - 9, ROW[9:])
CHUNKED = b"%btransfer-encoding: chunked\r\n\r\n%b" % (_HEAD, _CHUNKS)
GET = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
WHOLE = (PLAIN, CHUNKED, GET, PLAIN + GET + CHUNKED)
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\x00", b":", b" ", b"\t", b"\r\n ", b"\r\n\r\n", b"\xff",
    b"HTTP/1.1", b"HTTP/1.0",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"0\r\n\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n", b"x" * 40_000, b"a: b\r\n" * 150, b"FFFFFFFFFFFFFFFFF", b"-1",
    b"1;" + b"a" * 5000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", GET,
)  # fmt: skip

_INNER = b"GET /v1/services HTTP/1.1\r\nhost: x\r\n\r\n"
SMUGGLED: dict[str, bytes] = {
    name: _HEAD + framing + b"\r\n" + body + _INNER
    for name, framing, body in (
        ("CL and TE", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        ("TE and CL", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
        ("two CL", b"Content-Length: 0\r\nContent-Length: 42\r\n", b""),
        ("two equal CL", b"Content-Length: 0\r\nContent-Length: 0\r\n", b""),
        ("list of CL", b"Content-Length: 0, 0\r\n", b""),
        ("CL with sign", b"Content-Length: +0\r\n", b""),
        ("negative CL", b"Content-Length: -1\r\n", b""),
        ("hexadecimal CL", b"Content-Length: 0x0\r\n", b""),
        ("huge CL", b"Content-Length: 18446744073709551616\r\n", b""),
        ("empty CL", b"Content-Length:\r\n", b""),
        ("space before colon", b"Content-Length : 0\r\n", b""),
        ("TE before colon", b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        ("folded TE", b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
        ("folded header", b"x: y\r\n Content-Length: 0\r\n", b""),
        ("other TE", b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
        ("gzip TE", b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
        ("chunked not last", b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
        ("two TE", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n"),
        ("TE with tab", b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
        ("bare LF", b"a: b\nContent-Length: 0\r\n", b""),
        ("bare CR", b"a: b\rContent-Length: 0\r\n", b""),
        ("NUL", b"a: \x00\r\nContent-Length: 0\r\n", b""),
        ("LF in a chunk", b"Transfer-Encoding: chunked\r\n", b"0\n\n"),
        ("chunk of too many digits", b"Transfer-Encoding: chunked\r\n", b"10000000000000000\r\n"),
        ("negative chunk", b"Transfer-Encoding: chunked\r\n", b"-1\r\n"),
        ("chunk longer than said", b"Transfer-Encoding: chunked\r\n", b"1\r\nabc\r\n0\r\n\r\n"),
        ("chunk extension with LF", b"Transfer-Encoding: chunked\r\n", b"0;a=\n\r\n\r\n"),
    )
}  # fmt: skip
"""Each has to be refused as a whole: no request behind it is answered."""


def damaged(random: Random) -> tuple[bytes, ...]:
    """Requests with up to four changes, sometimes in pieces."""
    data = bytearray(random.choice(WHOLE))
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        match random.randrange(5):
            case 0:
                data[at:at] = random.choice(TOKENS)
            case 1:
                del data[at : at + random.choice((1, 2, 10, 100))]
            case 2:
                data[at : at + 1] = random.randbytes(1)
            case 3:
                data = bytearray(data[:at])
            case 4:
                data += random.choice(WHOLE)
    cut = random.randrange(len(data) + 1)
    return (bytes(data[:cut]), bytes(data[cut:])) if random.random() < 0.3 else (bytes(data),)


def in_pieces() -> Iterator[tuple[bytes, int]]:
    """(whole requests, an offset at which they are split)."""
    for data in WHOLE:
        for at in range(1, len(data)):
            yield data, at
