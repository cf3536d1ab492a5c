"""Bodies as large as they may be, of whatever costs a reader most."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz_surfaces import PREDICT_ROUTE, SERVICE

SIZE = 10 * 1024 * 1024 - 1024
JSON, CSV, LINES = "application/json", "text/csv", "application/jsonlines"
PATHS = (
    f"/v1/services/{SERVICE}/predict", f"/v1/services/{SERVICE}/outcomes",
    f"/v2/models/{SERVICE}/infer",
    f"/v1/models/{SERVICE}:predict", "/invocations", PREDICT_ROUTE, f"/predictions/{SERVICE}",
    "/score",
)  # fmt: skip
UNITS: dict[str, tuple[bytes, bytes, bytes]] = {
    "lists in lists": (b"", b"[", b""), "objects in objects": (b"", b'{"a":', b""),
    "a text": (b'{"rows":[{"word":"', b"a", b'"}]}'), "escapes": (b'{"rows":[{"word":"',
    b"\\u00e9", b'"}]}'),
    "empty rows": (b'{"rows":[', b"{},", b"{}]}"), "empty instances": (b'{"instances":[', b"{},",
    b"{}]}"),
    "lists": (b'{"instances":[', b"[],", b"[]]}"), "numbers": (b'{"inputs":{"x0":[', b"1,",
    b"1]}}"),
    "tensor": (b'{"inputs":[{"name":"x0","shape":[1],"datatype":"FP64","data":[', b"1,", b"1]}]}"),
    "tensors": (b'{"inputs":[', b'{"name":"a","shape":[1],"datatype":"BOOL"},',
    b'{"name":"a","shape":[],"datatype":""}]}'),
    "shape": (b'{"inputs":[{"name":"x0","datatype":"FP64","shape":[', b"1,", b"1]}]}"),
    "outputs": (b'{"inputs":[],"outputs":[', b'{"name":""},', b'{"name":""}]}'),
    "names": (b'{"dataframe_split":{"columns":[', b'"a",', b'"a"],"data":[]}}'),
    "frame": (b'{"input_data":{"columns":["x0"],"data":[', b"[1],", b"[1]]}}"),
    "outcomes": (b'{"outcomes":[', b"{},", b"{}]}"), "keys": (b'{"rows":[{}],"keys":[', b"1,",
    b"1]}"),
    "digits": (b'{"rows":[{"x0":', b"9", b"}]}"), "spaces": (b"{", b" ", b"}"),
}  # fmt: skip
TEXTS = {
    "commas": (CSV, b","), "lines": (CSV, b"1\n"), "empty lines": (CSV, b"\n"), "quotes": (CSV,
    b'"'),
    "JSON lines": (LINES, b"{}\n"), "empty JSON lines": (LINES, b"\n"),
}  # fmt: skip


def posted(path: str, media: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ndoorstep-service: {SERVICE}\r\n"
    head += f"content-type: {media}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def filled(begin: bytes, unit: bytes, end: bytes) -> bytes:
    return begin + unit * ((SIZE - len(begin) - len(end)) // len(unit)) + end


def large() -> Iterator[bytes]:
    """Requests; distinct keys and chunks come last."""
    for path in PATHS:
        for parts in UNITS.values():
            yield posted(path, JSON, filled(*parts))
        keys = b",".join(b'"%x":0' % at for at in range(SIZE // 12))
        yield posted(path, JSON, b"{%b}" % keys)
        yield posted(path, JSON, b'{"rows":[{%b}]}' % keys)
        chunks = b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n"
        yield (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            + chunks
        )
        yield posted(path, JSON, b" " * (SIZE + 2048))
    for media, unit in TEXTS.values():
        yield posted("/invocations", media, filled(b"", unit, b""))
