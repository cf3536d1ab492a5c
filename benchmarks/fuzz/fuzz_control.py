"""Requests to the control API from its own OpenAPI document, and what is wrong with its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from fuzz_values import Maker, dump
from fuzz_wire import Answer
from jsonschema import Draft202012Validator

DOCUMENTED = {501: "missing-extra", 503: "unreachable", 504: "waited"}
"""Kinds of refusals that are 5xx: by `kernel/http_status.py`."""
HEADERS: Mapping[str, tuple[str, ...]] = {
    "content-type": ("text/plain", "application/json; charset=utf-16", "multipart/form-data", "ÿ",
    ""),
    "accept": ("text/html", "*/*", "ÿ", ""), "host": ("evil.example", "", "127.0.0.1", "a b", "ÿ"),
    "origin": ("https://evil.example", "null"), "content-encoding": ("gzip", "x"),
    "authorization": ("Bearer x", "Bearer", "Basic eDp4", "ÿ", ""), "cookie": ("a=b; c", "ÿ",
    "session=x"),
    "connection": ("close", "upgrade"), "upgrade": ("websocket", "h2c"),
    "expect": ("100-continue",),
    "x-http-method-override": ("DELETE",),
}  # fmt: skip
WORDS = {
    "service": ("fuzzed", "other", ""), "services": (["fuzzed"],), "version": ("fuzzed@1",
    "fuzzed@99", "@"),
    "number": (1, 2, 0), "name": ("a", ""), "why": ("because", ""), "release": ("r", "0" * 32),
    "token": ("0" * 12, "x"), "digests": (["0" * 64],), "digest": ("0" * 64, "../../x"),
    "prediction": ("00000000-0000-7000-8000-000000000000.0", "x"), "limit": (1, 10, 1000),
    "at": (0, 1_700_000_000_000_000), "since": (0,), "until": (2**53,), "expires_s": (1.0, 60.0),
}  # fmt: skip


class Asker:
    def __init__(
        self, document: Mapping[str, Any], token: str, random: Random, files: tuple[str, ...]
    ) -> None:
        self.random, self.document, self._token = random, document, token
        self.maker = Maker(random, document, WORDS | {"file": files})
        self.paths = sorted(document["paths"])
        self._judges = {one: self._judge(one) for one in self.paths}
        self._error = self._validator({"$ref": "#/components/schemas/Error"})

    def _validator(self, schema: Mapping[str, Any]) -> Draft202012Validator:
        return Draft202012Validator({**schema, "components": self.document["components"]})

    def _judge(self, path: str) -> Draft202012Validator:
        answers = self.document["paths"][path]["post"]["responses"]
        return self._validator(answers["200"]["content"]["application/json"]["schema"])

    def request(self, path: str) -> tuple[bytes, str]:
        """(the bytes, the method)."""
        random, entry = self.random, self.document["paths"][path]["post"]
        schema = entry["requestBody"]["content"]["application/json"]["schema"]
        value = self.maker.valid(schema)
        if random.random() < 0.5:
            value = self.maker.nearly(value)
        data = dump(value).encode("utf-8", "replace")
        if random.random() < 0.1:
            data = self.maker.damaged(data)
        method = (
            random.choice(("GET", "PUT", "HEAD", "DELETE", "OPTIONS"))
            if random.random() < 0.02
            else "POST"
        )
        headers = [("host", "127.0.0.1"), ("authorization", f"Bearer {self._token}"),
                   ("content-type", "application/json")]  # fmt: skip
        while random.random() < 0.15:
            name = random.choice(list(HEADERS))
            headers = [one for one in headers if one[0] != name or random.random() < 0.2]
            headers.append((name, random.choice(HEADERS[name])))
        headers.append(("content-length", str(len(data))))
        more = (
            random.choice(("?a=b", "?%00", "/", "//", "/..", "%2f"))
            if random.random() < 0.02
            else ""
        )
        head = f"{method} {path}{more} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers)
        return head.encode("latin-1") + b"\r\n" + data, method

    def fault(self, answer: Answer, path: str, method: str) -> str:
        """What is wrong with an answer; "" for nothing."""
        if method == "HEAD" or (method == "OPTIONS" and answer.status == 204):
            return ""
        if answer.media == "text/html":
            return f"{answer.status}: a page" if answer.status >= 500 else ""
        if answer.media.startswith("text/plain") and answer.status == 400:
            return ""  # what never became a request is refused by the server below
        try:
            found = json.loads(answer.body)
        except ValueError as error:
            return f"{answer.status} {answer.body[:200]!r}: {error}"
        judge = self._judges[path] if answer.status == 200 else self._error
        wrong = next(judge.iter_errors(found), None)
        if wrong is not None:
            return f"{answer.status} {answer.body[:200]!r}: {wrong.message[:300]}"
        if answer.status >= 500 and found["error"]["kind"] != DOCUMENTED.get(answer.status):
            return f"{answer.status}: {answer.body[:300]!r}"
        return ""
