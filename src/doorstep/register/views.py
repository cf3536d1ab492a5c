"""Operations that show services and versions; what they need of other rooms is given to them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import msgspec

from doorstep.core.manifest import Manifest, decode_manifest
from doorstep.core.servicefile import read_stored
from doorstep.kernel.app import App
from doorstep.kernel.blobs import MANIFEST
from doorstep.register import store
from doorstep.register.surface import Service, Version

FORM = "watched"
"""Of versions that another service serves."""
MANIFESTS_KEPT = 2048


@lru_cache(maxsize=MANIFESTS_KEPT)
def manifest_of(bundles: Path, digest: str) -> Manifest:
    """The manifest of a published bundle, remembered: bundles never change.

    Raises: InputError (`bad-manifest`)."""
    return decode_manifest((bundles / digest / MANIFEST).read_bytes(), digest)


def service_view(row: store.ServiceRow, champion: int | None, last: int | None) -> Service:
    """One service, as the operations give it; of a file that cannot be read, its text alone."""
    file, _ = read_stored(row.file)
    return Service(
        service=row.name,
        revision=row.revision,
        purpose=file.purpose if file else "",
        owner=file.owner if file else "",
        risk=file.risk if file else "low",
        task=(file.model.task if file else None) or "",
        label=file.model.label if file else "",
        champion=champion,
        last_champion=last,
        file=row.file,
        created_at=row.created_at,
    )


def version_view(
    app: App, row: store.VersionRow, states: Mapping[int, str], *, created: bool = False
) -> Version:
    """One version, as the operations give it. states: number -> state; if absent it is
    `registered`, or `watched`."""
    return Version(
        **msgspec.structs.asdict(row),
        state=states.get(row.number, "watched" if row.form == FORM else "registered"),
        created=created,
        manifest=manifest_of(app.home.bundles, row.digest),
    )
