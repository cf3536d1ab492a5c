#!/usr/bin/env python3
"""Verify an exported ledger offline: this one file, Python 3.11, nothing to install.

    python verifier.py EXPORT.ndjson CHECKPOINT KEY [OLDER-CHECKPOINT ...]

EXPORT holds one event a line, exactly as it was stored. CHECKPOINT and KEY are files: the signed
note of the ledger's end, and the verifier key (`name+id+base64`). Older checkpoints, kept by you or
by somebody else, show that history was only added to: without one, whoever holds the ledger's
private key could have written everything anew.

Exit code 0: the export is what was signed. 1: it is not, and why. 2: not called as above.

The tree is that of RFC 6962 and RFC 9162, the note that of C2SP signed-note, the signature Ed25519
(RFC 8032). This is written apart from Doorstep's own code, so that the two can be compared.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable
from hashlib import sha256, sha512
from pathlib import Path

Point = tuple[int, int, int, int]
Signed = tuple[str, int, bytes]  # origin, size, root

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_ONE = pow(2, (P - 1) // 4, P)
LINE_BYTES_MAX = 4 * 1024 * 1024


class Wrong(Exception):
    """What does not hold, in one sentence."""


def verify_export(
    lines: Iterable[bytes], checkpoint: str, key: str, older: Iterable[str] = ()
) -> Signed:
    """The signed end of the ledger, if `lines` are its events. Raises: Wrong."""
    end = open_checkpoint(checkpoint, key)
    pinned = [open_checkpoint(note, key) for note in older]
    roots = roots_of(lines, {size for _, size, _ in [end, *pinned]})
    size = max(roots)
    if size != end[1]:
        raise Wrong(f"the export has {size} events, {end[1]} were signed")
    for origin, at, root in [end, *pinned]:
        if origin != end[0]:
            raise Wrong(f"a checkpoint is of {origin!r}, the export is of {end[0]!r}")
        if at > size:
            raise Wrong(f"an older checkpoint covers {at} events, the export ends at {size}")
        if roots[at] != root:
            raise Wrong(f"the first {at} events are not those that were signed")
    return end


def roots_of(lines: Iterable[bytes], sizes: set[int]) -> dict[int, bytes]:
    """The roots at the end and at `sizes`. Raises: Wrong for a line that is not event n."""
    stack: list[bytes] = []
    roots, count = {0: sha256(b"").digest()}, 0
    for line in lines:
        leaf = line[:-1]
        if not line.endswith(b"\n") or len(line) > LINE_BYTES_MAX:
            raise Wrong(f"line {count} is cut off, or too long")
        check_event(leaf, count)
        node, n = sha256(b"\x00" + leaf).digest(), count
        while n & 1:
            node, n = sha256(b"\x01" + stack.pop() + node).digest(), n >> 1
        stack.append(node)
        count += 1
        if count in sizes:
            roots[count] = fold(stack)
    if count:
        roots[count] = fold(stack)
    return roots


def check_event(leaf: bytes, place: int) -> None:
    try:
        event = json.loads(leaf)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"line {place} is not JSON: {error}") from None
    if not isinstance(event, dict) or event.get("seq") != place:
        raise Wrong(f"line {place} is not event {place}: events were moved, inserted or deleted")


def fold(stack: list[bytes]) -> bytes:
    node = stack[-1]
    for left in reversed(stack[:-1]):
        node = sha256(b"\x01" + left + node).digest()
    return node


def open_checkpoint(note: str, key: str) -> Signed:
    """(origin, size, root) of a note that `key` signed. Raises: Wrong."""
    name, key_id, public = parse_key(key)
    text, found, signatures = note.rpartition("\n\n")
    text += "\n"
    for line in signatures.split("\n")[:-1] if found else []:
        parts = line.split(" ")
        if len(parts) == 3 and parts[:2] == ["\N{EM DASH}", name]:
            data = decode(parts[2])
            if data[:4] == key_id and verify_signature(public, text.encode(), data[4:]):
                return parse_checkpoint(text)
    raise Wrong(f"the checkpoint is not signed by {name}: it was changed, or is another's")


def parse_checkpoint(text: str) -> Signed:
    lines = text.split("\n")
    digits = len(lines) >= 4 and lines[1].isascii() and lines[1].isdigit()
    if not digits or len(lines[1]) > 19:
        raise Wrong("the checkpoint is not origin, size and root")
    root = decode(lines[2])
    if len(root) != 32:
        raise Wrong("the checkpoint's root is not a SHA-256")
    return lines[0], int(lines[1]), root


def parse_key(key: str) -> tuple[str, bytes, bytes]:
    parts = key.strip().split("+", 2)
    if len(parts) != 3:
        raise Wrong("the key is not NAME+ID+BASE64")
    data = decode(parts[2])
    key_id = sha256(parts[0].encode() + b"\n" + data).digest()[:4]
    if data[:1] != b"\x01" or len(data) != 33 or key_id.hex() != parts[1]:
        raise Wrong("the key is not an Ed25519 verifier key, or was changed")
    return parts[0], key_id, data[1:]


def decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def verify_signature(public: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519 (RFC 8032, 5.1.7), in plain integers: some milliseconds each."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = decode_point(public), decode_point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= ORDER:
        return False
    hashed = sha512(signature[:32] + public + message).digest()
    h = int.from_bytes(hashed, "little") % ORDER
    left, right = multiply(s, base_point()), add(r, multiply(h, a))
    same_x = (left[0] * right[2] - right[0] * left[2]) % P == 0
    return same_x and (left[1] * right[2] - right[1] * left[2]) % P == 0


def recover_x(y: int, sign: int) -> int | None:
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_MINUS_ONE % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    return P - x if x & 1 != sign else x


def decode_point(data: bytes) -> Point | None:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def base_point() -> Point:
    y = 4 * pow(5, -1, P) % P
    x = recover_x(y, 0) or 0
    return (x, y, 1, x * y % P)


def add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar: int, point: Point) -> Point:
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def main(arguments: list[str]) -> int:
    """The command line. Prints one sentence."""
    if len(arguments) < 3:
        print((__doc__ or "").split("\n\n")[1].strip(), file=sys.stderr)
        return 2
    try:
        with Path(arguments[0]).open("rb") as export:
            notes = [read(path) for path in arguments[1:]]
            lines = iter(lambda: export.readline(LINE_BYTES_MAX + 1), b"")
            origin, size, root = verify_export(lines, notes[0], notes[1], notes[2:])
    except Wrong as wrong:
        print(f"NOT VALID: {wrong}")
        return 1
    except (OSError, UnicodeDecodeError) as error:
        print(f"cannot be read: {error}", file=sys.stderr)
        return 2
    print(f"valid: {size} events of {origin}, root {base64.b64encode(root).decode()}")
    if len(notes) == 2:
        print("note: no older checkpoint was given, so a rewrite by the key's holder is not seen")
    return 0


def read(path: str) -> str:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return file.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
