"""Requests to a data port, and what is wrong with its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from fuzz_surfaces import NATIVE_ERROR, SERVICE, Body, Surface, split_binary
from fuzz_values import Maker, dump
from fuzz_wire import Answer
from jsonschema import Draft202012Validator

from doorstep.serve.limits import BODY_BYTES_MAX

DOCUMENTED = {500: ("model-failed",), 501: ("no-upgrade", "bad-encoding"), 503: ("overloaded",
"unavailable"),
              504: ("timed-out",), 505: ("bad-http",)}  # fmt: skip
"""Refusals of 5xx that say what they are about. Nothing else may be one."""
HEADERS: Mapping[str, tuple[str, ...]] = {
    "content-type": ("application/json; charset=utf-16", "text/csv", "text/plain", ";", "ÿ",
                     "multipart/form-data; boundary=x", "APPLICATION/JSON", "a" * 3000, ""),
    "accept": ("text/csv", "image/png", "*/*", ",", "ÿ", "application/jsonlines", "a," * 1000),
    "inference-header-content-length": ("0", "1", "-1", "99999999999", "1e3", "", "٣", "7,8"),
    "doorstep-context": ("{}", '{"region":"north"}', '{"store":1}', "[]", "[{}]", "{", "ÿ", "null",
                         '{"region":1}', "[" * 500, '{"x0":1}', '[{"store":1},{"store":null}]'),
    "doorstep-service": (SERVICE, "plain", "nobody", "", "ÿ", "../x", "a" * 500),
    "idempotency-key": ("a", "b", "c", "", "x" * 300, "ÿ"),
    "traceparent": (f"00-{'1' * 32}-{'2' * 16}-01", "00-x", "ÿ", ""),
    "content-encoding": ("gzip", "identity", "", "ÿ"),
    "expect": ("100-continue", "x", ""),
    "upgrade": ("h2c", "websocket", ""),
    "connection": ("close", "keep-alive", "upgrade", "x, y", "keep-alive, close", ""),
    "authorization": ("Bearer x", "Bearer ", "Basic eDp4", "ÿ",
    "Bearer dsk_" + "0" * 12 + "_" + "a" * 43),
    "x-api-key": ("x", "", "ÿ" * 50),
    "host": ("", "a b", "x" * 1000),
    "x-" + "y" * 200: ("z" * 2000,),
}  # fmt: skip
METHODS = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE")
NAMES = (
    "nobody",
    "..",
    "%2e%2e%2fetc",
    "a" * 500,
    "é",
    ":predict",
    "",
    "%00",
    "\\\\host",
    "C:",
    "//",
)
VERSIONS = ("1", "champion", "challenger", "0", "-1", "9" * 50, "..", "", "²", "1.0")
QUERIES = ("?", "?a=b", "?%00=%", "?" + "a=b&" * 500, "#x", "?é")


class Asker:
    """Makes the requests of one surface. named: whether its paths name the service."""

    def __init__(self, surface: Surface, maker: Maker, service: str) -> None:
        self.surface, self.maker, self.random = surface, maker, maker.random
        self._service = service
        self._is_named = "{s}" in surface.paths[0]

    def request(self) -> tuple[bytes, str]:
        """(the bytes, the method)."""
        random, surface = self.random, self.surface
        if random.random() < 0.1:
            method, path = random.choice(("GET", "GET", "HEAD")), random.choice(surface.reads)
        else:
            method, path = surface.method, random.choice(surface.paths)
        if random.random() < 0.03:
            method = random.choice(METHODS)
        body = Body(b"", ()) if method in ("GET", "HEAD") else self._body()
        return self._write(method, self._path(path), body), method

    def _body(self) -> Body:
        random, made = self.random, self.surface.make(self.maker)
        if isinstance(made, Body):
            return made
        if random.random() < 0.6:
            made = self.maker.nearly(made)
        data = dump(made).encode("utf-8", "replace")
        if len(data) > BODY_BYTES_MAX:
            return self._body()  # its refusal is lost where we go on sending: see `fuzz_large.py`
        return Body(self.maker.damaged(data) if random.random() < 0.15 else data)

    def _path(self, path: str) -> str:
        random = self.random
        name = random.choice(NAMES) if random.random() < 0.05 else self._service
        version = random.choice(VERSIONS) if random.random() < 0.5 else "1"
        more = random.choice(QUERIES) if random.random() < 0.05 else ""
        return path.replace("{s}", name).replace("{v}", version) + more

    def _write(self, method: str, path: str, body: Body) -> bytes:
        random = self.random
        headers = [("host", "x"), *body.headers]
        if not self._is_named and random.random() < 0.95:
            headers.append(("doorstep-service", self._service))
        while random.random() < 0.35:
            name = random.choice(list(HEADERS))
            if random.random() < 0.7:
                headers = [one for one in headers if one[0] != name]
            headers.append((name, random.choice(HEADERS[name])))
        data = body.data
        if data and random.random() < 0.1:
            headers.append(("transfer-encoding", "chunked"))
            data = _chunked(data, random)
        elif data or method in ("POST", "PUT"):
            headers.append(("content-length", str(len(data))))
        random.shuffle(headers)
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers)
        return head.encode() + b"\r\n" + data


def _chunked(data: bytes, random: Random) -> bytes:
    size = random.choice((1, 7, 1000)) if len(data) < 5000 else 4096
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    end = random.choice((b"", b"x-api-key: y\r\n", b"doorstep-service: nobody\r\nx: y\r\n"))
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n" + end + b"\r\n"


class Judge:
    """Says what is wrong with an answer; "" for nothing."""

    def __init__(self, answer: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        self._answer = Draft202012Validator(answer)
        # What never became a request of this surface is refused in the words of the native one.
        self._error = Draft202012Validator({"anyOf": [error, NATIVE_ERROR]})

    def fault(self, answer: Answer, method: str) -> str:
        body, is_read = answer.body, method in ("GET", "HEAD")
        if answer.status >= 500 and not (is_read and answer.status == 503):
            said, words = body.decode("utf-8", "replace"), DOCUMENTED.get(answer.status, ())
            is_silent = method == "HEAD" and answer.status > 500
            if not (words if is_silent else any(word in said for word in words)):
                return f"{answer.status}: {said[:300]}"
        if method == "HEAD":
            return ""
        try:
            if answer.media == "application/octet-stream":
                body = split_binary(answer.headers, body)
            elif answer.media != "application/json":
                body.decode()
                return ""
            found = json.loads(body, parse_constant=_no_number)
        except (ValueError, KeyError) as error:
            return f"the body of {answer.status} cannot be read: {error}"
        judge = self._error if answer.status >= 400 else self._answer
        if is_read and answer.status in (200, 503):
            return ""
        wrong = next(judge.iter_errors(found), None)
        return "" if wrong is None else f"{answer.status} {body[:200]!r}: {wrong.message[:300]}"


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")
