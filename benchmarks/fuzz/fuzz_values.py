"""Values for a JSON schema: valid, with a place changed, and as bytes that are no JSON any more."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any


class Raw(str):
    """Written as it is: what no value of Python's is in JSON."""

    def __deepcopy__(self, _known: object) -> Raw:
        return self


HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e-320, 1.7e308, 2**31, 2**53 + 1, -(2**63), 2**64,
    10**30, 10**400, Raw("1e999"), Raw("-1e999"), Raw("9" * 5000), Raw("NaN"), Raw("Infinity"),
    Raw("01"), Raw("-"), Raw("tru"), Raw("'a'"), Raw(""), Raw('"\\ud800"'), Raw('"\\x"'),
    Raw('"\x01"'), Raw("[1,]"), Raw('{"a":1,"a":2}'), Raw('{"x0":1,"x0":"b"}'), "", " ", "\x00",
    "\u202eabc", "𝕏" * 9, "é" * 2000, "a" * 120_000, "../../etc/passwd", "%2e%2e%2f", "1", "nan",
    "1e5", "true", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", "2026-02-30",
    [], {}, [[]], [None], {"": 0}, {"b64": "é"}, {"b64": 1}, {"__proto__": 1}, {"a": {"a": {}}},
    Raw("[" * 300 + "]" * 300), Raw('{"a":' * 300 + "1" + "}" * 300), Raw("[" * 100_000),
    [0] * 3000,
)  # fmt: skip


def dump(value: Any) -> str:
    """As JSON, but for what is Raw."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        pairs = ",".join(f"{json.dumps(key)}:{dump(one)}" for key, one in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(dump, value))}]"
    return json.dumps(value, ensure_ascii=False)


class Maker:
    """root: what `$ref` leads into. words: values that exist, by the name of the field."""

    def __init__(
        self, random: Random, root: Mapping[str, Any], words: Mapping[str, Sequence[Any]]
    ) -> None:
        self.random = random
        self._root = root
        self._words = words

    def valid(self, schema: Mapping[str, Any], name: str = "", depth: int = 0) -> Any:
        random = self.random
        if "$ref" in schema:
            found: Any = self._root
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return self.valid(found, name, depth + 1)
        if name in self._words and random.random() < 0.9:
            return random.choice(self._words[name])
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return random.choice(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self.valid(random.choice(schema[key]), name, depth + 1)
        kind = schema.get("type", "null")
        if isinstance(kind, list):
            kind = random.choice(kind)
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "string":
                least = schema.get("minLength", 0)
                return "".join(random.choices("abcé 01-_@/", k=random.randint(least, least + 8)))
            case "boolean":
                return random.random() < 0.5
            case "integer" | "number":
                return self._number(schema, kind)
        return None

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        known, required = schema.get("properties", {}), schema.get("required", ())
        more = 0.6 if depth < 8 else 0.0
        found = {
            key: self.valid(one, key, depth + 1)
            for key, one in known.items()
            if key in required or self.random.random() < more
        }
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict) and depth < 8:
            for at in range(self.random.randint(0, 2)):
                found[f"k{at}"] = self.valid(extra, "", depth + 1)
        return found

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.valid(one, name, depth + 1) for one in schema["prefixItems"]]
        least = schema.get("minItems", 0)
        most = min(schema.get("maxItems", 3), least + 3) if depth < 8 else least
        return [
            self.valid(schema.get("items", {}), "", depth + 1)
            for _ in range(self.random.randint(least, max(least, most)))
        ]

    def _number(self, schema: Mapping[str, Any], kind: str) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1000))
        high = schema.get("maximum", schema.get("exclusiveMaximum", max(low, 0) + 1000))
        if kind == "integer":
            return self.random.randint(int(low), int(high))
        return round(self.random.uniform(low, high), 3)

    def nearly(self, value: Any) -> Any:
        """A copy with one to three places changed."""
        changed = copy.deepcopy(value)
        for _ in range(self.random.randint(1, 3)):
            changed = self._change(changed)
        return changed

    def _change(self, value: Any) -> Any:
        random = self.random
        if isinstance(value, Raw) or not value or random.random() < 0.15:
            return copy.deepcopy(random.choice((*HOSTILE, [value], {"a": value})))
        if isinstance(value, dict):
            key = random.choice(list(value))
            match random.randrange(6):
                case 0:
                    del value[key]
                case 1:
                    value[random.choice(("", "rows", "x9", "é", "data", "a" * 300))] = value[key]
                case _:
                    value[key] = self._change(value[key])
        elif isinstance(value, list):
            at = random.randrange(len(value))
            match random.randrange(6):
                case 0:
                    del value[at]
                case 1:
                    value += [value[at]] * random.choice((1, 3, 2000 if len(value) < 100 else 1))
                case _:
                    value[at] = self._change(value[at])
        else:
            return copy.deepcopy(random.choice(HOSTILE))
        return value

    def damaged(self, data: bytes) -> bytes:
        """The bytes with a piece cut out, put in, turned over, or in another encoding."""
        random, at = self.random, self.random.randrange(len(data) + 1)
        match random.randrange(7):
            case 0:
                return data[:at]
            case 1:
                return data[:at] + random.randbytes(random.randint(1, 6)) + data[at:]
            case 2:
                return data[:at] + random.randbytes(1) + data[at + 1 :]
            case 3:
                return data[:at] + random.choice((b"\xff", b"\xed\xa0\x80", b"\x00", b"\xc0\xaf"))
            case 4:
                return b"\xef\xbb\xbf" + data
            case 5:
                return data.decode("utf-8", "replace").encode("utf-16")
        return data + random.choice((b"x", b"{}", b"\n\n", b"\x00", data))
