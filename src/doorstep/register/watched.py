"""Versions that somebody else serves: a bundle with a contract and a reference, without a model.

Such a version has drift and quality like any other. It can never be gated, released or explained.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import digest_of
from doorstep.core.manifest import (
    FileEntry,
    Lineage,
    Manifest,
    NativeForm,
    Profile,
    decode_manifest,
    decode_part,
    encode_manifest,
)
from doorstep.core.servicefile import ServiceFile
from doorstep.core.servicefile_watch import WatchSpec
from doorstep.core.verdict import Finding, Verdict
from doorstep.formats.columns import Table
from doorstep.formats.fromrows import table_of_rows
from doorstep.kernel.app import App
from doorstep.kernel.blobs import publish_bundle
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.register import store
from doorstep.register.actions import read_file, revise
from doorstep.register.profile import profile_table
from doorstep.register.schema import Target, choose_inputs, find_target, infer_contract
from doorstep.register.surface import Reference
from doorstep.register.views import FORM, manifest_of

PROFILE = "reference/profile.json"
NAME_CHARS_MAX = 200
NAME = "version"
"""The parameter of the lineage that holds what the other service calls its version."""


def reference_of(rows: Sequence[Mapping[str, Any]], file: ServiceFile, said: str) -> Reference:
    """The reference that these rows are, columns by the names of the source.

    Inputs are those of the contract, or every column that the service file gives no other meaning.
    Raises: InputError (`no-column`, `bad-label`, `bad-contract`, `empty-table`).
    """
    watch = file.watch or WatchSpec()
    table = table_of_rows(renamed(rows, watch))
    inputs = _inputs(table, file, watch)
    stated = {name: _stated(one) for name, one in file.contract.inputs.items()}
    around = {name: _stated(one) for name, one in file.contract.context.items()}
    contract = infer_contract(
        table, inputs, overrides=stated, context=around, enforce=file.contract.enforce
    )
    target = _target(table, file, watch)
    profile = profile_table(table, contract, _scores(table, target, watch), target.labels, {})
    known = tuple(one for one in profile.scores if sum(one.counts))
    profile = msgspec.structs.replace(profile, scores=known)
    return Reference(
        task=target.task,
        labels=target.labels,
        positive=target.positive,
        contract=contract,
        profile=profile,
        said=said,
    )


def renamed(rows: Sequence[Mapping[str, Any]], watch: WatchSpec) -> list[dict[str, Any]]:
    """The rows with the contract's names for columns that have others in the source."""
    named = {column: field for field, column in watch.columns.items()}
    return [{named.get(name, name): value for name, value in row.items()} for row in rows]


def _inputs(table: Table, file: ServiceFile, watch: WatchSpec) -> tuple[str, ...]:
    if file.contract.inputs:
        return choose_inputs(table, tuple(file.contract.inputs), None, ())
    ids = file.ids
    ours = {watch.prediction, watch.score, *watch.scores.values(), watch.time, watch.version}
    ours |= {watch.outcome or file.model.label, watch.latency_ms, file.model.label}
    ours |= {ids.key, ids.unit, ids.subject, *file.contract.context}
    return choose_inputs(table, None, None, tuple(one for one in ours if one))


def _stated(field: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(field)
    return {key: value for key, value in found.items() if value is not None}


def _target(table: Table, file: ServiceFile, watch: WatchSpec) -> Target:
    """By the outcomes if there are any, else by the answers; labels are those of both."""
    outcome = watch.outcome or file.model.label
    stated, positive = file.model.task or "", file.model.positive
    columns = [table.column(one) for one in (outcome, watch.prediction) if one in table]
    known = [one for one in columns if one.missing_rows < table.rows]
    if not known and not watch.scores:
        raise InputError(
            "no-column",
            f"there is neither an answer ({watch.prediction}) nor an outcome ({outcome})",
            "say under watch.prediction which column is the answer",
        )
    if watch.scores:
        labels: tuple[str, ...] | None = tuple(watch.scores)
    elif stated in ("regression", "ranking"):
        labels = ()
    else:
        first = find_target(known[0], None, positive=positive, task=stated)
        seen = {text for one in known for text in one.as_texts() if text is not None}
        if stated == "binary":
            # An answer that is neither is one row's fault, and must not become a label of all.
            seen = _both(first)
        labels = tuple(dict.fromkeys((*first.labels, *sorted(seen)))) if first.labels else ()
    if not known:
        return Target("binary" if positive else "multiclass", labels or (), positive)
    return find_target(known[0], labels, positive=positive, task=stated)


def _both(found: Target) -> set[str]:
    """Raises: InputError (`bad-label`)."""
    if len(found.labels) != 2:
        raise InputError(
            "bad-label",
            f"model.task is binary, and what became true is one of {', '.join(found.labels[:5])}; "
            "expected two labels",
            "correct the rows, or say model: {task: multiclass}",
        )
    return set(found.labels)


def _scores(table: Table, target: Target, watch: WatchSpec) -> Any:
    """float64 [rows, labels or 1]; NaN where the source has none."""
    found = np.full((table.rows, len(target.labels) or 1), np.nan)
    if not target.labels:
        name = watch.score or watch.prediction
        found[:, 0] = table.column(name).as_numbers() if name in table else np.nan
    elif watch.score and watch.score in table and len(target.labels) == 2:
        at = target.labels.index(target.positive)
        found[:, at] = table.column(watch.score).as_numbers()
        found[:, 1 - at] = 1.0 - found[:, at]
    elif watch.scores:
        for at, label in enumerate(target.labels):
            if watch.scores.get(label, "") in table:
                found[:, at] = table.column(watch.scores[label]).as_numbers()
    elif watch.prediction in table and not watch.score:
        answers = table.column(watch.prediction).as_texts()
        for at, label in enumerate(target.labels):
            found[:, at] = [np.nan if one is None else float(one == label) for one in answers]
    return found


def watch_version(
    app: App, text: str, name: str, reference: Reference | None, file_name: str = "doorstep.yaml"
) -> tuple[store.VersionRow, bool]:
    """The version of the service in `text` that the other service calls `name`, and whether it is
    new. Without a reference it is compared with what the newest watched version is compared with.

    Raises: InputError (`bad-service-file`, `bad-version-name`, `no-reference`).
    """
    parsed = read_file(app, text, file_name)
    if fault := name_fault(name):
        raise InputError("bad-version-name", fault)
    with app.database.reading() as connection:
        known = watched_rows(app, store.list_versions(connection, parsed.service))
    if name in known:
        return known[name], False
    chosen = reference or _newest(app, parsed.service, known)
    data, profile = _bundle(parsed, name, chosen)
    publish_bundle(app.home.bundles, data, lambda _: io.BytesIO(profile))
    row = app.database.run(
        lambda unit: _save(unit, app, parsed, text, name, data, chosen), app.actor
    )
    return row, True


def name_fault(name: str) -> str:
    """Why no version can be called so; "" if one can."""
    if 0 < len(name) <= NAME_CHARS_MAX and name.isprintable():
        return ""
    said = f"expected 1 to {NAME_CHARS_MAX} printable characters"
    return f"a version is called {name[:40]!r}; {said}"


def watched_rows(app: App, rows: Sequence[store.VersionRow]) -> dict[str, store.VersionRow]:
    """Those that somebody else serves, by what that service calls them; newest first."""
    mine = [one for one in rows if one.form == FORM]
    return {manifest_of(app.home.bundles, one.digest).lineage.parameters[NAME]: one for one in mine}


def _newest(app: App, service: str, known: Mapping[str, store.VersionRow]) -> Reference:
    row = next(iter(known.values()), None)
    if row is None:
        raise InputError(
            "no-reference",
            f"{service} has no watched version yet, so there is nothing to compare records with",
            f"doorstep journal import {service} FILE --reference FILE",
        )
    manifest = manifest_of(app.home.bundles, row.digest)
    data = (app.home.bundles / row.digest / PROFILE).read_bytes()
    return Reference(
        task=manifest.task,
        labels=manifest.labels,
        positive=manifest.positive,
        contract=manifest.contract,
        profile=decode_part(data, Profile, "profile"),
        said=row.findings[0].reason if row.findings else "",
    )


def _bundle(file: ServiceFile, name: str, reference: Reference) -> tuple[bytes, bytes]:
    """(manifest, profile) as bytes. Raises: InputError (`bad-manifest`)."""
    profile = msgspec.json.encode(reference.profile, order="deterministic")
    entry = FileEntry(path=PROFILE, size=len(profile), sha256=digest_of(profile))
    try:
        manifest = Manifest(
            format=1,
            task=reference.task,
            label=file.model.label,
            labels=reference.labels,
            positive=reference.positive,
            threshold=0.5,
            contract=reference.contract,
            native=NativeForm(family="watched", serialization="none", file=""),
            onnx=None,
            parity=None,
            lineage=Lineage(estimator=f"{name}, served elsewhere", parameters={NAME: name}),
            reads=tuple(one.name for one in reference.contract.inputs),
            files=(entry,),
        )
    except ValueError as error:
        raise InputError("bad-manifest", f"the reference makes no version: {error}") from None
    data = encode_manifest(manifest)
    decode_manifest(data, digest_of(data))
    return data, profile


def _save(
    unit: Unit,
    app: App,
    parsed: ServiceFile,
    text: str,
    name: str,
    data: bytes,
    reference: Reference,
) -> store.VersionRow:
    revise(unit, app, parsed, text)
    digest = digest_of(data)
    known = store.find_digest(unit.connection, parsed.service, digest)
    if known is not None:
        return known
    said = Finding(check="reference", verdict=Verdict.PASS, reason=reference.said)
    row = store.VersionRow(
        service=parsed.service,
        number=store.next_number(unit.connection, parsed.service),
        digest=digest,
        form=FORM,
        placement="none",
        trusted=False,
        holdout="",
        speed_ms_p99=0.0,
        registered_at=unit.now(),
        by=unit.actor.id,
        findings=(said,),
    )
    store.add_version(unit.connection, row)
    unit.record(
        "version.registered",
        Object("version", row.name),
        {"service": row.service, "digest": digest, "form": FORM, "called": name,
         "reference": reference.said},
    )  # fmt: skip
    return row


def require_model(row: store.VersionRow) -> None:
    """Raises: RefusedError (`only-watched`) for a version that somebody else serves."""
    if row.form == FORM:
        raise RefusedError(
            "only-watched",
            f"{row.name} is served elsewhere and has no model here; it is only watched",
            f"doorstep register MODEL makes a version of {row.service} that can be served",
        )
