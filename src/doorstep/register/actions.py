"""Operations of services and versions. The server verifies a bundle and never loads its model."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection

from doorstep.core.errors import InputError, NotFoundError, RefusedError
from doorstep.core.manifest import (
    MANIFEST_BYTES_MAX,
    Manifest,
    decode_manifest,
    running_files,
    vouched_digest,
)
from doorstep.core.operation import operation
from doorstep.core.servicefile import ServiceFile, parse_service_file, read_stored
from doorstep.kernel.app import App
from doorstep.kernel.blobs import MANIFEST, publish_bundle
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.kernel.keys import load_public_key
from doorstep.kernel.trust import KEY_FILE, SignedTrust, open_trust
from doorstep.register import store
from doorstep.register.decide import changes, form_of, placement_of
from doorstep.register.surface import (
    FILE_BYTES_MAX,
    NAME_CHARS_MAX,
    ApplyService,
    FindMissing,
    KeyChange,
    Missing,
    RegisterVersion,
    ServiceDiff,
    ServiceRevision,
)
from doorstep.register.views import manifest_of

DIGESTS_MAX = 20_000
FINDINGS_MAX = 200
NEEDS_TRUST = ("pickle", "joblib", "source")


@operation("service.apply", permission="service:write", effect="write")
def apply_service(app: App, asked: ApplyService) -> ServiceRevision:
    """Make a service file the newest revision of its service."""
    parsed = read_file(app, asked.file, asked.name[:NAME_CHARS_MAX])

    def act(unit: Unit) -> ServiceRevision:
        newest = store.find_service(unit.connection, parsed.service)
        revision = newest.revision if newest else 0
        if asked.over not in (None, revision):
            raise RefusedError(
                "revision-moved",
                f"the file was to be applied over revision {asked.over} of {parsed.service}, and "
                f"revision {revision} is in effect: somebody applied another file meanwhile",
                "doorstep diff says what it would change now",
            )
        return revise(unit, app, parsed, asked.file)

    return app.database.run(act, app.actor)


def diff_service(app: App, asked: ApplyService, parsed: ServiceFile) -> ServiceDiff:
    """What applying the file would change. parsed: of its text."""
    with app.database.reading() as connection:
        newest = store.find_service(connection, parsed.service)
        _check_label(connection, app, parsed)
    return ServiceDiff(
        service=parsed.service,
        revision=newest.revision if newest else 0,
        is_same=newest is not None and newest.file == asked.file,
        changes=_changes(app, newest, parsed),
    )


def _changes(
    app: App, newest: store.ServiceRow | None, parsed: ServiceFile
) -> tuple[KeyChange, ...]:
    environment = app.home.environment
    before = read_stored(newest.file, environment)[0] if newest else None
    return changes(before, parsed)


def read_file(app: App, text: str, name: str = "doorstep.yaml") -> ServiceFile:
    """The parsed service file in this environment. Raises: InputError (`bad-service-file`)."""
    if len(text.encode()) > FILE_BYTES_MAX:
        raise InputError("bad-service-file", f"{name} is larger than {FILE_BYTES_MAX} bytes")
    return parse_service_file(text, name, app.home.environment)


def revise(unit: Unit, app: App, parsed: ServiceFile, text: str) -> ServiceRevision:
    """The revision that this text is: the newest one if nothing changed, else a new one.
    Raises: InputError (`wrong-label`)."""
    newest = store.find_service(unit.connection, parsed.service)
    if newest is not None and newest.file == text:
        return _revision(newest, created=False)
    _check_label(unit.connection, app, parsed)
    now = unit.now()
    row = store.ServiceRow(
        name=parsed.service,
        revision=newest.revision + 1 if newest else 1,
        created_at=newest.created_at if newest else now,
        file=text,
        applied_at=now,
        by=unit.actor.id,
    )
    changed = tuple(one.key for one in _changes(app, newest, parsed)) if newest else ()
    store.save_revision(unit.connection, row)
    unit.record(
        "service.applied",
        Object("service", row.name, str(row.revision)),
        {"changed": list(changed), "file": text},
    )
    return _revision(row, changed)


def _revision(
    row: store.ServiceRow, changed: tuple[str, ...] = (), *, created: bool = True
) -> ServiceRevision:
    return ServiceRevision(
        service=row.name,
        revision=row.revision,
        applied_at=row.applied_at,
        by=row.by,
        created=created,
        changed=changed,
    )


@operation("blob.missing", permission="version:write", effect="read")
def find_missing(app: App, asked: FindMissing) -> Missing:
    """Say which of these files the server does not have yet."""
    if len(asked.digests) > DIGESTS_MAX:
        raise InputError("too-many", f"{len(asked.digests)} digests; at most {DIGESTS_MAX}")
    return Missing(digests=tuple(one for one in asked.digests if not app.uploads.has(one)))


def register_version(app: App, asked: RegisterVersion) -> tuple[store.VersionRow, bool]:
    """The version that this bundle is in its service, and whether it is new.

    The bundle is verified byte for byte and published before the row exists; the same digest again
    is the same version. Raises: InputError (`bad-service-file`, `bad-manifest`, `wrong-label`),
    NotFoundError (`not-uploaded`), RefusedError (`untrusted-model`).
    """
    if len(asked.findings) > FINDINGS_MAX:
        raise InputError("too-many", f"{len(asked.findings)} findings; at most {FINDINGS_MAX}")
    if not 0.0 <= asked.speed_ms_p99 < math.inf:
        raise InputError("bad-speed", f"speed_ms_p99 is {asked.speed_ms_p99}; expected 0 or more")
    parsed = read_file(app, asked.file)
    data, manifest = _uploaded_manifest(app, asked.digest)
    _check_fits(parsed, manifest)
    trusted = check_trust(app.trust_folder, manifest, asked.trust)
    is_new_holdout = bool(asked.holdout) and not app.data.has(asked.holdout)
    # What was not uploaded is said before anything is written.
    with _upload(app, asked.holdout) if is_new_holdout else io.BytesIO() as holdout:
        publish_bundle(app.home.bundles, data, lambda entry: _upload(app, entry.sha256))
        if is_new_holdout:
            app.data.put_file(asked.holdout, holdout)
    row, is_new = app.database.run(
        lambda unit: _save(unit, app, parsed, manifest, asked, trusted), app.actor
    )
    _forget_uploads(app, manifest, asked)
    return row, is_new


def _save(
    unit: Unit,
    app: App,
    parsed: ServiceFile,
    manifest: Manifest,
    asked: RegisterVersion,
    trusted: bool,
) -> tuple[store.VersionRow, bool]:
    revise(unit, app, parsed, asked.file)
    known = store.find_digest(unit.connection, parsed.service, asked.digest)
    if known is not None:
        return known, False
    form = form_of(manifest)
    row = store.VersionRow(
        service=parsed.service,
        number=store.next_number(unit.connection, parsed.service),
        digest=asked.digest,
        form=form,
        placement=placement_of(form, asked.speed_ms_p99),
        trusted=trusted,
        holdout=asked.holdout,
        speed_ms_p99=asked.speed_ms_p99,
        registered_at=unit.now(),
        by=unit.actor.id,
        findings=asked.findings,
    )
    store.add_version(unit.connection, row)
    unit.record(
        "version.registered",
        Object("version", row.name),
        {
            "service": row.service,
            "digest": row.digest,
            "form": row.form,
            "holdout": row.holdout,
            "trust": asked.trust,
            "lineage": manifest.lineage,
            "parity": manifest.parity,
        },
    )
    return row, True


def _uploaded_manifest(app: App, digest: str) -> tuple[bytes, Manifest]:
    """From the uploads, or, when the bundle is here already, from the bundle."""
    published = app.home.bundles / app.uploads.path(digest).name / MANIFEST
    if published.is_file() and not app.uploads.has(digest):
        data = published.read_bytes()
    else:
        with _upload(app, digest) as stream:
            data = stream.read(MANIFEST_BYTES_MAX + 1)
    return data, decode_manifest(data, digest)


def _upload(app: App, digest: str) -> BinaryIO:
    if not app.uploads.has(digest):
        raise NotFoundError(
            "not-uploaded",
            f"the file {digest[:12]} was not uploaded",
            "doorstep register MODEL uploads and registers in one go",
        )
    return app.uploads.open(digest)


def _forget_uploads(app: App, manifest: Manifest, asked: RegisterVersion) -> None:
    digests = {asked.digest, asked.holdout, *(entry.sha256 for entry in manifest.files)}
    for digest in digests - {""}:
        app.uploads.path(digest).unlink(missing_ok=True)


def _check_fits(parsed: ServiceFile, manifest: Manifest) -> None:
    if parsed.model.label != manifest.label:
        raise InputError(
            "wrong-label",
            f"the bundle predicts {manifest.label!r}; the service file says model.label: "
            f"{parsed.model.label}",
            "register the model with the service file of its own service",
        )


def _check_label(connection: Connection, app: App, parsed: ServiceFile) -> None:
    """A service is about one label for good: outcomes and evidence of its versions are of it."""
    number = store.next_number(connection, parsed.service) - 1
    if not number:
        return
    newest = store.get_version(connection, parsed.service, number)
    label = manifest_of(app.home.bundles, newest.digest).label
    if parsed.model.label != label:
        raise InputError(
            "wrong-label",
            f"{newest.name} predicts {label!r}; the service file says model.label: "
            f"{parsed.model.label}",
            "give a model of another label a service of its own",
        )


def check_trust(folder: Path, manifest: Manifest, trust: SignedTrust | None) -> bool:
    """Whether somebody of this installation vouched for everything that runs, by a signature that
    this server verifies with the key in `folder`. What can run code is refused without.

    Raises: InputError (`bad-trust`, `bad-manifest`), RefusedError (`untrusted-model`).
    """
    digest = vouched_digest(manifest)
    if trust is not None:
        own = load_public_key((folder / KEY_FILE).with_suffix(".pub"))
        open_trust(trust, own.to_text(), digest)
        return True
    if form_of(manifest) == "native" and (why := _why_trust(manifest)):
        raise RefusedError(
            "untrusted-model",
            f"{manifest.native.file} {why}; nobody vouched for it",
            'doorstep trust FILE --why "..." (with --code FOLDER for code of its own)',
        )
    return False


def _why_trust(manifest: Manifest) -> str:
    """Why the native form needs a person's word; "" if it needs none. A manifest that keeps types
    to itself gains nothing: the loader looks at the file again."""
    native = manifest.native
    if native.serialization in NEEDS_TRUST or native.family == "python":
        return f"is {native.serialization} and can run code"
    if len(running_files(manifest)) > 1:
        return "brings Python code of its own"
    if native.serialization == "skops" and native.types:
        return f"holds types that can crash or run code when crafted: {native.types[0]:.200}"
    return ""
