"""Reference profiles of the versions that are planned or watched, read from the home's bundles."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.ids import digest_of, parse_digest
from doorstep.core.manifest import Profile, decode_part
from doorstep.core.plan import PLAN_BYTES_MAX, PlanPointer, PlanRoot, ServicePlan
from doorstep.journal.watched import read_watched

PartT = TypeVar("PartT", bound=msgspec.Struct)


class PlanProfiles:
    """(service, version) -> its profile, None if the plan or the home does not have it.

    A profile that was found stays known after its version left the plan. Nothing read here decides
    what is served, so the plan's signature is the node's business, not ours.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._root = ""
        self._bundles: dict[tuple[str, int], str] = {}
        self._found: dict[str, Profile | None] = {}

    def __call__(self, service: str, version: int) -> Profile | None:
        if (service, version) not in self._bundles:
            with contextlib.suppress(OSError, InputError):
                self._read_plan()
        if (service, version) not in self._bundles:
            with contextlib.suppress(OSError, InputError):
                self._read_watched(service)
        digest = self._bundles.get((service, version))
        return self._profile(digest) if digest else None

    def _read_plan(self) -> None:
        data = (self._home / "plan" / "current").read_bytes()
        pointer = decode_part(data, PlanPointer, "plan")
        if pointer.root == self._root:
            return
        root = self._document(pointer.root, PlanRoot)
        for digest in root.services.values():
            plan = self._document(digest, ServicePlan)
            self._bundles |= {(plan.service, one.number): one.bundle for one in plan.versions}
        self._root = pointer.root

    def _read_watched(self, service: str) -> None:
        found = read_watched(self._home, service)
        versions = found.versions if found else ()
        self._bundles |= {(service, one.number): one.bundle for one in versions}

    def _document(self, digest: str, kind: type[PartT]) -> PartT:
        path = self._home / "plan" / f"{parse_digest(digest)}.json"
        with path.open("rb") as file:
            data = file.read(PLAN_BYTES_MAX)
        if digest_of(data) != digest:
            raise InputError("bad-plan", f"{path} does not have the digest that names it")
        return decode_part(data, kind, "plan")

    def _profile(self, bundle: str) -> Profile | None:
        if self._found.get(bundle) is None:
            self._found[bundle] = None
            with contextlib.suppress(OSError, InputError):
                folder = self._home / "bundles" / parse_digest(bundle)
                data = (folder / "reference" / "profile.json").read_bytes()
                self._found[bundle] = decode_part(data, Profile, "profile")
        return self._found[bundle]
