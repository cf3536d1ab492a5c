"""Plans as they come from the home: verified, never older than the last, whole or not at all."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from doorstep.core.errors import DoorstepError, InputError, RefusedError
from doorstep.core.ids import digest_of, parse_digest
from doorstep.core.manifest import decode_part
from doorstep.core.plan import (
    PLAN_BYTES_MAX,
    ApiKey,
    KeysPlan,
    PlanPointer,
    PlanRoot,
    ServicePlan,
)
from doorstep.kernel.files import write_atomic

POINTER_BYTES_MAX = 64 * 1024
SEEN_FILE = "seen.json"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The highest plan this node has accepted, and the key it trusts since the first one."""

    term: int = -1
    number: int = -1
    root: str = ""
    key: str = ""


class Published(NamedTuple):
    """A plan whose documents have the digests that the signed pointer leads to."""

    pointer: PlanPointer
    root: PlanRoot
    services: tuple[ServicePlan, ...]
    keys: tuple[ApiKey, ...] = ()


class PlanFeed:
    """Polls `<home>/plan/current`. Not thread-safe.

    renewed_s: when we last saw `renewal` rise, on our monotonic clock; -inf if we never did. What
    lies there when we begin may be as old as can be: it renews nothing.
    """

    def __init__(self, home: Path, state: Path) -> None:
        self._folder = home / "plan"
        self._seen_path = state / SEEN_FILE
        self.seen = Seen()
        with contextlib.suppress(FileNotFoundError):
            self.seen = msgspec.json.decode(self._seen_path.read_bytes(), type=Seen)
        self._raw = b""
        self._read: dict[str, ServicePlan] = {}
        self._renewal = self._first_renewal()
        self.renewed_s = float("-inf")

    def poll(self) -> Published | None:
        """A plan that is new since the last call that answered one; None if there is none.

        Raises: InputError, RefusedError (`plan-unsigned`, `plan-bad-signature`, `plan-other-key`,
        `plan-older`, `plan-changed`); OSError if the home cannot be read.
        """
        try:
            raw = _read(self._folder / "current", POINTER_BYTES_MAX)
        except FileNotFoundError:
            return None
        if raw == self._raw:
            return None
        pointer = decode_part(raw, PlanPointer, "plan-pointer")
        self._check(pointer)
        self._renew(pointer)
        is_new = not self._raw or pointer.root != self.seen.root
        published = self._load(pointer) if is_new else None
        self._accept(pointer)
        self._raw = raw
        return published

    def _check(self, pointer: PlanPointer) -> None:
        if not pointer.signature or not pointer.key:
            raise RefusedError("plan-unsigned", f"plan {pointer.number} is not signed")
        if self.seen.key and pointer.key != self.seen.key:
            raise RefusedError(
                "plan-other-key",
                f"plan {pointer.number} is signed with key {pointer.key[:12]}, this node trusts "
                f"{self.seen.key[:12]}",
                "if the control plane's key was really replaced, remove the node's state folder",
            )
        verify(pointer)
        place, last = (pointer.term, pointer.number), (self.seen.term, self.seen.number)
        if place < last:
            raise RefusedError(
                "plan-older",
                f"plan {pointer.number} of term {pointer.term} is older than plan {last[1]} of "
                f"term {last[0]}, which this node has seen",
            )
        if place == last and self.seen.root and pointer.root != self.seen.root:
            raise RefusedError(
                "plan-changed", f"plan {pointer.number} has another content than before"
            )

    def _first_renewal(self) -> int | None:
        """The renewal that lies there now; -1 where no plan was ever, None if it is not known."""
        try:
            raw = _read(self._folder / "current", POINTER_BYTES_MAX)
            return decode_part(raw, PlanPointer, "plan-pointer").renewal
        except FileNotFoundError:
            return None if self.seen.root else -1
        except (DoorstepError, OSError):
            return None

    def _renew(self, pointer: PlanPointer) -> None:
        if self._renewal is not None and pointer.renewal > self._renewal:
            self.renewed_s = time.monotonic()
        self._renewal = max(pointer.renewal, self._renewal or 0)

    def _load(self, pointer: PlanPointer) -> Published:
        root = decode_part(self._document(pointer.root), PlanRoot, "plan-root")
        if (root.term, root.number) != (pointer.term, pointer.number):
            raise InputError(
                "bad-plan-root",
                f"the plan's root is number {root.number}, its pointer says {pointer.number}",
            )
        # What did not change stays the same object: a node compares a thousand of them often.
        self._read = {
            digest: self._read.get(digest)
            or decode_part(self._document(digest), ServicePlan, "service-plan")
            for digest in root.services.values()
        }
        services = tuple(self._read[digest] for _, digest in sorted(root.services.items()))
        for name, service in zip(sorted(root.services), services, strict=True):
            if service.service != name:
                raise InputError(
                    "bad-service-plan", f"the plan of {name!r} is about {service.service!r}"
                )
        return Published(pointer, root, services, self._keys(root.keys))

    def _keys(self, digest: str) -> tuple[ApiKey, ...]:
        if not digest:
            return ()
        return decode_part(self._document(digest), KeysPlan, "keys-plan").keys

    def _document(self, digest: str) -> bytes:
        try:
            data = _read(self._folder / f"{parse_digest(digest)}.json", PLAN_BYTES_MAX)
        except OSError as error:
            raise InputError(
                "bad-plan", f"plan document {digest[:12]} cannot be read: {error.strerror}"
            ) from None
        if digest_of(data) != digest:
            raise InputError(
                "bad-plan", f"plan document {digest[:12]} has another content than its name says"
            )
        return data

    def _accept(self, pointer: PlanPointer) -> None:
        seen = Seen(term=pointer.term, number=pointer.number, root=pointer.root, key=pointer.key)
        if seen != self.seen:
            write_atomic(self._seen_path, msgspec.json.encode(seen), 0o600)
            self.seen = seen


def verify(pointer: PlanPointer) -> None:
    """Raises: RefusedError (`plan-bad-signature`)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(pointer.key))
        key.verify(bytes.fromhex(pointer.signature), pointer.signed_bytes())
    except (InvalidSignature, ValueError):
        raise RefusedError(
            "plan-bad-signature", f"the signature of plan {pointer.number} does not verify"
        ) from None


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError("bad-plan", f"{path.name} has more than {limit} bytes")
    return data
