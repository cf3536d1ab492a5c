"""A trained model becomes a bundle: an immutable folder named by the digest of its manifest.

Runs in the author's own environment. The same inputs give the same bytes, so registering twice
makes one version. Nothing of the model runs that nobody vouched for.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError
from doorstep.core.ids import digest_of
from doorstep.core.manifest import (
    DataSource,
    FileEntry,
    Lineage,
    Manifest,
    OnnxForm,
    Parity,
    encode_manifest,
)
from doorstep.core.verdict import Finding, Verdict
from doorstep.formats.batch import Batch, Scorer
from doorstep.formats.columns import Column, table_digest
from doorstep.formats.load import score_columns
from doorstep.formats.onnx import OnnxScorer
from doorstep.formats.table import to_batch, write_parquet
from doorstep.register import lineage as origin
from doorstep.register.convert import propose_onnx
from doorstep.register.data import BuildSpec as BuildSpec
from doorstep.register.data import Data, read_data, without_people
from doorstep.register.model_file import Opened, native_form, onnx_form, open_model
from doorstep.register.parity import Decision, parity_groups
from doorstep.register.profile import IMPORTANCE_ROWS_MAX, measure_importance, profile_table
from doorstep.register.schema import Target, choose_inputs, find_target, infer_contract
from doorstep.register.split import sample_rows

BACKGROUND_ROWS_MAX = 500
PROFILE_ROWS_MAX = 20_000
HOLDOUT_ROWS_MAX = 100_000
PROFILE = "reference/profile.json"
BACKGROUND = "reference/background.parquet"
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Built:
    """folder: the bundle, with manifest.json. holdout: the snapshot that gates run on, a Parquet
    file named by its SHA-256, which the manifest's lineage holds. findings: what a person should
    know, best news first."""

    digest: str
    manifest: Manifest
    manifest_bytes: bytes
    folder: Path
    holdout: Path
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Described:
    opened: Opened
    contract: Contract
    target: Target
    data: Data


def build_bundle(
    model_path: Path | str, spec: BuildSpec, out_dir: Path, progress: Progress = lambda _, __: None
) -> Built:
    """Build the bundle of one model under `out_dir` (made if absent), as `out_dir/<digest>/`, and
    the hold-out snapshot as `out_dir/data/<sha256>.parquet`.

    progress: called with what is being done and the share done, 0..1.
    Raises: RefusedError (`untrusted-model`), InputError, NotFoundError: what the parts raise, and
    InputError `model-cannot-score` if the model raises on its own training rows.
    """
    progress("reading the model", 0.0)
    opened = open_model(model_path, trusted=spec.trusted, code=spec.code)
    progress("reading the data", 0.1)
    described = describe(opened, spec)
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=out_dir) as scratch:
        folder = Path(scratch) / "bundle"
        built = _fill(described, spec, folder, out_dir, progress)
        manifest, findings, holdout = built
        data = encode_manifest(manifest)
        (folder / "manifest.json").write_bytes(data)
        target = out_dir / digest_of(data)
        if not target.exists():
            folder.rename(target)
    progress("done", 1.0)
    return Built(target.name, manifest, data, target, holdout, findings)


def describe(opened: Opened, spec: BuildSpec) -> Described:
    """Contract, target and data of a model, without asking it anything yet."""
    data = read_data(spec, tuple(spec.inputs))
    reference = data.train
    label = reference.column(spec.label)
    left_out = [spec.label, *spec.ids, *spec.context, *([spec.time] if spec.time else [])]
    names = opened.names
    if names is None and opened.family == "python" and spec.inputs:
        names = tuple(spec.inputs)
    wanted = [name for name in left_out if name]
    inputs = choose_inputs(reference, names, opened.count, wanted)
    if spec.label in inputs:
        raise InputError(
            "bad-label",
            f"the model reads {spec.label!r}, which is the label",
            "train it without the label, or name the right label column",
        )
    contract = infer_contract(
        reference, inputs, overrides=spec.inputs, context=spec.context, enforce=spec.enforce
    )
    target = _target(opened, label, spec)
    return Described(opened, contract, target, data)


def _target(opened: Opened, label: Column, spec: BuildSpec) -> Target:
    task = spec.task
    if opened.family == "onnx" and not task and opened.width == 1 and label.kind != "text":
        few = len(set(label.as_texts()) - {None}) <= 2
        task = "binary" if few else "regression"
    target = find_target(label, opened.classes, positive=spec.positive, task=task)
    width = len(target.labels) or 1
    if opened.width and opened.width != width and not (opened.width == 1 and width == 2):
        raise InputError(
            "bad-label",
            f"the model answers with {opened.width} columns of scores, and the label column "
            f"{spec.label!r} has {len(target.labels)} classes",
        )
    return target


def _fill(
    described: Described, spec: BuildSpec, folder: Path, out_dir: Path, progress: Progress
) -> tuple[Manifest, tuple[Finding, ...], Path]:
    opened, data = described.opened, described.data
    _write_model(opened, folder)
    progress("writing the held-out rows", 0.2)
    holdout, source = write_holdout(described, spec, out_dir)
    draft = _draft(described, spec, source)
    native = _native_scorer(opened, draft, folder)
    _ask(native, data, described.contract)
    progress("converting to ONNX", 0.3)
    onnx, parity, finding = _convert(described, spec, draft, native)
    if onnx is not None:
        _write(folder / onnx[1].file, onnx[0])
        native = OnnxScorer(onnx[0], onnx[1], draft.contract, scores=score_columns(draft))
    progress("profiling", 0.8)
    _write_reference(described, native, folder)
    manifest = msgspec.structs.replace(
        draft, onnx=onnx[1] if onnx else None, parity=parity, files=list_files(folder)
    )
    return manifest, (finding, *described.data.findings), holdout


def _draft(described: Described, spec: BuildSpec, holdout: DataSource) -> Manifest:
    opened, target, contract = described.opened, described.target, described.contract
    form = native_form(opened, described.data.train, contract)
    fields = (*contract.inputs, *contract.context)
    return Manifest(
        format=1,
        task=target.task,
        label=spec.label,
        labels=target.labels,
        positive=target.positive,
        threshold=spec.threshold,
        contract=contract,
        native=form,
        onnx=onnx_form(opened, form.columns) if opened.family == "onnx" else None,
        parity=None,
        lineage=_lineage(described, spec, holdout),
        reads=tuple(one.name for one in fields),
        files=(),
    )


def _lineage(described: Described, spec: BuildSpec, holdout: DataSource) -> Lineage:
    model = described.opened.model
    sklearn = described.opened.family == "sklearn"
    train = described.data.train
    sources = [holdout]
    if spec.train is not None:
        digest = table_digest(train)
        sources.insert(
            0, DataSource(role="train", name=spec.train.name, digest=digest, rows=train.rows)
        )
    seen = {"holdout_rows_in_training": float(described.data.seen)}
    return Lineage(
        data=tuple(sources),
        code_commit=origin.code_commit((spec.train or spec.holdout or Path()).resolve().parent),
        estimator=origin.describe_estimator(model) if sklearn else described.opened.entry,
        parameters=origin.estimator_parameters(model) if sklearn else {},
        metrics={**spec.metrics, **seen},
        libraries=origin.library_versions(),
        python=platform.python_version(),
        parent=spec.parent,
    )


def write_holdout(described: Described, spec: BuildSpec, out_dir: Path) -> tuple[Path, DataSource]:
    """The rows that gates run on, in canonical Parquet named by the SHA-256 of its bytes: the
    columns that the service file speaks of, at most 100,000 rows chosen by content."""
    table = described.data.holdout
    fields = (*described.contract.inputs, *described.contract.context)
    wanted = {*(one.name for one in fields), spec.label, *spec.ids, spec.time}
    kept = table.only([name for name in table.names if name in wanted])
    kept.column(spec.label)
    rows = kept.take(sample_rows(kept, HOLDOUT_ROWS_MAX))
    folder = out_dir / "data"
    folder.mkdir(exist_ok=True)
    partial = folder / "holdout.writing"
    write_parquet(rows, partial)
    digest = digest_of(partial.read_bytes())
    target = folder / f"{digest}.parquet"
    partial.replace(target)
    name = (spec.holdout or spec.train or Path("holdout")).name
    if rows.rows < table.rows:
        name = f"{name} ({rows.rows:,} of {table.rows:,} rows)"
    return target, DataSource(role="holdout", name=name, digest=digest, rows=rows.rows)


def _native_scorer(opened: Opened, draft: Manifest, folder: Path) -> Scorer:
    match opened.family:
        case "onnx":
            assert draft.onnx is not None
            columns = score_columns(draft)
            return OnnxScorer(opened.data, draft.onnx, draft.contract, scores=columns)
        case "sklearn":
            from doorstep.formats.sklearn import NativeScorer

            return NativeScorer(opened.model, draft)
        case "python":
            from doorstep.formats.python import FunctionScorer

            return FunctionScorer(opened.model, draft, folder)


def _ask(scorer: Scorer, data: Data, contract: Contract) -> None:
    """Ask the model about a few training rows, so that a misfit is one clear error."""
    rows = data.train.take(np.arange(min(data.train.rows, 20)))
    batch = to_batch(rows, contract)
    try:
        scores = scorer.score(batch)
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0][:300]
        raise InputError(
            "model-cannot-score",
            f"the model raises {type(error).__name__} on its own data: {said}",
            "check that the data has the columns that the model was trained on, before encoding",
        ) from error
    if not np.isfinite(scores).any():
        raise InputError("model-cannot-score", "the model answers NaN to its own data")


def _convert(
    described: Described, spec: BuildSpec, draft: Manifest, native: Scorer
) -> tuple[tuple[bytes, OnnxForm] | None, Parity | None, Finding]:
    opened, target = described.opened, described.target
    if opened.family == "onnx":
        assert draft.onnx is not None
        reason = "the model was made as ONNX"
        parity = Parity(
            passed=True, rows=0, rows_agreeing=0, difference_max=0.0, tolerance=0.0, reason=reason
        )
        found = Finding(check="ONNX", verdict=Verdict.PASS, reason=reason)
        return (opened.data, draft.onnx), parity, found
    if opened.family == "python" or not spec.convert:
        reason = "Python code" if opened.family == "python" else "conversion was not asked for"
        return None, None, Finding(check="ONNX", verdict=Verdict.PASS, reason=f"native: {reason}")
    position = target.labels.index(target.positive) if target.task == "binary" else None
    decision = Decision(position, draft.threshold, bool(target.labels))
    train = None if spec.train is None else described.data.train
    groups = parity_groups(described.data.holdout, train, draft.contract)
    proposal = propose_onnx(opened.model, draft, native, groups, decision)
    converted = proposal.converted
    served = (converted.data, converted.form) if converted else None
    return served, proposal.parity, proposal.finding


def _write_reference(described: Described, scorer: Scorer, folder: Path) -> None:
    train, contract = described.data.train, described.contract
    moved = to_batch(train.take(sample_rows(train, IMPORTANCE_ROWS_MAX)), contract)
    # Scores of rows that the model has not learnt: an overfit model is surer of those it has.
    holdout = described.data.holdout
    unseen = to_batch(holdout.take(sample_rows(holdout, PROFILE_ROWS_MAX)), contract)
    profile = profile_table(
        train,
        contract,
        _score_all(scorer, unseen),
        described.target.labels,
        measure_importance(scorer.score, moved, contract),
    )
    _write(folder / PROFILE, msgspec.json.encode(profile, order="deterministic"))
    inputs = train.only([one.name for one in contract.inputs])
    background = without_people(inputs.take(sample_rows(inputs, BACKGROUND_ROWS_MAX)), contract)
    write_parquet(background, folder / BACKGROUND)


def _score_all(scorer: Scorer, batch: Batch) -> NDArray[np.float64]:
    return np.concatenate([scorer.score(part) for part in batch.parts(1000)])


def _write_model(opened: Opened, folder: Path) -> None:
    if opened.family != "python":
        _write(folder / opened.file, opened.data)
    for place, path in opened.code.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Every file under `folder`, by path, with size and SHA-256."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            found.append(FileEntry(path=name, size=len(data), sha256=digest_of(data)))
    return tuple(found)
