"""The manifest: what an immutable bundle is. Its canonical bytes (RFC 8785) are named by a digest.

It holds no service, number, time or signature, so the same model registered twice is the same
version, and a copy elsewhere keeps its identity. Reading one runs nothing, and it never says how
far it is to be trusted.

    <digest>/manifest.json  model/native/...  model/onnx/model.onnx  reference/profile.json
                            reference/background.parquet
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from typing import Literal, TypeVar

import msgspec

from doorstep.core.contract import ALIKE, Contract, FieldType, alike
from doorstep.core.errors import InputError
from doorstep.core.ids import digest_of

FORMAT = 1
MANIFEST_BYTES_MAX = 4 * 1024 * 1024
ANSWER = "answer"
NATIVE_FOLDER = "model/native/"
CODE_FOLDER = "model/native/code/"
Task = Literal["binary", "multiclass", "regression", "ranking", "text-classification"]
PartT = TypeVar("PartT", bound=msgspec.Struct)
Datatype = Literal["FP32", "FP64", "INT64", "BOOL", "STRING"]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """path: relative, forward slashes, inside the bundle. size in bytes."""

    path: str
    size: int
    sha256: str


class Tensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model input: `columns` side by side, shape [rows, len(columns)]."""

    name: str
    datatype: Datatype
    columns: tuple[str, ...]


class OnnxForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """file: path in the bundle. scores: the output with one column per label (classification) or
    one column (regression)."""

    file: str
    opset: int
    inputs: tuple[Tensor, ...]
    scores: str


class NativeForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file as the user made it. frame: it wants a DataFrame with these column names; otherwise
    an array in this column order. dtypes: pandas dtype per column, "" where the default is right.
    types: what a pickle would import, or the types of a skops file that need a person's word.
    watched: there is no model here, another service serves the version.
    """

    family: Literal["sklearn", "onnx", "python", "watched"]
    serialization: Literal["skops", "pickle", "joblib", "onnx", "source", "none"]
    file: str
    frame: bool = False
    columns: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    entry: str = ""
    types: tuple[str, ...] = ()


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Native against ONNX on real rows. passed only if every row agreed within the tolerance."""

    passed: bool
    rows: int
    rows_agreeing: int
    difference_max: float
    tolerance: float
    reason: str


class DataSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """role: train, holdout. digest: of the canonical table; rows: how many it has."""

    role: Literal["train", "holdout"]
    name: str
    digest: str
    rows: int


class Lineage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the model came from. code_commit: what HEAD names, "" if there is none. Whether files
    were changed since is not said: asking git would run filters and hooks of that folder."""

    data: tuple[DataSource, ...] = ()
    code_commit: str = ""
    estimator: str = ""
    parameters: dict[str, str] = {}
    metrics: dict[str, float] = {}
    libraries: dict[str, str] = {}
    python: str = ""
    parent: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """labels: class labels as text, in the order of the score columns; () for regression.
    positive: the label that a binary service is about. threshold: score of `positive` at or above
    which it is the answer. reads: the contract and context fields the version uses.
    """

    format: int
    task: Task
    label: str
    labels: tuple[str, ...]
    positive: str
    threshold: float
    contract: Contract
    native: NativeForm
    onnx: OnnxForm | None
    parity: Parity | None
    lineage: Lineage
    reads: tuple[str, ...]
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"manifest format {self.format} is not {FORMAT}")
        if self.task == "regression" and self.labels:
            raise ValueError("a regression has no labels")
        if self.task == "binary" and (len(self.labels) != 2 or self.positive not in self.labels):
            raise ValueError("a binary task has two labels, one of them positive")
        fault = label_fault(self.labels)
        if fault:
            raise ValueError(fault)


def label_fault(labels: tuple[str, ...]) -> str:
    """Why the scores of these labels cannot be columns of the journal beside the answer; ""."""
    both = alike(labels)
    if both is not None:
        return f"two labels are {both[0]!r} and {both[1]!r}: {ALIKE}"
    if any(label.casefold() == ANSWER for label in labels):
        return f"a label is {ANSWER!r}: the journal keeps the answer itself under this name"
    return ""


def running_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """The files that may run or be read by what runs when the native form is loaded: the native
    file, and everything beside and below it; in the order of the manifest."""
    native = manifest.native.file
    return tuple(
        one for one in manifest.files if one.path == native or one.path.startswith(NATIVE_FOLDER)
    )


def vouched_digest(manifest: Manifest) -> str:
    """The digest that a trust statement about this version names: see `running_digest`.

    Raises: InputError (`bad-manifest`) if the native file is not among the files.
    """
    files = [(one.path, one.sha256) for one in running_files(manifest)]
    if manifest.native.file not in (path for path, _ in files):
        raise InputError(
            "bad-manifest", f"the manifest names {manifest.native.file}, but not its digest"
        )
    return running_digest(files, manifest.native.entry)


def running_digest(files: Iterable[tuple[str, str]], entry: str = "") -> str:
    """One digest over everything that runs. files: (path in the bundle, SHA-256). entry: of a
    function, `module:function`.

    One file without an entry is its own SHA-256, so that a statement about a model file can be
    checked with any tool. Otherwise it is the SHA-256 of the sorted list and the entry: a file
    that is added, renamed, removed or changed makes another digest.
    """
    listed = sorted(files)
    if len(listed) == 1 and not entry:
        return listed[0][1]
    return digest_of(b"doorstep code v1\n" + msgspec.json.encode([entry, listed]))


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column of the reference data, summed so that windows can be compared with it by counts.

    number: `edges` are 31 ascending inner quantile edges (ties collapse bins, which then stay
    empty); code = number of edges <= value, 0..31. category and text: `categories` are the most
    frequent values (at most 30), code = their position, 30 = any other known value, 31 = unseen.
    counts: 32 numbers by code; nulls apart. importance: 0..1, 0 if unknown.
    """

    name: str
    type: FieldType
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    counts: tuple[int, ...]
    nulls: int
    mean: float = 0.0
    sd: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    importance: float = 0.0


class PairProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How columns of numbers go together in the reference (`stats.pairs`).

    columns: their names, at most 32. correlations, spreads: of columns 0 and 1, 0 and 2, ... 1 and
    2, ...; 0 where a column has one value only.
    """

    columns: tuple[str, ...] = ()
    correlations: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """reference/profile.json. columns: inputs then context; scores: the model's output likewise
    (one column per label, or the prediction), so that a shift of answers can be seen. pairs: none
    in profiles of before there were any."""

    format: int
    rows: int
    columns: tuple[ColumnProfile, ...]
    scores: tuple[ColumnProfile, ...] = ()
    pairs: PairProfile = PairProfile()


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes (RFC 8785). Only builders call this; readers keep the stored bytes."""
    import rfc8785

    return rfc8785.dumps(msgspec.to_builtins(manifest))


def decode_manifest(data: bytes, digest: str) -> Manifest:
    """Manifest whose bytes have this digest. Raises: InputError (`bad-manifest`)."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise InputError(
            "bad-manifest", f"the manifest has {len(data)} bytes; at most {MANIFEST_BYTES_MAX}"
        )
    if digest_of(data) != digest:
        raise InputError(
            "bad-manifest",
            f"the manifest has digest {digest_of(data)[:12]}, expected {digest[:12]}: "
            "the bundle was changed or is incomplete",
            "register the model again, or restore the bundle from a backup",
        )
    return decode_part(data, Manifest, "manifest")


def decode_part(
    data: bytes, kind: type[PartT], what: str, reads: Collection[int] = (FORMAT,)
) -> PartT:
    """Strict decode of one travelling document. reads: formats. Raises: InputError (`bad-<what>`),
    which says so where a newer Doorstep wrote it."""
    try:
        found = msgspec.json.decode(data, type=kind)
        if getattr(found, "format", FORMAT) not in reads:
            raise ValueError(f"it has format {getattr(found, 'format', FORMAT)}")
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise InputError(f"bad-{what}", *_unreadable(data, what, reads, error)) from None
    return found


def _unreadable(
    data: bytes, what: str, reads: Collection[int], error: Exception
) -> tuple[str, str]:
    """What to say. A later format, or a key that came later to this one, is what a newer Doorstep
    wrote."""
    fact = f"{error}" if "unknown field" in f"{error}" else ""
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        written = msgspec.json.decode(data, type=_Formatted).format
        if written > max(reads):
            fact = f"it has format {written}, and this one reads up to {max(reads)}"
    if not fact:
        return f"the {what} cannot be read: {error}", ""
    return f"the {what} was written by a newer Doorstep: {fact}", "pip install --upgrade doorstep"


class _Formatted(msgspec.Struct):
    format: int = FORMAT
