"""A model on this machine becomes a version on the server: built here, uploaded, gated there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from doorstep.cli.checking import read_text
from doorstep.cli.saying import Part
from doorstep.cli.vouching import statement_about, trust_store
from doorstep.client import Client
from doorstep.core.errors import DoorstepError, InputError, NotFoundError, RefusedError
from doorstep.core.manifest import vouched_digest
from doorstep.core.servicefile import ServiceFile, parse_service_file
from doorstep.core.servicefile_types import DataSpec, FieldSpec
from doorstep.core.verdict import Finding, Verdict
from doorstep.formats.load import load_scorer
from doorstep.formats.table import read_table, to_batch
from doorstep.gate.surface import GateRun
from doorstep.kernel.trust import SignedTrust
from doorstep.register.build import BuildSpec, Built, build_bundle
from doorstep.register.decide import form_of
from doorstep.register.speed import measure_speed
from doorstep.register.surface import Version

Shown = Callable[[str, float], None]
BUILD_SHARE = 0.8
"""Of the progress bar; the rest is timing and uploading."""
SPEED_ROWS = 500
TOLD_ONE_BY_ONE_MAX = 5
NOT_FITTING = frozenset(("no-column", "bad-columns", "bad-label"))
"""What is refused where a model meets the service file of another one."""


@dataclass(frozen=True, slots=True)
class Registered:
    """run: None if the gates were not asked."""

    version: Version
    run: GateRun | None


def register_model(
    client: Client, model: str, file: Path, shown: Shown, *, with_gates: bool
) -> Registered:
    """Build the bundle of `model` here, upload it, register it, run its gates.

    file: the service file. shown: is told what is being done and the share done.
    Raises: NotFoundError, InputError, RefusedError: what the parts raise.
    """
    text = read_text(file)
    parsed = parse_service_file(text, str(file))
    code = tuple(file.parent / one for one in parsed.runtime.code)
    trust = statement_about(model, code)
    spec = build_spec(parsed, file.parent, trusted=trust is not None)
    with tempfile.TemporaryDirectory(prefix="doorstep-") as folder:
        try:
            built = build_bundle(
                model, spec, Path(folder), lambda what, share: _told_building(shown, what, share)
            )
        except (InputError, NotFoundError) as error:
            if error.code in NOT_FITTING:
                _name_files(error, model, file)
            raise
        if trust is not None:
            _check_same(trust, built, model)
        shown("timing single rows", BUILD_SHARE)
        speed_ms_p99 = _speed(built, trusted=trust is not None)
        version = _send(client, text.decode(), built, speed_ms_p99, trust, shown)
    if not with_gates:
        return Registered(version, None)
    name = f"{version.service}@{version.number}"
    shown(f"gates of {name}", 1.0)
    return Registered(version, client.run_gates(name))


def _name_files(error: DoorstepError, model: str, file: Path) -> None:
    """A model and a service file that are not of each other: which were read, and what to do."""
    error.message = f"{model} does not fit the data of {file}: {error.message}"
    beside = Path(model.partition(":")[0]).parent / file.name
    is_other = beside.is_file() and beside.resolve() != file.resolve()
    named = str(beside) if is_other else "ITS-SERVICE-FILE"
    other = f"doorstep register {model} --file {named}"
    error.hint = f"{error.hint}; or {other}" if error.hint and not is_other else other


def _check_same(trust: SignedTrust, built: Built, model: str) -> None:
    """What was built is what was vouched for: the files did not change while they were read."""
    if trust_store().find(vouched_digest(built.manifest)) != trust:
        raise RefusedError(
            "untrusted-model",
            f"{model} or its code changed while it was read",
            "register it again, when nothing writes to it",
        )


def _told_building(shown: Shown, what: str, share: float) -> None:
    if share < 1.0:
        shown(what, share * BUILD_SHARE)


def build_spec(file: ServiceFile, folder: Path, *, trusted: bool) -> BuildSpec:
    """What a service file says about its model. folder: where it lies.

    Raises: InputError (`no-data`) for data that is not in a file.
    """
    if file.data is None:
        raise InputError(
            "no-data",
            f"the service file of {file.service} names no data: the service is only watched",
            "write data.holdout: FILE, rows that the model has never seen",
        )
    ids = (file.ids.key, file.ids.unit, file.ids.subject)
    return BuildSpec(
        label=file.model.label,
        train=_path(file.data.train, "train", folder),
        holdout=_path(file.data.holdout, "holdout", folder),
        task=file.model.task or "",
        positive=file.model.positive,
        inputs={name: _stated(one) for name, one in file.contract.inputs.items()},
        context={name: _stated(one) for name, one in file.contract.context.items()},
        enforce=file.contract.enforce,
        ids=tuple(dict.fromkeys(one for one in ids if one and one not in file.contract.inputs)),
        code=tuple(folder / one for one in file.runtime.code),
        trusted=trusted,
    )


def _path(data: DataSpec | None, name: str, folder: Path) -> Path | None:
    if data is None:
        return None
    if not data.path:
        raise InputError(
            "no-data",
            f"data.{name} is a query, and queries cannot be read in this release",
            f"export its rows to a file, and write data.{name}: {{path: FILE}}",
        )
    return folder / data.path


def _stated(field: FieldSpec) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(field)
    return {key: value for key, value in found.items() if value is not None}


def _speed(built: Built, *, trusted: bool) -> float:
    """p99 of single rows in ms, of the form that will serve."""
    form = form_of(built.manifest)
    scorer = load_scorer(built.folder, built.manifest, form, trusted=trusted)
    texts = [one.name for one in built.manifest.contract.texts]
    rows = read_table(built.holdout, rows_max=SPEED_ROWS, texts=texts)
    return measure_speed(scorer, to_batch(rows, built.manifest.contract)).latency_ms_p99


def _send(
    client: Client,
    text: str,
    built: Built,
    speed_ms_p99: float,
    trust: SignedTrust | None,
    shown: Shown,
) -> Version:
    size = sum(one.size for one in built.manifest.files) + built.holdout.stat().st_size
    shown(f"uploading {size / 1e6:.1f} MB", 0.9)
    holdout = built.holdout.stem
    client.upload(built.folder, {holdout: built.holdout})
    return client.register(
        text,
        built.digest,
        holdout=holdout,
        speed_ms_p99=speed_ms_p99,
        trust=trust,
        findings=built.findings,
    )


def parts_of(found: Registered) -> Iterator[Part]:
    """What happened, as `register` says it: the version, what its gates say, worst in full."""
    version = found.version
    name = f"{version.service}@{version.number}"
    if not version.created:
        yield "✓", f"this model is {name} already (registered by {version.by})"
    else:
        yield "✓", f"{name}  {_form(version)}"
    if found.run is None:
        return
    findings = [one for one in found.run.findings if one.check != "ONNX"]
    for one in findings:
        if one.evidence.get("gate") == "quality" and one.verdict is Verdict.PASS:
            yield "pass", f"quality {one.reason.partition(' on ')[0]}"
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        yield from _told([one for one in findings if one.verdict is verdict], verdict)
    if found.run.verdict is Verdict.PASS:
        yield "pass", f"all {len(findings)} gates pass"


def _form(version: Version) -> str:
    said = next((one.reason for one in version.findings if one.check == "ONNX"), version.form)
    return f"{said}, {version.speed_ms_p99:.2f} ms a row"


def _told(findings: list[Finding], verdict: Verdict) -> Iterator[Part]:
    word = " inconclusive" if verdict is Verdict.INCONCLUSIVE else ""
    for one in findings[:TOLD_ONE_BY_ONE_MAX]:
        yield verdict.value, f"{_gate_name(one)}{word}: {one.reason}"
    if (more := len(findings) - TOLD_ONE_BY_ONE_MAX) > 0:
        yield verdict.value, f"{more} more"


def _gate_name(finding: Finding) -> str:
    kind = str(finding.evidence.get("gate", ""))
    return kind if kind in ("quality", "fairness", "slices", "speed") else finding.check


def next_command(found: Registered) -> str:
    """What a person would do now."""
    name = f"{found.version.service}@{found.version.number}"
    if found.run is None:
        return f"doorstep gate {name}"
    if found.version.state == "serving":
        return f"doorstep status {found.version.service}"
    if found.run.verdict is Verdict.PASS:
        return f"doorstep release start {name}"
    hints = [one.next for one in found.run.findings if one.next and one.verdict is not Verdict.PASS]
    return f"doorstep gate {name}" + (f"; {hints[0]}" if hints else "")
